"""Which files of a folder are photographs, in linear time, and what the others are."""

import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runs.support import touch
from xgradcam.errors import XGradCamError
from xgradcam.files import make_folder
from xgradcam.pictures.marks import ENCODERS
from xgradcam.runs.listing import matching, photographs_in
from xgradcam.runs.sources import find_photographs

OUT = Path("out")
needs_links = pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links on this system")


pytestmark = pytest.mark.usefixtures("own_folder")


def listed(folder, output_dir=OUT):
    skipped = Counter()
    found = list(photographs_in(folder, output_dir, lambda kind: skipped.update([kind])))
    return found, dict(skipped)


def test_what_is_passed_over_is_counted_by_kind():
    touch(
        "p/a.jpg",
        "p/b.HEIC",
        "p/c/d.heif",
        "p/e.txt",
        "p/f.mov",
        "p/g.CR2",
        "p/.h.jpg",
        "p/.DS_Store",
        "p/i.zip",
    )
    touch("p/a_285_cam.jpg", "p/a_285-less-282_X_cam.jpg", "p/empty", "p/j.svg")
    Path("p/words").write_text("no suffix")
    Path("p/data.bin").write_bytes(bytes(range(256)))
    Image.new("RGB", (4, 4)).save("p/picture", "PNG")
    Path("p/folder.jpg").mkdir()
    assert listed("p") == (
        ["p/a.jpg"],
        {
            "HEIC": 2, "text": 2, "video": 1, "RAW": 1, "hidden photograph": 1, "archive": 1, "result": 2,
            "other file": 2, "SVG": 1, "PNG of another name": 1,
        },
    )  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes in folders")
def test_pipes_are_not_opened():
    touch("p/a.jpg")
    os.mkfifo("p/b.jpg")
    os.mkfifo("p/c")
    assert listed("p") == (["p/a.jpg"], {"pipe": 2})


@needs_links
def test_linked_folders_are_followed_once_behind_the_others():
    touch("p/z/a.jpg", "q/b.jpg", "q/c/d.jpg")
    for link, target in (
        ("p/1", "../q"),
        ("p/2", "../q"),
        ("p/3", "z"),
        ("q/c/up", "../.."),
        ("p/broken", "no"),
    ):
        os.symlink(target, link, target_is_directory=True)
    found, skipped = listed("p")
    assert found == ["p/z/a.jpg", "p/1/b.jpg", "p/1/c/d.jpg"]
    assert skipped == {"link to a folder listed already": 2, "other file": 1, "link to a folder above": 1}


@needs_links
@pytest.mark.parametrize("target", ["..", "../..", "/", "../../x/p", "."])
def test_a_link_to_a_folder_above_brings_in_nothing_from_beside_the_one_given(target):
    touch("x/p/a.jpg", "x/mine.jpg", "x/q/mine.jpg", "mine.jpg")
    os.symlink(target, "x/p/up", target_is_directory=True)
    os.symlink("../q", "x/p/q", target_is_directory=True)
    found, skipped = listed("x/p")
    assert found == ["x/p/a.jpg", "x/p/q/mine.jpg"]
    assert list(skipped.values()) == [1]
    assert next(iter(skipped)).startswith("link to a folder ")
    assert matching("x/p/**/*.jpg", lambda _kind: None) == found
    os.symlink("x/p", "linked", target_is_directory=True)
    assert listed("linked")[0] == ["linked/a.jpg", "linked/q/mine.jpg"]


def test_folders_of_a_thousand_levels_are_listed_and_made():
    folders = ["p"]
    for _ in range(1100):
        folders.append(f"{folders[-1]}/d")
    made = [name.replace("p", "out", 1) for name in folders]
    try:
        for folder in folders:
            os.mkdir(folder)
        touch(f"{folders[-1]}/a.jpg")
        assert listed("p") == ([f"{folders[-1]}/a.jpg"], {})
        assert [source.stem for source in find_photographs(["p"], OUT)] == [f"{folders[-1][2:]}/a"]
        assert matching("p/**/*.jpg", lambda _kind: None) == [f"{folders[-1]}/a.jpg"]
        make_folder(Path(made[-1]))
        assert os.path.isdir(made[-1])
        with pytest.raises(XGradCamError, match="folders lie too deep for the pattern"):
            matching("p/**/.h/*", lambda _kind: None)
    finally:
        # What removes temporary folders calls itself for each level.
        Path(folders[-1], "a.jpg").unlink(missing_ok=True)
        for folder in [*reversed(folders), *reversed(made)]:
            if os.path.isdir(folder):
                os.rmdir(folder)


