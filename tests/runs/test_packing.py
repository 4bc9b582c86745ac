"""Tars and tables of results."""

import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.runs.support import run_of
from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.runs import packing
from xgradcam.runs.packing import new_pack
from xgradcam.runs.packs import is_own_pack
from xgradcam.runs.results import Results
from xgradcam.runs.sources import Source

SOURCE = Source("photos/\udcff.png", "x")
RECORD = {"image": SOURCE.path, "class_index": 3, "class_name": "cat", "score": 1.5, "notes": ["a \udcff"]}
MAP = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def run(net, tmp_path):
    return run_of(net, folder=tmp_path, output_format="webdataset")


def results(maps=(), **files):
    return Results([RECORD], files, maps)


def test_a_tar_holds_neither_times_nor_owners(run, tmp_path):
    with new_pack(run, "a.tar") as pack:
        pack.add(SOURCE, results(**{"x_1.cam.jpg": b"1" * 513, "ü_1.json": b"{}"}))
        pack.add_problem(SOURCE, "damaged")
        assert not (tmp_path / "a.tar").exists()
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        assert [(member.name, tar.extractfile(member).read()) for member in members] == [
            ("x_1.cam.jpg", b"1" * 513),
            ("ü_1.json", b"{}"),
        ]
    assert {(one.mtime, one.uid, one.gid, one.uname, one.gname, one.mode) for one in members} == {
        (0, 0, 0, "", "", 0o644)
    }
    assert is_own_pack(tmp_path / "a.tar")
    assert sorted(os.listdir(tmp_path)) == ["a.tar"]


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_after_an_error_there_is_no_file(run, tmp_path, output_format, capsys):
    pytest.importorskip("pyarrow")
    run = replace(run, writing=replace(run.writing, output_format=output_format))
    (tmp_path / "a").write_bytes(b"before")

    def fail(pack):
        pack.add(SOURCE, results([{"grad-cam": MAP}]))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), new_pack(run, "a") as pack:
        fail(pack)
    del pack
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_a_full_disk_is_told_as_such(run, output_format):
    pytest.importorskip("pyarrow")
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    run = replace(run, writing=replace(run.writing, output_format=output_format))
    with open("/dev/full", "wb", buffering=0) as full:
        sink = packing._Sink(full, Path("a"))
        kind = {"webdataset": packing.Tar, "parquet": packing.Table}[output_format]
        with pytest.raises(CannotWriteError, match="cannot write a: No space left on device"):
            kind(run, sink).close()
        sink.is_dropped = True


def test_a_folder_of_the_name_is_an_error_of_one_file(run, tmp_path):
    (tmp_path / "a.tar").mkdir()
    with pytest.raises(XGradCamError, match="a folder has that name"), new_pack(run, "a.tar"):
        pass


def test_a_table_is_written_in_groups_of_bounded_size(run, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(packing, "ROWS", 3)
    run = replace(run, writing=replace(run.writing, output_format="parquet"))
    with new_pack(run, "a.parquet") as pack:
        for index in range(4):
            pack.add(SOURCE, results([{"grad-cam": MAP + index, "xgrad-cam": MAP[:, :2] - index}]))
        pack.add_problem(SOURCE, "damaged \udcff")
        monkeypatch.setattr(packing, "BYTES", 8)
        pack.add(SOURCE, results([{"grad-cam": MAP, "xgrad-cam": MAP}]))
    file = parquet.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [3, 3]
    rows = file.read().to_pylist()
    for index in range(4):
        np.testing.assert_array_equal(rows[index]["grad-cam"], MAP + index)
        np.testing.assert_array_equal(rows[index]["xgrad-cam"], MAP[:, :2] - index)
        assert rows[index]["image"] == "photos/\\udcff.png"
        assert rows[index]["notes"] == ["a \\udcff"]
    assert (rows[4]["problem"], rows[4]["grad-cam"]) == ("damaged \\udcff", None)
    np.testing.assert_array_equal(rows[5]["xgrad-cam"], MAP)
    assert is_own_pack(tmp_path / "a.parquet")
