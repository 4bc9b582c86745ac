"""Detectors that resize and pad what they are given: heatmaps lie over the image alone."""

import pytest
import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from xgradcam import explain, explain_score
from xgradcam.layouts.padding import WHOLE, over_padding, share_of_image


class Detector(nn.Module):
    """A layer of cells of 32 x 32 pixels behind torchvision's transform."""

    def __init__(self, least, most, classes=0):
        super().__init__()
        self.transform = GeneralizedRCNNTransform(least, most, [0.0] * 3, [1.0] * 3)
        self.cells = nn.AvgPool2d(32)
        self.same = nn.Conv2d(3, 3, 1, bias=False)
        self.same.weight.data = torch.eye(3)[:, :, None, None]
        self.classes = classes

    def forward(self, images):
        maps = self.same(self.cells(self.transform(list(images))[0].tensors))
        score = maps.sum(dim=(1, 2, 3))
        return score[:, None].expand(-1, self.classes) if self.classes else [{"scores": one} for one in score]


def score(returned):
    return torch.stack([one["scores"] for one in returned])


@pytest.mark.parametrize(
    ("size", "share"), [((64, 64), WHOLE), ((64, 96), WHOLE), ((40, 64), (40 / 64, 1.0))]
)
def test_the_share_is_that_of_the_resized_image(size, share):
    model = Detector(min(size), max(size))
    inputs = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert share_of_image(model, inputs, "same") == pytest.approx(share)
    assert share_of_image(model, inputs, "input") == WHOLE
    assert share_of_image(nn.Conv2d(3, 3, 1), inputs, "") == WHOLE


@pytest.mark.parametrize("classes", [0, 2])
def test_a_bright_band_is_hot_where_it_is(classes):
    """The lowest of 80 rows is bright; with the padding, to 96 rows, it would be drawn too far up."""
    inputs = torch.zeros(1, 3, 80, 64)
    inputs[:, :, 64:] = 1
    model = Detector(64, 80, classes)
    if classes:
        explanation = explain(model, inputs, "same", 0, ["grad-cam"])
    else:
        explanation = explain_score(model, inputs, "same", score, ["grad-cam"])
    assert explanation.maps["grad-cam"].shape == (1, 3, 2)
    assert explanation.share == pytest.approx((80 / 96, 1.0))
    heatmap = explanation.heatmap("grad-cam", (80, 64))[0]
    assert heatmap.shape == (80, 64)
    # The last cell begins at row 64 of 96, and its centre is row 80: upsampling rises up to there.
    padded = nn.functional.interpolate(explanation.maps["grad-cam"][:, None], (96, 64), mode="bilinear")[0, 0]
    expected = padded[:80] / padded[:80].max()
    torch.testing.assert_close(heatmap, expected)
    assert heatmap[79].min() == 1
    assert explanation.heatmap("grad-cam", (40, 32)).shape == (1, 40, 32)
    # Every other way to the heatmap keeps it.
    if classes:
        torch.testing.assert_close(explanation.sample(0).heatmap("grad-cam", (80, 64))[0], expected)


def test_masks_of_score_cam_lie_over_the_image():
    inputs = torch.zeros(1, 3, 80, 64)
    inputs[:, 0, :40], inputs[:, 1, 40:] = 1, 1
    model = Detector(64, 80)
    seen = []
    model.register_forward_pre_hook(lambda _module, given: seen.append(given[0].clone()))
    explain_score(model, inputs, "same", score, ["score-cam"])
    with torch.no_grad():
        activation = model.same(model.cells(nn.functional.pad(inputs, (0, 0, 0, 16))))[0, :2, None]
    scaled = activation / activation.amax(dim=(2, 3), keepdim=True)
    masks = nn.functional.interpolate(scaled, (96, 64), mode="bilinear")[:, :, :80]
    for expected in inputs * masks:
        assert any(torch.allclose(one, expected, atol=1e-5) for one in torch.cat(seen))


def test_the_padded_size_is_in_proportion():
    assert over_padding((80, 64), (80 / 96, 1.0)) == (96, 64)
    assert over_padding((81, 64), WHOLE) == (81, 64)
    assert over_padding("nonsense", (0.5, 1.0)) == "nonsense"
