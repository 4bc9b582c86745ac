import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import data

from tests.support import explained
from xgradcam.cam.explanation import heatmap_of
from xgradcam.errors import XGradCamError
from xgradcam.pictures import paint
from xgradcam.pictures.framing import Framing, visible
from xgradcam.pictures.paint import COLORMAPS, DIMMED, Style, draw, fused, overlay_heatmap
from xgradcam.pictures.panel import draw_panel

PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def test_red_where_the_evidence_is_blue_where_it_is_not():
    heatmap = np.zeros((1, 2), np.float32)
    heatmap[0, 1] = 1
    picture = overlay_heatmap(np.zeros((1, 2, 3), np.uint8), heatmap)
    # JET runs from (0, 0, 128) to (128, 0, 0) in RGB; the sum's maximum becomes 255.
    assert picture[0, 0].tolist() == [0, 0, 255]
    assert picture[0, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_looked_up_colours_are_opencvs_and_their_sum_the_formulas_to_the_last_bit(colormap):
    random = np.random.default_rng(0)
    photograph = random.integers(0, 256, (32, 24, 3), dtype=np.uint8)
    levels = random.permutation(np.arange(768) % 256).astype(np.uint8).reshape(32, 24)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, COLORMAPS[colormap]), cv2.COLOR_BGR2RGB)
    whole = np.float32(colours) / 255 + np.float32(photograph) / 255
    expected = (255 * (whole / whole.max())).astype(np.uint8)
    assert np.array_equal(paint.blend(photograph, levels, colormap, None), expected)
    mixed = cv2.addWeighted(colours, 0.4, photograph, 0.6, 0)
    assert np.array_equal(paint.blend(photograph, levels, colormap, 0.4), mixed)


def test_the_sum_is_rescaled_by_its_maximum():
    heatmap = np.random.default_rng(1).random((6, 5), dtype=np.float32)
    picture = overlay_heatmap(PHOTOGRAPH, heatmap)
    assert picture.shape == PHOTOGRAPH.shape
    assert picture.dtype == np.uint8
    assert picture.max() == 255


def test_a_blank_heatmap_gives_the_photograph_in_memory_of_its_own():
    picture = overlay_heatmap(PHOTOGRAPH, np.zeros((6, 5), np.float32))
    assert np.array_equal(picture, PHOTOGRAPH)
    assert not np.shares_memory(picture, PHOTOGRAPH)


def test_a_tensor_will_do_and_another_size_will_not():
    heatmap = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(overlay_heatmap(PHOTOGRAPH, heatmap), overlay_heatmap(PHOTOGRAPH, heatmap.numpy()))
    with pytest.raises(XGradCamError, match=r"a heatmap \(5, 6\) for a photograph \(6, 5\)"):
        overlay_heatmap(PHOTOGRAPH, heatmap.T)
    with pytest.raises(XGradCamError, match="a photograph is"):
        overlay_heatmap(PHOTOGRAPH / 255, heatmap)


def test_inputs_are_not_written_to():
    heatmap = np.full((6, 5), 0.5, np.float32)
    photograph = PHOTOGRAPH.copy()
    overlay_heatmap(photograph, heatmap)
    assert np.array_equal(photograph, PHOTOGRAPH)
    assert heatmap.min() == heatmap.max() == pytest.approx(0.5)


def the_originals(photograph, heatmap):
    """The original scripts' lines, on RGB, without blocks."""
    colours = cv2.applyColorMap(np.uint8(255 * heatmap), cv2.COLORMAP_JET)[:, :, ::-1]
    mixed = np.float32(colours) / 255 + np.float32(photograph) / 255
    return np.uint8(255 * (mixed / np.max(mixed)))


