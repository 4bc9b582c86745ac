import json

import pytest

from xgradcam import XGradCamError
from xgradcam.evaluation.log import Log

SETTINGS = {"model": "tiny", "removed": [0.2, 0.4]}


def line(photo, method, kind="map", **values):
    return {"kind": kind, "photo": photo, "layer": "conv", "method": method, **values}


def parsed(path):
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "evaluation.jsonl"


def test_the_file_has_the_settings_and_then_the_lines(path):
    log = Log(path, SETTINGS, resume=False)
    assert parsed(path) == [SETTINGS]
    assert not log.has("map", "a.jpg", "conv", "grad-cam")
    log.add(line("a.jpg", "grad-cam", drop=0.5))
    assert parsed(path) == [SETTINGS, line("a.jpg", "grad-cam", drop=0.5)]
    assert log.has("map", "a.jpg", "conv", "grad-cam")
    assert not log.has("randomised", "a.jpg", "conv", "grad-cam")
    assert not log.has("map", "a.jpg", "conv", "xgrad-cam")
    assert not log.has("map", "b.jpg", "conv", "grad-cam")


def test_a_resumed_log_keeps_whole_lines_and_drops_one_that_was_cut_off(path):
    first = Log(path, SETTINGS, resume=False)
    for photo in ("a.jpg", "b.jpg"):
        first.add(line(photo, "grad-cam", drop=0.5))
    path.write_text(path.read_text()[:-20])
    log = Log(path, SETTINGS, resume=True)
    assert log.lines == [line("a.jpg", "grad-cam", drop=0.5)]
    assert parsed(path) == [SETTINGS, *log.lines]
    assert log.has("map", "a.jpg", "conv", "grad-cam")
    assert not log.has("map", "b.jpg", "conv", "grad-cam")
    log.add(line("b.jpg", "grad-cam", drop=0.25))
    assert parsed(path) == [SETTINGS, *log.lines]


def test_without_resume_the_file_begins_anew(path):
    Log(path, SETTINGS, resume=False).add(line("a.jpg", "grad-cam"))
    log = Log(path, SETTINGS, resume=False)
    assert log.lines == []
    assert parsed(path) == [SETTINGS]


@pytest.mark.parametrize("before", ["", "{", '{"model": "other", "removed": [0.2, 0.4]}\n'])
def test_other_settings_are_refused_and_the_file_stays(path, before):
    path.write_text(before)
    with pytest.raises(XGradCamError, match=r"evaluation\.jsonl is of a run with other settings"):
        Log(path, SETTINGS, resume=True)
    assert path.read_text() == before
    Log(path, SETTINGS, resume=False)
    assert parsed(path) == [SETTINGS]
