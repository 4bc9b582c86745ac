import shutil
from pathlib import Path

import pytest

from tests.support import EXAMPLES
from xgradcam import XGradCamError, imagenet_labels
from xgradcam.evaluation.photographs import (
    LabelledPhotograph,
    by_folder,
    class_of_folder,
    installed_photographs,
    photographs_at,
    readable,
)


def test_photographs_have_the_class_of_their_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("photos/2/cat.jpg", "photos/other/coffee.jpg", "evaluation/cat.jpg"):
        Path(place).parent.mkdir(parents=True)
        shutil.copy(EXAMPLES / Path(place).name, place)
    found = photographs_at(["."], Path("evaluation"), ["ant", "big dog", "cup", "d"], 4)
    expected = [("./photos/2/cat.jpg", 2), ("./photos/other/coffee.jpg", None)]
    assert found == [LabelledPhotograph(*one) for one in expected]
    assert photographs_at([], Path("evaluation"), None, None) == []
    with pytest.raises(XGradCamError, match="none"):
        photographs_at(["none/*.jpg"], Path("evaluation"), None, None)


NAMES = ("ant", "big dog", "n02123045 tabby, tabby cat", "door", "Café", "bullfrog", "crane", "crane", "9")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("3", 3),
        ("003", 3),
        ("9", 8),  # too high for an index
        ("10", None),
        ("2023", None),  # a year, where there are nine classes
        ("9" * 30, None),
        ("big_dog", 1),
        ("Big-Dog", 1),
        ("big dog", 1),
        ("ANT", 0),
        ("cafe", 4),
        ("n02123045", 2),
        ("tabby", 2),
        ("tabby_cat", 2),
        ("n02123045 tabby, tabby cat", 2),
        # Parts of names, and what has none.
        ("dog", None),
        ("big", None),
        ("cat", None),
        ("frog", None),
        ("an", None),
        ("doors", None),
        ("n0212304", None),
        ("n00000000", None),
        ("photos", None),
        ("val", None),
        ("-1", None),
        ("+3", None),
        ("3.0", None),
        ("²", None),
        ("", None),
        (".", None),
        ("..", None),
    ],
)
def test_a_folder_may_be_named_by_index_id_or_whole_name(name, expected):
    assert class_of_folder(name, NAMES) == expected
    assert class_of_folder(name, NAMES, len(NAMES)) == expected


def test_more_classes_than_names_have_an_index_all_the_same():
    assert class_of_folder("10", NAMES, 11) == 10
    assert class_of_folder("11", NAMES, 11) is None


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("crane", NAMES, "the folder 'crane' may be class 6 (crane), 7 (crane): call it by the index"),
        (
            "10",
            [str(index) if index != 2 else "10" for index in range(12)],
            "the folder '10' is an index, and the name of class 2 (10), 10 (10): call it 02 for the name",
        ),
        (
            "1",
            ["1", "0"],
            "the folder '1' is an index, and the name of class 0 (1): call it 00 for the name, 01 for the",
        ),
    ],
)
def test_a_folder_that_may_be_several_classes_is_refused(name, names, message):
    with pytest.raises(XGradCamError) as error:
        class_of_folder(name, names)
    assert str(error.value).startswith(message)


def test_all_folders_that_may_be_several_classes_are_named(tmp_path):
    for folder in ("ant", "crane", "more/crane", "toad"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(EXAMPLES / "cat.jpg", tmp_path / folder)
    with pytest.raises(XGradCamError) as error:
        photographs_at([str(tmp_path)], tmp_path / "out", ["ant", "crane", "crane", "toad", "toad"], 5)
    assert str(error.value) == (
        "the folder 'crane' may be class 1 (crane), 2 (crane): call it by the index; so too 'toad'"
    )


def test_a_leading_zero_makes_an_index_of_a_folder():
    assert [class_of_folder(name, ["1", "0"]) for name in ("00", "01")] == [0, 1]


def test_a_folder_may_be_named_by_wordnet_id():
    assert class_of_folder("n02124075", imagenet_labels()) == 285
    assert class_of_folder("n00000000", imagenet_labels()) is None
    assert class_of_folder("cat", imagenet_labels()) is None


def test_without_labels_only_an_index_is_a_class():
    assert class_of_folder("2023", None) == 2023
    assert class_of_folder("2023", None, 1000) is None
    assert class_of_folder("ant", None) is None


def test_the_classes_of_folders_are_counted():
    photographs = [
        LabelledPhotograph("p/2/a.jpg", 2),
        LabelledPhotograph("p/x/a.jpg", None),
        LabelledPhotograph("p/2/b.jpg", 2),
        LabelledPhotograph("c.jpg", 5),
        LabelledPhotograph("p/2/c.jpg", 3),
    ]
    assert by_folder(photographs, ["a", "b", "cup"]) == [
        ("p/2", "class 2 (cup)", 2),
        ("p/x", "the class of the highest score", 1),
        (".", "class 5", 1),
        ("p/2", "class 3", 1),
    ]


def test_installed_photographs_have_the_classes_of_their_names():
    pytest.importorskip("foolbox")
    photographs = list(installed_photographs())
    assert len(photographs) == 25
    assert sum(photograph.target is not None for photograph in photographs) == 20
    named = {Path(photograph.path).name: photograph.target for photograph in photographs}
    assert named["imagenet_00_243.jpg"] == 243
    assert named["chelsea.png"] is None
    assert readable(photographs, pytest.fail) == photographs


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("xgradcam.evaluation.photographs.find_spec", lambda _name: None)
    with pytest.raises(XGradCamError, match=r"foolbox is not installed: pip install 'xgradcam\[test\]'"):
        list(installed_photographs())


def test_a_photograph_that_cannot_be_read_is_skipped_with_its_reason(tmp_path):
    bad, none, good = tmp_path / "bad.jpg", tmp_path / "none.jpg", EXAMPLES / "cat.jpg"
    bad.write_bytes(b"no image")
    reasons = []
    found = readable([LabelledPhotograph(str(path), 1) for path in (bad, good, none)], reasons.append)
    assert found == [LabelledPhotograph(str(good), 1)]
    assert len(reasons) == 2
    assert reasons[0].startswith(f"not an image: {bad}")
    assert str(none) in reasons[1]
