from itertools import pairwise

import numpy as np
import pytest
import torch

from xgradcam import XGradCamError
from xgradcam.evaluation import metrics
from xgradcam.evaluation.imputation import imputed


@pytest.fixture
def weights():
    return torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def inputs():
    return torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear(weights, sizes=None):
    """A network that is a weighted sum, of which every curve is known."""

    def score(inputs):
        if sizes is not None:
            sizes.append(len(inputs))
        return (weights * inputs).sum(dim=(1, 2, 3))

    return score


def heat(seed=2, size=(6, 8)):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def test_deletion_removes_the_hottest_first(weights, inputs):
    sizes = []
    curve = metrics.deletion(linear(weights, sizes), inputs, heat(), steps=48)
    shares = (weights * inputs).sum(dim=(0, 1)).flatten()
    order = heat().flatten().argsort(descending=True)
    expected = shares.sum() - torch.cat([torch.zeros(1, dtype=torch.float64), shares[order].cumsum(0)])
    torch.testing.assert_close(curve.scores, expected)
    torch.testing.assert_close(curve.shares, torch.arange(49, dtype=torch.float64) / 48)
    trapezoids = sum((a + b) / 2 / 48 for a, b in pairwise(expected))
    assert curve.area == pytest.approx(float(trapezoids))
    assert max(sizes) <= metrics.BATCH


def test_insertion_goes_from_the_blurred_photograph_to_the_sharp(weights, inputs):
    inputs = torch.nn.functional.interpolate(inputs, (16, 16))
    weights = torch.nn.functional.interpolate(weights, (16, 16))
    curve = metrics.insertion(linear(weights), inputs, heat(size=(16, 16)), steps=4)
    blurred = metrics.blur(inputs)
    order = heat(size=(16, 16)).flatten().argsort(descending=True)
    for step, score in enumerate(curve.scores):
        mixed = blurred.flatten(2).clone()
        mixed[..., order[: step * 64]] = inputs.flatten(2)[..., order[: step * 64]]
        torch.testing.assert_close(score, (weights.flatten(2) * mixed).sum())


def by_loops(inputs):
    """The blur by its definition: a sum over 11 x 11 neighbours; beyond an edge they are mirrored at it."""

    def mirrored(place, length):
        place = abs(place)
        return place if place < length else 2 * (length - 1) - place

    steps = range(-5, 6)
    height, width = inputs.shape[2:]
    total = sum(np.exp(-(dy**2 + dx**2) / 50) for dy in steps for dx in steps)
    blurred = torch.zeros_like(inputs)
    for y in range(height):
        for x in range(width):
            for dy in steps:
                for dx in steps:
                    there = inputs[..., mirrored(y + dy, height), mirrored(x + dx, width)]
                    blurred[..., y, x] += np.exp(-(dy**2 + dx**2) / 50) / total * there
    return blurred


