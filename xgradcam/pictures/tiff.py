"""The first page of a TIFF, as a TIFF of its own with those tags alone that make the pixels."""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xgradcam.pictures.bounds import UnreadableError, require_affordable, require_few
from xgradcam.pictures.containers import MAX_METADATA, Pieces, Stripped
from xgradcam.pictures.orientation import ORIENTATION, UPRIGHT, orientation_of

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIPS, SAMPLES, STRIP_ROWS, STRIP_SIZES, PLANAR = 273, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES = 322, 323, 324, 325
EXTRA, FORMAT, XMP = 338, 339, 700
# Tags that make the pixels: the above, fill order, options of fax, predictor, palette, ink,
# JPEG tables and those of the old JPEG, and of YCbCr.
KEPT = {
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, SAMPLES, STRIP_ROWS, STRIP_SIZES, PLANAR,
    TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES, EXTRA, FORMAT, 266, 292, 293, 317, 320, 332, 347,
    *range(512, 522), 529, 530, 531, 532,
}  # fmt: skip
# Code of a type -> its letter in `struct`; 5 and 10 are pairs.
TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
LONG_TYPES = {13: "I", 16: "Q", 17: "q", 18: "Q"}
UNCOMPRESSED, OLD_JPEG, JPEG_COMPRESSIONS = 1, 6, (6, 7)
# Channels that Pillow reads, of which it drops those that are no colours.
MAX_SAMPLES = 6
MAX_PAGES, MAX_TAGS = 10_000, 65_535
# Numbers that Pillow takes for others, by their bits and sample format.
NUMBERS = {(8, 2): "int8", (16, 2): "int16", (32, 1): "uint32"}
KINDS = {1: "whole", 2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}


class _Header(NamedTuple):
    """The form of numbers in a TIFF, and the place where its first page is described."""

    order: str
    is_big: bool
    first: int


class _Tag(NamedTuple):
    kind: int
    values: tuple[int, ...] | bytes


class FirstPage(NamedTuple):
    """The tags of the first page of a TIFF that make its pixels, and the order of their bytes."""

    order: str
    tags: Mapping[int, _Tag]

    @classmethod
    def of(cls, content: bytes) -> "FirstPage":
        """The first page in the content of a file."""
        header = _header(content)
        return cls(header.order, _tags(content, header))

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The whole numbers of a tag; none where it is missing."""
        return _numbers(self.tags, tag)

    def number(self, tag: int, otherwise: int = 0) -> int:
        """The first of the whole numbers of a tag."""
        return _number(self.tags, tag, otherwise)


def strip_tiff(content: bytes) -> Stripped:
    """The first page of a TIFF, without metadata; its grey values count from black."""
    header = _header(content)
    tags, pages = _tags(content, header), _pages(content, header)
    bits, samples = max(_numbers(tags, BITS), default=1), _number(tags, SAMPLES, 1)
    _require_bounded(tags, content, bits, samples)
    what = _described(tags, bits, samples)
    # Of deep planes Pillow reads the first half of the bytes.
    in_planes = samples > 1 and _number(tags, PLANAR, 1) == 2
    is_misread = in_planes and bits > 8 and _number(tags, COMPRESSION, 1) == UNCOMPRESSED
    if samples > MAX_SAMPLES or is_misread:
        what += " in planes" if is_misread else ""
        raise UnreadableError(f"{what} is not read: convert it to grey or RGB of 8 or 16 bits")
    # Pillow takes the old kind of JPEG for YCbCr, whatever it says.
    if white_is_0 := _number(tags, PHOTOMETRIC, 0) == 0 and _number(tags, COMPRESSION, 1) != OLD_JPEG:
        tags[PHOTOMETRIC] = _Tag(3, (1,))
    xmp = tags[XMP].values if XMP in tags else b""
    orientation = _number(tags, ORIENTATION, orientation_of(b"", xmp if isinstance(xmp, bytes) else b""))
    page = _written({tag: value for tag, value in tags.items() if tag in KEPT}, header.order, len(content))
    start = struct.pack(header.order + "2sHI", content[:2], 42, page.start)
    return Stripped(
        Pieces([start, memoryview(content)[8:], page.content]),
        orientation if 1 <= orientation <= 8 else UPRIGHT,
        pages,
        white_is_0,
        12 if bits == 12 else 16,
        number=NUMBERS.get((bits, _number(tags, FORMAT, 1)), "") if samples == 1 else "",
        what=what,
    )


def _header(content: bytes) -> _Header:
    order = "<" if content[:1] == b"I" else ">"
    is_big = 43 in content[2:4]
    try:
        return _Header(
            order,
            is_big,
            struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)[0],
        )
    except struct.error:
        raise UnreadableError("the TIFF ends in its header: is the file complete?") from None


def _tags(content: bytes, header: _Header) -> dict[int, _Tag]:
    """The tags of the first page that make its pixels, and its orientation; what is damaged is left out."""
    tags: dict[int, _Tag] = {}
    entry = header.order + ("HHQ8s" if header.is_big else "HHI4s")
    count, start = _count(content, header, header.first)
    for place in range(start, start + count * struct.calcsize(entry), struct.calcsize(entry)):
        try:
            tag, kind, length, field = struct.unpack_from(entry, content, place)
        except struct.error:
            break
        if tag in tags or not (tag in KEPT or tag in (ORIENTATION, XMP)):
            continue
        letter = TYPES.get(kind) or LONG_TYPES.get(kind)
        if letter is None or (tag == ORIENTATION and (kind not in (3, 4) or length != 1)):
            continue
        size = length * struct.calcsize(header.order + letter)
        if size <= len(field):
            data = field[:size]
        else:
            offset = struct.unpack(header.order + ("Q" if header.is_big else "I"), field)[0]
            data = content[offset : offset + size]
        if tag == XMP:
            tags[tag] = _Tag(7, data[:MAX_METADATA])
        elif len(data) == size:
            require_few(length if letter != "s" else 0, "values of a tag")
            tags[tag] = _tag(kind, letter, data, header.order)
    return tags


def _tag(kind: int, letter: str, data: bytes, order: str) -> _Tag:
    if letter == "s":
        return _Tag(kind, data)
    count = len(data) // struct.calcsize(order + letter) * len(letter)
    values = struct.unpack(f"{order}{count}{letter[0]}", data)
    return _Tag(4 if kind in LONG_TYPES else kind, values)


def _count(content: bytes, header: _Header, place: int) -> tuple[int, int]:
    """Number of a page's tags, and where the first begins."""
    kind = "Q" if header.is_big else "H"
    try:
        count = struct.unpack_from(header.order + kind, content, place)[0]
    except struct.error:
        raise UnreadableError("the TIFF ends before its first page: is the file complete?") from None
    return min(count, MAX_TAGS), place + struct.calcsize(kind)


