"""The formats of Netpbm, beside Pillow's reader where it is right."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.pictures.support import CAT, GREY
from xgradcam.errors import XGradCamError
from xgradcam.pictures.decoding import decode


def text_of(values) -> bytes:
    return b" ".join(b"%d" % value for value in np.asarray(values).reshape(-1))


def reading(content: bytes, value_range=None):
    return decode(content, "photograph", value_range)


SMALL, WIDE = CAT[:6, :8], GREY[:6, :8]


@pytest.mark.parametrize("maximum", [1, 7, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", [2, 3, 5, 6])
def test_grey_and_colour_of_every_maximum(kind, maximum):
    pixels = (SMALL if kind in (3, 6) else WIDE).astype(np.int64) * maximum // 255
    header = b"P%d\n# a comment\n8 6 # another\n%d\n" % (kind, maximum)
    body = text_of(pixels) if kind < 4 else pixels.astype(">u2" if maximum > 255 else "u1").tobytes()
    found = reading(header + body)
    with Image.open(io.BytesIO(header + body)) as image:
        expected = np.asarray(image)
    if expected.dtype != np.uint8:
        expected = (expected >> 8).astype(np.uint8)
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    assert np.array_equal(found.photograph, expected)
    assert found.notes == ()


@pytest.mark.parametrize(
    "content", [b"P1\n3 2\n101\n010", b"P1 3 2 # bits\n1 0 1 0 1 0 # end", b"P4\n3 2\n\xa0\x40"]
)
def test_bits_are_black_where_they_are_one(content):
    assert reading(content).photograph[..., 0].tolist() == [[0, 255, 0], [255, 0, 255]]


def test_the_range_counts_in_the_files_own_values():
    content = b"P5\n2 1\n4095\n" + np.array([0, 1000], ">u2").tobytes()
    assert reading(content, (0, 1023)).photograph[0, :, 0].tolist() == [0, 250]
    assert reading(b"P5\n2 1\n255\n\0\x80", (0, 4)).notes


def test_sixteen_bits_that_are_not_all_used_are_told():
    content = b"P5\n2 1\n65535\n" + np.array([0, 1000], ">u2").tobytes()
    assert ["no more than 10 bits" in note for note in reading(content).notes] == [True]
    assert reading(content, (0, 1023)).notes == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P6\n8", "its header is damaged"),
        (b"P5\n0 3\n255\n", "gives 0 x 3 pixels"),
        (b"P5\n2 2\n0\n....", "no maximum from 1 to 65535"),
        (b"P5\n2 2\n70000\n....", "no maximum from 1 to 65535"),
        (b"P5\n2 2\n255\n...", "3 values of 4: is the file complete"),
        (b"P6\n2 2\n65535\n...", "1 values of 12"),
        (b"P4\n9 9\n\0", "1 bytes of 18"),
        (b"P2\n2 2\n255\n1 2 3", "3 values of 4"),
        (b"P2\n2 2\n255\n", "values of 4"),
        (b"P2\n2 2\n255\n1 2 x 4", "something else than numbers"),
        (b"P1\n2 2\n0 1 2 1", "something else than 0 and 1"),
        (b"P5\n99999 99999\n255\n", "over the limit of 100 megapixels"),
    ],
)
def test_what_is_wrong_is_named(content, reason):
    with pytest.raises(XGradCamError, match=reason):
        reading(content)
