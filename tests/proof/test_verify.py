"""Eq. 5 on tiny networks: each operation, the two checks that do not subtract, the borrowed model."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torchvision.models import vgg16

from tests.proof.support import IMAGES, Branched, closing, kinds, net, random, redrawn, sequential
from tests.support import vgg16_state_dict
from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError
from xgradcam.proof.verify import verify, verify_layers

GOLDEN = Path(__file__).parents[1] / "golden"


# ------------------------------------------------------------------ the terms of one operation each


def test_by_hand() -> None:
    """S = w·(2·relu(a) + 1) + b, at a."""
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(3, 1)).double()
    model[2].weight.data = torch.tensor([[2.0, -4.0, 6.0]], dtype=torch.float64)
    model[2].bias.data = torch.tensor([0.5], dtype=torch.float64)
    found = verify(model, torch.tensor([[1.0, -1.0, 3.0], [-1.0, 2.0, 0.0]], dtype=torch.float64), "0")
    assert found.score.tolist() == [20.5, -7.5]
    assert found.feature.tolist() == [20.0, -8.0]
    assert found.bias.tolist() == [0.5, 0.5]
    assert found.residual.tolist() == [0.0, 0.0]
    assert found.magnitude.tolist() == [20.5, 8.5]
    assert found.holds.tolist() == [True, True]


def test_a_batch_norm_counts_its_mean_and_its_shift() -> None:
    model = net(lambda x, norm: norm(x), nn.BatchNorm2d(4))
    norm = model.parts[0]
    found = closing(model)
    shift = norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()
    weights = model.head.weight[1].reshape(4, -1).sum(1)
    term = found.contributions[0]
    assert (term.module, term.operation, term.kind) == ("parts.0", "batch_norm", "bias")
    torch.testing.assert_close(term.value, (weights * shift).sum().detach().expand(2))


def through_numpy(x: Tensor) -> Tensor:
    """Autograd refuses this of a tensor with a graph."""
    return x + torch.from_numpy(x.numpy()) ** 2


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (lambda x: x + 1, ("add", "bias")),
        (lambda x: 1 - x, ("sub", "bias")),
        (lambda x: x - torch.ones(4, 1, 1).double(), ("sub", "bypass")),
        (lambda x: torch.add(x, torch.ones(4, 1, 1).double(), alpha=2.5), ("add", "bypass")),
        (lambda x: functional.pad(x, (1, 2, 0, 3), value=1.5), ("pad", "bias")),
        (lambda x: x + x.detach(), ("add", "bypass")),
        (lambda x: torch.cat([x, x.data], 1), ("cat", "bypass")),
        (lambda x: functional.relu6(5 * x), ("relu6", "bias")),
        (lambda x: x.masked_fill(x > 0, 0.5), ("masked_fill", "bias")),
        (lambda x: x * x.relu(), ("mul", "curvature")),
        (lambda x: x / (1.5 + x.detach().abs()), None),
        (lambda x: x * x.mean().item(), None),
        (through_numpy, ("add", "bypass")),
        (lambda x: torch.addmm(x[0, 0], random(8, 3), random(3, 8))[None], ("addmm", "bias")),
        (lambda x: torch.special.i0e(x), ("special_i0e", "curvature")),
        (lambda x: torch.logaddexp(x, x.flip(1)), ("logaddexp", "curvature")),
        (lambda x: torch.linalg.det(x), ("linalg_det", "curvature")),
    ],
)
def test_one_operation(between: Callable[[Tensor], Tensor], expected: tuple[str, str] | None) -> None:
    found = closing(net(between), images=IMAGES[:1], differentiable=between is not through_numpy)
    assert kinds(found)[-1:] == ([("", *expected)] if expected else [])
    if expected:
        assert (found.contributions[-2].value != 0).all()


def test_attention_with_a_mask_and_its_positions() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.positions = nn.Parameter(torch.zeros(1, 64, 4))

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2) + self.positions
            mask = torch.full((64, 64), -math.inf, dtype=x.dtype).triu(1)
            return self.attention(tokens, tokens, tokens, attn_mask=mask, need_weights=False)[0]

    found = closing(net(lambda x, attend: attend(x), Attending()))
    assert kinds(found) == [
        ("parts.0", "add", "bypass"),
        ("parts.0.attention", "multi_head_attention_forward", "curvature"),
    ]


def test_attention_by_hand_with_an_infinite_mask() -> None:
    def attend(x: Tensor) -> Tensor:
        logits = x @ x.transpose(2, 3)
        logits = logits.masked_fill(torch.ones(8, 8).triu(1) > 0, -math.inf)
        return logits.softmax(-1) @ x

    found = closing(net(attend))
    assert [kind for *_, kind in kinds(found)] == ["curvature", "bias", "curvature", "curvature"]


def test_a_recurrent_network_is_one_operation() -> None:
    model = net(lambda x, gru: gru(x.flatten(2).transpose(1, 2))[0], nn.GRU(4, 3, batch_first=True))
    found = closing(model)
    assert kinds(found) == [("parts.0", "gru", "curvature")] * 2  # the sequence, and the last state
    assert (found.contributions[0].value != 0).all()
    assert (found.contributions[1].value == 0).all()


# ------------------------------------------------------------------ where the layer does not cut the network


@pytest.mark.parametrize("layers", [("stem", "left", "right", "norm"), ("norm", "right", "left", "stem")])
def test_layers_at_once_are_those_one_by_one_in_any_order_and_past_any_bypass(
    layers: tuple[str, ...],
) -> None:
    model = redrawn(Branched())
    found = dict(verify_layers(model, IMAGES, layers, 1))
    for layer in layers:
        together, alone = found[layer], closing(model, layer)
        for name in ("score", "feature", "feature_magnitude", "bias", "bypass", "curvature"):
            torch.testing.assert_close(getattr(together, name), getattr(alone, name))
        assert kinds(together) == kinds(alone)
        assert together.closes.all()


def test_a_chain_of_layers_takes_one_forward_and_its_values_are_those_before_later_writes() -> None:
    model = sequential()
    runs: list[int] = []
    model.register_forward_pre_hook(lambda _m, _i: runs.append(1))
    layers = [name for name, module in model.named_modules() if name and not list(module.children())]
    found = dict(verify_layers(model, IMAGES[:1], layers, 1))
    assert len(runs) == 1
    for layer in layers:
        together, alone = found[layer], verify(model, IMAGES[:1], layer, 1)
        torch.testing.assert_close(together.feature, alone.feature)
        torch.testing.assert_close(together.bias, alone.bias)
        assert kinds(together) == kinds(alone)


def test_layers_that_cannot_be_verified_have_their_error_and_the_others_their_terms() -> None:
    model = redrawn(Branched())
    model.beside = nn.Linear(3, 3).double()
    found = dict(verify_layers(model, IMAGES, ["beside", "left", "nowhere", "norm"], 1))
    assert "did not run" in str(found["beside"])
    assert "no layer 'nowhere'" in str(found["nowhere"])
    for layer in ("left", "norm"):
        alone = closing(model, layer)
        torch.testing.assert_close(found[layer].feature, alone.feature)
        assert kinds(found[layer]) == kinds(alone)
    with pytest.raises(XGradCamError, match="targets"):
        list(verify_layers(model, IMAGES, ["left"], [1, 2, 3]))
    with pytest.raises(XGradCamError, match="at least one sample"):
        list(verify_layers(model, IMAGES[:0], ["left"]))


# ------------------------------------------------------------------ the checks that do not subtract


CONSTANTS = ("bias", "running_mean", "min_val", "max_val", "value")


def scale_constants(model: nn.Module, modules: set[str], factor: float) -> nn.Module:
    """A copy in which every constant of these modules is multiplied."""
    scaled = copy.deepcopy(model)
    for name in modules:
        module = scaled.get_submodule(name)
        for constant in CONSTANTS:
            value = getattr(module, constant, None)
            if isinstance(value, Tensor):
                value.data.mul_(factor)
            elif value is not None:
                setattr(module, constant, value * factor)
    return scaled


@contextmanager
def activation_scaled(model: nn.Module, layer: str, factor: float) -> Iterator[None]:
    with model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: output * factor):
        yield


def doubled_score(model: nn.Module, layer: str, modules: set[str]) -> Tensor:
    twice = scale_constants(model, modules, 2)
    with torch.no_grad(), activation_scaled(twice, layer, 2):
        return twice(IMAGES)[:, 1]


@pytest.mark.parametrize("layer", ["0", "2", "3", "6", "8"])
def test_completeness_doubling_what_was_found_doubles_the_score_bitwise(layer: str) -> None:
    model = sequential()
    found = closing(model, layer)
    modules = {term.module for term in found.contributions if term.kind == "bias"} - {layer}
    with torch.no_grad():
        score = model(IMAGES)[:, 1]
    assert torch.equal(doubled_score(model, layer, modules), 2 * score)
    for forgotten in modules:
        assert not torch.equal(doubled_score(model, layer, modules - {forgotten}), 2 * score), forgotten
    assert not torch.equal(found.bias, torch.zeros(2, dtype=torch.float64))


def test_completeness_with_side_inputs() -> None:
    """Where a branch passes the layer, the trunk is doubled too: with it the activation and the branch."""
    model = redrawn(Branched())
    found = closing(model, "left")
    trunk = {"stem", "left", "right"}
    modules = {term.module for term in found.contributions if term.kind == "bias"} | trunk
    twice = scale_constants(model, modules, 2)
    with torch.no_grad():
        assert torch.equal(twice(2 * IMAGES), 2 * model(IMAGES))
        for forgotten in modules:
            assert not torch.equal(
                scale_constants(model, modules - {forgotten}, 2)(2 * IMAGES), 2 * model(IMAGES)
            )


class Explicit(nn.Module):
    """A batch normalisation written out: PyTorch's own has no forward mode for its mean."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = (
            self.running_mean[:, None, None],
            (self.running_var + self.eps).sqrt()[:, None, None],
        )
        weight, bias = (
            (1, 0) if self.weight is None else (self.weight[:, None, None], self.bias[:, None, None])
        )
        return (x - mean) / deviation * weight + bias


