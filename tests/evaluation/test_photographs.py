import shutil
from pathlib import Path

import pytest

from tests.support import EXAMPLES
from xgradcam import XGradCamError, imagenet_labels
from xgradcam.evaluation.photographs import (
    LabelledPhotograph,
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
    found = photographs_at(["."], Path("evaluation"), ["ant", "big dog", "cup", "d"])
    expected = [("./photos/2/cat.jpg", 2), ("./photos/other/coffee.jpg", None)]
    assert found == [LabelledPhotograph(*one) for one in expected]
    assert photographs_at([], Path("evaluation"), None) == []
    with pytest.raises(XGradCamError, match="none"):
        photographs_at(["none/*.jpg"], Path("evaluation"), None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("3", 3),
        ("4", None),
        ("2023", None),  # a year, where there are four classes
        ("big_dog", 1),
        ("ANT", 0),
        ("photos", None),
        ("", None),
    ],
)
def test_a_folder_may_be_named_by_index_or_name(name, expected):
    assert class_of_folder(name, ["ant", "big dog", "cup", "door"]) == expected


def test_a_folder_may_be_named_by_wordnet_id():
    assert class_of_folder("n02124075", imagenet_labels()) == 285
    assert class_of_folder("n00000000", imagenet_labels()) is None


def test_without_labels_only_an_index_is_a_class():
    assert class_of_folder("2023", None) == 2023
    assert class_of_folder("ant", None) is None


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
