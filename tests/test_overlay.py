import numpy as np
import pytest
import torch

from xgradcam.errors import XGradCamError
from xgradcam.overlay import overlay_heatmap

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