def explicit(model: nn.Module) -> nn.Module:
    for name, module in [*model.named_children()]:
        setattr(model, name, Explicit(module) if isinstance(module, nn.BatchNorm2d) else module)
    return model


def forward_tangent(model: nn.Module, layer: str, replace: dict[str, Tensor], activation: bool) -> Tensor:
    """Forward mode: dS along (A, A), or along (c, c) for the named constants; no backpropagation."""
    model = explicit(copy.deepcopy(model))
    state = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}

    def dual(_m: nn.Module, _i: Any, output: Tensor) -> Tensor:
        value = forward_ad.unpack_dual(output).primal
        return forward_ad.make_dual(value, value if activation else torch.zeros_like(value))

    with torch.no_grad(), forward_ad.dual_level(), model.get_submodule(layer).register_forward_hook(dual):
        state |= {name: forward_ad.make_dual(value, value.clone()) for name, value in replace.items()}
        score = torch.func.functional_call(model, state, (IMAGES,))[:, 1]
        tangent = forward_ad.unpack_dual(score).tangent
        return torch.zeros_like(score) if tangent is None else tangent.clone()


def test_forward_mode_finds_the_same_feature_term() -> None:
    for model, layers in (
        (sequential(), ("0", "2", "3", "6", "8")),
        (redrawn(Branched()), ("stem", "left")),
    ):
        for layer in layers:
            found = closing(model, layer)
            torch.testing.assert_close(
                forward_tangent(model, layer, {}, True), found.feature, rtol=1e-12, atol=1e-13
            )


