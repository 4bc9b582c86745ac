import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xgradcam.methods import METHODS
from xgradcam.weightings import EPSILON, Evidence, grad_cam, xgrad_cam


def evidence(seed, channels=4, signed=False, size=(3, 5)):
    generator = torch.Generator().manual_seed(seed)
    activation = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    gradient = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    return Evidence(activation if signed else activation.relu(), gradient)


def by_loops(method, given_evidence):
    """The formulas, a number at a time."""
    activation, gradient = given_evidence.activation, given_evidence.gradient
    samples, channels, height, width = activation.shape
    weights = torch.zeros(samples, channels, 1, 1, dtype=torch.float64)
    for n in range(samples):
        for k in range(channels):
            over, under = 0.0, 0.0
            for x in range(height):
                for y in range(width):
                    f, g = float(activation[n, k, x, y]), float(gradient[n, k, x, y])
                    over += f * g if method == "xgrad-cam" else g
                    under += f if method == "xgrad-cam" else 1.0
            weights[n, k] = over / (under + (EPSILON if method == "xgrad-cam" else 0.0))
    return weights


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_methods_are_their_formulas(method, signed):
    given_evidence = evidence(3, signed=signed)
    torch.testing.assert_close(METHODS[method](given_evidence), by_loops(method, given_evidence))


def test_epsilon_is_the_original_scripts():
    assert EPSILON == 1e-6


seeds = st.integers(0, 10_000)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_xgrad_weights_lie_within_the_gradient_where_activations_are_non_negative(seed):
    given_evidence = evidence(seed)
    weights = xgrad_cam(given_evidence)
    low = given_evidence.gradient.amin(dim=(2, 3), keepdim=True).clamp(max=0)
    high = given_evidence.gradient.amax(dim=(2, 3), keepdim=True).clamp(min=0)
    assert (weights >= low - 1e-12).all()
    assert (weights <= high + 1e-12).all()


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_xgrad_channel_sums_are_the_sums_of_gradient_times_activation(seed):
    given_evidence = evidence(seed)
    mass = given_evidence.activation.sum(dim=(2, 3))
    sums = (xgrad_cam(given_evidence) * given_evidence.activation).sum(dim=(2, 3))
    exact = (given_evidence.gradient * given_evidence.activation).sum(dim=(2, 3))
    torch.testing.assert_close(sums, exact * mass / (mass + EPSILON))
    assert (sums - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_flat_gradient_or_flat_activation_makes_the_methods_equal():
    given_evidence = evidence(5)
    flat_gradient = Evidence(
        given_evidence.activation + 1, given_evidence.gradient[..., :1, :1].expand(2, 4, 3, 5)
    )
    flat_activation = Evidence(torch.full_like(given_evidence.activation, 2.0), given_evidence.gradient)
    for case in (flat_gradient, flat_activation):
        torch.testing.assert_close(xgrad_cam(case), grad_cam(case), rtol=1e-6, atol=0)
    assert not torch.allclose(xgrad_cam(given_evidence), grad_cam(given_evidence))


def test_a_dead_channel_weighs_nothing():
    given_evidence = evidence(6)
    given_evidence.activation[:, 2] = 0
    assert (xgrad_cam(given_evidence)[:, 2] == 0).all()
    assert (grad_cam(given_evidence)[:, 2] != 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_weights_follow_a_permutation_of_channels_and_are_linear_in_the_score(method):
    given_evidence = evidence(7)
    weights = METHODS[method](given_evidence)
    order = torch.tensor([2, 0, 3, 1])
    permuted = Evidence(given_evidence.activation[:, order], given_evidence.gradient[:, order])
    torch.testing.assert_close(METHODS[method](permuted), weights[:, order])
    scaled = Evidence(given_evidence.activation, -3 * given_evidence.gradient)
    torch.testing.assert_close(METHODS[method](scaled), -3 * weights)
