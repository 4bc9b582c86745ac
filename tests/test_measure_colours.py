"""The measurement by which the default colours are chosen."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2lab

from xgradcam.figures.figure import Look
from xgradcam.pictures.paint import COLORMAPS, EVEN, colours_of
from xgradcam.pictures.signed import AGAINST, FOR

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[1] / "scripts" / "measure_colours.py"))
APART, VISION, even, least_step, measured, seen = (
    SCRIPT[name] for name in ("APART", "VISION", "even", "least_step", "measured", "seen")
)


def test_the_default_colours_are_even_in_lightness_and_seen_by_everybody():
    assert even(measured(colours_of(EVEN)))
    for name in ("jet", "turbo", "hsv", "rainbow"):
        assert not even(measured(colours_of(name)))


def test_lightness_is_that_of_cielab():
    table = colours_of(EVEN)
    np.testing.assert_allclose(seen(table, "full"), rgb2lab(table / 255), atol=0.3)
    assert np.diff(rgb2lab(table / 255)[::16, 0]).min() > 3


def test_a_grey_ramp_is_even_and_grey_for_everybody():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    found = measured(grey)
    assert found.falls == 0
    assert found.span == pytest.approx(100, abs=0.1)
    for vision in VISION:
        assert np.abs(seen(grey, vision)[:, 1:]).max() < 1
    assert least_step(grey, "full") == pytest.approx(100 * APART / 255, rel=0.2)


def test_red_and_green_look_alike_without_two_of_the_cones_only():
    pair = np.array([[180, 60, 0], [86, 100, 0]], np.uint8)
    apart = {vision: float(np.linalg.norm(np.diff(seen(pair, vision), axis=0))) for vision in VISION}
    assert apart["deuteranopia"] < apart["full"] / 2
    assert apart["tritanopia"] > apart["full"] / 2


def test_evidence_for_and_against_is_told_apart_by_everybody():
    pair = np.array([AGAINST, FOR], np.uint8)
    for vision in VISION:
        assert np.linalg.norm(np.diff(seen(pair, vision), axis=0)) > 40
    colours = Look(signed=True).colours()
    assert np.allclose(np.array(colours(255)[:3]) * 255, FOR, atol=0.5)


def test_every_map_is_measured():
    for name in COLORMAPS:
        found = measured(colours_of(name))
        assert np.isfinite(found).all()
        assert 0 <= found.falls <= 1