def test_forward_mode_finds_the_same_constants_and_misses_one_that_is_left_out() -> None:
    model, layer = sequential(), "3"
    found = closing(model, layer)
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    by_module = {term.module: term.value for term in found.contributions}
    assert set(by_module) == {"4", "7", "9", "10", "13"}
    names = ["4.running_mean", "7.bias", "13.bias"]
    constants = {name: tensors[name].detach() for name in names}
    expected = by_module["4"] + by_module["7"] + by_module["13"]
    torch.testing.assert_close(
        forward_tangent(model, layer, constants, False), expected, rtol=1e-12, atol=1e-13
    )
    for name in names:
        fewer = {other: value for other, value in constants.items() if other != name}
        assert not torch.allclose(forward_tangent(model, layer, fewer, False), expected, rtol=1e-6), name


def test_detached_activations_have_no_tangent_either() -> None:
    model = net(lambda x: x + x.detach().relu() * 2)
    found = closing(model)
    torch.testing.assert_close(forward_tangent(model, "stem", {}, True), found.feature)
    assert (found.bypass != 0).all()


# ------------------------------------------------------------------ samples and targets


def test_each_sample_is_its_own() -> None:
    model = sequential()
    together = verify(model, IMAGES, "3", [2, 0])
    for index, target in enumerate([2, 0]):
        alone = verify(model, IMAGES[index : index + 1], "3", target)
        for name in ("score", "feature", "bias", "residual", "magnitude"):
            assert torch.equal(getattr(together, name)[index], getattr(alone, name)[0])


