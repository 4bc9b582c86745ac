import cv2
import numpy as np
import pytest
import torch

from xgradcam.errors import XGradCamError
from xgradcam.pictures import paint
from xgradcam.pictures.paint import COLORMAPS, overlay_heatmap

PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def test_red_where_the_evidence_is_blue_where_it_is_not():
    heatmap = np.zeros((1, 2), np.float32)
    heatmap[0, 1] = 1
    picture = overlay_heatmap(np.zeros((1, 2, 3), np.uint8), heatmap)
    # JET runs from (0, 0, 128) to (128, 0, 0) in RGB; the sum's maximum becomes 255.
    assert picture[0, 0].tolist() == [0, 0, 255]
    assert picture[0, 1].tolist() == [255, 0, 0]


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
