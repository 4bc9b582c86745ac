"""Photographs in tars."""

import os
import pickle
import tarfile
from io import BytesIO
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xgradcam.errors import XGradCamError
from xgradcam.runs.held import Member, container_of, members_of, stem_in
from xgradcam.runs.sources import state_of

pytestmark = pytest.mark.usefixtures("own_folder")


@given(st.text(max_size=30))
def test_a_stem_stays_in_its_folder(name):
    stem = PurePosixPath(stem_in(name, "photograph"))
    assert stem.parts
    assert not stem.is_absolute()
    assert ".." not in stem.parts
    assert "\0" not in str(stem)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.jpg", "a"),
        ("below/a.b.jpg", "below/a.b"),
        ("./x//a.jpg", "x/a"),
        ("/etc/a.jpg", "a"),
        ("x/../a.jpg", "a"),
        ("..", "photograph"),
        ("", "photograph"),
    ],
)
def test_the_stem_is_the_name_without_its_ending(name, stem):
    assert stem_in(name, "photograph") == stem


def test_members_are_found_and_read_in_any_order_also_after_pickling():
    random = {f"below/{index:02}.jpg": bytes([index]) * (index * 100) for index in range(20)}
    with tarfile.open("x.tar", "w") as made:
        for name, content in random.items():
            for each, of in ((f"./{name}", content), (name.replace("jpg", "json"), b"{}")):
                member = tarfile.TarInfo(each)
                member.size = len(of)
                made.addfile(member, BytesIO(of))
    skipped = []
    found = pickle.loads(pickle.dumps(members_of("x.tar", None, skipped.append)))
    assert [name for name, _ in found] == list(random)
    assert skipped == []
    for name, member in reversed(found):
        assert member.content(name) == random[name]
        assert member.length == len(random[name])
    # The archive was cut since.
    os.truncate("x.tar", found[-1][1].offset + 10)
    with pytest.raises(XGradCamError, match="cannot read image last: its archive ends in the middle of it"):
        found[-1][1].content("last")


@pytest.mark.parametrize("size", [-512, -1024, -(2**62), 2**40, 2**62, 2**63 + 1, 2**70])
@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME]
)
def test_wrong_sizes_in_headers_end_the_archive(size, kind):
    good = tarfile.TarInfo("good.jpg")
    good.size = 3
    bad = tarfile.TarInfo("bad.jpg")
    bad.size, bad.type = size, kind
    ours = good.tobuf(tarfile.GNU_FORMAT) + b"123".ljust(512, b"\0")
    Path("x.tar").write_bytes(ours + bad.tobuf(tarfile.GNU_FORMAT) + b"12".ljust(1536, b"\0"))
    skipped = []
    found = members_of("x.tar", None, skipped.append)
    assert found[0][0] == "good.jpg"
    assert found[0][1].content("x") == b"123"
    assert {name for name, _ in found[1:]} <= {"bad.jpg"}
    assert skipped == ["archive with a damaged end"]
    for name, member in found[1:]:
        with pytest.raises(XGradCamError, match=r"image too large|ends in the middle"):
            member.content(name)


def test_a_huge_member_is_not_read_whole(monkeypatch):
    Path("x.tar").write_bytes(b"x" * 1000)
    monkeypatch.setattr("xgradcam.runs.held.MAX_BYTES", 10)
    with pytest.raises(XGradCamError, match=r"image too large: big.jpg: a member of 0 MB"):
        Member("x.tar", 5, 900).content("big.jpg")
    assert Member("x.tar", 5, 10).content("x") == b"x" * 10


def test_the_state_of_what_is_in_a_file_is_that_of_the_file():
    for name in ("a.tar", "b.TAR", "c.parquet", "d.tar.jpg"):
        Path(name).write_bytes(b"123")
        os.utime(name, ns=(5, 5))
    Path("e.tar").mkdir()
    Path("e.tar/x.tar").write_bytes(b"1234")
    state = {"bytes": 3, "modified": 5}
    for path in ("a.tar/x.jpg", "a.tar/below/x.tar/y.jpg", "b.TAR/x.jpg", "c.parquet#12"):
        assert state_of(path) == state
    assert container_of("e.tar/x.tar/y.jpg") == "e.tar/x.tar"
    none = {"bytes": -1, "modified": -1}
    for path in ("missing.tar/x.jpg", "d.tar.jpg/x.jpg", "c.parquet#x", "http://a.tar/x.jpg", "e.tar/y.jpg"):
        assert state_of(path) == none