def test_samples_may_take_different_ways() -> None:
    model = net(lambda x: x + 1 if x.sum() > 0 else x.relu())
    images = torch.cat([100 * IMAGES, -100 * IMAGES])
    ways = model.stem(images).sum((1, 2, 3)) > 0
    assert ways.any()
    assert not ways.all()
    found = closing(model, images=images)
    assert torch.equal(
        found.contributions[[t.operation for t in found.contributions].index("add")].value != 0, ways
    )


def test_the_highest_score_is_the_default() -> None:
    model = sequential()
    found = verify(model, IMAGES, model[3])
    torch.testing.assert_close(found.score, model(IMAGES).detach().amax(1))
    assert torch.equal(found.score, verify(model, IMAGES, "3", model(IMAGES).argmax(1)).score)


# ------------------------------------------------------------------ what cannot be verified


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (4, "no class 4: this model's classes are 0 to 3"),
        (-1, "no class -1: this model's classes are 0 to 3"),
        ([0, 7], "no class 7"),
        ([0, 1, 2], "3 targets for 2 samples"),
        (1.5, "1.5"),
        ("cat", "'cat'"),
        (torch.tensor([0.5, 1.0]), "class index"),
    ],
)
def test_targets_that_do_not_fit(targets: Any, message: str) -> None:
    with pytest.raises(XGradCamError, match=message):
        verify(sequential(), IMAGES, "3", targets)


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda x: functional.dropout(x, 0.5), "random"),
        (lambda x: functional.batch_norm(x, None, None, training=True), "statistics of the batch"),
        (
            lambda x: nn.BatchNorm2d(4, track_running_stats=False).double().eval()(x),
            "statistics of the batch",
        ),
        (lambda x: x / 0, "not finite"),
        (lambda x: x.detach(), "does not depend on the layer"),
        (lambda x: x.detach() + 0 * torch.ones_like(x), "does not depend on the layer"),
    ],
)
def test_networks_that_are_refused(between: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(XGradCamError, match=message):
        verify(net(between), IMAGES, "stem")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1)).double(), r"\(1, 4, 8, 8\)"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(0)).double(), r"\(256,\)"),
    ],
)
def test_models_that_return_something_else(model: nn.Module, message: str) -> None:
    with pytest.raises(XGradCamError, match=message):
        verify(model, IMAGES, "0")


def test_half_precision_and_no_samples() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    with pytest.raises(XGradCamError, match=r"torch\.bfloat16"):
        verify(model.bfloat16(), IMAGES.bfloat16(), "0")
    with pytest.raises(XGradCamError, match="at least one sample"):
        verify(model, IMAGES[:0], "0")


# ------------------------------------------------------------------ the model is borrowed


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "requires": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "state": {name: value.tolist() for name, value in model.state_dict().items()},
        "grad mode": torch.is_grad_enabled(),
        "precision": torch.backends.cuda.matmul.allow_tf32,
        "modes": torch._C._len_torch_function_stack(),
    }


@pytest.mark.parametrize("layer", ["3", "nowhere"])
@pytest.mark.parametrize("prepare", ["train", "frozen", "filled"])
def test_the_model_is_left_as_it_was(prepare: str, layer: str) -> None:
    model = sequential()
    images = IMAGES.clone().requires_grad_()
    if prepare == "train":
        model.train()
        model[1].eval()
    elif prepare == "frozen":
        model.requires_grad_(False)
    else:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 7.0)
    before = snapshot(model)
    if layer == "3":
        assert verify(model, images, layer, 1).holds.all()
    else:
        with pytest.raises(XGradCamError, match="nowhere"):
            verify(model, images, layer, 1)
    assert snapshot(model) == before
    assert images.grad is None
    assert torch.equal(images.detach(), IMAGES)


