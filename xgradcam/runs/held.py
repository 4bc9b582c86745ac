"""Photographs that are no files of their own: members of tars, rows of tables, and what URLs lead to."""

import os
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, TypeAlias

from xgradcam.errors import XGradCamError, first_line, listed
from xgradcam.pictures.bounds import MAX_BYTES
from xgradcam.pictures.formats import SUFFIXES, TEXT, kind_by_name
from xgradcam.runs.listing import HIDDEN, Skip
from xgradcam.runs.remote import is_url, opened, read_range

# How a member of a WebDataset is taken apart: its key, and its ending from the first dot on.
APART = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
# Where a path goes on within a file.
WITHIN_TAR, WITHIN_TABLE = (
    re.compile(r"\.tar(?=/)", re.IGNORECASE),
    re.compile(r"(?i)(.+\.(?:parquet|pq))#\d+"),
)
NUMPY = ".npy"
# Kinds of what is passed over.
LINK, REPEATED, CUT_OFF = "link in an archive", "repeated name in an archive", "archive with a damaged end"
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
# Errors of reading a damaged header, which may give any number as a size.
DAMAGED = (tarfile.TarError, ArithmeticError, EOFError, MemoryError, OSError, RecursionError, ValueError)
Named: TypeAlias = "tuple[str, Member]"


class Held(ABC):
    """The place of a photograph's bytes in something that is no file of its own; it can be pickled."""

    __slots__ = ()
    # The file or the URL that is read.
    place: str

    @property
    def length(self) -> int:
        """The number of bytes, -1 where it is not known before they are read."""
        return -1

    @abstractmethod
    def content(self, name: str) -> bytes:
        """The bytes; errors call the photograph `name`."""


@dataclass(frozen=True, slots=True)
class Member(Held):
    """A member of a tar, by its offset."""

    place: str
    offset: int
    size: int

    @property
    def length(self) -> int:
        """The number of bytes."""
        return self.size

    def content(self, name: str) -> bytes:
        """The bytes."""
        if self.size > MAX_BYTES:
            raise XGradCamError(
                f"image too large: {name}: a member of {self.size / 1e6:.0f} MB; shrink it first"
            )
        content = read_range(self.place, self.offset, self.size)
        if len(content) < self.size:
            raise XGradCamError(f"cannot read image {name}: its archive ends in the middle of it")
        return content


def container_of(path: str) -> str | None:
    """The file that holds the photograph of this path, if it is no file itself: a tar or a table."""
    if is_url(path):
        return None
    if found := WITHIN_TABLE.fullmatch(path):
        return found[1] if os.path.isfile(found[1]) else None
    places = (path[: found.end()] for found in WITHIN_TAR.finditer(path))
    return next(filter(os.path.isfile, places), None)


def members_of(place: str, ending: str | None, skip: Skip) -> list[Named]:
    """The photographs in a tar, by name, in its order; their bytes are not read.

    ending: of those that are taken, without a dot in front; None for every photograph. skip: called with the
    kind of what is passed over. Raises XGradCamError for what is no tar, for one without photographs, and
    where a sample of a WebDataset has several and no ending is given.
    """
    with opened(place) as file:
        every = list(_photographs(file, place, skip))
    images = [one for one in every if not one[0].lower().endswith(NUMPY)]
    found = images or every
    if ending is not None:
        wanted = ending.lower().lstrip(".")
        found = [one for one in every if f".{one[0].lower()}".endswith(f".{wanted}")]
    if not found:
        endings = dict.fromkeys(apart(name)[1] for name, _ in every)
        there = f"; there are those of {listed(endings, 5)}" if endings else ""
        what = "photographs" if ending is None else f"photographs of the ending {ending}"
        raise XGradCamError(f"no {what} in the archive {place}{there}")
    if ending is None:
        _require_one_each(found, place)
    return _once(found, skip)


def apart(name: str) -> tuple[str, str]:
    """The key and the ending of a member, as WebDataset takes them; the ending without its first dot."""
    found = APART.fullmatch(name)
    return (found[1], found[2].lower()) if found else (name, "")


