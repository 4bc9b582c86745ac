"""Parts of shards and the one journal."""

import json
import os
from pathlib import Path

import pytest

from tests.runs.support import run_of
from xgradcam.errors import XGradCamError
from xgradcam.runs.journal import NAME
from xgradcam.runs.merging import REST, begin, clear, gather, left_to_do, merge, names_of_shards, split
from xgradcam.runs.shards import FOLDER, Files, plan_of
from xgradcam.runs.sources import Source

SETTINGS = {"model": "m", "weights": "w", "layers": ["l"], "methods": ["cam"]}


def line(image, stem=None):
    return {
        "image": f"{image}.jpg",
        "stem": stem or image,
        "records": [{"files": {"cam": f"{image}_1_cam.jpg"}}],
    }


def text(*lines):
    return "".join(json.dumps(one) + "\n" for one in lines)


@pytest.fixture
def planned(net, tmp_path, monkeypatch):
    """Six photographs in shards of two, begun."""
    monkeypatch.chdir(tmp_path)
    sources = [Source(f"{name}.jpg", name) for name in "abcdef"]
    run = run_of(net, sources=sources, explaining={"batch_size": 2}, folder=tmp_path)
    plan = plan_of(run.__class__(**{**vars(run), "settings": SETTINGS}), 0, 2)
    begin(tmp_path, plan, sources, False)
    return plan, sources


def part(index, *lines, ending="part"):
    getattr(Files(Path(), index), ending).write_text(text(SETTINGS, *lines))


def test_the_parts_in_order_are_the_journal_without_what_failed(planned):
    plan, _ = planned
    part(2, line("f"))
    assert left_to_do(Path(), plan) == [0, 1]
    part(0, line("a"), {"problem": "no", "image": "b.jpg"})
    part(1, line("c"), line("d"))
    assert left_to_do(Path(), plan) == []
    merge(Path(), plan)
    assert Path(NAME).read_text() == text(SETTINGS, line("a"), line("c"), line("d"), line("f"))
    clear(Path())
    assert os.listdir() == [NAME]


def test_a_part_that_is_missing_leaves_the_journal_as_it_was(planned):
    plan, _ = planned
    Path(NAME).write_text("before")
    part(0, line("a"))
    with pytest.raises(XGradCamError, match=r"000001\.part has gone: was the run merged by another process"):
        merge(Path(), plan)
    assert Path(NAME).read_text() == "before"
    assert sorted(os.listdir()) == [FOLDER, NAME]


def test_what_is_split_is_merged_to_the_same_journal(planned):
    plan, sources = planned
    lines = [line("gone"), line("b"), line("a", "other-name"), line("d"), line("c"), line("a"), line("f")]
    Path(NAME).write_text(text(SETTINGS, *lines) + '{"image": "e.j')
    split(Path(), plan, sources)
    place = Path(FOLDER)
    assert (place / REST).read_text() == text(line("gone"), line("a", "other-name"))
    assert Files(Path(), 0).journal.read_text() == text(SETTINGS, line("b"), line("a"))
    assert Files(Path(), 1).journal.read_text() == text(SETTINGS, line("d"), line("c"))
    assert names_of_shards(Path()) == {f"{name}_1_cam.jpg" for name in (*"abcdf", "gone")}
    gather(Path(), plan)
    kept = [line("gone"), line("a", "other-name"), line("b"), line("a"), line("d"), line("c"), line("f")]
    assert Path(NAME).read_text() == text(SETTINGS, *kept)
    assert os.listdir() == [NAME]


def test_lines_with_other_settings_are_refused_by_name(planned):
    plan, sources = planned
    Path(NAME).write_text(text({**SETTINGS, "layers": ["other"]}, line("a")))
    with pytest.raises(XGradCamError, match=r"it had other settings for layers \(--target-layer\); give"):
        split(Path(), plan, sources)
    Path(NAME).write_text(text(line("a")))
    with pytest.raises(XGradCamError, match="its first line holds no settings"):
        split(Path(), plan, sources)


def test_only_our_own_files_are_deleted(planned):
    part(0, line("a"), ending="journal")
    Path(FOLDER, "mine.txt").touch()
    clear(Path())
    assert os.listdir(FOLDER) == ["mine.txt"]
    clear(Path())
    Path(FOLDER, "mine.txt").unlink()
    clear(Path())
    assert os.listdir() == []
    clear(Path())