@pytest.mark.parametrize("shape", [(1, 1), (6, 5), (40, 31), (3, 700)])
@pytest.mark.parametrize("block", [1, 64, 100, 2**20])
def test_block_by_block_is_the_originals_formula(monkeypatch, shape, block):
    monkeypatch.setattr(paint, "BLOCK_PIXELS", block)
    random = np.random.default_rng(block)
    photograph = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    heatmap = random.random(shape, dtype=np.float32)
    assert np.array_equal(overlay_heatmap(photograph, heatmap), the_originals(photograph, heatmap))
    # Also a part of a larger photograph.
    part = slice(0, 1 + shape[0] // 2), slice(shape[1] // 3, None)
    assert np.array_equal(
        overlay_heatmap(photograph[part], heatmap[part]), the_originals(photograph[part], heatmap[part])
    )


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_alpha_mixes_the_colours_of_a_map_with_the_photograph(colormap):
    heatmap = np.random.default_rng(2).random((6, 5), dtype=np.float32)
    bgr = cv2.applyColorMap(np.uint8(255 * heatmap), COLORMAPS[colormap])
    colours = bgr[:, :, ::-1].astype(float)
    for alpha in (0.0, 0.3, 0.5, 1.0):
        expected = (1 - alpha) * PHOTOGRAPH + alpha * colours
        picture = overlay_heatmap(PHOTOGRAPH, heatmap, colormap, alpha)
        assert picture.dtype == np.uint8
        assert np.abs(picture - expected).max() <= 0.5 + 1e-4
    assert np.array_equal(overlay_heatmap(PHOTOGRAPH, heatmap, colormap, 0), PHOTOGRAPH)
    assert np.array_equal(overlay_heatmap(PHOTOGRAPH, heatmap, colormap, 1), colours)
    assert not np.array_equal(overlay_heatmap(PHOTOGRAPH, heatmap, colormap), PHOTOGRAPH)


def test_a_blank_heatmap_gives_the_photograph_in_any_colours():
    blank = np.zeros((6, 5), np.float32)
    assert np.array_equal(overlay_heatmap(PHOTOGRAPH, blank, "viridis", 0.7), PHOTOGRAPH)


def test_the_usual_colour_maps_are_there():
    assert {"jet", "turbo", "viridis", "inferno", "magma", "plasma", "cividis", "hot"} <= set(COLORMAPS)


def test_wrong_colours_are_named_with_what_is_near():
    heatmap = np.zeros((6, 5), np.float32)
    with pytest.raises(XGradCamError, match="no colour map 'Virids'; did you mean 'viridis'"):
        overlay_heatmap(PHOTOGRAPH, heatmap, "Virids")
    with pytest.raises(XGradCamError, match=r"no colour map 'qqq' \(known: .*jet"):
        overlay_heatmap(PHOTOGRAPH, heatmap, "qqq")
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(XGradCamError, match=r"alpha .* is not between 0 .* and 1"):
            overlay_heatmap(PHOTOGRAPH, heatmap, alpha=alpha)


ROOT = Path(__file__).resolve().parents[2]


CAT = data.chelsea()


FULL = Style(full_resolution=True)


CROP = Framing((80, 80), 100)


# Draws a photograph of 100 megapixels and prints the peak memory in bytes.
MEASURED = """
import re, sys
from pathlib import Path
import numpy as np, torch
from xgradcam.cam.explanation import Explanation, heatmap_of
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.paint import Style, draw
from xgradcam.pictures.photograph import encode_jpeg
tile = np.random.default_rng(0).integers(0, 256, (200, 250, 3), dtype=np.uint8)
photograph = np.tile(tile, (50, 40, 1))
maps = torch.randn(4, 7, 7, generator=torch.Generator().manual_seed(0))
explanation = Explanation({"grad-cam": maps}, torch.zeros(4), ((),) * 4)
framing = Framing((224, 224), 256 if sys.argv[1] == "crop" else None)
alpha = 0.5 if sys.argv[2] == "alpha" else None
style = Style(full_resolution=True, alpha=alpha)
picture = draw(photograph, heatmap_of(explanation, "grad-cam", 2), framing, style)
assert picture.shape == photograph.shape and len(encode_jpeg(picture)) > 1e7
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text()).group(1)))
"""


@pytest.fixture
def found():
    """One map of positive and negative evidence."""
    generator = torch.Generator().manual_seed(3)
    return heatmap_of(explained(torch.randn(1, 5, 5, generator=generator)), "grad-cam")


def test_by_default_it_is_the_originals_picture(found):
    framing = Framing((224, 224))
    expected = overlay_heatmap(framing.pixels(CAT), found((224, 224)))
    assert np.array_equal(draw(CAT, found, framing), expected)


def test_at_full_resolution_the_map_is_upsampled_once_to_the_photographs_size(found):
    expected = overlay_heatmap(CAT, found(CAT.shape[:2]), "magma", 0.4)
    picture = draw(CAT, found, Framing((224, 224)), Style(True, "magma", 0.4))
    assert np.array_equal(picture, expected)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("style", [Style(), FULL, Style(alpha=0.5)])
def test_of_a_crop_the_rest_is_shown_dimmed(found, turned, style):
    """200 x 400 becomes 100 x 200, of which rows 10 to 90 and columns 60 to 140 are seen."""
    photograph = np.ascontiguousarray(CAT[:200, :400].swapaxes(0, 1) if turned else CAT[:200, :400])
    whole = photograph if style.full_resolution else CROP.scene(photograph)
    factor = 2 if style.full_resolution else 1
    rows, columns = slice(10 * factor, 90 * factor), slice(60 * factor, 140 * factor)
    seen = (columns, rows) if turned else (rows, columns)
    picture = draw(photograph, found, CROP, style)
    expected = overlay_heatmap(whole[seen], found((80 * factor, 80 * factor)), style.colours, style.alpha)
    assert np.array_equal(picture[seen], expected)
    outside = np.ones(whole.shape[:2], bool)
    outside[seen] = False
    assert np.abs(picture[outside] - DIMMED * whole[outside]).max() <= 0.5 + 1e-4


def test_at_the_inputs_scale_a_crop_shows_the_networks_pixels(found):
    picture = draw(CAT, found, CROP)
    expected = overlay_heatmap(CROP.pixels(CAT), found((80, 80)))
    assert np.array_equal(picture[10:90, 35:115], expected)


@pytest.mark.parametrize("framing", [Framing((32, 32)), Framing((32, 32), 40)])
@pytest.mark.parametrize("shape", [(300, 451), (451, 300)])
@pytest.mark.parametrize("cell", [(0, 0), (1, 3), (3, 2)])
def test_a_bright_point_is_red_at_its_place_of_the_photograph(framing, shape, cell):
    photograph = np.full((*shape, 3), 90, np.uint8)
    signed = torch.zeros(1, 4, 4)
    signed[0, cell[0], cell[1]] = 1
    picture = draw(photograph, heatmap_of(explained(signed), "grad-cam"), framing, FULL).astype(int)
    redness = picture[..., 0] - picture[..., 2]
    rows, columns = np.nonzero(redness > 0.95 * redness.max())
    top, left, bottom, right = framing.window(shape)
    expected = top + (cell[0] + 0.5) / 4 * (bottom - top), left + (cell[1] + 0.5) / 4 * (right - left)
    slack = max(shape) / 16
    assert abs(np.median(rows) - expected[0]) < slack
    assert abs(np.median(columns) - expected[1]) < slack


@pytest.mark.parametrize("style", [Style(), FULL, Style(alpha=1)])
@pytest.mark.parametrize("framing", [Framing((80, 80)), CROP])
def test_a_blank_map_gives_the_photograph_itself(style, framing):
    blank = heatmap_of(explained(-torch.ones(1, 5, 5)), "grad-cam")
    whole = CAT if style.full_resolution else framing.scene(CAT)
    picture = draw(CAT, blank, framing, style)
    assert np.array_equal(picture, whole)
    assert not np.shares_memory(picture, CAT)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3)])
