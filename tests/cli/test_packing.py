"""Results of a shard in one file: --output-format webdataset and parquet."""

import io
import json
import os
import signal
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.support import OWN, maps_in, process, tree
from tests.support import noise
from xgradcam.cli.xgrad_cam import main

pytestmark = pytest.mark.usefixtures("own_models")
FORMATS = {"webdataset": "tar", "parquet": "parquet"}
RUN = ["--image-path", "photos", *OWN, "--batch-size", "4", "--shard-size", "8"]
NAMES = ["0000", "0001", "a.b", "__c__", "a%2Eb", "a_3", "d e", "ü", "line\nfeed", "-x"]


@pytest.fixture
def photos(own_models):
    """22 photographs, of which one cannot be read, some of them with names that mean something elsewhere."""
    noise("photos", 22)
    Path("photos/0013.png").write_text("no picture")
    for index, name in enumerate(NAMES):
        os.rename(f"photos/{index:04}.png", f"photos/{name}.png")
    Path("photos/__below__").mkdir()
    os.rename("photos/0021.png", "photos/__below__/x.y.png")


def run(*options, to="out", by=RUN):
    return main([*by, "--output-dir", to, *options])


def images_in_journal(folder="out"):
    lines = Path(folder, "xgrad-cam.jsonl").read_text().splitlines()
    return [json.loads(line)["image"] for line in lines[1:]]


def rows_in(folder):
    """The rows of the tables in a folder."""
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = sorted(Path(folder).glob("*.parquet"))
    return [row for path in paths for row in parquet.read_table(path).to_pylist()]


@pytest.mark.parametrize("form", FORMATS)
def test_the_files_are_byte_for_byte_the_same_whoever_does_the_shards(photos, form, capsys):
    assert run("--output-format", form) == 1
    out, err = capsys.readouterr()
    assert f"wrote out/xgrad-cam-{{000000..000002}}.{FORMATS[form]}" in out
    assert err.splitlines() == [
        "xgrad-cam: error: not an image: photos/0013.png: it is text",
        "xgrad-cam: 21 photographs explained, 1 failed; in out",
    ]
    packs = [f"xgrad-cam-00000{index}.{FORMATS[form]}" for index in range(3)]
    assert sorted(tree("out")) == sorted([*packs, "xgrad-cam.jsonl"])
    codes = [run("--output-format", form, "--shard", f"{index}/2", to="two") for index in (2, 1)]
    assert sorted(codes) == [0, 1]
    one, two = tree("out"), tree("two")
    assert [one.pop("xgrad-cam.jsonl") == two.pop("xgrad-cam.jsonl").replace(b'"two/', b'"out/')] == [True]
    if form == "parquet":
        assert one == two
    assert rows_or_members("out", form) == rows_or_members("two", form)
    # Done again, or gone on with, they are the same.
    before = tree("out")
    assert run("--output-format", form) == 1
    assert tree("out") == before
    times = {path: path.stat().st_mtime_ns for path in Path("out").iterdir() if path.suffix != ".jsonl"}
    capsys.readouterr()
    assert run("--resume") == 1
    assert tree("out") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "0 photographs explained, 1 failed, 21 complete before" in capsys.readouterr().err


def rows_or_members(folder, form):
    if form == "parquet":
        return rows_in(folder)
    return [
        (member.name, tar.extractfile(member).read())
        for path in sorted(Path(folder).glob("*.tar"))
        for tar in [tarfile.open(path)]
        for member in tar
    ]


