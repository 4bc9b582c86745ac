"""Measures of heatmaps of signals and volumes."""

import pytest
import torch

from xgradcam.errors import XGradCamError
from xgradcam.evaluation.metrics import blur, deletion, fade, insertion, road

SIZES = {1: (30,), 3: (4, 7, 12)}


@pytest.mark.parametrize("sides", SIZES)
def test_insertion_and_deletion_follow_the_order_of_the_places(sides):
    size = SIZES[sides]
    inputs = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(0)) + 0.5
    heatmap = torch.rand(size, generator=torch.Generator().manual_seed(1))

    def mean(batch):
        return batch.flatten(1).mean(dim=1)

    found = deletion(mean, inputs, heatmap, steps=6)
    order = heatmap.flatten().argsort(descending=True)
    flat = inputs.flatten(2).clone()
    assert found.scores[0] == pytest.approx(float(mean(inputs)))
    for step in range(1, 7):
        gone = order[: step * heatmap.numel() // 6]
        flat[:, :, gone] = 0
        assert found.scores[step] == pytest.approx(float(flat.mean()), abs=1e-6)
    inserted = insertion(mean, inputs, heatmap, steps=6)
    assert inserted.scores[-1] == pytest.approx(float(mean(inputs)))
    assert inserted.scores[0] == pytest.approx(float(mean(blur(inputs))))
    assert fade(inputs, heatmap).shape == inputs.shape
    with pytest.raises(XGradCamError, match=r"ROAD imputes pixels .*take deletion and insertion"):
        road(mean, inputs, heatmap)


def test_a_volume_is_blurred_along_each_side_as_an_image_is():
    images = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    # Slices that are all alike are blurred as the image.
    volumes = images[:, :, None].expand(-1, -1, 9, -1, -1)
    torch.testing.assert_close(blur(volumes)[:, :, 4], blur(images))
    # A signal is like an image of equal rows.
    signals = torch.rand(1, 2, 20, generator=torch.Generator().manual_seed(0))
    rows = signals[:, :, None].expand(-1, -1, 16, -1)
    torch.testing.assert_close(blur(signals), blur(rows)[:, :, 8])
    # Sides that are shorter than the kernel are reflected as often as needed; a mean stays.
    assert blur(torch.ones(1, 1, 2, 3, 1)).sub(1).abs().max() < 1e-6