@pytest.mark.parametrize("framing", [Framing((80, 80)), CROP, Framing((30, 20), 20)])
def test_photographs_smaller_than_the_input(found, shape, framing):
    photograph = np.full((*shape, 3), 200, np.uint8)
    for style, whole in ((FULL, photograph), (Style(), framing.scene(photograph))):
        picture = draw(photograph, found, framing, style)
        assert picture.shape == whole.shape
        size = whole.shape[:2]
        outside = np.ones(size, bool)
        outside[visible(framing.pixel_window(shape, size), size)] = False
        dimmed = np.abs(picture[outside] - DIMMED * whole[outside]).max(initial=0) <= 0.5 + 1e-4
        assert dimmed or np.array_equal(picture, whole)  # where the map is blank in what is seen
        if framing.resize is None:
            assert np.array_equal(picture, overlay_heatmap(whole, found(size), style.colours))


def test_photograph_and_map_are_not_written_to(found):
    photograph, before = CAT.copy(), found(CAT.shape[:2])
    photograph.flags.writeable = False
    for framing in (Framing((80, 80)), CROP):
        for style in (Style(), FULL, Style(True, "hot", 0.2)):
            assert not np.array_equal(draw(photograph, found, framing, style), framing.scene(CAT))
    assert np.array_equal(photograph, CAT)
    assert np.array_equal(found(CAT.shape[:2]), before)


