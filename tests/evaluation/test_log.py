import json
import os

import pytest

from xgradcam import XGradCamError
from xgradcam.evaluation.log import Log

SETTINGS = {"model": "tiny", "removed": [0.2, 0.4], "steps": 2}
CURVES = {"deletion": [0.9, 0.5, 0.1], "insertion": [0.1, 0.5, 0.9]}


def line(photo, method, kind="map", state="0", **values):
    measured = {"map": {"curves": CURVES}, "randomised": {"randomised": 0.5}, "mosaic": {"focus": None}}[kind]
    return {
        "kind": kind,
        "photo": photo,
        "layer": "conv",
        "method": method,
        "state": state,
        **measured,
        **values,
    }


A, B = line("a.jpg", "grad-cam", drop=0.5), line("b.jpg", "grad-cam", drop=0.5)
TEXT = json.dumps(A)


def parsed(path):
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def found(log, photo, method="grad-cam", kind="map", state="0"):
    return log.find(kind, photo, "conv", method, state)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "evaluation.jsonl"


def written(path, *lines):
    with Log(path, SETTINGS, resume=False) as log:
        for each in lines:
            log.add(each)


def test_the_file_has_the_settings_and_then_the_lines(path):
    with Log(path, SETTINGS, resume=False) as log:
        assert parsed(path) == [SETTINGS]
        assert found(log, "a.jpg") is None
        log.add(A)
        assert parsed(path) == [SETTINGS, A]
        assert found(log, "a.jpg") == A
        assert found(log, "a.jpg", kind="randomised") is None
        assert found(log, "a.jpg", "xgrad-cam") is None
        assert found(log, "b.jpg") is None
        assert found(log, "a.jpg", state="1") is None


def test_a_resumed_log_keeps_whole_lines_and_cuts_off_a_half_one(path):
    written(path, A, B)
    path.write_text(path.read_text()[:-20])
    with Log(path, SETTINGS, resume=True) as log:
        assert (found(log, "a.jpg"), found(log, "b.jpg"), log.malformed) == (A, None, 0)
        assert parsed(path) == [SETTINGS, A]
        log.add(B)
        assert parsed(path) == [SETTINGS, A, B]


def test_the_latest_line_of_a_state_counts(path):
    again, other = {**A, "drop": 0.25}, {**A, "state": "1"}
    written(path, A, again, other)
    with Log(path, SETTINGS, resume=True) as log:
        assert found(log, "a.jpg") == again
        assert found(log, "a.jpg", state="1") == other


def test_a_resumed_log_without_a_file_begins_one(path):
    with Log(path, SETTINGS, resume=True) as log:
        log.add(A)
    assert parsed(path) == [SETTINGS, A]


