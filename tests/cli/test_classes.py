"""The classes of --target-index and the names of --labels, as a user gives them."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.support import BUNDLED, OWN, tree
from tests.support import EXAMPLES
from xgradcam.cli import proof_verify
from xgradcam.cli.setup import class_index, classes_of
from xgradcam.cli.xgrad_cam import main
from xgradcam.errors import XGradCamError
from xgradcam.runs.run import TopClasses

CAT = ("--image-path", str(EXAMPLES / "cat.jpg"))
NAMES = ("cat", "2", "bird", "10", "0", "top3", "wild dog")


@pytest.fixture(autouse=True)
def models(own_models):
    """tiny.py and pooled.py in the folder."""


@pytest.mark.parametrize(
    ("value", "index"),
    [
        ("-1", None),
        (" -1 ", None),
        ("1", 1),
        ("+1", 1),
        ("+2", 2),
        ("+0", 0),
        ("007", 7),
        ("999", 999),
        ("-2", -2),  # refused later, where the number of classes is known
        ("cat", 0),
        ("Bird", 2),
        ("top3", 5),
        ("dog", 6),
    ],
)
def test_a_class_by_index_or_name(value, index):
    assert class_index(value, NAMES, lambda _: None) == index


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        ("10", "class 3 (10): give +10 for the index, +3 for the name"),
        ("2", "class 1 (2): give +2 for the index, +1 for the name"),
        ("0", "class 4 (0): give +0 for the index, +4 for the name"),
    ],
)
def test_a_number_that_is_another_classs_name_is_refused_with_both(value, choices):
    with pytest.raises(XGradCamError) as error:
        class_index(value, NAMES, pytest.fail)
    assert str(error.value) == f"'{value}' is an index, and the name of {choices}"


def test_a_number_that_is_its_own_name_is_the_index():
    assert [
        class_index(str(digit), [str(digit) for digit in range(10)], pytest.fail) for digit in (0, 9)
    ] == [0, 9]
    assert class_index("3", None, pytest.fail) == 3


@pytest.mark.parametrize("value", ["9" * 10, "-" + "9" * 5000, "top" + "9" * 5000])
def test_an_endless_number_is_no_class(value):
    with pytest.raises(XGradCamError, match="no class") as error:
        classes_of([value], NAMES, pytest.fail)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("value", ["top 3", "top-3", "Top_3", " top3"])
@pytest.mark.parametrize("labels", [("cat", "dog"), None])
def test_the_highest_scores_written_otherwise_get_a_hint(value, labels):
    with pytest.raises(XGradCamError, match=r"^no class .*; did you mean top3\?$"):
        classes_of([value], labels, pytest.fail)
    assert classes_of(["top 3"], ["cat", "top 3"], pytest.fail) == [1]


def test_several_classes():
    said = []
    assert classes_of(["top2", "dog", "-1"], NAMES, said.append) == [TopClasses(2), 6, None]
    assert said == ["taking class 6 (wild dog) for 'dog', a part of its name"]


def test_a_class_by_a_part_of_its_name_is_said_by_both_commands(capsys):
    assert main([*CAT, "--target-index", "Egyptian", "--json", "--output-dir", "out", *BUNDLED]) == 0
    told = capsys.readouterr()
    line = "taking class 285 (n02124075 Egyptian cat) for 'Egyptian', a part of its name"
    assert f"xgrad-cam: note: {line}" in told.err.splitlines()
    assert json.loads(told.out)["class_index"] == 285
    assert proof_verify.main([*CAT, "--target-index", "Egyptian", *BUNDLED]) == 0
    assert f"proof-verify: {line}" in capsys.readouterr().err.splitlines()
    assert main([*CAT, "--target-index", "Egyptian cat", "--output-dir", "out", *BUNDLED]) == 0
    assert "taking class" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [main, proof_verify.main], ids=["xgrad-cam", "proof-verify"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\na\nb\nc\nd\n", "5 names for the 4 classes of tiny.py:Tiny: line 1 ('name') may be a header"),
        ("background\na\nb\nc\nd\n", "line 1 ('background') may be a background class"),
        ("a\n\nc\n", "2 names for the 4 classes of tiny.py:Tiny, and line 2 is blank"),
        ("{0: 'a',\n1: 'b'}\n", "line 1 is source text, not a name"),
        ("1: a\n2: b\n3: c\n", "3 names for the 4 classes of tiny.py:Tiny, numbered from 1"),
    ],
)
def test_wrong_labels_are_refused_in_a_line(command, content, message, capsys):
    Path("labels.txt").write_text(content)
    assert command([*CAT, "--labels", "labels.txt", *OWN]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert "labels labels.txt: " in told.err
    assert len(told.err.splitlines()) == 1
    assert tree(".").keys() == {"labels.txt", "pooled.py", "tiny.py"} | {
        name for name in tree(".") if "__pycache__" in name
    }


def test_fewer_labels_than_classes_are_said_and_the_rest_called_by_index(capsys):
    Path("labels.txt").write_text("north\neast\n")
    assert (
        main([*CAT, "--labels", "labels.txt", "--target-index", "east", "3", "--output-dir", "out", *OWN])
        == 0
    )
    told = capsys.readouterr()
    few = "labels labels.txt: 2 names for the 4 classes of tiny.py:Tiny: the others are called by their index"
    assert told.err.splitlines().count(f"xgrad-cam: {few}") == 1
    assert "class of interest:  east" in told.out
    assert "class of interest:  class 3" in told.out


def test_labels_do_not_keep_layers_from_being_listed(capsys):
    Path("labels.txt").write_text("north\neast\n")
    assert main(["--list-layers", "--labels", "labels.txt", *OWN]) == 0
    assert "features.0" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_of_labels_is_refused_without_waiting(capsys):
    os.mkfifo("labels.txt")
    assert main([*CAT, "--labels", "labels.txt", *OWN]) == 2
    assert "cannot read labels labels.txt: not a regular file" in capsys.readouterr().err
