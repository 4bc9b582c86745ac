"""Names of files of packed results, and keys in them."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xgradcam.runs.packs import is_own_pack, key_of, pack_name, packs_in, packs_named, remove_others

# How WebDataset takes a member's name apart, and what it passes over.
APART = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)
PASSED_OVER = re.compile(r"__[^/]*__($|/)")
names = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=30).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(names, min_size=1, max_size=3), st.integers(0, 999))
def test_webdataset_takes_the_key_for_the_key_whatever_the_photograph_is_called(parts, target):
    key = key_of("/".join(parts), str(target))
    member = f"{key}.blocks.3.X_cam.jpg"
    assert APART.match(member).groups() == (key, "blocks.3.X_cam.jpg")
    assert not PASSED_OVER.match(member)
    assert not {".", ".."} & {*key.split("/")}
    assert key.isprintable()
    assert "\\" not in key
    assert all(len(part.encode("utf-8", "surrogatepass")) < 255 for part in key.split("/"))


@given(st.tuples(names, st.integers(0, 99)), st.tuples(names, st.integers(0, 99)))
def test_no_two_photographs_and_classes_have_the_same_key(one, other):
    keys = [key_of(name, str(target)) for name, target in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


def test_names_are_those_that_braces_say():
    assert packs_named("webdataset", 1) == "xgrad-cam-000000.tar"
    assert packs_named("parquet", 11) == "xgrad-cam-{000000..000010}.parquet"
    assert pack_name("parquet", 1234567) == "xgrad-cam-1234567.parquet"


def test_only_our_own_files_beyond_the_last_are_deleted(tmp_path):
    own = b"\0" * 512 + b"21 comment=xgradcam\n" + b"\0" * 1500
    for index in range(4):
        (tmp_path / f"xgrad-cam-00000{index}.tar").write_bytes(own if index != 2 else b"mine")
    (tmp_path / "xgrad-cam-000003.parquet").write_bytes(b"mine")
    (tmp_path / "other-000003.tar").write_bytes(own)
    assert list(packs_in(tmp_path, "webdataset")) == [(f"xgrad-cam-00000{i}.tar", i) for i in range(4)]
    remove_others(tmp_path, "webdataset", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other-000003.tar", "xgrad-cam-000000.tar", "xgrad-cam-000002.tar", "xgrad-cam-000003.parquet",
    ]  # fmt: skip
    assert list(packs_in(Path("nowhere"), "parquet")) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"xgradcam PAR1", b"xgradcam\xff\xff\xff\xffPAR1", b"no footer of ours\x08\0\0\0PAR1"],
)
def test_other_tables_are_not_ours(tmp_path, content):
    path = tmp_path / "xgrad-cam-000000.parquet"
    assert not is_own_pack(path)
    path.write_bytes(content)
    assert not is_own_pack(path)
    path.write_bytes(b"PAR1...xgradcam\x08\0\0\0PAR1")
    assert is_own_pack(path)
