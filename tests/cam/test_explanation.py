import cv2
import numpy as np
import pytest
import torch

from tests.support import explained
from xgradcam.cam.explanation import Explanation, heatmap, heatmap_of, sensitivity_error
from xgradcam.errors import XGradCamError


def test_heatmap_is_the_original_scripts_formula():
    signed = torch.randn(2, 7, 7, generator=torch.Generator().manual_seed(0))
    result = heatmap(signed, (50, 40)).numpy()
    for sample in range(2):
        cam = cv2.resize(np.maximum(signed[sample].numpy(), 0), (40, 50))
        cam = cam - cam.min()
        cam = cam / cam.max()
        np.testing.assert_allclose(result[sample], cam, atol=1e-5)


def test_heatmap_of_a_batch_keeps_samples_apart_and_blank_ones_blank():
    signed = torch.stack([-torch.rand(4, 4) - 0.1, torch.eye(4), torch.full((4, 4), 3.0), torch.zeros(4, 4)])
    result = heatmap(signed, (8, 8))
    assert result.isfinite().all()
    assert [bool(sample.any()) for sample in result] == [False, True, False, False]
    assert result[1].min() == 0
    assert result[1].max() == 1
    torch.testing.assert_close(heatmap(1e-20 * signed[1:2].double(), (8, 8)), result[1:2].double())


def test_the_sample_of_a_batch_is_the_one_asked_for():
    signed = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    explanation = explained(signed)
    for sample in range(3):
        expected = explanation.heatmap("grad-cam", (9, 7))[sample].numpy()
        assert np.array_equal(heatmap_of(explanation, "grad-cam", sample)((9, 7)), expected)


def test_nothing_that_drops_makes_an_infinite_error():
    assert sensitivity_error(torch.ones(1, 2), torch.zeros(1, 2)) == torch.inf


@pytest.mark.parametrize("size", [8, (8,), (8, 8, 8), (0, 8), (8, -1), (8.0, 8), None, "88", (None, 8)])
def test_a_size_that_is_not_two_positive_integers_is_refused(size):
    explanation = Explanation({"grad-cam": torch.eye(4)[None]}, torch.ones(1), ((),))
    with pytest.raises(
        XGradCamError, match=r"the heatmap's size is .*: give \(H, W\), two positive integers"
    ):
        explanation.heatmap("grad-cam", size)


def test_a_size_may_be_any_two_integers():
    expected = heatmap(torch.eye(4)[None], (8, 6))
    for size in ([8, 6], np.array([8, 6]), torch.Size([8, 6]), torch.tensor([8, 6])):
        assert torch.equal(heatmap(torch.eye(4)[None], size), expected)