def test_the_blur_is_its_definition():
    inputs = torch.randn(2, 3, 9, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(metrics.blur(inputs), by_loops(inputs), rtol=0, atol=1e-12)
    torch.testing.assert_close(metrics.blur(inputs.float()), by_loops(inputs).float(), rtol=0, atol=1e-6)


def test_pixels_of_one_heat_are_in_an_order_that_is_none_of_a_picture():
    flat = metrics.ranks(torch.zeros(20, 20))
    assert sorted(flat.flatten().tolist()) == list(range(400))
    assert torch.equal(flat, metrics.ranks(torch.zeros(20, 20)))
    places = torch.arange(400.0)
    assert abs(np.corrcoef(flat.flatten(), places)[0, 1]) < 0.15
    two = metrics.ranks(torch.tensor([[0.0, 1.0], [1.0, 0.5]]))
    assert {int(two[0, 1]), int(two[1, 0])} == {0, 1}
    assert (int(two[1, 1]), int(two[0, 0])) == (2, 3)


def test_drop_and_increase_are_their_definitions():
    whole, faded = torch.tensor([0.8, 0.5, 0.4]), torch.tensor([0.2, 0.6, 0.4])
    torch.testing.assert_close(metrics.average_drop(whole, faded), torch.tensor([0.75, 0.0, 0.0]))
    assert metrics.increase_in_confidence(whole, faded).tolist() == [0, 1, 0]


def test_what_is_cold_fades_to_the_mean_colour(inputs):
    faded = metrics.fade(inputs, torch.tensor([[0.0] * 8, [0.5] * 8, [1.0] * 8] * 2))
    assert (faded[:, :, [0, 3]] == 0).all()
    torch.testing.assert_close(faded[:, :, 1], inputs[:, :, 1] / 2)
    torch.testing.assert_close(faded[:, :, 2], inputs[:, :, 2])


def test_road_prefers_what_the_network_looks_at():
    weights = torch.zeros(1, 3, 16, 16)
    weights[..., 4:9, 5:10] = 1
    inputs = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    inputs[..., 4:9, 5:10] += 4
    right = weights[0, 0]
    score = linear(weights)
    assert metrics.road(score, inputs, right) > 0 > metrics.road(score, inputs, 1 - right)
    assert metrics.road(score, inputs, right) == metrics.road(score, inputs, right)
    by_hand = []
    for share in (0.25, 0.5):
        rank = metrics.ranks(right)
        hottest = imputed(inputs, rank < share * 256)
        coldest = imputed(inputs, 255 - rank < share * 256)
        by_hand.append(float(score(coldest) - score(hottest)) / 2)
    assert metrics.road(score, inputs, right, (0.25, 0.5)) == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_the_pointing_game_has_a_tolerance():
    heatmap, region = torch.zeros(40, 40), torch.zeros(40, 40, dtype=torch.bool)
    heatmap[10, 30] = 1
    region[20:30, 2:16] = True
    assert not metrics.pointing_game(heatmap, region)
    assert metrics.pointing_game(heatmap, region, tolerance=19)
    assert not metrics.pointing_game(heatmap, region, tolerance=18)
    heatmap[22, 5] = 2
    assert metrics.pointing_game(heatmap, region, tolerance=0)
    assert not metrics.pointing_game(torch.zeros(40, 40), region)
    assert not metrics.pointing_game(heatmap, torch.zeros(40, 40, dtype=torch.bool))


def test_energy_is_the_share_of_the_sum():
    heatmap, region = torch.ones(4, 5), torch.zeros(4, 5, dtype=torch.bool)
    region[1:3, :2] = True
    assert metrics.energy_inside(heatmap, region) == pytest.approx(4 / 20)
    assert metrics.energy_inside(torch.zeros(4, 5), region) == 0
    with pytest.raises(XGradCamError, match="not a bool for each pixel"):
        metrics.energy_inside(heatmap, region.float())
    with pytest.raises(XGradCamError, match="not a bool for each pixel"):
        metrics.pointing_game(heatmap, region[:2])


def test_the_focus_is_the_share_of_the_enlarged_positive_part():
    tile = torch.zeros(4, 4, dtype=torch.bool)
    tile[:2, 2:] = True
    signed = torch.tensor([[[-5.0, 3.0], [1.0, -2.0]]])
    # By hand: bilinear weights of 2 x 2 cells at 4 x 4 pixels are 1, 3/4, 1/4, 0 along each side.
    near, far = 1 + 3 / 4, 1 / 4
    right, left = near * near * 3 + far * far * 1, near * near * 1 + far * far * 3
    total = 4 * (3 + 1)
    assert metrics.focus(signed, tile) == pytest.approx(right / total)
    assert metrics.focus(signed, tile.flip(0, 1)) == pytest.approx(left / total)
    assert metrics.focus(10 * signed, tile) == pytest.approx(right / total)
    quarters = [metrics.focus(torch.ones(1, 3, 3), tile.roll((2 * down, 2 * right), (0, 1)))
                for down in (0, 1) for right in (0, 1)]  # fmt: skip
    assert quarters == [pytest.approx(0.25)] * 4


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_map_without_positive_evidence_has_no_focus(value):
    tile = torch.ones(4, 4, dtype=torch.bool)
    assert metrics.focus(torch.full((1, 2, 2), value), tile) is None
    with pytest.raises(XGradCamError, match="not a bool for each pixel"):
        metrics.focus(torch.ones(1, 2, 2), tile.float())
