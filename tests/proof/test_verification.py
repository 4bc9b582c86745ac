"""The verdict on the terms: residual, tolerance, curvature."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.proof.support import closing, net, sequential
from xgradcam.proof.verification import Verification


def test_a_forgotten_constant_is_noticed() -> None:
    found = closing(sequential(), "3")
    for index in range(len(found.contributions)):
        fewer = found.contributions[:index] + found.contributions[index + 1 :]
        assert not replace(found, contributions=fewer).closes.any()


def test_a_curved_network_closes_but_does_not_hold() -> None:
    curved = closing(net(lambda x: functional.silu(x)))
    assert (curved.curvature != 0).all()
    assert not curved.holds.any()
    assert closing(net(lambda x: functional.relu(x))).holds.all()


def test_curvatures_that_cancel_are_still_curvature() -> None:
    found = closing(net(lambda x: x.exp() - x.exp()))
    assert (found.curvature.abs() <= found.tolerance).all()
    assert not found.holds.any()


@pytest.mark.parametrize(
    ("dtype", "relative", "unit"), [(torch.float32, 1e-5, 2**-24), (torch.float64, 1e-12, 2**-53)]
)
def test_the_tolerance_is_a_share_of_the_score_or_sixteen_roundings(
    dtype: torch.dtype, relative: float, unit: float
) -> None:
    score = torch.tensor([2.0, 0.0], dtype=torch.float64)
    feature = torch.tensor([-3.0, 8.0], dtype=torch.float64)
    found = Verification(score, feature, feature.abs() + 2, (), dtype)
    assert found.magnitude.tolist() == [5.0, 10.0]
    assert found.tolerance.tolist() == [2 * relative, 16 * unit * 10]
    assert found.residual.tolist() == [5.0, -8.0]