def test_the_model_is_left_as_it_was_by_one_that_fails() -> None:
    def fail(x: Tensor) -> Tensor:
        raise ZeroDivisionError

    model = net(lambda x: x)
    model.between = fail
    model.train()
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError):
        verify(model, IMAGES, "stem")
    assert snapshot(model) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_without_gradients_and_in_inference_mode(mode: Any) -> None:
    expected = verify(sequential(), IMAGES, "3", 1)
    model = sequential()
    with mode():
        found = verify(model, IMAGES * 1, "3", 1)
        built_here = verify(sequential(), IMAGES * 1, "3", 1)
    for one in (found, built_here):
        assert one.holds.all()
        assert torch.equal(one.feature, expected.feature)


def test_tf32_is_off_during_the_run_and_back_after() -> None:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        if hasattr(matmul, "fp32_precision"):  # since PyTorch 2.9
            seen.extend([matmul.fp32_precision == "ieee", cudnn.conv.fp32_precision == "ieee"])
        else:
            seen.extend([not matmul.allow_tf32, not cudnn.allow_tf32])
        return x

    model = net(lambda x: x)
    model.between = look
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        verify(model, IMAGES, "stem")
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert seen == [True] * 4


def test_autocast_is_off_during_the_run() -> None:
    model = net(lambda x: x).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = verify(model, IMAGES.float(), "stem")
    expected = verify(model, IMAGES.float(), "stem")
    assert found.dtype == torch.float32
    assert found.closes.all()
    for name in ("score", "feature", "bias"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
        assert (getattr(found, name) != 0).all()


def test_the_activation_that_the_graph_starts_at_is_the_layers() -> None:
    model = net(lambda x: x.relu_())
    recording = record(model, IMAGES, "stem")
    expected = (recording.gradient(recording.output[:, 1]) * recording.activation).sum((1, 2, 3))
    torch.testing.assert_close(verify(model, IMAGES, "stem", 1).feature, expected.detach())


# ------------------------------------------------------------------ numbers computed by the original program


@pytest.mark.slow
@pytest.mark.parametrize("name", ["282", "argmax"])
def test_vgg16_has_the_terms_that_the_original_program_found(name: str) -> None:
    golden = np.load(GOLDEN / f"vgg16_seed0_chelsea_{name}.npz")
    model = vgg16()
    model.load_state_dict(vgg16_state_dict(0))
    photograph = cv2.resize(skimage.data.chelsea(), (224, 224)).astype(np.float32) / 255
    normalised = (photograph - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    image = torch.tensor(normalised, dtype=torch.float32).permute(2, 0, 1)[None]
    found = verify(model, image, "features.30", None if name == "argmax" else int(name))
    terms = np.array([found.score.item(), found.feature.item(), found.bias.item(), found.residual.item()])
    np.testing.assert_allclose(terms, golden["proof"], rtol=0, atol=1e-4)
    assert found.holds.all()
    assert [term.module for term in found.contributions] == ["classifier.0", "classifier.3", "classifier.6"]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + torch.arange(x.shape[-1]),
        lambda x: x + True,
        lambda x: x - np.float32(0.5),
        lambda x: x + np.int64(2),
        lambda x: torch.where(x > 0, x, torch.tensor(3)),
        lambda x: torch.cat([x, torch.ones_like(x, dtype=torch.int64)], 1)[:, : x.shape[1] + 1].sum(
            1, keepdim=True
        ),
        lambda x: x.masked_fill(x > 0.1, torch.tensor(3)),
    ],
)
def test_constants_that_are_whole_numbers_are_constants(change) -> None:
    found = closing(net(lambda x: change(x).relu()))
    assert found.holds.all()
    assert ((found.bias != 0) | (found.bypass != 0)).all()


def test_a_write_that_autograd_does_not_allow_is_told_in_one_line() -> None:
    with pytest.raises(
        XGradCamError, match="behind the layer the model cannot be differentiated: one of the var"
    ):
        verify(net(lambda x: x.sigmoid().mul_(2)), IMAGES, "stem")
