from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xgradcam import XGradCamError
from xgradcam.evaluation import metrics


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


def test_the_blur_is_a_gaussian_whose_weights_are_one():
    point = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    point[..., 15, 15] = 1
    blurred = metrics.blur(point)[0, 0]
    assert float(blurred.sum()) == pytest.approx(1)
    assert float(blurred[15, 18] / blurred[15, 15]) == pytest.approx(np.exp(-9 / 50))
    assert blurred[15, 21] == 0
    torch.testing.assert_close(metrics.blur(torch.full((1, 3, 12, 12), 2.0)), torch.full((1, 3, 12, 12), 2.0))


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


def by_dense_system(inputs, missing):
    """ROAD's linear system, written down equation by equation."""
    channels, height, width = inputs.shape[1:]
    unknown = [tuple(map(int, place)) for place in missing.nonzero()]
    filled = inputs[0].clone()
    for c in range(channels):
        matrix, right = np.zeros((len(unknown), len(unknown))), np.zeros(len(unknown))
        for row, (y, x) in enumerate(unknown):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (dy, dx) == (0, 0) or not (0 <= y + dy < height and 0 <= x + dx < width):
                        continue
                    weight = 1 / 6 if 0 in (dy, dx) else 1 / 12
                    matrix[row, row] += weight
                    if missing[y + dy, x + dx]:
                        matrix[row, unknown.index((y + dy, x + dx))] -= weight
                    else:
                        right[row] += weight * float(inputs[0, c, y + dy, x + dx])
        for (y, x), value in zip(unknown, np.linalg.solve(matrix, right), strict=True):
            filled[c, y, x] = value
    return filled[None]


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_imputation_solves_the_linear_system(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(1, 2, 6, 7, generator=generator, dtype=torch.float64)
    missing = torch.rand(6, 7, generator=generator) < 0.6
    missing[0, 0] = False
    filled = metrics.imputed(inputs, missing, tolerance=1e-10)
    noise = torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = by_dense_system(inputs, missing) + metrics.ROAD_NOISE * noise * missing
    torch.testing.assert_close(filled, expected, rtol=1e-6, atol=1e-8)


def test_imputation_at_its_usual_precision_is_within_the_noise(inputs):
    large = torch.nn.functional.interpolate(inputs, (64, 64), mode="bicubic")
    for share in (0.1, 0.9):
        missing = metrics.ranks(heat(size=(64, 64))) < share * 4096
        rough, exact = (metrics.imputed(large, missing, tolerance=tolerance) for tolerance in (1e-3, 1e-10))
        assert (rough - exact).abs().max() < 2 * metrics.ROAD_NOISE


def test_neighbours_are_the_convolution_of_the_definition(inputs):
    kernel = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]], dtype=torch.float64) / 12
    expected = torch.nn.functional.conv2d(inputs[0][:, None], kernel[None, None], padding=1)[:, 0]
    torch.testing.assert_close(metrics._neighbours(inputs)[0], expected)


def test_imputation_matches_the_package_grad_cams():
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road")
    inputs = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    mask = (heat(size=(12, 12)) > 0.4).float()  # theirs is 1 where the pixel stays
    # At the edges theirs counts neighbours that are not there, as 0: what is filled in darkens.
    mask[[0, -1]] = mask[:, [0, -1]] = 1
    theirs = peer.NoisyLinearImputer(noise=0.0)(inputs[0], mask)
    ours = metrics.imputed(inputs, mask == 0, tolerance=1e-8)[0]
    noise = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0]
    without_noise = ours - metrics.ROAD_NOISE * noise * (mask == 0)
    torch.testing.assert_close(without_noise, theirs.to(without_noise), rtol=1e-4, atol=1e-4)


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
        hottest = metrics.imputed(inputs, rank < share * 256)
        coldest = metrics.imputed(inputs, 255 - rank < share * 256)
        by_hand.append(float(score(coldest) - score(hottest)) / 2)
    assert metrics.road(score, inputs, right, (0.25, 0.5)) == pytest.approx(np.mean(by_hand), rel=1e-4)


def test_the_pointing_game_has_a_tolerance():
    heatmap, inside = torch.zeros(40, 40), torch.zeros(40, 40, dtype=torch.bool)
    heatmap[10, 30] = 1
    inside[20:30, 2:16] = True
    assert not metrics.pointing_game(heatmap, inside)
    assert metrics.pointing_game(heatmap, inside, tolerance=19)
    assert not metrics.pointing_game(heatmap, inside, tolerance=18)
    heatmap[22, 5] = 2
    assert metrics.pointing_game(heatmap, inside, tolerance=0)
    assert not metrics.pointing_game(torch.zeros(40, 40), inside)
    assert not metrics.pointing_game(heatmap, torch.zeros(40, 40, dtype=torch.bool))


def test_energy_is_the_share_of_the_sum():
    heatmap, inside = torch.ones(4, 5), torch.zeros(4, 5, dtype=torch.bool)
    inside[1:3, :2] = True
    assert metrics.energy_inside(heatmap, inside) == pytest.approx(4 / 20)
    assert metrics.energy_inside(torch.zeros(4, 5), inside) == 0
    with pytest.raises(XGradCamError, match="not a bool for each pixel"):
        metrics.energy_inside(heatmap, inside.float())
    with pytest.raises(XGradCamError, match="not a bool for each pixel"):
        metrics.pointing_game(heatmap, inside[:2])
