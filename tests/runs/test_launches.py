"""The begin and the end of a run in shards, by one process and by several."""

import copy
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.support import tree
from tests.runs.support import LAYERS, run_of
from tests.support import noise
from xgradcam.errors import XGradCamError
from xgradcam.files import make_folder
from xgradcam.runs.journal import NAME, Journal
from xgradcam.runs.launches import alone, together
from xgradcam.runs.ledger import alone_in
from xgradcam.runs.outputs import Outputs
from xgradcam.runs.parts import Worker
from xgradcam.runs.pipeline import explain_photographs
from xgradcam.runs.record import Record
from xgradcam.runs.shards import FOLDER, Files, plan_in
from xgradcam.runs.sources import Source

SETTINGS = {
    "model": "tiny",
    "weights": "",
    "layers": ["l"],
    "methods": [],
    "html": True,
    "photographs": ["photos"],
}


@pytest.fixture
def run(net, tmp_path, monkeypatch):
    """Seven photographs in batches of two, with a page."""
    monkeypatch.chdir(tmp_path)
    noise("photos", 7)
    sources = [Source(f"photos/{index:04}.png", f"{index % 2}/{index:04}") for index in range(7)]
    made = run_of(net.float(), (1,), sources, LAYERS[1:], {"batch_size": 2}, Path("out"), page=True)
    return replace(made, settings=SETTINGS)


def silent(line):
    raise AssertionError(line)


def do(launch, indices):
    worker = Worker(launch.run, launch.run.explainer(), silent)
    return [worker.do(index, launch.plan.of(index, launch.run.sources)) for index in indices]


def plain(run, resume=False):
    """The run by a single process."""
    with Record(run, Outputs(run), resume, silent) as record:
        for outcome in explain_photographs(run, record.journal.done, announce=record.announce):
            record.journal.add(outcome.source, outcome.state, outcome.records)


def journal():
    return Path("out", NAME).read_bytes()


