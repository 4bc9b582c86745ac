"""What is printed of each photograph."""

import json
from pathlib import Path

import pytest

from xgradcam.cam.notes import _lines
from xgradcam.cli.options import BOTH
from xgradcam.cli.progress import Console

RECORD = {
    "image": "a.jpg",
    "class_index": 3,
    "class_name": "west",
    "score": 2.5,
    "probability": 0.25,
    "rank": 2,
    "classes": 4,
    "model": "tiny",
    "layer": "1",
    "conservation_error": {"grad-cam": 3.0811, "xgrad-cam": 2.1126},
    "notes": ["signed activations"],
    "written": ["cam.jpg", "X_cam.jpg"],
}
LINES = [
    "class of interest:  west",
    "class 3: score 2.5000, probability 25.0%, rank 2 of 4",
    "model tiny, layer 1",
    "conservation error (0: the map adds up to the score): grad-cam 3.081, xgrad-cam 2.113",
    "wrote cam.jpg and X_cam.jpg",
]


def console(total=1, **options):
    return Console(
        "xgrad-cam", **{"json": False, "quiet": False, "verbose": total == 1, "total": total, **options}
    )


def test_an_only_photograph_has_all_lines_and_its_notes(capsys):
    console().tell([RECORD], "")
    printed = capsys.readouterr()
    assert printed.out.splitlines() == LINES
    assert printed.err == "xgrad-cam: note: signed activations\n"


@pytest.mark.parametrize(
    "errors",
    [
        {"grad-cam": 0.5},
        {"grad-cam": 0.00261, "xgrad-cam": 0.00262},
        {"grad-cam": None, "xgrad-cam": 0.5},
        {},
    ],
)
def test_conservation_errors_are_printed_only_where_they_tell_the_methods_apart(errors, capsys):
    console().tell([{**RECORD, "conservation_error": {**errors, "random-cam": 9.5}}], "")
    assert capsys.readouterr().out.splitlines() == LINES[:3] + LINES[4:]


def test_conservation_errors_that_differ_by_rounding_are_not_printed_beside_maps_that_coincide(capsys):
    ranges = [0.0] * 8
    note = next(line for line in _lines([1.0, 0.0, 1.0, *ranges], BOTH, 4) if "coincide" in line)
    for errors, notes, printed in (
        ((1e-7, 4e-7), [note], False),
        ((1e-7, 4e-7), [], True),
        ((0.001, 0.0021), [note], True),
    ):
        record = {**RECORD, "notes": notes, "conservation_error": dict(zip(BOTH, errors, strict=True))}
        console().tell([record], "")
        assert ("conservation error" in capsys.readouterr().out) == printed


def test_the_errors_that_axioms_asks_for_take_their_place(capsys):
    sensitivity = {"grad-cam": 0.291, "xgrad-cam": None}
    console().tell([{**RECORD, "sensitivity_error": sensitivity}], "")
    assert capsys.readouterr().out.splitlines()[3:] == [
        "grad-cam: conservation error 3.081, sensitivity error 0.291",
        "xgrad-cam: conservation error 2.113, sensitivity error infinite",
        LINES[4],
    ]


def test_each_of_many_has_a_line_and_the_notes_are_counted_at_the_end(capsys):
    several = console(total=3)
    several.tell([RECORD, RECORD], "")
    several.tell([], "b.jpg: not an image")
    several.sum_up(Path("out"))
    printed = capsys.readouterr()
    assert printed.out.splitlines() == 2 * ["a.jpg: west (class 3), score 2.5000, probability 25.0%"]
    assert printed.err.splitlines() == [
        "xgrad-cam: error: b.jpg: not an image",
        "xgrad-cam: note: 2 of 2 explanations: signed activations",
        "xgrad-cam: 1 photograph explained, 1 failed, 1 not begun or not finished (--resume goes on); in out",
    ]


def test_with_json_stdout_has_objects_alone(capsys):
    console(json=True).tell([RECORD], "")
    printed = capsys.readouterr()
    assert json.loads(printed.out) == RECORD
    assert printed.err.splitlines()[: len(LINES)] == LINES


def test_quiet_prints_errors_alone(capsys):
    quiet = console(total=2, quiet=True, verbose=False)
    quiet.tell([RECORD], "")
    quiet.note("left out")
    assert capsys.readouterr() == ("", "")
    quiet.tell([], "two\nlines")
    assert capsys.readouterr() == ("", "xgrad-cam: error: two\\nlines\n")