def test_a_tar_has_the_files_and_the_records_of_a_run_of_files(photos):
    webdataset = pytest.importorskip("webdataset")
    assert run("--save-maps", to="loose") == 1
    assert run("--save-maps", "--output-format", "webdataset") == 1
    urls = [str(path) for path in sorted(Path("out").glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    records = {json.loads(line)["image"]: json.loads(line)["records"] for line in open_journal("loose")}
    assert len(found) == len({sample["__key__"] for sample in found}) == len(records) == 21
    assert {"cam.jpg", "x_cam.jpg", "maps.npz", "json"} == {
        name for sample in found for name in sample if not name.startswith("__")
    }
    raw = dict(rows_or_members("out", "webdataset"))
    for sample in found:
        (loose,) = records[sample["json"]["image"]]
        names = ("files", "written", "maps")
        without = [{key: of[key] for key in of if key not in names} for of in (loose, sample["json"])]
        assert without[0] == without[1]
        assert sample["cam.jpg"].size == (32, 32)
        for method, name in sample["json"]["files"].items():
            assert raw[name] == Path("loose", loose["files"][method]).read_bytes()
        maps = np.load(io.BytesIO(raw[sample["json"]["maps"]]))
        np.testing.assert_array_equal(maps["xgrad-cam"], np.load(Path("loose", loose["maps"]))["xgrad-cam"])
    keys = {sample["json"]["image"][7:-4]: sample["__key__"].rpartition("_")[0] for sample in found}
    assert keys["a.b"] == "a%2Eb"
    assert keys["a%2Eb"] == "a%252Eb"
    assert keys["__c__"] == "%5F_c__"
    assert keys["__below__/x.y"] == "%5F_below__/x%2Ey"
    assert keys["line\nfeed"] == "line%0Afeed"


def open_journal(folder):
    return Path(folder, "xgrad-cam.jsonl").read_text().splitlines()[1:]


def test_a_table_has_the_records_and_the_maps(photos):
    assert run("--save-maps", to="loose") == 1
    assert run("--output-format", "parquet") == 1
    rows = rows_in("out")
    loose = {json.loads(line)["image"]: json.loads(line)["records"][0] for line in open_journal("loose")}
    maps = maps_in("loose")
    assert len(rows) == 22
    assert [row["image"] for row in rows if row["problem"]] == ["photos/0013.png"]
    assert [row["image"] for row in rows if not row["problem"]] == list(loose)
    for row in rows:
        if row["problem"]:
            assert row["problem"] == "not an image: photos/0013.png: it is text"
            assert row["score"] is row["class_index"] is row["xgrad-cam"] is row["record"] is None
            continue
        record = loose[row["image"]]
        for name in (
            "class_index",
            "class_name",
            "score",
            "probability",
            "rank",
            "classes",
            "model",
            "layer",
        ):
            assert row[name] == record[name]
        assert json.loads(row["record"])["notes"] == row["notes"] == record["notes"]
        for method in ("grad-cam", "xgrad-cam"):
            of_file = maps[record["maps"].rpartition("/")[2]][method]
            np.testing.assert_array_equal(np.array(row[method], np.float32), of_file)


@pytest.mark.parametrize("form", FORMATS)
def test_several_layers_and_classes(form):
    noise("photos", 3)
    options = ["--target-layer", "features.*", "--target-index", "top2", "--output-format", form]
    assert run(*options) == 0
    if form == "parquet":
        rows = rows_in("out")
        assert [row["layer"] for row in rows[:3]] == ["features.0", "features.1", "features.2"]
        assert len(rows) == 3 * 2 * 3
        assert [np.shape(row["xgrad-cam"]) for row in rows[:3]] == [(32, 32), (32, 32), (16, 16)]
        return
    names = [name for name, _ in rows_or_members("out", form)]
    assert len(names) == len({*names}) == 3 * 2 * 4 * 3
    first = names[0].partition(".")[0]
    layers = ["features.0", "features.1", "features.2", "fused"]
    endings = [f"{layer}.{ending}" for layer in layers for ending in ("cam.jpg", "X_cam.jpg", "json")]
    assert names[:12] == [f"{first}.{ending}" for ending in endings]


@pytest.mark.parametrize("form", FORMATS)
def test_a_contrast_is_told_from_its_class(form):
    noise("photos", 4)
    Path("labels.csv").write_text("".join(f"{index:04}.png,0\n" for index in range(4)))
    options = ["--truth", "labels.csv", "--output-format", form]
    assert run(*options, "--quiet") == 0
    mistake = [("predicted", None), ("true", None), ("contrast", "contrast")]
    if form == "parquet":
        rows = [row for row in rows_in("out") if row["image"] == "photos/0001.png"]
        assert [(row["role"], row["what"]) for row in rows] == mistake
        assert len({row["score"] for row in rows}) == 3
        return
    names = [name for name, _ in rows_or_members("out", form)]
    assert len(names) == len({*names})
    found = [json.loads(of) for name, of in rows_or_members("out", form) if name.endswith(".json")]
    of_one = [record for record in found if record["image"] == "photos/0001.png"]
    assert [(record["role"], record.get("what")) for record in of_one] == mistake


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_killed_goes_on_and_leaves_nothing(photos, form, capsys):
    Path("slow.py").write_text(
        "import time\nfrom tiny import Tiny\n\nclass Slow(Tiny):\n"
        "    def forward(self, images):\n        time.sleep(0.1)\n        return super().forward(images)\n"
    )
    slow = ["--image-path", "photos", "--model", "slow.py:Slow", "--input-size", "32", *RUN[-2:]]
    slow += ["--batch-size", "1", "--output-format", form]
    assert run("--quiet", by=slow) == 1
    whole = tree("out")
    for path in Path("out").iterdir():
        path.unlink()
    killed = process(*slow, "--output-dir", "out", "--quiet")
    until = time.monotonic() + 60
    first, second = (f"xgrad-cam-00000{index}.{FORMATS[form]}" for index in (0, 1))
    while not (any(".part" in name for name in os.listdir("out")) and Path("out", first).exists()):
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not Path("out", second).exists()
    assert tree("out")[first] == whole[first]
    capsys.readouterr()
    assert run("--resume", by=slow) == 1
    assert "7 complete before; in out" in capsys.readouterr().err
    assert tree("out") == whole


@pytest.mark.parametrize("form", FORMATS)
def test_only_the_shard_of_a_photograph_that_changed_is_written_anew(photos, form):
    assert run("--output-format", form, "--quiet") == 1
    before, packs = tree("out"), sorted(Path("out").glob(f"*.{FORMATS[form]}"))
    # One that failed has results now; its shard is the second, or the third.
    Image.new("RGB", (40, 40), "red").save("photos/0013.png")
    assert run("--resume", "--quiet") == 0
    after = tree("out")
    changed = [path.name for path in packs if before[path.name] != after[path.name]]
    assert len(changed) == 1
    assert run("--output-format", form, "--quiet", to="anew") == 0
    assert rows_or_members("out", form) == rows_or_members("anew", form)
    # One that had results fails now.
    Path("photos/d e.png").write_text("no picture")
    assert run("--resume", "--quiet") == 1
    assert "photos/d e.png" not in images_in_journal()
    assert run("--output-format", form, "--quiet", to="anew") == 1
    assert rows_or_members("out", form) == rows_or_members("anew", form)
    # A file that has gone is made again.
    packs[0].unlink()
    assert run("--resume", "--quiet") == 1
    assert rows_or_members("out", form) == rows_or_members("anew", form)


@pytest.mark.parametrize("form", FORMATS)
def test_more_photographs_or_fewer_leave_each_in_one_file(photos, form):
    assert run("--output-format", form, "--quiet") == 1
    Image.new("RGB", (40, 40), "red").save("photos/0014a.png")
    assert run("--resume", "--quiet") == 1
    assert run("--output-format", form, "--quiet", to="anew") == 1
    assert rows_or_members("out", form) == rows_or_members("anew", form)
    fewer = [*RUN[:1], "photos/0000.png", "photos/0014.png", *RUN[2:]]
    assert run("--output-format", form, "--quiet", by=fewer) == 0
    assert images_in_journal() == ["photos/0000.png", "photos/0014.png"]
    assert [path.name for path in Path("out").iterdir() if path.suffix != ".jsonl"] == [
        f"xgrad-cam-000000.{FORMATS[form]}"
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_an_interrupt_counts_what_is_in_place_alone(photos, form, monkeypatch, capsys):
    import torch

    forward, calls = torch.nn.Linear.forward, []

    def stopped(self, inputs):
        calls.extend([0] * (len(inputs) == 4))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", stopped)
        assert run("--output-format", form) == 130
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == (
        "xgrad-cam: interrupted: 7 photographs explained, 1 failed, 14 not begun or not finished "
        "(--resume goes on); in out"
    )
    assert out.count("probability") == 7
    assert [name for name in os.listdir("out") if name.startswith("xgrad")] == [
        f"xgrad-cam-000000.{FORMATS[form]}"
    ]
    assert not [name for name in os.listdir("out") if name.endswith(".part")]


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_not_ours_is_not_written_over(photos, form, capsys):
    Path("out").mkdir()
    mine = Path(f"out/xgrad-cam-000007.{FORMATS[form]}")
    mine.write_bytes(b"my own")
    assert run("--output-format", form) == 2
    assert f"{mine} is there already, and not by xgrad-cam" in capsys.readouterr().err
    mine.unlink()
    assert run("--output-format", form, "--quiet") == 1
    # Without a record they are known by their content.
    Path("out/xgrad-cam.jsonl").unlink()
    assert run("--output-format", form, "--quiet") == 1
    (other,) = set(FORMATS) - {form}
    capsys.readouterr()
    for chosen in (other, "files"):
        assert run("--output-format", chosen, "--resume") == 2
        assert "it had other settings for output_format" in capsys.readouterr().err
    assert run("--resume", "--shard-size", "16") == 2
    assert "it had other settings for shard_size" in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMATS)
def test_an_only_photograph(form, capsys):
    noise("photos", 1)
    assert run("--output-format", form, by=["--image-path", "photos/0000.png", *OWN]) == 0
    assert f"wrote out/xgrad-cam-000000.{FORMATS[form]}" in capsys.readouterr().out
    assert sorted(os.listdir("out")) == [f"xgrad-cam-000000.{FORMATS[form]}", "xgrad-cam.jsonl"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output-format", "webdataset", "--html"], "--html needs results in files of their own"),
        (["--output-format", "parquet", "--html"], "--html needs results in files of their own"),
        (["--output-format", "webdataset", "--report"], "--report needs results in files of their own"),
        (["--output-format", "parquet", "--panel"], "--panel: --output-format parquet holds numbers"),
        (["--output-format", "parquet", "--guided"], "--guided: --output-format parquet"),
        (["--output-format", "parquet", "--save-maps"], "--save-maps: --output-format parquet"),
        (["--output-format", "parquet", "--full-resolution"], "--full-resolution: --output-format"),
        (["--output-format", "parquet", "--colormap", "turbo"], "--colormap: --output-format"),
        (["--output-format", "parquet", "--alpha", "0.5"], "--alpha: --output-format"),
    ],
)
def test_what_does_not_go_with_a_form_is_refused_by_name(options, words, capsys):
    noise("photos", 2)
    assert run(*options) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert not Path("out").exists()


def test_without_pyarrow_a_line_says_how_to_install_it(capsys, monkeypatch):
    noise("photos", 2)
    monkeypatch.setattr("xgradcam.runs.packs.find_spec", lambda _name: None)
    assert run("--output-format", "parquet") == 2
    assert "pip install 'xgradcam[parquet]'" in capsys.readouterr().err


def test_very_many_photographs_are_packed_unless_it_is_said(capsys, monkeypatch):
    noise("photos", 3)
    monkeypatch.setattr("xgradcam.runs.packs.MANY", 2)
    assert run("--output-format", "files") == 0
    assert not list(Path("out").glob("*.tar"))
    # A run that goes on keeps its form, and a page needs files.
    for options in (["--resume"], ["--html"]):
        assert run(*options) == 0
        assert not list(Path("out").glob("*.tar"))
    capsys.readouterr()
    assert run(to="packed") == 0
    note = "note: 3 photographs: their results are written into tar files"
    assert note in capsys.readouterr().err
    assert os.path.exists("packed/xgrad-cam-000000.tar")
