import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs.support import touch
from xgradcam.errors import XGradCamError
from xgradcam.runs.sources import Source, _with_own_stems, find_photographs

OUT = Path("out")


pytestmark = pytest.mark.usefixtures("own_folder")


def found(*places, output_dir=OUT):
    return [(source.path, source.stem) for source in find_photographs(places, output_dir)]


def test_files_in_the_order_given_each_once():
    touch("b.jpg", "x/a.png")
    assert found("b.jpg", "x/a.png", "./b.jpg", "x/../b.jpg") == [("b.jpg", "b"), ("x/a.png", "a")]


def test_a_missing_file_is_left_to_the_reader_that_names_it():
    assert found("missing.jpg") == [("missing.jpg", "missing")]


def test_folders_with_their_structure_sorted():
    touch("p/z.jpg", "p/b/y.PNG", "p/b/a.webp", "p/note.txt", "p/.hidden.jpg", "p/.git/x.jpg", "p/c/d/e.tif")
    assert found("p") == [
        ("p/z.jpg", "z"),
        ("p/b/a.webp", "b/a"),
        ("p/b/y.PNG", "b/y"),
        ("p/c/d/e.tif", "c/d/e"),
    ]


def test_what_runs_made_is_no_photograph():
    touch(
        "a.jpg",
        "out/a.jpg",
        "a_285_cam.jpg",
        "a_285_X_cam.jpg",
        "cam.jpg",
        "X_cam.jpg",
        "webcam.jpg",
        "a_1_cam.png",
    )
    assert [path for path, _ in found(".")] == ["./a.jpg", "./a_1_cam.png", "./webcam.jpg"]
    assert [path for path, _ in found("out")] == ["out/a.jpg"]
    assert found("cam.jpg") == [("cam.jpg", "cam")]


def test_patterns():
    touch("p/a.jpg", "p/b.jpg", "p/q/c.jpg", "odd[1].jpg")
    assert found("p/*.jpg") == [("p/a.jpg", "a"), ("p/b.jpg", "b")]
    assert found("p/**/*.jpg") == [("p/a.jpg", "a"), ("p/b.jpg", "b"), ("p/q/c.jpg", "q/c")]
    assert found("odd[1].jpg") == [("odd[1].jpg", "odd[1]")]


def test_stdin():
    assert found("-") == [("-", "stdin")]


@pytest.mark.parametrize(
    ("place", "message"), [("empty", "no photographs in the folder empty"), ("*.jpg", "matches")]
)
def test_a_place_without_photographs_is_named(place, message):
    Path("empty").mkdir()
    with pytest.raises(XGradCamError, match=message):
        find_photographs([place], OUT)


def test_names_that_would_be_one_are_told_apart():
    touch("a/x.jpg", "a/x.png", "b/x.jpg", "b/y.jpg", "b/X.gif")
    assert found("a") == [("a/x.jpg", "x.jpg"), ("a/x.png", "x.png")]
    stems = [stem for _, stem in found("a/x.jpg", "b/x.jpg", "b/y.jpg")]
    assert stems == ["a/x.jpg", "b/x.jpg", "y"]
    stems = [stem for _, stem in found("a", "b", "-")]
    assert len({stem.casefold() for stem in stems}) == len(stems) == 6


names = st.text(st.sampled_from("ab.A-"), min_size=1, max_size=4).filter(lambda name: name.strip(".") != "")


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "p/", "q/", "p/q/"]), names, st.sampled_from([".jpg", ".png"])),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_two_photographs_share_a_stem_and_none_leaves_the_folder(parts):
    from unittest.mock import patch

    paths = list(dict.fromkeys(folder + name + suffix for folder, name, suffix in parts))
    with patch("os.path.isdir", lambda _: False):
        sources = find_photographs(paths, OUT)
    assert [source.path for source in sources] == paths
    stems = [source.stem.casefold() for source in sources]
    assert len(set(stems)) == len(stems)
    for source in sources:
        assert not source.stem.startswith("/")
        assert ".." not in source.stem.split("/")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links on this system")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes in folders")
def test_a_pipe_in_a_folder_is_not_waited_for_and_a_link_to_nowhere_is_told(tmp_path):
    (tmp_path / "a.jpg").touch()
    os.mkfifo(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to("nowhere.jpg")
    found = find_photographs([str(tmp_path)], tmp_path / "out")
    assert [source.stem for source in found] == ["a", "c"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links on this system")
def test_a_circle_of_links_ends():
    touch("p/a.jpg")
    os.symlink("..", "p/up", target_is_directory=True)
    assert found("p") == [("p/a.jpg", "a")]


@pytest.mark.parametrize(
    ("place", "stem"),
    [
        ("..jpg", "..jpg"), ("...", "..."), ("a/.jpg", ".jpg"), ("x..jpg", "x."), ("-x.jpg", "-x"),
        ("a\nb.jpg", "a\nb"), ("\udcff.jpg", "\udcff"), ("no suffix", "no suffix"), ("a/b/", "photograph"),
        ("", "photograph"), ("tar.gz.png", "tar.gz"),
    ],
)  # fmt: skip
def test_every_name_has_a_stem(place, stem):
    assert found(place) == [(place, stem)]


@pytest.mark.parametrize("letter", ["m", "é", "猫", "🐈", "\udcff"])
@pytest.mark.parametrize("count", [40, 49, 50, 51, 60, 63, 100, 200, 240, 251])
def test_stems_are_short_enough_in_bytes_and_told_apart(letter, count):
    names = [letter * count + end for end in ("", "a", "b")]
    stems = [Path(stem).name for _, stem in found(*(f"{name}.jpg" for name in names))]
    assert len(set(stems)) == 3
    for name, stem in zip(names, stems, strict=True):
        assert len(os.fsencode(stem)) <= 220
        assert stem == name or len(os.fsencode(name)) > 200
        assert stem[:30] == name[:30]


def test_many_of_one_name_are_numbered_in_linear_time():
    started = time.process_time()
    stems = [source.stem for source in _with_own_stems([Source("-", "x")] * 20_000)]
    assert stems[:3] == ["x", "x-2", "x-3"]
    assert stems[-1] == "x-20000"
    assert time.process_time() - started < 5
