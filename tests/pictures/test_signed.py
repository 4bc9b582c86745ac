import cv2
import numpy as np

from xgradcam.pictures.framing import Framing
from xgradcam.pictures.paint import DIMMED, Style, colours_of, draw
from xgradcam.pictures.panel import draw_panel
from xgradcam.pictures.signed import (
    AGAINST,
    COVER,
    FOR,
    LIGHTENED,
    signed_blend,
    signed_overlay,
    signed_shares,
)

SIGNED = Style(full_resolution=True, signed=True)


def photograph(height=6, width=8):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def by_hand(pixels, shares, colours=None, cover=COVER):
    """The blend, pixel by pixel."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    out = np.zeros(pixels.shape)
    for y, x in np.ndindex(*grey.shape):
        share = float(shares[y, x])
        colour = FOR if share > 0 else AGAINST
        if colours is not None:
            colour = colours[round(127.5 + 127.5 * share)]
        covered = cover * abs(share)
        light = 255 * LIGHTENED + (1 - LIGHTENED) * float(grey[y, x])
        out[y, x] = [(1 - covered) * light + covered * float(one) for one in colour]
    return out


def ramp(size):
    return np.linspace(-1, 1, size[0] * size[1], dtype=np.float32).reshape(size)


def test_evidence_for_is_red_against_is_blue_and_none_shows_the_photograph_in_grey():
    pixels = photograph()
    shares = ramp((6, 8))
    np.testing.assert_allclose(signed_blend(pixels, shares), by_hand(pixels, shares), atol=0.51)
    clear = signed_blend(pixels, np.zeros((6, 8), np.float32))
    assert (clear[..., 0] == clear[..., 2]).all()


def test_a_named_colour_map_has_its_middle_where_there_is_no_evidence():
    table = colours_of("turbo")
    pixels, shares = photograph(), ramp((6, 8))
    blended = signed_blend(pixels, shares, table, 0.5)
    np.testing.assert_allclose(blended, by_hand(pixels, shares, table, 0.5), atol=0.51)


def test_shares_are_of_the_largest_size_but_for_a_few_outliers():
    values = np.linspace(-2, 1, 1000).reshape(20, 50)
    shares = signed_shares(values)
    assert shares.min() == -1
    assert shares.max() == np.float32(1 / np.percentile(np.abs(values), 99.5))
    values[0, 0] = 1e6
    assert np.abs(signed_shares(values)[1:]).max() > 0.4
    assert not signed_shares(np.full((3, 3), np.nan)).any()


def test_the_overlay_is_the_blend_of_its_shares():
    values = np.random.default_rng(1).normal(size=(6, 8))
    expected = signed_blend(photograph(), signed_shares(values))
    assert np.array_equal(signed_overlay(photograph(), values), expected)


def test_a_signed_picture_is_drawn_by_its_style():
    pixels = photograph(40, 60)
    assert np.array_equal(draw(pixels, ramp, Framing((4, 4)), SIGNED), signed_blend(pixels, ramp((40, 60))))
    named = Style(full_resolution=True, signed=True, colormap="turbo", alpha=0.5)
    expected = signed_blend(pixels, ramp((40, 60)), colours_of("turbo"), 0.5)
    assert np.array_equal(draw(pixels, ramp, Framing((4, 4)), named), expected)
    blank = draw(pixels, lambda size: np.zeros(size, np.float32), Framing((4, 4)), SIGNED)
    assert np.array_equal(blank, pixels)


def test_of_a_crop_the_rest_is_dimmed():
    pixels, framing = photograph(40, 80), Framing((4, 4), resize=4)
    drawn = draw(pixels, ramp, framing, SIGNED)
    np.testing.assert_allclose(drawn[:, :20], DIMMED * pixels[:, :20], atol=0.51)
    assert np.array_equal(drawn[:, 20:60], signed_blend(pixels[:, 20:60], ramp((40, 40))))


def test_a_panel_takes_signed_maps():
    panel = draw_panel(photograph(240, 240), {"one": ramp}, Framing((8, 8)), "title", style=SIGNED)
    expected = draw(photograph(240, 240), ramp, Framing((8, 8)), SIGNED)
    height, width = expected.shape[:2]
    found = [
        np.array_equal(panel[y : y + height, x : x + width], expected)
        for y in range(panel.shape[0] - height + 1)
        for x in range(panel.shape[1] - width + 1)
        if np.array_equal(panel[y, x : x + width], expected[0])
    ]
    assert found == [True]