def test_without_resume_the_file_begins_anew(path):
    written(path, A)
    with Log(path, SETTINGS, resume=False) as log:
        assert found(log, "a.jpg") is None
    assert parsed(path) == [SETTINGS]


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("", "has no settings to compare"),
        ("{", "has no settings to compare"),
        ("3\n", "has no settings to compare"),
        ("not JSON\n", "has no settings to compare"),
        ("\x00\n", "has no settings to compare"),
        ('{"model": "other", "removed": [0.2, 0.4], "steps": 2}\n', r"run with other settings \(model\)"),
        ('{"model": "tiny", "removed": [0.2], "steps": 3}\n', r"other settings \(removed, steps\)"),
        ('{"model": "tiny", "removed": [0.2, 0.4], "steps": 2, "x": 1}\n', r"other settings \(x\)"),
        ('{"model": "tiny", "removed": [0.2, 0.4]}\n', r"other settings \(steps\)"),
    ],
)
def test_other_settings_are_refused_and_the_file_stays(path, before, message):
    path.write_text(before)
    with pytest.raises(XGradCamError, match=message) as error:
        Log(path, SETTINGS, resume=True)
    assert "leave out --resume" in str(error.value)
    assert path.read_text() == before
    written(path)
    assert parsed(path) == [SETTINGS]


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "{",
        TEXT[:-20],
        "null",
        "3",
        "[]",
        "{}",
        '"a.jpg"',
        "[" * 100_000,
        "\xff\xfe\x00",
        TEXT.replace('"kind"', '"sort"'),
        TEXT.replace('"map"', '"mop"'),
        TEXT.replace('"map"', "3"),
        TEXT.replace('"photo"', '"picture"'),
        TEXT.replace('"a.jpg"', "null"),
        TEXT.replace('"layer"', '"lair"'),
        TEXT.replace('"grad-cam"', '["grad-cam"]'),
        TEXT.replace('"state"', '"stat"'),
        TEXT.replace('"drop": 0.5', '"drop": "0.5"'),
        TEXT.replace('"drop": 0.5', '"drop": true'),
        TEXT.replace('"drop": 0.5', '"drop": [0.5]'),
        TEXT.replace('"drop": 0.5', '"drop": 1' + "0" * 400),
        TEXT.replace('"curves"', '"curve"'),
        TEXT.replace('"deletion"', '"depletion"'),
        TEXT.replace("[0.9, 0.5, 0.1]", "[0.9, 0.5]"),
        TEXT.replace("[0.9, 0.5, 0.1]", "[0.9, 0.5, null]"),
        TEXT.replace("[0.9, 0.5, 0.1]", "[0.9, 0.5, NaN]"),
        TEXT.replace("[0.9, 0.5, 0.1]", '"0.9"'),
        json.dumps(line("a.jpg", "grad-cam", "randomised")).replace('"randomised": 0.5', '"other": 0.5'),
    ],
)
def test_malformed_lines_are_passed_over_and_counted(path, malformed):
    path.write_bytes(f"{json.dumps(SETTINGS)}\n{malformed}\n{json.dumps(B)}\n".encode("latin-1"))
    with Log(path, SETTINGS, resume=True) as log:
        assert log.malformed == 1
        assert found(log, "a.jpg") is None
        assert found(log, "a.jpg", kind="randomised") is None
        assert found(log, "b.jpg") == B


def test_values_without_a_number_are_no_fault(path):
    whole = line("a.jpg", "grad-cam", conservation=float("inf"), drop=float("nan"), pointing=None)
    likeness = line("a.jpg", "grad-cam", "randomised", randomised=None)
    written(path, whole, likeness)
    with Log(path, SETTINGS, resume=True) as log:
        assert log.malformed == 0
        assert found(log, "a.jpg")["conservation"] == float("inf")
        assert found(log, "a.jpg", kind="randomised") == likeness


def test_two_resumed_runs_at_once_lose_no_line(path):
    written(path)
    with Log(path, SETTINGS, resume=True) as one, Log(path, SETTINGS, resume=True) as other:
        for index in range(20):
            (one if index % 2 else other).add(line(f"{index}.jpg", "grad-cam"))
    assert [each["photo"] for each in parsed(path)[1:]] == [f"{index}.jpg" for index in range(20)]


def test_a_run_whose_log_was_begun_anew_by_another_stops(path):
    with Log(path, SETTINGS, resume=False) as log:
        log.add(A)
        written(path, B)
        with pytest.raises(XGradCamError, match="another run began in this folder"):
            log.add(A)
        assert parsed(path) == [SETTINGS, B]
        path.unlink()
        with pytest.raises(XGradCamError, match=r"cannot write .*No such file.*--resume goes on later"):
            log.add(A)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line(path):
    with Log(path, SETTINGS, resume=False) as log:
        log._file.close()
        path.unlink()
        path.symlink_to("/dev/full")
        log._file = path.open("ab", buffering=0)
        with pytest.raises(XGradCamError, match="No space left on device; --resume goes on later"):
            log.add(A)


@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", os.mkdir)])
def test_a_log_that_is_no_file_is_refused(path, make):
    make(path)
    with pytest.raises(XGradCamError, match=r"evaluation\.jsonl"):
        Log(path, SETTINGS, resume=True)
