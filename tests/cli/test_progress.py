"""What is printed of each photograph."""

import io
import json
import sys
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
    "wrote cam.jpg and X_cam.jpg, in the current folder",
]


def console(total=1, **options):
    return Console(
        "xgrad-cam", **{"json": False, "quiet": False, "verbose": total == 1, "total": total, **options}
    )


def tell(record, **options):
    """Print an only photograph, as the command does."""
    one = console(**options)
    one.tell([record], "")
    one.sum_up(Path())


def test_an_only_photograph_has_all_lines_and_its_notes(capsys):
    tell(RECORD)
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
    tell({**RECORD, "conservation_error": {**errors, "random-cam": 9.5}})
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
        tell(record)
        assert ("conservation error" in capsys.readouterr().out) == printed


def test_the_errors_that_axioms_asks_for_take_their_place(capsys):
    sensitivity = {"grad-cam": 0.291, "xgrad-cam": None}
    tell({**RECORD, "sensitivity_error": sensitivity})
    assert capsys.readouterr().out.splitlines()[3:] == [
        "grad-cam: conservation error 3.081, sensitivity error 0.291",
        "xgrad-cam: conservation error 2.113, sensitivity error infinite",
        LINES[4],
    ]


def test_of_many_photographs_a_class_has_one_line_however_many_layers_and_axioms_name_theirs(capsys):
    console = Console("xgrad-cam", json=False, quiet=False, verbose=False, total=2)
    errors = {"conservation_error": {"cam": 0.5}, "sensitivity_error": {"cam": 0.25}}
    console.tell([{**RECORD, "layer": layer, **errors} for layer in ("a", "b")], "")
    console.tell([{**RECORD, "layer": layer} for layer in ("a", "b")], "")
    first, *axioms, last = capsys.readouterr().out.splitlines()
    assert first == last
    assert first.startswith(RECORD["image"])
    assert axioms == [f"{layer}, cam: conservation error 0.5, sensitivity error 0.25" for layer in ("a", "b")]


@pytest.mark.parametrize(
    ("budget", "lines"),
    [
        ({"feature": 2.4}, []),
        ({"feature": 1.25}, []),
        (
            {"feature": 0.3},
            [
                "12% of the score is in this layer's features, the rest in constants behind it: a plain CAM "
                "shows little here, --method complete-cam shows all"
            ],
        ),
        (
            {"feature": -5.0},
            [
                "-200% of the score is in this layer's features, the rest in constants behind it: a plain "
                "CAM misleads here, --method complete-cam shows all"
            ],
        ),
        (
            {"feature": 1, "bias": 0.5, "bypass": 0, "curvature": 1, "nowhere": 0.0, "cancellation": 3.51},
            [
                "parts of the score: feature 40.0%, bias 20.0%, bypass 0.0%, curvature 40.0%, nowhere 0.0%; "
                "its terms are 3.51 times as large, with both signs"
            ],
        ),
        (
            {"feature": 0, "bias": 0.5, "bypass": 0, "curvature": 0, "nowhere": 2.0, "cancellation": None},
            [
                "parts of the score: feature 0.0%, bias 20.0%, bypass 0.0%, curvature 0.0%, nowhere 80.0%; "
                "its terms are inf times as large, with both signs",
                "nowhere: constants behind pooling, class tokens and the like, which no map can show",
            ],
        ),
        ({"feature": None}, []),
    ],
)
def test_the_parts_of_the_score_are_printed_where_they_change_how_a_map_is_read(budget, lines, capsys):
    tell({**RECORD, "budget": budget})
    assert capsys.readouterr().out.splitlines() == [*LINES[:4], *lines, LINES[4]]


def in_order(monkeypatch):
    """All that is printed, on stdout and stderr together, as a terminal shows it."""
    both = io.StringIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, both)
    return both


def test_the_last_line_of_an_only_photograph_says_where_its_files_are(monkeypatch):
    notes = ["signed activations", "no gradient"]
    for records, folder, last in (
        ([RECORD], Path(), LINES[-1]),
        ([{**RECORD, "written": ["out/cam.jpg"]}], Path("out"), "wrote out/cam.jpg"),
        (2 * [RECORD], Path(), "wrote 4 files, in the current folder"),
        (3 * [RECORD], Path(), "wrote 6 files, in the current folder"),
        (3 * [RECORD], Path("a", "b"), f"wrote 6 files, in {Path('a', 'b')}"),
    ):
        printed = in_order(monkeypatch)
        one = console()
        one.tell([{**record, "notes": notes} for record in records], "")
        one.sum_up(folder)
        *_, first, second, place = printed.getvalue().splitlines()
        assert (first, second) == tuple(f"xgrad-cam: note: {line}" for line in notes)
        assert place == last


def test_each_of_several_classes_has_its_files_and_a_note_of_some_says_of_how_many(monkeypatch):
    printed = in_order(monkeypatch)
    one = console()
    one.tell([RECORD, {**RECORD, "notes": [], "written": ["a.jpg"]}, RECORD], "")
    one.sum_up(Path())
    lines = printed.getvalue().splitlines()
    assert [line for line in lines if line.startswith("wrote ")] == [
        "wrote cam.jpg and X_cam.jpg", "wrote a.jpg", "wrote cam.jpg and X_cam.jpg",
        "wrote 5 files, in the current folder",
    ]  # fmt: skip
    assert [line for line in lines if "note" in line] == [
        "xgrad-cam: note: 2 of 3 explanations: signed activations"
    ]


