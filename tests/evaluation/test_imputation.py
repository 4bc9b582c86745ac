import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xgradcam.evaluation.imputation import NOISE, imputed


def noise(shape):
    return NOISE * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


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


@given(st.integers(0, 10_000), st.sampled_from([(6, 7), (1, 9), (8, 2)]), st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_imputation_solves_the_linear_system(seed, shape, share):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(1, 2, *shape, generator=generator, dtype=torch.float64)
    missing = torch.rand(shape, generator=generator) < share
    missing[0, seed % shape[1]] = False
    expected = by_dense_system(inputs, missing) + noise(inputs.shape) * missing
    torch.testing.assert_close(imputed(inputs, missing), expected, rtol=0, atol=1e-10)


def test_float32_is_solved_in_float64():
    inputs = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    missing = torch.rand(6, 7, generator=torch.Generator().manual_seed(1)) < 0.7
    found = imputed(inputs, missing)
    assert found.dtype == torch.float32
    assert torch.equal(found, imputed(inputs.double(), missing).float())


def test_without_missing_pixels_nothing_changes_and_without_others_only_noise_is_left():
    inputs = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.equal(imputed(inputs, torch.zeros(4, 5, dtype=torch.bool)), inputs)
    assert torch.equal(imputed(inputs, torch.ones(4, 5, dtype=torch.bool)), noise(inputs.shape))


def test_imputation_matches_the_package_grad_cams():
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road")
    inputs = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    mask = (torch.rand(12, 12, generator=torch.Generator().manual_seed(2)) > 0.4).float()  # 1: kept
    # At the edges theirs counts neighbours that are not there, as 0: imputed pixels darken.
    mask[[0, -1]] = mask[:, [0, -1]] = 1
    theirs = peer.NoisyLinearImputer(noise=0.0)(inputs[0], mask)
    ours = imputed(inputs.double(), mask == 0) - noise(inputs.shape) * (mask == 0)
    torch.testing.assert_close(ours[0], theirs.double(), rtol=1e-4, atol=1e-4)