def _require_one_each(found: list[Named], place: str) -> None:
    """Raise XGradCamError where a sample has several photographs: its members follow one another."""
    for (one, _), (other, _) in pairwise(found):
        (key, first), (next_key, second) = apart(one), apart(other)
        if key == next_key and first != second:
            raise XGradCamError(
                f"the sample {key} of {place} has several photographs, {first} and {second}: "
                f"{_choices(first, second)}"
            )


def _choices(first: str, second: str) -> str:
    """Advice on the endings of two photographs; `png` means `seg.png`, too."""
    pairs = (first, second), (second, first)
    ones = [one for one, other in pairs if not other.endswith(f".{one}")]
    last = first.rpartition(".")[2]
    every = f", or take all by --column {last}" if last == second.rpartition(".")[2] else ""
    return f"choose by {' or '.join(f'--column {one}' for one in ones)}{every}"


def _once(found: list[Named], skip: Skip) -> list[Named]:
    """The photographs without those whose name has been there."""
    unique: dict[str, Member] = {}
    for name, member in found:
        if name in unique:
            skip(REPEATED)
        unique.setdefault(name, member)
    return list(unique.items())


def _photographs(file: BinaryIO, place: str, skip: Skip) -> Iterator[Named]:
    """Names and places of the photographs in an open tar, arrays among them."""
    for name, member in _read(file, place, skip):
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in SUFFIXES and suffix != NUMPY:
            kind = kind_by_name(name) if member.isreg() else ""
            if kind not in ("", TEXT):
                skip(kind)
        elif any(part.startswith(".") and part != ".." for part in name.split("/")):
            skip(HIDDEN)
        elif member.isreg() and not member.issparse():
            yield name, Member(place, member.offset_data, member.size)
        elif not member.isdir():
            skip(LINK)


def members_in(file: BinaryIO, place: str) -> Iterator[Named]:
    """Names and places of all files in an open tar, as far as it is whole; XGradCamError for what is none."""
    for name, member in _read(file, place, lambda _kind: None):
        if member.isreg() and not member.issparse():
            yield name, Member(place, member.offset_data, member.size)


def _read(file: BinaryIO, place: str, skip: Skip) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Names and members of an open tar."""
    try:
        tar = tarfile.open(fileobj=file, mode="r:")
    except DAMAGED as error:
        raise XGradCamError(f"cannot read the archive {place}: {_reason(file, error)}") from None
    with tar:
        for member in _members(tar, skip):
            yield member.name.replace("\0", "_").removeprefix("./"), member


def _members(tar: tarfile.TarFile, skip: Skip) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, as far as it is whole."""
    place = -1
    while True:
        try:
            member = tar.next()
        except DAMAGED:
            skip(CUT_OFF)
            return
        if member is None:
            break
        # A size below 0 would lead back, and round for ever.
        if member.size < 0 or tar.offset <= place:
            skip(CUT_OFF)
            return
        place = tar.offset
        yield member
    # For a damaged header, or none, the library ends as at the end, where there is a block of zeros.
    if tar.fileobj is not None:
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            skip(CUT_OFF)


def _reason(file: BinaryIO, error: Exception) -> str:
    file.seek(0)
    if file.read(6).startswith(COMPRESSED):
        return "it is compressed, and has no places to read single photographs at: unpack it first"
    return f"{first_line(error)}: is it a tar, and complete?"


def stem_in(name: str, otherwise: str) -> str:
    """The stem of results of a photograph in an archive or a table, by its name there.

    It has no parts that lead out of a folder, and none where there is no usable name.
    """
    parts = [part for part in name.replace("\0", "_").split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        parts = [part for part in parts[-1:] if part != ".."]
    if not parts:
        return otherwise
    last = os.path.splitext(parts[-1])[0]
    return "/".join([*parts[:-1], last or otherwise])


@dataclass(frozen=True, slots=True)
class Fetched(Held):
    """A photograph that a URL leads to."""

    place: str

    def content(self, name: str) -> bytes:
        """The bytes."""
        return read_range(self.place, 0, MAX_BYTES + 1)


@dataclass(frozen=True, slots=True)
class Refused(Held):
    """Something among others that cannot be taken apart: the reason is told where it would be read."""

    place: str
    reason: str

    def content(self, name: str) -> bytes:
        """Raises XGradCamError with the reason."""
        raise XGradCamError(self.reason)