def _pages(content: bytes, header: _Header) -> int:
    """The number of pages; a circle, or a page beyond the end, ends it."""
    seen: set[int] = set()
    place = header.first
    size, kind = (20, "Q") if header.is_big else (12, "I")
    while place and place not in seen and len(seen) < MAX_PAGES:
        try:
            count, start = _count(content, header, place)
            following = struct.unpack_from(header.order + kind, content, start + count * size)[0]
        except (UnreadableError, struct.error):
            break
        seen.add(place)
        place = following
    return max(1, len(seen))


def _numbers(tags: Mapping[int, _Tag], tag: int) -> tuple[int, ...]:
    """The values of a tag that holds whole numbers; none where it is missing or holds others."""
    values = tags[tag].values if tag in tags else ()
    return tuple(value for value in values if isinstance(value, int)) if isinstance(values, tuple) else ()


def _number(tags: Mapping[int, _Tag], tag: int, otherwise: int) -> int:
    return next(iter(_numbers(tags, tag)), otherwise)


def _require_bounded(tags: Mapping[int, _Tag], content: bytes, bits: int, samples: int) -> None:
    """Raise TooLargeError or UnreadableError for a page that costs too much to decode."""
    width, height = _number(tags, WIDTH, 0), _number(tags, HEIGHT, 0)
    if width < 1 or height < 1:
        raise UnreadableError("the TIFF gives no width and height: is the file complete?")
    compression = _number(tags, COMPRESSION, 1)
    part = width, min(height, _number(tags, STRIP_ROWS, height))
    if TILE_WIDTH in tags:
        part = _number(tags, TILE_WIDTH, width), _number(tags, TILE_HEIGHT, height)
    # The decompressed part, beside pixels for Pillow and for the photograph.
    part_bytes = samples * bits / 8 if compression != UNCOMPRESSED else 0
    share = part[0] * part[1] / (width * height)
    scans = content.count(b"\xff\xda") if compression in JPEG_COMPRESSIONS else 1
    passes = math.ceil(scans * share) if scans > 1 else 1
    require_affordable(width, height, 7 + part_bytes * min(1, share), len(content), passes)
    require_affordable(*part, part_bytes + 1)
    require_few(max(len(_numbers(tags, STRIPS)), len(_numbers(tags, TILES))), "strips")


def _described(tags: Mapping[int, _Tag], bits: int, samples: int) -> str:
    """The kind of TIFF, for a message."""
    kind = KINDS.get(_number(tags, FORMAT, 1), "unknown")
    channels = f"{samples} channels of " if samples > 1 else ""
    photometric, compression = _number(tags, PHOTOMETRIC, 0), _number(tags, COMPRESSION, 1)
    return (
        f"a TIFF of {channels}{bits}-bit {kind} values "
        f"(photometric interpretation {photometric}, compression {compression})"
    )


class _Page(NamedTuple):
    start: int
    content: bytes


def _written(tags: Mapping[int, _Tag], order: str, place: int) -> _Page:
    """The description of a page with these tags, for a place in a file."""
    padding = b"\0" * (place % 2)
    start = place + len(padding)
    entries: list[bytes] = []
    aside = b""
    behind = start + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        data = values if isinstance(values, bytes) else _packed(kind, values, order)
        count = len(values) // len(TYPES[kind])
        if len(data) > 4:
            field = struct.pack(order + "I", behind + len(aside))
            aside += data + b"\0" * (len(data) % 2)
        else:
            field = data.ljust(4, b"\0")
        entries.append(struct.pack(order + "HHI", tag, kind, count) + field)
    page = struct.pack(order + "H", len(tags)) + b"".join(entries) + b"\0" * 4 + aside
    return _Page(start, padding + page)


def _packed(kind: int, values: Sequence[int], order: str) -> bytes:
    try:
        return struct.pack(f"{order}{len(values)}{TYPES[kind][0]}", *values)
    except struct.error:
        raise UnreadableError("the TIFF points beyond 4 GB") from None
