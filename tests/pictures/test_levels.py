"""Values of more than 8 bits become 8 by a range that is known, given, or assumed and told."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pictures.support import CAT, GREY, encoded, png_of
from xgradcam.errors import XGradCamError
from xgradcam.pictures.decoding import decode
from xgradcam.pictures.levels import assumed, assumed_16, eight_bits, require_range

RGB_GREY = np.repeat(GREY[..., None], 3, axis=2)


def floats(values) -> bytes:
    return encoded(np.asarray(values, np.float32), "TIFF")


@given(st.lists(st.integers(0, 65535), min_size=1), st.sampled_from([255, 1023, 4095, 16383, 65535]))
def test_whole_numbers_lose_their_lower_bits(values, top):
    grey = np.minimum(np.array([values]), top)
    assert np.array_equal(eight_bits(grey, 0, top), grey >> (top.bit_length() - 8))


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1),
    st.floats(-1e5, 1e5),
    st.floats(0.01, 1e5),
)
def test_steps_are_even_and_ends_are_clipped(values, low, width):
    pixels = eight_bits(np.array([values]), low, low + width)[0]
    steps = (low + width - low) + (1 if low + width - low >= 255 else 0)
    for value, pixel in zip(values, pixels, strict=True):
        exact = (value - low) * 256 / steps
        assert pixel in {min(255, max(0, math.floor(exact + error))) for error in (-1e-6, 0, 1e-6)}


def test_what_is_not_finite_is_black_or_white():
    values = np.array([[math.nan, math.inf, -math.inf, 0.25, 1.0]])
    assert eight_bits(values, 0, 1).tolist() == [[0, 255, 0, 64, 255]]
    found = decode(floats(np.vstack([values] * 4)), "photograph")
    assert found.photograph[0, :, 0].tolist() == [0, 255, 0, 64, 255]
    assert "(12 pixels)" in found.notes[0]
    with pytest.raises(XGradCamError, match="cannot read image photograph: none of its values is finite"):
        decode(floats(np.full((4, 4), math.nan)), "photograph")


@pytest.mark.parametrize(
    ("low", "high", "limits"),
    [
        (0, 1, (0, 1)), (0.2, 0.4, (0, 1)), (0, 0, (0, 1)), (0, 1.3, None), (0.1, 1.9, None),
        (0, 2, (0, 255)),
        (0, 255, (0, 255)), (3, 255.4, (0, 255)), (0, 300, None), (10, 4000, None), (0, 4096, (0, 65535)),
        (0, 65535, (0, 65535)), (0, 70_000, None), (-1, 1, None), (-1024, 3071, None), (-5, -5, (-5, -4)),
    ],
)  # fmt: skip
def test_the_range_of_floats_is_one_that_people_use_or_their_own(low, high, limits):
    values = np.linspace(low, high, 12).reshape(3, 4)
    found, notes = assumed(values)
    assert found == (limits or (min(low, 0), high))
    assert len(notes) == 1
    assert "--range LOW HIGH" in notes[0]


@pytest.mark.parametrize("top", [1, 1.3, 255.4, 300, 65535])
def test_floats_of_any_range_show_the_photograph(top):
    found = decode(floats(GREY.astype(float) / GREY.max() * top), "photograph")
    expected = np.clip(np.floor(GREY.astype(float) / GREY.max() * 256), 0, 255)
    assert np.abs(found.photograph[..., 0] - expected).max() <= 1
    assert len(found.notes) == 1


@pytest.mark.parametrize("value_range", [(0, 100), (-50, 300), (0.25, 0.5)])
@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_the_range_asked_for_is_taken_without_a_note(kind, value_range):
    values = GREY.astype(kind)
    found = decode(encoded(values, "TIFF"), "photograph", value_range)
    assert np.array_equal(found.photograph[..., 0], eight_bits(values, *value_range))
    assert found.notes == ()


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_the_range_holds_for_every_kind_of_deep_png(colour):
    channels = {0: [GREY], 2: [CAT], 4: [GREY, GREY[::-1]], 6: [CAT, GREY]}[colour]
    values = np.dstack(channels).astype(np.uint16) << 2
    expected = RGB_GREY if colour in (0, 4) else CAT
    found = decode(png_of(values, colour), "photograph", (0, 1023))
    assert np.array_equal(found.photograph, expected)
    assert found.notes == ()
    dark = decode(png_of(values, colour), "photograph")
    assert np.array_equal(dark.photograph, expected >> 6)
    assert ["10 bits" in note for note in dark.notes] == [True]
    full = decode(png_of(values << 6, colour), "photograph")
    assert np.array_equal(full.photograph, expected)
    assert full.notes == ()


@pytest.mark.parametrize(
    ("highest", "bits"),
    [(1, 10), (1023, 10), (1024, 12), (4095, 12), (16383, 14), (16384, 0), (65535, 0), (0, 0)],
)
def test_sixteen_bits_that_are_not_all_used_are_told(highest, bits):
    assert [f"no more than {bits} bits" in note for note in assumed_16(highest)] == ([True] if bits else [])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM"])
def test_eight_bits_have_no_use_for_a_range_and_say_so(kind):
    content = encoded(CAT, kind)
    found = decode(content, "photograph", (0, 4095))
    assert np.array_equal(found.photograph, decode(content, "photograph").photograph)
    assert found.notes == ("8 bits a channel: --range is for files of more bits, and is not used",)


@pytest.mark.parametrize("wrong", [(5, 5), (255, 0), (0, math.inf), (math.nan, 1)])
def test_a_range_of_nothing_is_refused(wrong):
    with pytest.raises(XGradCamError, match="give the value of black, then a higher of white"):
        require_range(wrong)
    require_range(None)
    require_range((-1, 1))
