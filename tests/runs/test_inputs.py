"""Places of photographs beside files and folders."""

from pathlib import Path

import pytest

from xgradcam.errors import XGradCamError
from xgradcam.runs.inputs import Expansion, places_in
from xgradcam.runs.sources import find_photographs

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.parametrize(
    ("place", "places"),
    [
        ("a.jpg", ["a.jpg"]),
        ("s-{008..011}.tar", ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]),
        ("{a,b,}/{1..2}", ["a/1", "a/2", "b/1", "b/2", "/1", "/2"]),
        ("s3://x/{0..1}.tar", ["s3://x/0.tar", "s3://x/1.tar"]),
        ("{a}.jpg", ["{a}.jpg"]),
        ("{1..x}.jpg", ["{1..x}.jpg"]),
        ("there{1,2}.jpg", ["there{1,2}.jpg"]),
    ],
)
def test_braces_are_expanded_as_by_a_shell(place, places):
    Path("there{1,2}.jpg").touch()
    assert places_in([place]) == places


@pytest.mark.parametrize("place", ["{1..99999999}", "{3..1}", "{1..9999}{1..9999}"])
def test_braces_of_too_many_or_none_are_refused(place):
    with pytest.raises(XGradCamError, match="files: give from 1 to 1,000,000"):
        places_in([place])


def test_a_list_may_name_a_photograph_that_is_called_so_and_each_is_taken_once():
    Path("a.jpg").write_bytes(b"")
    Path("photo.txt").write_bytes(b"\xff\xd8\xff a JPEG")
    Path("list.lst").write_text("a.jpg\nmissing b.jpg\n\nphoto.txt\na.jpg\nhttp://x.org/c.png\n")
    found = find_photographs(["list.lst"], Path("out"), expand=Expansion(None, lambda _kind: None))
    assert [(source.path, source.stem.rpartition("/")[2]) for source in found] == [
        ("a.jpg", "a"), ("missing b.jpg", "missing b"), ("photo.txt", "photo"), ("http://x.org/c.png", "c"),
    ]  # fmt: skip
    assert [source.file for source in found] == [source.path for source in found]
    (only,) = find_photographs(["photo.txt"], Path("out"), expand=Expansion(None, lambda _kind: None))
    assert (only.path, only.held) == ("photo.txt", None)
