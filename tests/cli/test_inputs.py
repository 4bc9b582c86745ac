"""Photographs in archives and tables, behind URLs, and in lists."""

import glob
import http.server
import json
import os
import shutil
import tarfile
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.cli.support import OWN, tree
from tests.support import noise
from xgradcam.cli.xgrad_cam import main

pytestmark = pytest.mark.usefixtures("own_models")
RUN = [*OWN, "--batch-size", "4", "--save-maps"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments):
        """Say nothing."""


@pytest.fixture
def server(monkeypatch):
    """A server of the folder, and its address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=os.getcwd())) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def photographs():
    return sorted(os.listdir("photos"))


def tar(name, names, folder="photos", more=()):
    """A tar in WebDataset's form of these photographs, each with a class, and more members."""
    with tarfile.open(name, "w") as made:
        for photograph in names:
            made.add(f"{folder}/{photograph}", photograph)
            Path("x.cls").write_text("1")
            made.add("x.cls", photograph.replace(".png", ".cls"))
        for path, member in more:
            made.add(path, member)
    Path("x.cls").unlink(missing_ok=True)


def table(name, names, make=None, **options):
    """A Parquet table of these photographs as a data set of Hugging Face has them."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"label": 1, "image": {"bytes": Path("photos", one).read_bytes(), "path": f"train/{one}"}}
        for one in names
    ]
    parquet.write_table(
        pa.Table.from_pylist(rows if make is None else list(map(make, rows))), name, **options
    )


def results(folder):
    """The pictures and maps by their names without folders."""
    return {name.rpartition("/")[2]: of for name, of in tree(folder).items() if not name.endswith(".jsonl")}


def images(folder):
    lines = Path(folder, "xgrad-cam.jsonl").read_text().splitlines()[1:]
    return [json.loads(line)["image"] for line in lines]


@pytest.fixture
def loose():
    """20 photographs, one of which is damaged, and the results of the files."""
    noise("photos", 20)
    Path("photos/0013.png").write_text("no picture")
    assert main(["photos", *RUN, "--output-dir", "loose", "--quiet"]) == 1
    return results("loose")


def as_tars():
    names = photographs()
    tar("a-0.tar", names[:9])
    tar("a-1.tar", names[9:])


def as_tables():
    table("b-0.parquet", photographs()[:9], row_group_size=4)
    table("b-1.parquet", photographs()[9:], row_group_size=100)


def as_list(prefix="photos/", name="list.txt"):
    Path(name).write_text("\ufeff" + "\r\n".join(f"{prefix}{one}" for one in photographs()) + "\n\n")


INPUTS = {
    "tar in another order": (lambda: tar("t.tar", photographs()[::-1]), ["t.tar"], "t.tar/0013.png"),
    "braces": (as_tars, ["a-{0..1}.tar"], "a-1.tar/0013.png"),
    "pattern": (as_tars, ["a-*.tar"], "a-1.tar/0013.png"),
    "tables": (as_tables, ["b-{1,0}.parquet"], "b-1.parquet#4"),
    "braces of folders": (lambda: None, ["{photos,./photos}"], "photos/0013.png"),
    "list": (as_list, ["list.txt"], "photos/0013.png"),
    "files behind a URL": (lambda: None, ["file://{}/photos/*.png"], "/photos/0013.png"),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_the_pictures_and_maps_are_byte_for_byte_those_of_files(loose, kind, capsys):
    make, places, damaged = INPUTS[kind]
    make()
    places = [place.replace("{}", os.getcwd()) for place in places]
    capsys.readouterr()
    assert main([*places, *RUN, "--output-dir", "out"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2
    assert f"{damaged}: it is text" in err[0]
    assert err[1].endswith("19 photographs explained, 1 failed; in out")
    assert results("out") == loose
    # In processes that share them, and gone on with.
    before = tree("out")
    codes = [main([*places, *RUN, "--output-dir", "two", "--quiet", "--shard", f"{n}/2"]) for n in (1, 2)]
    assert sorted(codes) == [0, 1]
    assert results("two") == loose
    assert images("two") == images("out")
    assert main([*places, *RUN, "--output-dir", "out", "--resume"]) == 1
    assert "0 photographs explained, 1 failed, 19 complete before" in capsys.readouterr().err
    assert tree("out") == before


def test_photographs_behind_http(loose, server, capsys):
    as_list(f"{server}/photos/")
    assert main(["list.txt", f"{server}/photos/none.png", *RUN, "--output-dir", "out", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert f"not an image: {server}/photos/0013.png: it is text" in err
    assert f"cannot read {server}/photos/none.png: HTTP Error 404: File not found" in err
    assert results("out") == loose
    # An only one has the names of the original scripts.
    assert main([f"{server}/photos/0001.png", *OWN, "--output-dir", "one", "--quiet"]) == 0
    assert sorted(os.listdir("one")) == ["X_cam.jpg", "cam.jpg"]
    assert main([f"{server}/photos/none.png", *OWN, "--output-dir", "one"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_photographs_archives_and_tables_of_a_file_system_of_fsspec(loose, capsys):
    fsspec = pytest.importorskip("fsspec")
    as_tars()
    as_tables()
    memory = fsspec.filesystem("memory")
    for name in ("photos", "a-0.tar", "a-1.tar", "b-0.parquet", "b-1.parquet"):
        memory.put(name, f"/{name}", recursive=True)
    try:
        for index, place in enumerate(("photos", "photos/*.png", "a-{0..1}.tar", "b-*.parquet")):
            assert main([f"memory://{place}", *RUN, "--output-dir", f"out{index}", "--quiet"]) == 1
            assert results(f"out{index}") == loose
    finally:
        memory.rm("/", recursive=True)
    assert main(["s3://nobody/x.jpg", *OWN, "--output-dir", "out"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert "cannot read s3://nobody/x.jpg: " in err[-1]
    assert main(["what://nobody/x.jpg", *OWN, "--output-dir", "out"]) == 2
    assert "cannot read what://nobody/x.jpg: Protocol not known: what" in capsys.readouterr().err


def test_large_photographs_are_read_again_to_be_drawn(loose, server, monkeypatch):
    as_tars()
    as_tables()
    as_list(f"{server}/photos/")
    monkeypatch.setattr("xgradcam.runs.pipeline.LARGE", 100)
    for index, place in enumerate(("a-*.tar", "b-*.parquet", "list.txt")):
        assert main([place, *RUN, "--output-dir", f"out{index}", "--quiet"]) == 1
        assert results(f"out{index}") == loose


def test_what_has_changed_is_explained_anew(loose, capsys):
    as_tars()
    run = ["a-*.tar", *RUN, "--output-dir", "out"]
    assert main([*run, "--quiet"]) == 1
    os.utime("a-1.tar", (1, 1))
    capsys.readouterr()
    assert main([*run, "--resume"]) == 1
    assert "10 photographs explained, 1 failed, 9 complete before" in capsys.readouterr().err
    assert results("out") == loose


@pytest.mark.parametrize(
    ("place", "column", "words"),
    [
        (
            "two.tar",
            None,
            "two.tar has several photographs, png and seg.png: choose by --column seg.png, or take all by "
            "--column png",
        ),
        (
            "two.tar",
            "jpg",
            "no photographs of the ending jpg in the archive two.tar; there are those of png, ",
        ),
        ("none.tar", None, "no photographs in the archive none.tar"),
        ("text.tar", None, "cannot read the archive text.tar: "),
        ("zipped.tar", None, "it is compressed, and has no places"),
        ("x.tar.gz", None, "the archive x.tar.gz is compressed: unpack it"),
        ("missing.tar", None, "no such file: missing.tar"),
        ("two.parquet", None, "several columns of images in two.parquet: there are image, mask; choose by"),
        (
            "two.parquet",
            "imag",
            "no column 'imag' of images in two.parquet: there are image, mask; did you mean 'image'?",
        ),
        ("two.parquet", "label", "no column 'label' of images in two.parquet"),
        ("none.parquet", None, "no column of images in none.parquet: its columns are label (int64)"),
        ("text.parquet", None, "cannot read text.parquet: "),
        ("empty.txt", None, "empty.txt is no list of photographs"),
        ("prose.txt", None, "prose.txt is no list of photographs, with a path or a URL a line"),
        ("photos", "jpg", "--column jpg is about tars and Parquet tables, of which none is given"),
        ("{1..9999999}.tar", None, "means 9,999,999 files: give from 1 to 1,000,000"),
    ],
)
def test_what_is_ambiguous_or_wrong_is_one_line(place, column, words, capsys):
    noise("photos", 2)
    tar("two.tar", ["0001.png"])
    with tarfile.open("two.tar", "w") as made:
        for name in ("0001.png", "0001.seg.png"):
            made.add("photos/0001.png", name)
    tar("none.tar", [])
    Path("text.tar").write_text("no archive" * 100)
    with tarfile.open("zipped.tar", "w:gz") as made:
        made.add("photos/0001.png", "0001.png")
    shutil.copy("zipped.tar", "x.tar.gz")
    for name in ("text.parquet", "prose.txt"):
        Path(name).write_text("Dear reader,\n")
    Path("empty.txt").touch()
    if place.endswith(".parquet"):
        table("two.parquet", photographs(), lambda row: {**row, "mask": row["image"]["bytes"]})
        table("none.parquet", photographs(), lambda row: {"label": row["label"]})
    options = [] if column is None else ["--column", column]
    assert main([place, *options, *OWN, "--output-dir", "out"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1
    assert not Path("out").exists()


def test_column_chooses(capsys):
    noise("photos", 3)
    table("two.parquet", photographs(), lambda row: {**row, "mask": row["image"]["bytes"]})
    assert main(["two.parquet", "--column", "mask", *RUN, "--output-dir", "a", "--quiet"]) == 0
    assert images("a") == [f"two.parquet#{index}" for index in range(3)]
    assert any(name.startswith("two-000002_") for name in os.listdir("a"))
    assert main(["two.parquet", "--column", "image", *RUN, "--output-dir", "a", "--resume"]) == 2
    assert "it had other settings for column" in capsys.readouterr().err
    tar("t.tar", photographs(), more=[("photos/0000.png", "0002.seg.png")])
    for column, count in (("seg.png", 1), ("png", 4)):
        assert main(["t.tar", "--column", column, *RUN, "--output-dir", column, "--quiet"]) == 0
        assert len(images(column)) == count


def test_hostile_archives_do_no_harm(capsys):
    noise("photos", 3)
    outside = Path("outside.txt")
    outside.write_text("mine")
    names = [
        "good.png", "../../outside.png", "/etc/absolute.png", "a/../../b.png", "._good.png", "good.png",
        ".xgrad-cam.lock.png", "x" * 300 + ".png", "line\nfeed.png", "nul\0l.png", "index.html.png",
    ]  # fmt: skip
    with tarfile.open("evil.tar", "w", format=tarfile.PAX_FORMAT) as made:
        for name in names:
            member = made.gettarinfo("photos/0000.png", "x.png")
            member.name = name
            member.pax_headers = {"path": name}
            with open("photos/0000.png", "rb") as file:
                made.addfile(member, file)
        for kind, link in ((tarfile.SYMTYPE, "outside.txt"), (tarfile.LNKTYPE, "good.png")):
            member = tarfile.TarInfo(f"link{kind[0]}.png")
            member.type, member.linkname = kind, link
            made.addfile(member)
        member = tarfile.TarInfo("pipe.png")
        member.type = tarfile.FIFOTYPE
        made.addfile(member)
    before = {name for name in os.listdir() if name != "out"}
    above = set(os.listdir(".."))
    assert main(["evil.tar", *RUN, "--output-dir", "out"]) == 0
    out, err = capsys.readouterr()
    assert set(os.listdir()) - {"out"} == before
    assert set(os.listdir("..")) == above
    assert outside.read_text() == "mine"
    assert "8 photographs explained, 0 failed; in out" in err
    assert "skipped: 3 links in an archive, 2 hidden photographs, 1 repeated name in an archive" in err
    assert "line\\x0afeed" in out or "line\\nfeed" in out
    assert not any(name.startswith(".") for name in os.listdir("out"))


def test_an_archive_that_is_cut_off_is_explained_as_far_as_it_goes(capsys):
    noise("photos", 4)
    tar("whole.tar", photographs())
    content = Path("whole.tar").read_bytes()
    with tarfile.open("whole.tar") as made:
        last = made.getmember("0002.png")
    # In the middle of a photograph, and of a header; with a damaged header; without an end.
    damaged = bytearray(content)
    damaged[last.offset + 10] ^= 1
    cuts = {
        "middle": (content[: last.offset_data + 100], 2, 1),
        "header": (content[: last.offset + 100], 2, 0),
        "damaged": (bytes(damaged), 2, 0),
        "end": (content[: content.rstrip(b"\0").rfind(b"0003.cls")], 4, 0),
    }
    for name, (cut, explained, failed) in cuts.items():
        Path(f"{name}.tar").write_bytes(cut)
        code = main([f"{name}.tar", *RUN, "--output-dir", name])
        err = capsys.readouterr().err
        assert code == bool(failed)
        assert f"{explained} photographs explained, {failed} failed" in err, name
        assert "skipped: 1 archive with a damaged end" in err
        if failed:
            assert f"cannot read image {name}.tar/0002.png: its archive ends in the middle of it" in err


def test_rows_without_an_image_are_named(capsys):
    noise("photos", 3)

    def make(row):
        image = {"0001": {"bytes": None, "path": "elsewhere.png"}, "0002": None}
        return {"image": image.get(row["image"]["path"][6:10], row["image"])}

    table("t.parquet", photographs(), make)
    assert main(["t.parquet", *RUN, "--output-dir", "out"]) == 1
    err = capsys.readouterr().err
    for row in (1, 2):
        assert f"no image in t.parquet#{row}: the row of the column 'image' is empty" in err
    assert images("out") == ["t.parquet#0"]


def test_our_own_results_are_not_written_over_while_they_are_read(capsys):
    noise("photos", 3)
    assert main(["photos", *RUN, "--output-dir", "out", "--output-format", "webdataset", "--quiet"]) == 0
    options = ["--column", "cam.jpg", "--output-dir", "out", "--output-format", "webdataset"]
    before = tree("out")
    assert main(["out/xgrad-cam-000000.tar", *RUN, *options]) == 2
    assert "would be written over a file that this run reads" in capsys.readouterr().err
    assert tree("out") == before


def test_among_others_what_cannot_be_taken_apart_is_a_photograph_that_fails(capsys):
    noise("photos", 2)
    tar("photos/good.tar", ["0000.png"])
    with tarfile.open("photos/two.tar", "w") as made:
        for name in ("0001.png", "0001.seg.png"):
            made.add("photos/0001.png", name)
    for name in ("notes.txt", "broken.tar", "archive.tar.gz", "table.parquet"):
        Path("photos", name).write_text("Dear reader,\n")
    # As a shell expands a pattern.
    places = sorted(str(path) for path in Path("photos").iterdir())
    assert main([*places, *RUN, "--output-dir", "out"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("xgrad-cam: 3 photographs explained, 5 failed; in out")
    for words in (
        "the archive photos/archive.tar.gz is compressed",
        "cannot read the archive photos/broken.tar",
        "photos/notes.txt is no list of photographs",
        "cannot read photos/table.parquet",
        "the sample 0001 of photos/two.tar has several photographs",
    ):
        assert sum(words in line for line in err) == 1
    # If nothing else is there, nothing is explained at all.
    assert main(["photos/two.tar", "photos/broken.tar", *RUN, "--output-dir", "none"]) == 2
    assert "the sample 0001 of photos/two.tar has several" in capsys.readouterr().err
    assert not Path("none").exists()
    # A folder and a pattern of any files pass over archives.
    assert main(["photos", *RUN, "--output-dir", "folder"]) == 0
    assert "skipped: 4 archives, 2 text" in capsys.readouterr().err


def mixed():
    """A folder of photographs of their own, in a tar, a table, a list and a folder, and other files."""
    noise("photos", 6)
    Path("mix/below/deep").mkdir(parents=True)
    Path("mix/empty").mkdir()
    for name, place in {"0000": "a.png", "0001": "below/b.png", "0002": "below/deep/a.png"}.items():
        shutil.copy(f"photos/{name}.png", f"mix/{place}")
    tar("mix/c.tar", ["0003.png"])
    table("mix/d.parquet", ["0004.png"])
    Path("mix/e.txt").write_text("photos/0005.png\n")
    Path("mix/.hidden.png").write_bytes(b"x")


MIXED = {
    "mix/*": 6, "mix/[a-d]*": 5, "m?x/c.*": 1, "mix/*.tar": 1, "mix/*.parquet": 1, "mix/*.t*": 2, "mix/b*": 2,
    "mix/*/": 2, "mix/*.p*": 2, "*/e.txt": 1,
}  # fmt: skip


@pytest.mark.parametrize(("pattern", "count"), MIXED.items())
def test_a_quoted_pattern_means_what_a_shell_makes_of_it(pattern, count, capsys):
    mixed()
    # A folder without photographs is refused where a shell names it.
    expanded = [one for one in sorted(glob.glob(pattern)) if one.rstrip("/") != "mix/empty"]
    assert main([pattern, *RUN, "--html", "--output-dir", "quoted", "--quiet"]) == 0
    assert main([*expanded, *RUN, "--html", "--output-dir", "plain", "--quiet"]) == 0
    assert images("quoted") == images("plain")
    assert len(images("quoted")) == count
    assert results("quoted").keys() == results("plain").keys()


def test_a_pattern_passes_over_the_folder_of_its_own_results(capsys):
    mixed()
    run = ["mix/*", *RUN, "--output-dir", "mix/out", "--html"]
    for again in ([], ["--resume"]):
        assert main([*run, *again, "--quiet"]) == 0
        assert len(images("mix/out")) == 6
    assert main(["mix/**/a.png", *RUN, "--output-dir", "anywhere", "--quiet"]) == 0
    assert images("anywhere") == ["mix/a.png", "mix/below/deep/a.png"]
    assert main(["mix/**/deep", *RUN, "--html", "--output-dir", "deep", "--quiet"]) == 0
    assert images("deep") == ["mix/below/deep/a.png"]


def test_a_pattern_of_nothing_readable_is_named(capsys):
    mixed()
    Path("mix/bad.tar").write_bytes(b"no tar")
    for pattern, message in {
        "mix/bad*": "cannot read the archive mix/bad.tar",
        "mix/emp*": "no photograph matches 'mix/emp*'",
        "mix/*.zip": "no photograph matches 'mix/*.zip'",
        "mix/x*.tar": "no file matches 'mix/x*.tar'",
    }.items():
        assert main([pattern, *RUN]) == 2
        assert message in capsys.readouterr().err
    assert main(["mix/*", *RUN, "--output-dir", "out"]) == 1
    assert "cannot read the archive mix/bad.tar" in capsys.readouterr().err
    assert len(images("out")) == 6
