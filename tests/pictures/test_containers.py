"""Metadata never reach a decoder, pages are counted, and scans are bounded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.pictures.support import CAT, chunk, encoded, tiff_of, with_chunk, with_segment
from xgradcam.errors import XGradCamError
from xgradcam.pictures.containers import Pieces, as_file
from xgradcam.pictures.decoding import decode

JPEG, PNG = encoded(CAT, "JPEG"), encoded(CAT, "PNG")
FRAMES = [Image.fromarray(np.roll(CAT, shift, axis=1)) for shift in (0, 5, 9)]


def reading(content: bytes):
    return decode(content, "photograph")


BOMB = zlib.compress(bytes(200_000_000), 9)


@pytest.mark.parametrize(
    "content",
    [
        with_segment(JPEG, 0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
        with_segment(JPEG, 0xE2, b"ICC_PROFILE\0\1\2" + bytes(60_000)),
        with_segment(JPEG, 0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\xff"),
        with_segment(JPEG, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<" * 60_000),
        with_segment(JPEG, 0xFE, b"\xff\xda\xff\xd9" * 1000),
        JPEG + JPEG,
        JPEG + b"\0" * 1000,
    ],
)
def test_segments_of_a_jpeg_change_nothing(content):
    assert np.array_equal(reading(content).photograph, reading(JPEG).photograph)
    assert reading(content).notes == ()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"zTXt", b"workflow\0\0" + BOMB), (b"iTXt", b"workflow\0\1\0\0\0" + BOMB),
        (b"tEXt", b"k\0" + b"x" * 3_000_000), (b"iCCP", b"icc\0\0" + BOMB), (b"iCCP", b"icc\0\1"),
        (b"zTXt", b"k\0\7"), (b"zTXt", b"Raw profile type exif\0\0" + BOMB),
        (b"tEXt", b"Raw profile type exif\0\nexif\n 4\nzz"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB), (b"iTXt", b""),
        (b"acTL", b"\0\0"), (b"fcTL", b"\0"), (b"pHYs", b""), (b"gAMA", b"\0"), (b"cHRM", b"x"),
        (b"sRGB", b""), (b"tRNS", b""),
        (b"eXIf", b"Exif"), (b"abCd", bytes(100)),
    ],
)  # fmt: skip
def test_chunks_of_a_png_change_nothing(kind, body):
    found = reading(with_chunk(PNG, kind, body))
    assert np.array_equal(found.photograph, CAT)
    assert found.notes == ()


def test_a_wrong_checksum_of_a_chunk_of_text_changes_nothing():
    content = with_chunk(PNG, b"tEXt", b"k\0text").replace(b"k\0text", b"k\0text!"[:6][::-1])
    assert np.array_equal(reading(content).photograph, CAT)


@pytest.mark.parametrize(
    "tag", [(270, ("s", b"text")), (700, ("s", bytes(50_000))), (34675, ("s", bytes(100)))]
)
def test_tags_of_a_tiff_change_nothing(tag):
    content = tiff_of(CAT, 2, tags=dict([tag]))
    assert np.array_equal(reading(content).photograph, CAT)
    for start in range(len(content) - 200, len(content)):
        # Every byte of the last tags is wrong in turn.
        damaged = content[:start] + b"\xff" + content[start + 1 :]
        try:
            found = reading(damaged).photograph
        except XGradCamError:
            continue
        assert found.dtype == np.uint8


@pytest.mark.parametrize("place", ["II", "MM"])
def test_a_description_that_lies_beyond_the_end_does_not_hide_the_pixels(place):
    order = "<" if place == "II" else ">"
    content = bytearray(tiff_of(CAT, 2, order, {270: ("s", b"a long description")}))
    entry = content.find(struct.pack(order + "HHI", 270, 2, 18))
    content[entry + 8 : entry + 12] = b"\xff\xff\xff\x7f"
    assert np.array_equal(reading(bytes(content)).photograph, CAT)


@pytest.mark.parametrize(
    ("content", "pages"),
    [
        (encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), 3),
        (encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True), 3),
        (encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:2]), 2),
        (encoded(FRAMES[0].quantize(), "GIF", save_all=True, append_images=FRAMES[1:]), 3),
        (encoded(FRAMES[0], "AVIF", save_all=True, append_images=FRAMES[1:]), 3),
        (tiff_of(CAT, 2, ">", pages=5, big=True), 5),
        (encoded(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:]), 1),
        (encoded(FRAMES[0], "GIF"), 1),
        (encoded(FRAMES[0], "WEBP"), 1),
    ],
)
def test_more_pages_than_the_first_are_told(content, pages):
    found = reading(content)
    assert found.notes == ((f"page 1 of {pages}: the others are not looked at",) if pages > 1 else ())
    assert np.abs(found.photograph.astype(int) - CAT).mean() < 8


def test_pages_in_a_circle_end():
    content = bytearray(tiff_of(CAT, 2, pages=3))
    first = struct.unpack_from("<I", content, 4)[0]
    content[-4:] = struct.pack("<I", first)
    assert reading(bytes(content)).notes == ("page 1 of 3: the others are not looked at",)


def test_the_first_picture_of_a_gif_is_read_behind_a_long_comment():
    gif = encoded(FRAMES[0].quantize(), "GIF")
    comment = b"\x21\xfe" + (b"\xff" + b"x" * 255) * 20_000 + b"\0"
    start = 13 + (3 << (gif[10] & 7) + 1)
    assert np.array_equal(reading(gif[:start] + comment + gif[start:]).photograph, reading(gif).photograph)


def scans(jpeg: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times."""
    start = jpeg.rfind(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * count + jpeg[-2:]


def test_scans_are_bounded_by_the_pixels_they_go_over():
    small = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    assert reading(scans(small, 400)).photograph.shape == (64, 64, 3)
    large = encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    assert reading(scans(large, 2)).photograph.shape == (4000, 4000, 3)
    for hidden in (b"", b"\xff\xfe\0\x06\xff\xd9\xff\xd9", b"\xff\xff\xff"):
        start = large.rfind(b"\xff\xda")
        content = scans(large[:start] + hidden + large[start:], 300)
        with pytest.raises(XGradCamError, match=r"4000 x 4000 pixels in 30\d scans take too long"):
            reading(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda jpeg: jpeg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
            "a JPEG of 12 bits a channel is not read",
        ),
        (lambda jpeg: jpeg.replace(b"\xff\xc0", b"\xff\xc3"), "a lossless or hierarchical JPEG is not read"),
    ],
)  # fmt: skip
def test_kinds_of_jpeg_that_are_not_read_are_named(change, reason):
    changed = change(JPEG)
    assert changed != JPEG
    with pytest.raises(XGradCamError, match=reason):
        reading(changed)


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
        + chunk(b"IEND", b"")
        for size in ((1, 10**8), (10**8, 1), (1, 2 * 10**6), (2**31 - 1, 2**31 - 1))
    ],
)
def test_sides_are_bounded(content):
    with pytest.raises(XGradCamError, match=r"image too large: photograph: .* over the limit"):
        reading(content)