@needs_links
def test_circles_of_links_end():
    touch(*(f"p/{name}/x.jpg" for name in "abcdefgh"))
    for place in "abcdefgh":
        for target in "abcdefgh":
            os.symlink(f"../{target}", f"p/{place}/{target}", target_is_directory=True)
    os.symlink(".", "p/self", target_is_directory=True)
    started = time.monotonic()
    assert len(listed("p")[0]) == 8
    assert [path.count("/") for path in matching("p/**/*.jpg", lambda _kind: None)] == [2] * 8
    assert time.monotonic() - started < 5


@needs_links
def test_the_folder_that_is_written_to_is_not_read_by_whatever_path():
    touch("p/a.jpg", "p/out/b.jpg")
    os.symlink("out", "p/also", target_is_directory=True)
    assert listed("p", Path("p/out"))[0] == ["p/a.jpg"]
    assert listed("p/out", Path("p/out"))[0] == ["p/out/b.jpg"]


def test_a_folder_that_may_not_be_listed_does_not_stop_the_others(monkeypatch):
    touch("p/a/x.jpg", "p/b/y.jpg")
    scandir = os.scandir

    def strict(path):
        if os.fspath(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", strict)
    assert listed("p") == (["p/b/y.jpg"], {"folder without permission": 1})
    with pytest.raises(XGradCamError, match=r"no photographs in the folder p/a \(skipped: 1 folder without"):
        find_photographs(["p/a"], OUT)


def test_a_place_of_none_says_what_there_is():
    touch("p/a.heic", "p/b.heic", "p/c.txt")
    with pytest.raises(XGradCamError, match=r"no photographs in the folder p \(skipped: 2 HEIC, 1 text\)"):
        find_photographs(["p"], OUT)


PATTERNS = [
    "p/**/*.jpg",
    "**/*.jpg",
    "p/**",
    "p/**/b/*",
    "p/*/**/x.*",
    "**/[xy].jpg",
    "p/**/.h/*",
    "./**/x.jpg",
    "**",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_folders_match_as_those_of_glob(pattern):
    import glob

    touch(
        "x.jpg",
        "p/x.jpg",
        "p/y.png",
        "p/a/x.jpg",
        "p/a/b/y.jpg",
        "p/b/x.jpg",
        "p/.h/x.jpg",
        "p/a/.y.jpg",
        "p/b.c/x.jpg",
    )
    expected = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    assert matching(pattern, lambda _kind: None) == expected


def test_names_are_kept_apart_in_linear_time():
    names = [f"{index:05}.jpg" for index in range(2000)]
    for folder in ("p", "q"):
        Path(folder).mkdir()
        for name in names:
            Path(folder, name).touch()
    places = [f"{folder}/{name}" for folder in ("p", "q") for name in names]
    started = time.process_time()
    assert [source.stem for source in find_photographs(places, OUT)] == places
    # Half a second; by the square of their number it would be half a minute.
    assert time.process_time() - started < 6
    assert sorted(source.stem for source in find_photographs(["p", "q"], OUT)) == sorted(places)


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("stem", ["complete-cam", "grad-cam++", "linear-cam_gb", "panel", "gb"])
def test_results_of_one_photograph_are_passed_over_but_not_photographs_of_such_names(tmp_path, stem, kind):
    picture, path = np.zeros((8, 8, 3), np.uint8), tmp_path / f"{stem}.{kind}"

    def listed():
        skipped = Counter()
        paths = photographs_in(str(tmp_path), Path("out"), lambda kind: skipped.update([kind]))
        return [Path(path) for path in paths], skipped

    path.write_bytes(ENCODERS[kind](picture))
    assert listed() == ([], {"result": 1})
    Image.fromarray(picture).save(path)
    assert listed() == ([path], {})