def test_beyond_a_size_the_map_is_enlarged_from_8_bits_and_looks_the_same(found, monkeypatch):
    expected = (255 * found(CAT.shape[:2])).astype(np.uint8).astype(int)
    monkeypatch.setattr(paint, "EXACT_SIDE", 280)
    sizes = []

    def remembered(size):
        sizes.append(size)
        return found(size)

    # Of a black photograph the picture at alpha 1 is the levels, in a colour map that is linear.
    picture = draw(np.zeros_like(CAT), remembered, Framing((50, 50)), Style(True, "autumn", 1))
    assert sizes == [(280, 280)]
    # 56 pixels to a place of the map; 4096 pixels are that for a map of 73 x 73 places.
    difference = np.abs(picture[..., 1] - expected)
    assert difference.max() <= 3
    assert difference.mean() < 0.5


def test_a_wrong_style_is_refused_before_anything_is_drawn():
    with pytest.raises(XGradCamError, match="did you mean 'turbo'"):
        Style(colormap="trubo")
    with pytest.raises(XGradCamError, match=r"alpha 2 is not between 0 .* and 1"):
        Style(alpha=2)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("stretch", "sum"), ("crop", "alpha")])
def test_a_hundred_megapixels_take_less_than_two_gigabytes(arguments):
    command = [sys.executable, "-c", MEASURED, *arguments]
    result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(result.stdout) < 2e9


# Values that are no heatmap, and what is said about them.
NO_HEATMAPS = {
    "above": (np.array([[0, 0.5, 1, 1.01]]), "goes from 0 to 1.01"),
    "twice": (np.array([[0, 0.5, 1, 2]]), "goes from 0 to 2"),
    "below": (np.array([[0, 0.5, 1, -0.1]]), "goes from -0.1 to 1"),
    "levels": (np.array([[0, 100, 128, 255]], np.uint8), "levels from 0 to 255 are to be divided by 255"),
    "NaN": (np.array([[0, 0.5, 1, np.nan]]), "goes from nan to nan"),
    "infinite": (np.array([[0, 0.5, 1, np.inf]]), "goes from 0 to inf"),
    "tensor above": (torch.tensor([[0, 0.5, 1, 3]]), "goes from 0 to 3"),
    "batch": (np.zeros((1, 1, 4)), r"a heatmap is \(H, W\), not \(1, 1, 4\)"),
    "empty": (np.zeros((0, 4)), r"a heatmap is \(H, W\), not \(0, 4\)"),
    "ragged": ([[0, 1], [0]], r"give \(H, W\) numbers in \[0, 1\]"),
    "words": ([["hot", "cold"]], r"give \(H, W\) numbers in \[0, 1\]"),
}


@pytest.mark.parametrize(("values", "message"), NO_HEATMAPS.values(), ids=NO_HEATMAPS)
def test_what_is_no_heatmap_is_refused_wherever_one_is_painted(values, message):
    grey = np.full((1, 4, 3), 128, np.uint8)
    framing = Framing((1, 4))
    calls = [
        lambda: overlay_heatmap(grey, values, alpha=1.0),
        lambda: draw(grey, lambda _size: values, framing),
        lambda: draw(grey, lambda _size: values, framing, FULL),
        lambda: draw_panel(grey, {"map": lambda _size: values}, framing, "title"),
    ]
    for call in calls:
        with pytest.raises(XGradCamError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


SHARES = st.one_of(st.floats(0, 1, width=32), st.floats(-0.25, 2, width=32))


@given(hnp.arrays(np.float32, (2, 3), elements=SHARES), st.sampled_from(["jet", "viridis", "twilight"]))
@settings(max_examples=60, deadline=None)
def test_a_heatmap_is_painted_by_the_colours_of_its_values_or_refused(heatmap, colormap):
    """Each value's colour is looked up here one by one, in a table of 256."""
    photograph = np.zeros((2, 3, 3), np.uint8)
    if heatmap.min() < -1e-3 or heatmap.max() > 1 + 1e-3:
        with pytest.raises(XGradCamError, match=r"in \[0, 1\]"):
            overlay_heatmap(photograph, heatmap, colormap, 1.0)
        return
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], COLORMAPS[colormap])[:, 0, ::-1]
    expected = [[table[int(255 * value)] for value in row] for row in heatmap]
    picture = overlay_heatmap(photograph, heatmap, colormap, 1.0)
    assert np.array_equal(picture, expected if heatmap.any() else photograph)