@pytest.mark.parametrize("sizes", [(1,), (3, 0, 5, 1), (4096, 7)])
def test_pieces_read_like_the_bytes_they_make(sizes):
    random = np.random.default_rng(0)
    parts = [random.integers(0, 256, size, np.uint8).tobytes() for size in sizes]
    pieces, whole = Pieces(parts), io.BytesIO(b"".join(parts))
    for _ in range(300):
        offset, size, whence = (
            int(random.integers(0, 12)),
            int(random.integers(-1, 9)),
            int(random.integers(0, 3)),
        )
        offset = -offset if whence == 2 else offset
        whole.seek(
            max(0, offset + (sum(sizes) if whence == 2 else 0)) if whence != 1 else whole.tell() + offset
        )
        pieces.seek(offset, whence)
        assert pieces.tell() == whole.tell()
        assert pieces.read(size) == whole.read(size)


def test_few_bytes_are_copied_into_one_file_and_many_are_not(monkeypatch):
    parts = [b"abc", memoryview(b"defgh")[1:]]
    monkeypatch.setattr("xgradcam.pictures.containers.COPIED", 7)
    assert (type(as_file(parts)), as_file(parts).read()) == (io.BytesIO, b"abcefgh")
    monkeypatch.setattr("xgradcam.pictures.containers.COPIED", 6)
    assert (type(as_file(parts)), as_file(parts).read()) == (Pieces, b"abcefgh")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "BMP"])
def test_a_canvas_of_too_many_pixels_is_called_too_large(kind):
    content = bytearray(encoded(Image.fromarray(CAT), kind))
    place, layout = {"GIF": (6, "<HH"), "PNG": (16, ">II"), "BMP": (18, "<II")}[kind]
    struct.pack_into(layout, content, place, 65535, 65535)
    if kind == "PNG":
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    with pytest.raises(
        XGradCamError, match=r"image too large: a: .*over the limit of 100 megapixels; shrink"
    ):
        decode(bytes(content), "a")