@pytest.fixture
def whole(run):
    """The journal and the pictures of a single process."""
    plain(run)
    files = tree("out")
    for path in sorted(Path("out").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return files


def test_shards_in_any_order_end_as_a_single_process_does(run, whole):
    with alone(run, False, silent, 2, 2) as launch:
        assert launch.plan.count == 4
        assert plan_in(Path("out")) == launch.plan
        do(launch, [3, 0])
        assert launch.left(range(4)) == [1, 2]
        assert not launch.finish("")
        do(launch, [2, 1])
        assert launch.finish("title")
        assert not launch.finish("title")
        assert launch.left(range(4)) == []
    after = tree("out")
    assert b"<title>title" in after.pop("index.html")
    assert after == whole
    assert sorted(os.listdir("out")) == ["0", "1", "index.html", NAME]


def test_a_run_that_was_killed_goes_on_with_the_shards_that_are_missing(run, whole):
    with alone(run, False, silent, 2, 2) as launch:
        do(launch, [2])
    Path("out/.xgradcam-0123456789abcdef-0.part").touch()
    with alone(run, True, silent, 5, None) as launch:
        assert launch.left(range(4)) == [0, 1, 3]
        do(launch, [0, 1, 3])
        assert launch.finish("")
    assert {name: content for name, content in tree("out").items() if name != "index.html"} == whole


def test_without_resume_it_begins_anew(run, whole):
    with alone(run, False, silent, 2, 2) as launch:
        do(launch, [2])
    with alone(run, False, silent, 2, 4) as launch:
        assert launch.left(range(9)) == [0, 1]
        do(launch, [0, 1])
        assert launch.finish("")
    assert journal() == whole[NAME]


@pytest.mark.parametrize("size", [4, 2])
def test_a_resumed_run_may_have_other_shards_and_more_photographs(run, whole, size):
    first = replace(run, sources=run.sources[:6])
    with alone(first, False, silent, 2, 2) as launch:
        do(launch, [1])
    with alone(run, True, silent, 2, size) as launch:
        reports = do(launch, launch.left(range(4)))
        assert sum(len(report.earlier) for report in reports) == 2
        assert launch.finish("")
    assert journal() == whole[NAME]


@pytest.mark.parametrize("processes", ["one", "several"])
def test_runs_in_shards_and_plain_ones_go_on_with_each_other(run, whole, processes):
    with Record(run, Outputs(run), False, silent) as record:
        for outcome in list(explain_photographs(run, announce=record.announce))[2:5]:
            record.journal.add(outcome.source, outcome.state, outcome.records)
    begun = alone if processes == "one" else together
    with begun(run, True, silent, 2, 2) as launch:
        assert [len(report.earlier) for report in do(launch, [1, 2])] == [2, 1]
    plain(run, True)
    lines = sorted(journal().splitlines()[1:])
    assert lines == sorted(whole[NAME].splitlines()[1:])
    assert not Path("out", FOLDER).exists()
    with begun(run, True, silent, 2, 2) as launch:
        assert sum(report.explained for report in do(launch, range(4))) == 0
        assert launch.finish("")
    assert journal() == whole[NAME]


def test_a_plain_run_anew_forgets_the_shards_but_not_whose_files_they_are(run):
    with alone(run, False, silent, 2, 2) as launch:
        do(launch, [0, 1])
    Path("out/0/0002_1_X_cam.jpg").write_bytes(b"changed since")
    plain(run)
    assert not Path("out", FOLDER).exists()
    assert len(journal().splitlines()) == 8


def test_other_options_are_refused_by_name(run):
    with together(run, False, silent, 2, 2) as launch:
        do(launch, [0])
    other = replace(run, settings={**SETTINGS, "layers": ["m"]})
    for resume in (False, True):
        with (
            pytest.raises(
                XGradCamError,
                match=r"other settings for layers \(--target-layer\): .* or delete out/.xgrad-cam.shards",
            ),
            together(other, resume, silent, 2, None),
        ):
            pass
    with (
        pytest.raises(XGradCamError, match="other settings for shard_size"),
        together(run, False, silent, 2, 6),
    ):
        pass
    with (
        pytest.raises(XGradCamError, match=r"other settings for layers \(--target-layer\);"),
        alone(other, True, silent, 2, None),
    ):
        pass
    fewer = replace(run, sources=run.sources[1:])
    with (
        pytest.raises(XGradCamError, match="settings for photographs"),
        together(fewer, True, silent, 2, None),
    ):
        pass
    assert Files(Path("out"), 0).part.exists()


def test_one_run_at_a_time_but_several_processes_of_it(run, monkeypatch):
    monkeypatch.setattr("xgradcam.runs.ledger.PATIENCE", 0.1)
    with together(run, False, silent, 2, 2), together(run, False, silent, 2, None):
        for begun in (alone, plain_record):
            with (
                pytest.raises(XGradCamError, match="another run is writing into out"),
                begun(run, True, silent, 2, None),
            ):
                pass
    assert sorted(os.listdir("out")) == [FOLDER]
    with (
        alone_in(Path("out"), silent),
        pytest.raises(XGradCamError, match="another run is writing"),
        together(run, False, silent, 2, None),
    ):
        pass


def plain_record(run, resume, note, *_):
    return Record(run, Outputs(run), resume, note)


def test_a_process_without_a_shard_begins_nothing(run, whole):
    with together(run, False, silent, 9, 2, first=4) as launch:
        assert launch.plan.count == 4
    assert os.listdir("out") == []


def test_of_several_that_find_all_done_one_merges_and_no_line_is_lost(run, whole):
    folder = Path("out")
    for _ in range(3):
        with together(run, False, silent, 2, 2) as launch:
            do(launch, range(4))
            merged, start = [], threading.Barrier(4)

            def finish(launch=launch, merged=merged, start=start):
                start.wait()
                merged.append(launch.finish(""))

            threads = [threading.Thread(target=finish) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(merged) == [False, False, False, True]
        assert journal() == whole[NAME]
        assert not (folder / FOLDER).exists()


def test_processes_that_begin_at_the_same_time_have_one_plan(run, whole):
    plans, start = [], threading.Barrier(4)

    def begin(index):
        module = copy.deepcopy(run.classifier.module)
        own = replace(run, classifier=replace(run.classifier, module=module))
        start.wait()
        with together(own, False, silent, 4, 2, first=index) as launch:
            plans.append(launch.plan)
            do(launch, [index])
            launch.finish("")

    threads = [threading.Thread(target=begin, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plans) == 4
    assert all(plan == plans[0] for plan in plans)
    assert journal() == whole[NAME]


def test_names_of_other_runs_files_are_kept(run):
    plain(run)
    other = replace(run, classes=(0,), settings={**SETTINGS, "layers": ["m"]})
    with alone(other, False, silent, 2, 2) as launch:
        do(launch, range(4))
        assert launch.finish("")
    kept = {json.loads(line) for line in Path("out/.xgrad-cam.names").read_text().splitlines()}
    assert "0/0000_1_cam.jpg" in kept
    assert len(Journal(Path("out"), other.settings, run.sources, True).done) == 7
    make_folder(Path("out"))
