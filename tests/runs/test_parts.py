"""One shard: done, gone on with, and done one by one after deaths."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.support import tree
from tests.runs.support import LAYERS, run_of
from tests.support import noise
from xgradcam.errors import XGradCamError
from xgradcam.files import write_files
from xgradcam.runs import parts
from xgradcam.runs.ledger import alone_in
from xgradcam.runs.parts import FATAL, Worker, reopen_if_changed, report_of, results_in
from xgradcam.runs.pipeline import explain_photographs
from xgradcam.runs.shards import FOLDER, Files
from xgradcam.runs.sources import Source, state_of


@pytest.fixture
def run(net, tmp_path, monkeypatch):
    """Five photographs in batches of two, of which the third cannot be read."""
    monkeypatch.chdir(tmp_path)
    noise("photos", 5)
    Path("photos/0002.png").write_text("no picture")
    sources = [Source(f"photos/{index:04}.png", f"{index:04}") for index in range(5)]
    Path("out", FOLDER).mkdir(parents=True)
    made = run_of(net.float(), (1,), sources, LAYERS[1:], {"batch_size": 2}, Path("out"), save_maps=True)
    return replace(made, settings={"model": "tiny"})


def worker(run, told=None):
    told = [] if told is None else told
    return Worker(run, run.explainer(), told.append, lambda outcome: told.append(outcome.source.path))


def begun(files, *names):
    files.tries.write_text("".join(json.dumps({"begun": name}) + "\n" for name in names))


@pytest.mark.parametrize("output_format", ["files", "webdataset"])
def test_who_merges_the_last_part_at_once_disturbs_nobody(run, output_format, monkeypatch):
    run = replace(run, writing=replace(run.writing, output_format=output_format))

    def written(contents):
        write_files(contents)
        if any(path.suffix == ".part" for path in contents):
            shutil.rmtree(Path("out", FOLDER))

    monkeypatch.setattr(parts, "write_files", written)
    report = worker(run).do(0, run.sources)
    assert (report.explained, report.told, len(report.problems)) == (4, 4, 1)
    assert not Path("out", FOLDER).exists()


def test_a_shard_leaves_its_part_and_the_files_of_a_plain_run(run):
    told = []
    report = worker(run, told).do(3, run.sources)
    assert told == [source.path for source in run.sources]
    assert (report.index, report.explained, report.earlier, report.told) == (3, 4, frozenset(), 4)
    assert len(report.problems) == 1
    assert "photos/0002.png" in report.problems[0]
    assert os.listdir(Path("out", FOLDER)) == ["000003.part"]
    settings, *lines = map(json.loads, Files(Path("out"), 3).part.read_text().splitlines())
    assert settings == {"model": "tiny"}
    assert [line["image"] for line in lines] == [source.path for source in run.sources]
    assert lines[2].items() >= {"problem": report.problems[0], **state_of("photos/0002.png")}.items()
    assert [bool(problem) for _, problem in results_in(Files(Path("out"), 3))] == [
        False,
        False,
        True,
        False,
        False,
    ]
    shard = {name: content for name, content in tree("out").items() if "shards" not in name}
    plain = replace(run, writing=replace(run.writing, folder=Path("plain")))
    assert sum(not outcome.problem for outcome in explain_photographs(plain)) == 4
    assert shard == tree("plain")
    # A second time there is nothing to do.
    assert worker(run, told).do(3, run.sources) == report
    assert len(told) == 5


def test_a_shard_that_was_interrupted_goes_on_with_the_same_part(run):
    worker(run).do(0, run.sources)
    files = Files(Path("out"), 0)
    whole, results = files.part.read_bytes(), tree("out")
    lines = files.part.read_text().splitlines(True)
    files.part.unlink()
    files.journal.write_text("".join(lines[:3]) + lines[4][:30])
    Path("out/0001_1_X_cam.jpg").unlink()
    told = []
    report = worker(run, told).do(0, run.sources)
    assert told == [f"photos/{index:04}.png" for index in (1, 2, 3, 4)]
    assert (report.explained, report.earlier) == (3, {"photos/0000.png"})
    assert files.part.read_bytes() == whole
    assert tree("out") == results


def test_a_shard_that_another_process_does_is_refused(run):
    with (
        alone_in(Path("out", FOLDER), print, "000000.lock"),
        pytest.raises(
            XGradCamError, match=r"another process is doing shard 0 of the run in out: wait for it"
        ),
    ):
        worker(run).do(0, run.sources)
    worker(run).do(1, run.sources[:1])
    assert report_of(Files(Path("out"), 1)).explained == 1


def test_the_photograph_that_was_fatal_is_named_alone_and_the_others_are_explained(run):
    worker(run).do(0, run.sources)
    files = Files(Path("out"), 0)
    whole = results_in(files)
    files.part.unlink()
    begun(files, "shard", "shard", "batch 0", "photograph 1")
    report = worker(run).do(0, run.sources)
    assert report.problems[0] == f"photos/0001.png: {FATAL}"
    assert (report.explained, len(report.problems)) == (3, 2)
    results = results_in(files)
    assert [results[index] for index in (2, 3, 4)] == [whole[index] for index in (2, 3, 4)]
    assert os.listdir(Path("out", FOLDER)) == ["000000.part"]


def test_a_finished_shard_is_done_again_where_something_changed(run):
    worker(run).do(0, run.sources)
    files = Files(Path("out"), 0)
    whole, results = files.part.read_bytes(), tree("out")
    assert not reopen_if_changed(run, files, run.sources)
    assert tree("out") == results
    Path("out/0004_1_maps.npz").unlink()
    assert reopen_if_changed(run, files, run.sources)
    assert not files.part.exists()
    told = []
    assert worker(run, told).do(0, run.sources).earlier == {
        "photos/0000.png",
        "photos/0001.png",
        "photos/0003.png",
    }
    assert told == ["photos/0002.png", "photos/0004.png"]
    assert files.part.read_bytes() == whole
    assert tree("out") == results
    # The photograph that failed was mended.
    Path("photos/0002.png").write_bytes(Path("photos/0001.png").read_bytes())
    assert reopen_if_changed(run, files, run.sources)
    assert worker(run).do(0, run.sources).problems == []
