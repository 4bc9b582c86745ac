"""Methods that ask the network again, each against the network run anew for each variant, in float64."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from tests.cam.support import TARGETS, network
from xgradcam import explain, explain_classes, explain_score
from xgradcam.cam import network_methods as p
from xgradcam.cam.explain import evidence_of
from xgradcam.cam.methods import METHODS
from xgradcam.errors import NotApplicableError
from xgradcam.scores.score import Contrast


@pytest.fixture
def images():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights_of(method, net, images, targets=TARGETS):
    evidence = evidence_of(net, images, "0", targets)
    return METHODS[method](evidence).detach(), evidence


def test_ablation_cam_is_the_relative_drop_without_each_channel(images):
    net = network()
    weights, evidence = weights_of("ablation-cam", net, images)
    for n, target in enumerate(TARGETS):
        score = net(images)[n, target]
        for k in range(5):
            maps = net[0](images)[n : n + 1].clone()
            maps[0, k] = 0
            drop = (score - net[1](maps)[0, target]) / abs(score)
            assert float(weights[n, k, 0, 0]) == pytest.approx(float(drop.detach()), abs=1e-12)
    assert (evidence.probe.score < 0).any(), "the sign of the division is tested too"


def test_ablation_of_a_dead_channel_costs_nothing_and_changes_nothing(images):
    net = network()
    with torch.no_grad():
        net[0][0].weight[3], net[0][0].bias[3] = 0, -1
    told = []
    explanation = explain(
        net, images, "0", 1, ["ablation-cam"], progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (12, 12)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert torch.isfinite(explanation.maps["ablation-cam"]).all()
    assert (weights_of("ablation-cam", net, images)[0][:, 3] == 0).all()


def test_score_cam_is_the_softmax_of_the_scores_seen_through_each_map(images):
    net = network()
    with torch.no_grad():
        net[0][0].weight[3], net[0][0].bias[3] = 0, 1  # constant
    weights, _ = weights_of("score-cam", net, images)
    for n, target in enumerate(TARGETS):
        scores = []
        for k in range(5):
            one = net[0](images)[n, k]
            if one.max() == one.min():
                scores.append(-np.inf)
                continue
            mask = nn.functional.interpolate(
                ((one - one.min()) / (one.max() - one.min()))[None, None], (8, 8), mode="bilinear"
            )
            scores.append(net(images[n : n + 1] * mask[0])[0, target].item())
        expected = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(weights[n, :, 0, 0], expected, rtol=1e-10)
        assert scores[3] == -np.inf


@pytest.mark.parametrize("methods", [["ablation-cam"], ["score-cam"], ["ablation-cam", "score-cam"]])
@pytest.mark.parametrize("mixing", [False, True], ids=["rows apart", "rows mixed"])
def test_classes_share_the_evaluations_of_one(images, methods, mixing):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts, self.rows = network(), 0

        def forward(self, inputs):
            maps = self.parts[0](inputs)
            self.rows += len(maps)
            return self.parts[1](maps - maps.mean(dim=0) if mixing else maps)

    net = Network()
    classes = [2, torch.tensor([1, 0, 2]), 0]
    expected, rows = [], []
    for one in classes:
        net.rows = 0
        expected += explain_classes(net, images, "parts.0", [one], methods, axioms=True)
        rows.append(net.rows)
    told = []
    net.rows = 0
    found = explain_classes(
        net, images, "parts.0", classes, methods, axioms=True, progress=lambda *counts: told.append(counts)
    )
    # The first run of a model also asks it which arrangement of the inputs in memory it takes.
    assert net.rows == rows[1] == rows[2] > 15
    assert sum(done == total for done, total in told) == len({*methods, "ablation-cam"})
    for own, alone in zip(found, expected, strict=True):
        for method in methods:
            torch.testing.assert_close(own.maps[method], alone.maps[method])
            torch.testing.assert_close(own.sensitivity[method], alone.sensitivity[method])
    assert not torch.equal(found[0].maps[methods[0]], found[2].maps[methods[0]])


def test_score_cam_does_not_ask_about_channels_that_are_constant(images):
    net = network()
    with torch.no_grad():
        net[0][0].weight[3], net[0][0].bias[3] = 0, 1
    told = []
    explain(net, images, "0", 1, ["score-cam"], progress=lambda *counts: told.append(counts))
    varying = sum(int((one != one[0, 0]).any()) for one in net[0](images).flatten(0, 1))
    assert varying <= 4 * len(images)
    assert told[-1] == (varying, varying)
    with torch.no_grad():
        net[0][0].weight.zero_()
    blank = explain(net, images, "0", 1, ["score-cam"]).maps["score-cam"]
    assert not blank.any()


def test_smooth_grad_cam_plus_plus_averages_over_the_noise(images):
    net = network(nn.Softplus)
    weights, evidence = weights_of("smooth-grad-cam++", net, images)
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for _ in range(p.NOISY):
        noise = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)
        scale = torch.stack([p.NOISE * (image.max() - image.min()) for image in images])
        maps = net[0](images + scale[:, None, None, None] * noise).detach().requires_grad_()
        score = sum(net[1](maps)[n, target] for n, target in enumerate(TARGETS))
        gradients.append(torch.autograd.grad(score, maps)[0])
    stacked = torch.stack(gradients)
    d1, d2, d3 = stacked.mean(0), (stacked**2).mean(0), (stacked**3).mean(0)
    for n, k in np.ndindex(3, 5):
        total = 0.0
        for y, x in np.ndindex(4, 4):
            mass = float(evidence.activation[n, k].sum())
            alpha = float(d2[n, k, y, x]) / (2 * float(d2[n, k, y, x]) + mass * float(d3[n, k, y, x]))
            total += alpha * max(float(d1[n, k, y, x]), 0.0)
        assert float(weights[n, k, 0, 0]) == pytest.approx(total, rel=1e-9)


def test_shapley_cam_takes_off_half_the_hessian_times_the_activation(images):
    net = network(nn.Softplus)
    weights, evidence = weights_of("shapley-cam", net, images)
    for n, target in enumerate(TARGETS):
        maps = evidence.activation[n]

        def score(values, target=target):
            return net[1](values.reshape(1, 5, 4, 4))[0, target]

        hessian = torch.autograd.functional.hessian(score, maps.flatten())
        second = (hessian @ maps.flatten()).reshape(5, 4, 4)
        expected = (evidence.gradient[n] - second / 2).mean(dim=(1, 2))
        torch.testing.assert_close(weights[n, :, 0, 0], expected)
        assert second.abs().max() > 1e-3 * evidence.gradient[n].abs().max()


def test_shapley_cam_goes_through_fused_attention():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.patches, self.head = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 3)

        def forward(self, images):
            tokens = self.patches(images).flatten(2).mT[:, None]
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.head(mixed[:, 0].mean(dim=1))

    net, inputs = Attending(), torch.randn(1, 3, 8, 8)
    evidence = evidence_of(net, inputs, "patches", 1)

    def score(maps):
        tokens = maps.reshape(1, 8, 16).mT
        mixed = torch.softmax(tokens @ tokens.mT / 8**0.5, dim=-1) @ tokens
        return net.head(mixed.mean(dim=1))[0, 1]

    maps = evidence.activation[0]
    hessian = torch.autograd.functional.hessian(score, maps.flatten())
    second = (hessian @ maps.flatten()).reshape(8, 4, 4)
    expected = (evidence.gradient[0] - second / 2).mean(dim=(1, 2))
    found = METHODS["shapley-cam"](evidence)[0, :, 0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert second.abs().max() > 0.1 * evidence.gradient.abs().max()


def test_shapley_cam_of_an_operation_without_second_derivative_is_refused(images, monkeypatch):
    def refused(self, score, direction):
        raise NotImplementedError("derivative for aten::odd_backward is not implemented")

    monkeypatch.setattr("xgradcam.capture.recording.Recording.hessian_product", refused)
    with pytest.raises(NotApplicableError, match="needs second derivatives: derivative for aten::odd"):
        explain(network(), images, "0", 1, ["shapley-cam"])


def test_shapley_cam_of_a_piecewise_linear_network_is_grad_cam(images):
    net = network()
    torch.testing.assert_close(
        weights_of("shapley-cam", net, images)[0], weights_of("grad-cam", net, images)[0]
    )


def test_finer_cam_is_grad_cam_against_the_nearest_classes(images):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = nn.Sequential(network()[0], nn.Sequential(nn.Flatten(), nn.Linear(80, 9))).double()
    weights, evidence = weights_of("finer-cam", net, images)
    logits = net(images).detach()
    for n, target in enumerate(TARGETS):
        order = sorted(set(range(9)) - {target}, key=lambda d: abs(float(logits[n, d] - logits[n, target])))
        shares = np.exp([float(logits[n, d]) for d in order[:3]])
        shares /= shares.sum()
        maps = evidence.activation[n : n + 1].clone().requires_grad_()
        found = net[1](maps)[0]
        score = found[target] - sum(share * found[d] for share, d in zip(shares, order, strict=False))
        (gradient,) = torch.autograd.grad(score, maps)
        torch.testing.assert_close(weights[n, :, 0, 0], gradient[0].mean(dim=(1, 2)))


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.Sigmoid(), nn.LogSoftmax(dim=1)])
def test_finer_cam_weighs_by_the_probabilities_of_a_model_that_returns_them(images, last):
    net = nn.Sequential(network()[0], nn.Sequential(*network()[1], last)).double()
    weights, evidence = weights_of("finer-cam", net, images)
    scores = net(images).detach()
    for n, target in enumerate(TARGETS):
        others = sorted(set(range(4)) - {target}, key=lambda d: abs(float(scores[n, d] - scores[n, target])))
        shares = scores[n].exp() if isinstance(last, nn.LogSoftmax) else scores[n]
        maps = evidence.activation[n : n + 1].clone().requires_grad_()
        found = net[1](maps)[0]
        against = sum(shares[d] * found[d] for d in others) / shares[others].sum()
        (gradient,) = torch.autograd.grad(found[target] - against, maps)
        torch.testing.assert_close(weights[n, :, 0, 0], gradient[0].mean(dim=(1, 2)))


def test_finer_cam_needs_classes_and_takes_as_many_as_there_are(images):
    net = network()
    with pytest.raises(NotApplicableError, match="compares classes"):
        explain_score(net, images, "0", Contrast(1, (0,)), ["finer-cam"])
    torch.manual_seed(0)
    two = nn.Sequential(net, nn.Linear(4, 2).double())
    found = explain(two, images, "0.0", 1, ["finer-cam"]).maps["finer-cam"]
    expected = explain_score(two, images, "0.0", Contrast(1, (0,)), ["grad-cam"]).maps["grad-cam"]
    torch.testing.assert_close(found, expected)
    assert found.flatten(1).any(dim=1).all()


def test_cam_is_the_linear_layers_weights(images):
    net = network(pooled=True)
    weights, _ = weights_of("cam", net, images)
    torch.testing.assert_close(weights[..., 0, 0], net[1][3].weight[TARGETS])


@pytest.mark.parametrize("head", ["two layers", "spatial", "maximum", "no bias"])
def test_cam_is_refused_where_the_score_is_no_function_of_averages(images, head):
    net = network(pooled=True)
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool2d(1)
    net[1] = {
        "two layers": nn.Sequential(pool, nn.Flatten(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 4)),
        "spatial": network()[1],
        "maximum": nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
        "no bias": nn.Sequential(pool, nn.Flatten(), nn.Linear(5, 5), nn.Softplus(), nn.Linear(5, 4, False)),
    }[head].double()
    with pytest.raises(NotApplicableError, match="cam needs a network whose score is a linear function"):
        explain(net, images, "0", 1, ["cam"])


def test_score_cam_is_of_photographs_only():
    net = nn.Sequential(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(NotApplicableError, match="masks photographs"):
        explain(net, torch.randn(1, 12), "1", 0, ["score-cam"])


class Swish(torch.autograd.Function):
    """As memory-saving code writes it: PyTorch gives 0 for its second derivative, without a word."""

    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values)
        return values * values.sigmoid()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        share = values.sigmoid()
        return gradient * share * (1 + values * (1 - share))


class TwiceSwish(Swish):
    """The same, with a second derivative."""

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        share = values.sigmoid()
        return gradient * share * (1 + values * (1 - share))


class Around(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, maps):
        return self.function(maps)


@pytest.mark.parametrize("frozen", [False, True])
def test_shapley_cam_is_refused_behind_a_function_without_second_derivatives(frozen):
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3)

    def net(function):
        model = nn.Sequential(parts[0], Around(function), *parts[1:]).double()
        return model.requires_grad_(not frozen)

    expected = explain(net(nn.functional.silu), images, "0", 1, ["shapley-cam", "grad-cam"]).maps
    found = explain(net(TwiceSwish.apply), images, "0", 1, ["shapley-cam"]).maps
    torch.testing.assert_close(found["shapley-cam"], expected["shapley-cam"])
    with pytest.raises(NotApplicableError, match="the function Swish has none, it is marked once_diff"):
        explain(net(Swish.apply), images, "0", 1, ["shapley-cam"])
    found = explain(net(Swish.apply), images, "0", 1, ["grad-cam"]).maps
    torch.testing.assert_close(found["grad-cam"], expected["grad-cam"])


@pytest.mark.parametrize("operation", ["roi_align", "roi_pool", "ps_roi_align", "deform_conv2d"])
def test_shapley_cam_names_operations_of_torchvision_without_second_derivatives(operation):
    def run(maps):
        boxes = [torch.tensor([[0.0, 0.0, 3.0, 3.0]], dtype=maps.dtype)] * len(maps)
        if operation == "deform_conv2d":
            offset = torch.zeros(len(maps), 2, 4, 4, dtype=maps.dtype)
            weight = torch.ones(4, 4, 1, 1, dtype=maps.dtype)
            return torchvision.ops.deform_conv2d(maps, offset, weight).tanh()
        return getattr(torchvision.ops, operation)(maps, boxes, 2).tanh()

    torch.manual_seed(0)
    images = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Around(run), nn.Flatten(), nn.LazyLinear(3, dtype=torch.float64))
    net[0].double()
    net(images)
    assert explain(net, images, "0", 1, ["grad-cam"]).maps["grad-cam"].any()
    with pytest.raises(NotApplicableError, match=f"needs second derivatives: .*{operation}") as error:
        explain(net, images, "0", 1, ["shapley-cam"])
    assert "\n" not in str(error.value)
