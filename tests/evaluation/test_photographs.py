import shutil
from pathlib import Path

import pytest

from tests.support import EXAMPLES
from xgradcam import XGradCamError
from xgradcam.evaluation.photographs import (
    LabelledPhotograph,
    by_folder,
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


def test_all_folders_that_may_be_several_classes_are_named(tmp_path):
    for folder in ("ant", "crane", "more/crane", "toad"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(EXAMPLES / "cat.jpg", tmp_path / folder)
    with pytest.raises(XGradCamError) as error:
        photographs_at([str(tmp_path)], tmp_path / "out", ["ant", "crane", "crane", "toad", "toad"], 5)
    assert str(error.value) == (
        "the folder 'crane' may be class 1 (crane), 2 (crane): call it by the index; so too 'toad'"
    )


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