ROUNDED = 1 + np.float32(1e-6)


@pytest.mark.parametrize(
    "as_given",
    [
        np.float64, np.float16, np.asfortranarray, lambda h: h[::-1].copy()[::-1],
        lambda h: np.repeat(h, 2, 1)[:, ::2], lambda h: h * ROUNDED,
        lambda h: h.tolist(), torch.from_numpy, lambda h: torch.from_numpy(h).requires_grad_(),
        lambda h: torch.from_numpy(h).bfloat16(), lambda h: torch.from_numpy(h.T.copy()).T,
    ],
)  # fmt: skip
def test_a_heatmap_may_have_any_type_and_layout(as_given):
    heatmap = np.arange(30, dtype=np.float32).reshape(6, 5) % 17 / 16  # all types have sixteenths
    expected = overlay_heatmap(PHOTOGRAPH, heatmap)
    assert np.array_equal(overlay_heatmap(PHOTOGRAPH, as_given(heatmap)), expected)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64])
def test_a_mask_is_a_heatmap(kind):
    mask = np.arange(30).reshape(6, 5) % 2
    assert np.array_equal(
        overlay_heatmap(PHOTOGRAPH, mask.astype(kind)), overlay_heatmap(PHOTOGRAPH, mask.astype(np.float32))
    )


@pytest.mark.parametrize("alpha", [None, 0.5, np.float32(0.5), 1])
@pytest.mark.parametrize(
    "as_given",
    [np.asfortranarray, lambda p: p[::-1].copy()[::-1], lambda p: p[:, ::-1].copy()[:, ::-1],
     lambda p: p[..., ::-1].copy()[..., ::-1], lambda p: p.transpose(2, 0, 1).copy().transpose(1, 2, 0),
     lambda p: np.dstack([p, p])[..., :3]],
)  # fmt: skip
def test_a_photograph_may_have_any_layout(as_given, alpha):
    heatmap = np.random.default_rng(0).random((6, 5), dtype=np.float32)
    turned = as_given(PHOTOGRAPH)
    turned.flags.writeable = False
    assert np.array_equal(
        overlay_heatmap(turned, heatmap, alpha=alpha), overlay_heatmap(PHOTOGRAPH, heatmap, alpha=alpha)
    )
    framing = Framing((6, 5), 5)
    for style in (Style(alpha=alpha), Style(True, alpha=alpha)):
        assert np.array_equal(
            draw(turned, lambda _size: heatmap[:5], framing, style),
            draw(PHOTOGRAPH, lambda _size: heatmap[:5], framing, style),
        )


def test_wrong_photographs_and_no_heatmaps_are_refused():
    heatmap = np.ones((4, 4), np.float32)
    for wrong in (
        np.ones((4, 4, 3)),
        np.ones((4, 4), np.uint8),
        torch.ones(4, 4, 3).byte(),
        None,
        [[[1, 2, 3]]],
    ):
        for framing in (Framing((4, 4)), Framing((4, 4), 4)):
            for style in (Style(), FULL):
                with pytest.raises(XGradCamError, match=r"a photograph is \(H, W, 3\) uint8 in RGB"):
                    draw(wrong, lambda _size: heatmap, framing, style)
    with pytest.raises(XGradCamError, match="no heatmaps to fuse: give at least one"):
        fused([])
    for colormap, alpha in ((None, None), (3, None), (["jet"], None), ("jet", "0.5"), ("jet", [1])):
        with pytest.raises(XGradCamError, match=r"no colour map|is not between 0"):
            Style(colormap=colormap, alpha=alpha)
