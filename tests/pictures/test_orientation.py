"""Photographs are upright in every format, whatever else their metadata hold."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.pictures.support import (
    CAT,
    GREY,
    encoded,
    exif_block,
    plain_exif,
    tiff_of,
    with_chunk,
    with_segment,
)
from xgradcam.pictures.decoding import decode
from xgradcam.pictures.orientation import orientation_of, upright

# Exif's own words: the edges of the scene at which the first row and the first column of the file lie.
EDGES = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def stored(scene: np.ndarray, orientation: int) -> np.ndarray:
    """The scene as a file of this orientation has it, pixel by pixel."""
    height, width = scene.shape[:2]
    rows, columns = (height, width) if orientation < 5 else (width, height)
    pixels = np.empty((rows, columns, *scene.shape[2:]), scene.dtype)
    for row in range(rows):
        for column in range(columns):
            place = dict(zip(EDGES[orientation], (row, column), strict=True))
            y = place["top"] if "top" in place else height - 1 - place["bottom"]
            x = place["left"] if "left" in place else width - 1 - place["right"]
            pixels[row, column] = scene[y, x]
    return pixels


def pixels(content: bytes) -> np.ndarray:
    return decode(content, "photograph").photograph


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_by_exifs_words(orientation):
    turned = upright(stored(CAT, orientation), orientation)
    assert np.array_equal(turned, CAT)
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "PNG text", "PNG zipped text"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_read_in_every_format_beside_odd_tags(orientation, kind, order):
    exif, scene = exif_block(orientation, order=order), stored(CAT, orientation)
    if kind == "JPEG":
        plain = encoded(scene, "JPEG", quality=95)
        content, expected = with_segment(plain, 0xE1, b"Exif\0\0" + exif), upright(pixels(plain), orientation)
    elif kind == "PNG":
        content, expected = with_chunk(encoded(scene, "PNG"), b"eXIf", exif), CAT
    elif kind == "WEBP":
        content, expected = encoded(scene, "WEBP", lossless=True, exif=exif), CAT
    else:
        info = PngImagePlugin.PngInfo()
        text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n"
        info.add_text("Raw profile type exif", text, zip="zipped" in kind)
        content, expected = encoded(scene, "PNG", pnginfo=info), CAT
    assert np.array_equal(pixels(content), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_turned_by_its_own_properties(orientation):
    scene = stored(CAT, orientation)
    plain = pixels(encoded(scene, "AVIF", quality=100, subsampling="4:4:4"))
    content = encoded(scene, "AVIF", quality=100, subsampling="4:4:4", exif=plain_exif(orientation))
    assert np.array_equal(pixels(content), upright(plain, orientation))
    start = plain_exif(orientation)[6:14]
    damaged = content.replace(start, start[:4] + b"\x7f\xff\xff\x7f")
    assert damaged != content
    assert np.array_equal(pixels(damaged), upright(plain, orientation))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_by_its_tag(orientation, order, big):
    content = tiff_of(stored(CAT, orientation), 2, order, {274: ("H", [orientation])}, big=big)
    assert np.array_equal(pixels(content), CAT)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_a_compressed_tiff_is_turned_once(orientation, compression):
    content = encoded(stored(CAT, orientation), "TIFF", compression=compression, tiffinfo={274: orientation})
    assert np.array_equal(pixels(content), CAT)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_is_read_where_exif_has_no_orientation(orientation, kind):
    xmp = XMP.format(orientation).encode()
    if kind == "PNG":
        content = with_chunk(encoded(CAT, "PNG"), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    elif kind == "WEBP":
        content = encoded(CAT, "WEBP", lossless=True, xmp=xmp)
    elif kind == "TIFF":
        assert np.array_equal(pixels(tiff_of(CAT, 2, tags={700: ("s", xmp)})), upright(CAT, orientation))
        content = tiff_of(CAT, 2, tags={700: ("s", bytes(2_000_000)), 274: ("H", [orientation])})
    else:
        content = with_segment(encoded(CAT, "JPEG"), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    plain = CAT
    if kind == "JPEG":
        with Image.open(io.BytesIO(encoded(CAT, "JPEG"))) as image:
            plain = np.asarray(image)
    assert np.array_equal(pixels(content), upright(plain, orientation))
    assert orientation_of(exif_block(3), xmp) == 3
    assert orientation_of(b"", b"<tiff:Orientation>6</tiff:Orientation>") == 6


@pytest.mark.parametrize(
    "exif",
    [
        b"", b"Exif\0\0", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08", b"XX*\0" + exif_block(6)[4:],
        exif_block(0), exif_block(9), exif_block(65535), exif_block(b"6\0", 2), exif_block(b"\6", 7),
        exif_block(b"\x08\0\0\0", 5), exif_block(b"\0\0\xc0\x40", 11), exif_block(6, count=2),
        exif_block(6, count=0), exif_block(6)[:30],
        b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 1, 3, 1, 1) * 5,
    ],
)  # fmt: skip
def test_an_orientation_of_a_wrong_type_or_value_and_damaged_exif_leave_the_photograph_upright(exif):
    assert orientation_of(exif) == 1
    jpeg = encoded(CAT, "JPEG")
    assert np.array_equal(pixels(with_segment(jpeg, 0xE1, b"Exif\0\0" + exif)), pixels(jpeg))
    assert np.array_equal(pixels(with_chunk(encoded(CAT, "PNG"), b"eXIf", exif)), CAT)
    assert np.array_equal(pixels(encoded(CAT, "WEBP", lossless=True, exif=exif or b"\0")), CAT)


@pytest.mark.parametrize(
    "tag", [("H", [0]), ("H", [9]), ("H", [6, 6]), ("s", b"6\0"), ("f", [6.0]), ("I", [2**31])]
)
def test_a_tiffs_orientation_of_a_wrong_type_or_value_leaves_it_upright(tag):
    assert np.array_equal(pixels(tiff_of(GREY, tags={274: tag}))[..., 0], GREY)


def test_a_whole_number_of_either_type_is_an_orientation():
    assert orientation_of(exif_block(6, kind=4)) == orientation_of(b"Exif\0\0Exif\0\0" + exif_block(6)) == 6
