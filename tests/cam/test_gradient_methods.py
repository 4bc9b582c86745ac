import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import TinyNet
from xgradcam import explain, verify
from xgradcam.cam.evidence import Evidence
from xgradcam.cam.explain import evidence_of
from xgradcam.cam.gradient_methods import EPSILON, grad_cam, xgrad_cam
from xgradcam.cam.methods import METHODS, weighted_map

PLACES = ("hires-cam", "grad-cam-elementwise", "layer-cam")
# Those of activation and gradient alone whose channels are alike: random weights go by their place.
FROM_GRADIENTS = [name for name, method in METHODS.items() if not method.asks_again and name != "random-cam"]


def mapped(method, given_evidence):
    return weighted_map(METHODS[method](given_evidence), given_evidence.activation)


def evidence(seed, channels=4, signed=False, size=(3, 5)):
    generator = torch.Generator().manual_seed(seed)
    activation = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    gradient = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    return Evidence(activation if signed else activation.relu(), gradient)


def by_loops(method, given_evidence):
    """The formulas of the methods with a weight for each channel, a number at a time."""
    activation, gradient = given_evidence.activation, given_evidence.gradient
    samples, channels, height, width = activation.shape
    weights = torch.zeros(samples, channels, 1, 1, dtype=torch.float64)
    for n, k in np.ndindex(samples, channels):
        places = [
            (float(activation[n, k, y, x]), float(gradient[n, k, y, x])) for y, x in np.ndindex(height, width)
        ]
        mass = sum(f for f, _ in places)
        if method == "grad-cam":
            weights[n, k] = sum(g for _, g in places) / len(places)
        elif method == "xgrad-cam":
            weights[n, k] = sum(f * g for f, g in places) / (mass + EPSILON)
        else:
            weights[n, k] = sum(g**2 / (2 * g**2 + mass * g**3) * max(g, 0) for _, g in places)
    return weights


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("method", ["grad-cam", "xgrad-cam", "grad-cam++"])
def test_methods_are_their_formulas(method, signed):
    given_evidence = evidence(3, signed=signed)
    torch.testing.assert_close(METHODS[method](given_evidence), by_loops(method, given_evidence))


@pytest.mark.parametrize("signed", [False, True])
def test_place_by_place_methods_are_their_formulas(signed):
    given_evidence = evidence(3, signed=signed)
    found = {name: METHODS[name](given_evidence) * given_evidence.activation for name in PLACES}
    for place in np.ndindex(*given_evidence.activation.shape):
        f, g = float(given_evidence.activation[place]), float(given_evidence.gradient[place])
        assert float(found["hires-cam"][place]) == pytest.approx(g * f)
        assert float(found["grad-cam-elementwise"][place]) == pytest.approx(max(g * f, 0.0))
        assert float(found["layer-cam"][place]) == pytest.approx(max(g, 0.0) * f)


def test_grad_cam_plus_plus_of_a_channel_without_gradient_is_zero():
    given_evidence = evidence(3)
    given_evidence.gradient[0, 1] = 0
    weights = METHODS["grad-cam++"](given_evidence)
    assert weights[0, 1] == 0
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("channels", [4, 40])
@pytest.mark.parametrize("signed", [False, True])
def test_eigen_methods_project_on_the_first_right_singular_vector(channels, signed):
    given_evidence = evidence(8, channels, signed)
    product = given_evidence.gradient * given_evidence.activation
    for method, values in (("eigen-cam", given_evidence.activation), ("eigen-grad-cam", product)):
        maps = (METHODS[method](given_evidence) * given_evidence.activation).sum(dim=1)
        for n in range(2):
            rows = values[n].flatten(1).T.numpy()
            expected = rows @ np.linalg.svd(rows)[2][0]
            wanted = 1 if method == "eigen-cam" else np.sign(rows.sum())
            expected *= np.sign(expected.sum()) * wanted
            np.testing.assert_allclose(maps[n].flatten(), expected, rtol=1e-6, atol=1e-9)


def test_eigen_cam_of_nothing_is_nothing():
    nothing = Evidence(torch.zeros(1, 30, 2, 2), torch.zeros(1, 30, 2, 2))
    for method in ("eigen-cam", "eigen-grad-cam"):
        assert not (METHODS[method](nothing) * nothing.activation).any()


def test_random_weights_are_those_of_the_class_and_no_other(net, batch):
    def drawn(*targets):
        return METHODS["random-cam"](evidence_of(net, batch[: len(targets)], "features.4", list(targets)))

    torch.random.manual_seed(1)
    state = torch.random.get_rng_state()
    both = drawn(1, 3)
    assert torch.equal(both[0], drawn(1)[0])
    assert torch.equal(both[1], drawn(3)[0])
    assert not torch.equal(both[0], both[1])
    assert (both.abs() <= 1).all()
    assert (both < 0).any()
    assert torch.equal(torch.random.get_rng_state(), state)


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


@given(seeds, st.sampled_from(FROM_GRADIENTS))
@settings(max_examples=60, deadline=None)
def test_a_permutation_of_channels_leaves_the_map(seed, method):
    given_evidence = evidence(seed, signed=True)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    permuted = Evidence(given_evidence.activation[:, order], given_evidence.gradient[:, order])
    torch.testing.assert_close(mapped(method, permuted), mapped(method, given_evidence))


@given(seeds, st.sampled_from(("grad-cam", "xgrad-cam", "hires-cam")))
@settings(max_examples=40, deadline=None)
def test_maps_are_linear_in_the_score(seed, method):
    one, other = evidence(seed, signed=True), evidence(seed + 1, signed=True)
    mixed = Evidence(one.activation, 2 * one.gradient - 3 * other.gradient)
    expected = 2 * mapped(method, one) - 3 * mapped(method, Evidence(one.activation, other.gradient))
    torch.testing.assert_close(mapped(method, mixed), expected)


@given(seeds, st.sampled_from(("grad-cam-elementwise", "layer-cam")))
@settings(max_examples=20, deadline=None)
def test_maps_of_what_is_positive_scale_with_the_score(seed, method):
    given_evidence = evidence(seed)
    thrice = Evidence(given_evidence.activation, 3 * given_evidence.gradient)
    torch.testing.assert_close(mapped(method, thrice), 3 * mapped(method, given_evidence))
    assert (mapped(method, given_evidence) >= 0).all()


@given(st.integers(0, 500), st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_xgrad_cams_conservation_error_is_the_bias_term_over_the_score(seed, target):
    net = TinyNet(seed).eval()
    inputs = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    explanation = explain(net, inputs, "features.4", target, ["xgrad-cam", "hires-cam"])
    verified = verify(net, inputs, "features.4", target)
    score = float(explanation.score)
    # ε in XGrad-CAM's denominator, over the smallest mass that these networks have.
    expected = abs(float(verified.bias + verified.bypass + verified.curvature)) / abs(score)
    assert float(explanation.conservation["hires-cam"]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(explanation.conservation["xgrad-cam"]) == pytest.approx(expected, rel=1e-3, abs=1e-4)