def test_an_only_photograph_that_was_complete_or_failed_has_no_files(capsys):
    earlier = console()
    earlier.add_earlier([RECORD])
    earlier.sum_up(Path("out"))
    assert capsys.readouterr() == ("complete before; in out\n", "")
    failed = console()
    failed.tell([], "a.jpg: not an image")
    failed.sum_up(Path())
    assert capsys.readouterr() == ("", "xgrad-cam: error: a.jpg: not an image\n")


def test_with_verbose_each_photograph_has_its_notes_once(capsys):
    several = console(total=2, verbose=True)
    for _ in range(2):
        several.tell(3 * [RECORD], "")
    several.sum_up(Path("out"))
    assert capsys.readouterr().err.splitlines()[:-1] == 2 * ["xgrad-cam: note: signed activations"]


def test_maps_that_coincide_come_with_the_remedy(capsys):
    coincide = next(line for line in _lines([1.0, 0.0, 1.0, *[0.0] * 8], BOTH, 4) if "coincide" in line)
    files = {"grad-cam": "cam.jpg", "xgrad-cam": "X_cam.jpg"}
    tell({**RECORD, "files": files, "notes": [coincide]})
    remedy = (
        "an earlier layer tells the methods apart, and --method complete-cam shows all of the score there\n"
    )
    assert capsys.readouterr().err.endswith(remedy)
    # With the picture of a finer layer the line on it takes the note's place.
    files["complete-cam"] = "complete-cam.jpg"
    finer = {**RECORD, "files": files, "finer_layer": {"complete-cam": "early.2"}}
    seen = "complete-cam.jpg shows all of the score at a finer layer, early.2"
    tell({**finer, "notes": [coincide]})
    out, err = capsys.readouterr()
    same = "cam.jpg and X_cam.jpg are the same, as at any layer that only pooling and a linear layer follow"
    assert out.splitlines()[4] == f"{same}; {seen}"
    assert err == ""
    tell(finer)
    out, err = capsys.readouterr()
    assert out.splitlines()[4] == seen
    assert err == "xgrad-cam: note: signed activations\n"


def test_each_of_many_has_a_line_and_the_notes_are_counted_at_the_end(capsys):
    several = console(total=3)
    several.tell([RECORD, {**RECORD, "class_index": 4}], "")
    several.tell([], "b.jpg: not an image")
    several.sum_up(Path("out"))
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"a.jpg: west (class {index}), score 2.5000, probability 25.0%" for index in (3, 4)
    ]
    assert printed.err.splitlines() == [
        "xgrad-cam: error: b.jpg: not an image",
        "xgrad-cam: note: 2 of 2 explanations: signed activations",
        "xgrad-cam: 1 photograph explained, 1 failed, 1 not begun or not finished (--resume goes on); in out",
    ]


def test_with_json_stdout_has_objects_alone(capsys):
    tell(RECORD, json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == RECORD
    assert printed.err.splitlines() == [*LINES[:4], "xgrad-cam: note: signed activations", LINES[4]]


def test_quiet_prints_errors_alone(capsys):
    quiet = console(total=2, quiet=True, verbose=False)
    quiet.tell([RECORD], "")
    quiet.note("left out")
    assert capsys.readouterr() == ("", "")
    quiet.tell([], "two\nlines")
    assert capsys.readouterr() == ("", "xgrad-cam: error: two\\nlines\n")


@pytest.mark.parametrize("seconds", [0.5, 0.2])
@pytest.mark.parametrize(("total", "terminal"), [(1, True), (1, False), (30, False)])
def test_a_method_that_takes_long_is_said_once_by_its_second_batch(
    seconds, total, terminal, monkeypatch, capsys
):
    now = [100.0]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr("xgradcam.cli.progress.monotonic", lambda: now[0])
    told = console(total=total)

    for batch in range(2):
        for done in range(16, 641, 16):
            told.evaluations(done, 640)
            now[0] += seconds
        # 40 batches: 20 seconds, or 8. On a terminal the bar is drawn too.
        each = "" if total == 1 else " for each batch of photographs"
        line = (
            f"xgrad-cam: note: a method asks the network 640 times, about 20 seconds{each} "
            "(score-cam and ablation-cam: once for each channel); --method chooses others\n"
        )
        is_said = seconds == 0.5 and batch == 0 and (terminal or total > 1)
        printed = capsys.readouterr().err
        assert printed.count(line) == printed.count("note:") == is_said


def test_a_quiet_run_does_not_say_how_long_a_method_takes(monkeypatch, capsys):
    monkeypatch.setattr("xgradcam.cli.progress.monotonic", iter([0.0, 9.0]).__next__)
    quiet = console(quiet=True)
    quiet.evaluations(1, 100)
    quiet.evaluations(2, 100)
    assert capsys.readouterr().err == ""
