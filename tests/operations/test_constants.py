"""Every intercept of the table: against a formula, and against finite differences of the operation."""

import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xgradcam.errors import XGradCamError
from xgradcam.operations.calls import Call
from xgradcam.operations.constants import Intercept, intercept, is_linear, tangent_intercept

# Both sides of, and exactly at, every kink of the operations below.
KINKS = torch.tensor(
    [-7.0, -6.0, -3.5, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 6.5], dtype=torch.float64
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dependent(value: Tensor) -> Tensor:
    return value.clone().requires_grad_().clone()


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return Call(function, args, kwargs)


def only(found: Intercept | None) -> Tensor:
    assert found is not None
    (value,) = found.values
    return value


def by_differences(function: Callable[[Tensor], Tensor], point: Tensor, step: float = 1e-5) -> Tensor:
    """h(p) − J(p)·p without differentiation: central differences along the ray through p."""
    ahead, behind = function(point * (1 + step)), function(point * (1 - step))
    return function(point) - (ahead - behind) / (2 * step)


def density(x: Tensor) -> Tensor:
    return torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


PIECEWISE = {
    "relu6": (functional.relu6, lambda x: 6.0 * (x >= 6)),
    "hardtanh": (lambda x: functional.hardtanh(x, -3.0, 2.0), lambda x: -3.0 * (x <= -3) + 2.0 * (x >= 2)),
    "clamp": (lambda x: torch.clamp(x, -3.0, 2.0), lambda x: -3.0 * (x < -3) + 2.0 * (x > 2)),
    "clamp_min": (lambda x: x.clamp(min=1.0), lambda x: 1.0 * (x < 1)),
    "clip": (lambda x: torch.clip(x, max=3.0), lambda x: 3.0 * (x > 3)),
    "hardsigmoid": (functional.hardsigmoid, lambda x: 0.5 * ((x > -3) & (x < 3)) + 1.0 * (x >= 3)),
    "threshold": (lambda x: functional.threshold(x, 1.0, 20.0), lambda x: 20.0 * (x <= 1)),
    "hardshrink": (lambda x: functional.hardshrink(x, 0.5), lambda x: 0.0 * x),
    "softshrink": (lambda x: functional.softshrink(x, 0.5), lambda x: 0.5 * (x < -0.5) - 0.5 * (x > 0.5)),
    "round": (torch.round, torch.round),
    "floor": (torch.floor, torch.floor),
    "sign": (torch.sign, torch.sign),
    "remainder": (lambda x: torch.remainder(x, 2.0), lambda x: -2.0 * torch.floor(x / 2)),
}


CURVED = {
    "hardswish": (functional.hardswish, lambda x: -(x**2) / 6 * ((x > -3) & (x < 3))),
    "silu": (functional.silu, lambda x: -(x**2) * torch.sigmoid(x) * (1 - torch.sigmoid(x))),
    "gelu": (functional.gelu, lambda x: -(x**2) * density(x)),
    "sigmoid": (torch.sigmoid, lambda x: torch.sigmoid(x) - x * torch.sigmoid(x) * (1 - torch.sigmoid(x))),
    "tanh": (torch.tanh, lambda x: torch.tanh(x) - x * (1 - torch.tanh(x) ** 2)),
    "exp": (torch.exp, lambda x: (1 - x) * torch.exp(x)),
    "pow": (lambda x: x**3, lambda x: -2 * x**3),
    "square of itself": (lambda x: x * x, lambda x: -(x**2)),
    "softplus": (functional.softplus, lambda x: functional.softplus(x) - x * torch.sigmoid(x)),
    "expit": (
        torch.special.expit,
        lambda x: torch.sigmoid(x) - x * torch.sigmoid(x) * (1 - torch.sigmoid(x)),
    ),
    "reciprocal": (lambda x: 3.0 / x, None),
    "mish": (functional.mish, None),
    "gelu of tanh": (lambda x: functional.gelu(x, approximate="tanh"), None),
    "elu": (functional.elu, None),
    "softmax": (lambda x: functional.softmax(x, 0), None),
}


class Recorded(torch.overrides.TorchFunctionMode):
    """The intercept of the one operation in a function of one tensor; others in it must be linear."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Intercept] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        met = Call(function, args, kwargs or {})
        if met.dependents and not is_linear(met) and (constant := intercept(met)) is not None:
            self.found.append(constant)
        return function(*args, **(kwargs or {}))


def recorded(function: Callable[[Tensor], Any], point: Tensor) -> list[Intercept]:
    with Recorded() as mode:
        function(dependent(point))
    return mode.found


@pytest.mark.parametrize("name", PIECEWISE)
def test_a_piecewise_affine_operation_has_the_intercept_of_its_formula_at_kinks_too(name: str) -> None:
    function, formula = PIECEWISE[name]
    (found,) = recorded(function, KINKS)
    assert found.kind == "bias"
    point = KINKS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(point).sum(), point)
    torch.testing.assert_close(found.values[0], function(KINKS) - slope * KINKS, rtol=0, atol=1e-15)
    # PyTorch's versions differ about a clamp at its bounds; its hard sigmoid takes 1/6 in float32.
    points = KINKS + 0.01 if name in ("clamp", "clamp_min", "clip") else KINKS
    (found,) = recorded(function, points)
    atol = 1e-7 if name == "hardsigmoid" else 1e-15
    torch.testing.assert_close(found.values[0], formula(points).double(), rtol=0, atol=atol)


@pytest.mark.parametrize("name", CURVED)
def test_a_curved_operation_has_the_intercept_of_its_formula_and_of_finite_differences(name: str) -> None:
    function, formula = CURVED[name]
    (found,) = recorded(function, KINKS)
    assert found.kind == "curvature"
    smooth = KINKS + 0.01
    (beside,) = recorded(function, smooth)
    torch.testing.assert_close(beside.values[0], by_differences(function, smooth), rtol=1e-5, atol=1e-6)
    if formula is not None:
        torch.testing.assert_close(beside.values[0], formula(smooth), rtol=1e-12, atol=1e-13)
        point = KINKS.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(point).sum(), point)
        # At its kinks a hard swish has another slope in PyTorch 2.6.
        torch.testing.assert_close(found.values[0], function(KINKS) - slope * KINKS, rtol=1e-12, atol=1e-13)


MAP = random(1, 4, 6, 6)


HOMOGENEOUS: dict[str, Callable[[Tensor], Any]] = {
    "relu": functional.relu,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.1),
    "prelu": lambda x: functional.prelu(x, random(4)),
    "abs": torch.abs,
    "negative": operator.neg,
    "max_pool": lambda x: functional.max_pool2d(x, 2),
    "avg_pool": lambda x: functional.avg_pool2d(x, 3, 1, 1),
    "adaptive_avg_pool": lambda x: functional.adaptive_avg_pool2d(x, (2, 3)),
    "adaptive_max_pool": lambda x: functional.adaptive_max_pool2d(x, 2),
    "mean": lambda x: x.mean((2, 3)),
    "sum": lambda x: x.sum(1),
    "max over an axis": lambda x: x.max(1).values,
    "amin": lambda x: x.amin((2, 3)),
    "sum of two": lambda x: x + x.flip(1),
    "difference of two": lambda x: torch.sub(x, x.flip(1), alpha=3),
    "concatenation": lambda x: torch.cat([x, x], 1),
    "stack": lambda x: torch.stack([x, x], 1),
    "maximum of two": lambda x: torch.maximum(x, x.flip(1)),
    "chunk": lambda x: x.chunk(2, 1)[1],
    "split": lambda x: x.split([1, 3], 1)[1],
    "channel shuffle": lambda x: x.view(1, 2, 2, 6, 6).transpose(1, 2).contiguous().view(1, 4, 6, 6),
    "native shuffle": lambda x: functional.channel_shuffle(x, 2),
    "indexing": lambda x: x[:, [0, 2], 1:, ::2],
    "permutation": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "interpolation": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "nearest": lambda x: functional.interpolate(x, size=(3, 9)),
    "dropout": lambda x: functional.dropout(x, 0.5, training=False),
    "zero padding": lambda x: functional.pad(x, (1, 1)),
    "reflection": lambda x: functional.pad(x, (1, 2, 0, 1), mode="reflect"),
    "replication": lambda x: functional.pad(x, (1, 2, 0, 1), mode="replicate"),
    "scale by a number": lambda x: 3 * x / 2,
    "scale by a tensor": lambda x: x * random(4, 1, 1),
    "matrix product": lambda x: x @ random(6, 5),
    "einsum": lambda x: torch.einsum("nchw,cd->ndhw", x, random(4, 3)),
    "convolution without bias": lambda x: functional.conv2d(x, random(5, 4, 3, 3)),
    "transposed, without bias": lambda x: functional.conv_transpose2d(x, random(4, 5, 3, 3)),
    "unfold": lambda x: functional.unfold(x, 2),
    "sort": lambda x: x.sort(1).values,
    "msort": torch.msort,
    "nanmean": lambda x: x.nanmean(1),
    "quantile": lambda x: torch.quantile(x, 0.3, dim=1),
    "diff": lambda x: torch.diff(x),
    "gradient": lambda x: torch.gradient(x, dim=2)[0],
    "trapezoid": lambda x: torch.trapezoid(x, dx=0.5),
    "conjugate": lambda x: torch.conj(x).resolve_conj(),
    "Hermitian transform": torch.fft.hfft,
    "short-time transform": lambda x: torch.stft(
        x.reshape(1, -1), 8, window=torch.ones(8, dtype=torch.float64), return_complex=True
    ).abs(),
    "embedding": lambda x: functional.embedding(torch.tensor([1, 0, 1]), x[0, 0]),
    "bag of embeddings": lambda x: functional.embedding_bag(torch.tensor([[1, 0, 1]]), x[0, 0]),
    "sparse product": lambda x: torch.sparse.mm(random(3, 6).to_sparse(), x[0, 0]),
    "copied signs": lambda x: torch.copysign(x, random(1, 4, 6, 6, seed=1)),
    "no NaN": torch.nan_to_num,
    "lerp of two": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "addcdiv of two": lambda x: torch.addcdiv(x, x.flip(1), 3 + random(4, 1, 1)),
    "mean into two": lambda x: x.scatter_reduce(1, torch.zeros(1, 4, 6, 6).long(), x.flip(1), "mean"),
    "largest of two": lambda x: x.scatter_reduce(1, torch.zeros(1, 4, 6, 6).long(), x.flip(1), "amax"),
}


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_what_only_moves_weighs_or_rectifies_entries_has_no_intercept(name: str) -> None:
    function = HOMOGENEOUS[name]
    for found in recorded(function, MAP):
        assert found.kind != "curvature"
        assert all(value.abs().max() < 1e-15 for value in found.values)  # PyTorch 2.6 rounds in a maximum
    torch.testing.assert_close(
        by_differences(function, MAP), torch.zeros_like(function(MAP)), rtol=0, atol=1e-9
    )


WITH_CONSTANTS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "linear": ("bias", lambda x: functional.linear(x, random(5, 6), random(5))),
    "conv1d": ("bias", lambda x: functional.conv1d(x[:, :, 0], random(5, 4, 3), random(5))),
    "conv2d": (
        "bias",
        lambda x: functional.conv2d(x, random(6, 2, 3, 3), random(6), stride=2, padding=1, groups=2),
    ),
    "conv3d": ("bias", lambda x: functional.conv3d(x[:, None], random(5, 1, 3, 3, 3), random(5))),
    "conv_transpose2d": (
        "bias",
        lambda x: functional.conv_transpose2d(x, random(4, 5, 3, 3), random(5), stride=2),
    ),
    "unbatched convolution": ("bias", lambda x: functional.conv2d(x[0], random(5, 4, 3, 3), bias=random(5))),
    "batch_norm": (
        "bias",
        lambda x: functional.batch_norm(
            x, random(4), random(4, seed=1) ** 2, random(4, seed=2), random(4, seed=3), eps=0.1
        ),
    ),
    "batch_norm without affine": (
        "bias",
        lambda x: functional.batch_norm(x, random(4), random(4, seed=1) ** 2),
    ),
    "torch.batch_norm": (
        "bias",
        lambda x: torch.batch_norm(
            x, random(4, seed=2), random(4, seed=3), random(4), random(4, seed=1) ** 2, False, 0.1, 0.1, False
        ),
    ),
    "addmm": ("bias", lambda x: torch.addmm(random(5), x[0, 0], random(6, 5), beta=2)),
    "baddbmm beside": ("bias", lambda x: torch.baddbmm(x[0], random(4, 6, 2), random(4, 2, 6), alpha=3)),
    "instance_norm": (
        "bias",
        lambda x: functional.instance_norm(
            x, random(4), random(4, seed=1) ** 2, random(4, seed=2), random(4, seed=3), False, eps=0.1
        ),
    ),
    "torch.instance_norm": (
        "bias",
        lambda x: torch.instance_norm(
            x, random(4, seed=2), random(4, seed=3), random(4), random(4, seed=1) ** 2, False, 0.1, 0.1, False
        ),
    ),
    "instance_norm of the input": (
        "curvature",
        lambda x: functional.instance_norm(x, weight=random(4), bias=random(4, seed=1), eps=0.3),
    ),
    "bilinear": (
        "bias",
        lambda x: functional.bilinear(x[0, 0], random(6, 5), random(3, 6, 5), random(3)),
    ),
    "linear in the weight": ("bias", lambda x: functional.linear(random(2, 6), x[0, 0], random(6))),
    "conv_tbc": ("bias", lambda x: torch.conv_tbc(x[0], random(1, 6, 2), random(2))),
    "addmv by names": ("bias", lambda x: torch.addmv(input=random(6), mat=x[0, 0], vec=random(6), beta=2)),
    "baddbmm by names": (
        "bias",
        lambda x: torch.baddbmm(random(4, 6, 2), batch2=random(4, 6, 2), batch1=x[0], beta=0.5),
    ),
    "addr by names": ("bias", lambda x: torch.addr(random(6, 6), vec2=random(6), vec1=x[0, 0, 0])),
    "fill_diagonal_": ("bias", lambda x: x[0, 0].clone().fill_diagonal_(2.0)),
    "lerp": ("bypass", lambda x: torch.lerp(x, random(1, 4, 6, 6), 0.3)),
    "lerp to the layer": ("bypass", lambda x: torch.lerp(random(4, 6, 6), x, random(4, 1, 1))),
    "lerp_": ("bypass", lambda x: x.clone().lerp_(random(4, 6, 6), weight=0.3)),
    "lerp by the layer": ("curvature", lambda x: torch.lerp(x, random(4, 6, 6), x)),
    "addcdiv": ("bypass", lambda x: torch.addcdiv(x, random(4, 6, 6), 3 + random(4, 1, 1), value=0.5)),
    "addcdiv of a quotient": (
        "bypass",
        lambda x: torch.addcdiv(input=random(4, 6, 6), tensor1=x, tensor2=3 + random(4, 1, 1), value=2),
    ),
    "addcdiv by the layer": ("curvature", lambda x: torch.addcdiv(x, random(4, 6, 6), x)),
    "addcmul by names": (
        "bypass",
        lambda x: torch.addcmul(random(4, 6, 6), tensor2=random(4, 1, 1), tensor1=x, value=2),
    ),
    "put": ("bypass", lambda x: x.put(torch.tensor([1]), torch.tensor([2.0], dtype=torch.float64))),
    "diff with an end": ("bypass", lambda x: torch.diff(x, append=random(1, 4, 6, 1))),
    "distance": ("bypass", lambda x: functional.l1_loss(x, random(1, 4, 6, 6, seed=1))),
    "sum into": (
        "bypass",
        lambda x: random(1, 4, 6, 6).scatter_reduce(1, torch.zeros(1, 4, 6, 6).long(), x, "sum"),
    ),
    "largest into": (
        "bypass",
        lambda x: random(1, 4, 6, 6).scatter_reduce(1, torch.zeros(1, 4, 6, 6).long(), x, reduce="amax"),
    ),
    "add a number": ("bias", lambda x: x + 1.5),
    "subtract from a number": ("bias", lambda x: 1 - x),
    "constant padding": ("bias", lambda x: functional.pad(x, (1, 2, 0, 1), value=2.5)),
    "masked_fill": ("bias", lambda x: x.masked_fill(MAP > 1, 3.0)),
    "where a number": ("bias", lambda x: torch.where(MAP > 1, x, 2.0)),
    "add a tensor": ("bypass", lambda x: torch.add(x, random(4, 1, 1), alpha=2)),
    "add to a tensor": ("bypass", lambda x: random(2, 4, 6, 6) + x),
    "subtract from a tensor": ("bypass", lambda x: random(4, 1, 1) - x),
    "concatenate": ("bypass", lambda x: torch.cat([random(1, 2, 6, 6), x, random(1, 1, 6, 6)], dim=1)),
    "stack": ("bypass", lambda x: torch.stack([x, random(1, 4, 6, 6)])),
    "where a tensor": ("bypass", lambda x: torch.where(MAP > 1, random(6, 6), x)),
    "maximum": ("bypass", lambda x: torch.maximum(x, random(6, 6))),
    "addcmul": ("bypass", lambda x: torch.addcmul(random(6, 6), x, random(4, 1, 1), value=2)),
    "scatter_add": ("bypass", lambda x: random(1, 4, 6, 6).scatter_add(1, torch.zeros(1, 4, 6, 6).long(), x)),
    "product": ("curvature", lambda x: x * x.sigmoid()),
    "product of three": (
        "curvature",
        lambda x: torch.einsum("nchw,nc,nd->nd", x, x.sum((2, 3)), x.mean((2, 3))),
    ),
    "matmul": ("curvature", lambda x: x @ x.transpose(2, 3)),
    "quotient": ("curvature", lambda x: x / (x**2).sum()),
    "layer_norm": (
        "curvature",
        lambda x: functional.layer_norm(x, (6,), random(6), random(6, seed=1), eps=0.3),
    ),
    "group_norm": ("curvature", lambda x: functional.group_norm(x, 2, random(4), random(4, seed=1))),
    "attention": ("curvature", lambda x: functional.scaled_dot_product_attention(x, 2 * x, x.flip(1))),
    "linear of both": ("curvature", lambda x: functional.linear(x, x[0, 0], random(6))),
    "baddbmm of both": ("curvature", lambda x: torch.baddbmm(random(6, 6), x[0], x[0])),
    "local response norm": ("curvature", lambda x: functional.local_response_norm(x, 2)),
    "normalize": ("curvature", lambda x: functional.normalize(x, dim=1)),
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_the_rule_agrees_with_the_definition_and_names_its_kind(name: str) -> None:
    kind, function = WITH_CONSTANTS[name]

    class Compared(Recorded):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            before = len(self.found)
            result = super().__torch_function__(function, types, args, kwargs)
            if len(self.found) > before:
                definition = only(tangent_intercept(Call(function, args, kwargs or {})))
                torch.testing.assert_close(
                    only(self.found[-1]).expand_as(definition), definition, rtol=1e-12, atol=1e-12
                )
            return result

    with Compared() as mode:
        result = function(dependent(MAP))
    assert mode.found
    assert mode.found[-1].kind == kind
    if len(mode.found) == 1:
        slow = by_differences(function, MAP)
        assert slow.abs().max() > 1e-3
        torch.testing.assert_close(mode.found[0].values[0].expand_as(result), slow, rtol=1e-5, atol=1e-6)


def test_layer_norm_has_the_intercept_of_its_formula() -> None:
    gamma, beta, eps = random(6), random(6, seed=1), 0.3
    variance = MAP.var(-1, unbiased=False, keepdim=True)
    normal = (MAP - MAP.mean(-1, keepdim=True)) / (variance + eps).sqrt()
    found = only(intercept(call(functional.layer_norm, dependent(MAP), (6,), gamma, beta, eps)))
    torch.testing.assert_close(found, gamma * normal * variance / (variance + eps) + beta)


def test_the_definition_is_the_same_backward_twice_as_forward() -> None:
    class Squash(torch.autograd.Function):
        """Has no forward mode."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return gradient * (1 - x.tanh() ** 2)

    point = dependent(MAP)
    backward = only(tangent_intercept(call(Squash.apply, point)))
    torch.testing.assert_close(backward, only(tangent_intercept(call(torch.tanh, point))))


def test_an_operation_that_returns_several_tensors_has_an_intercept_for_each() -> None:
    point = dependent(MAP)
    found = intercept(call(torch.var_mean, point, 1))
    assert found is not None
    variance, mean = found.values
    torch.testing.assert_close(variance, -MAP.var(1))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-15)


def test_an_operation_in_place_is_examined_without_being_carried_out() -> None:
    point = dependent(MAP)
    before = point.clone()
    found = intercept(call(Tensor.exp_, point))
    assert torch.equal(point, before)
    torch.testing.assert_close(only(found), (1 - MAP) * MAP.exp())


def test_infinite_entries_of_a_mask_pass_nothing_on() -> None:
    masked = dependent(MAP).masked_fill(MAP > 0, -math.inf)
    found = only(intercept(call(functional.softmax, masked, -1)))
    # p - J x, in which what is masked has no share.
    inside, shares = MAP.masked_fill(MAP > 0, 0.0), masked.detach().softmax(-1)
    expected = shares * (1 - inside + (shares * inside).sum(-1, keepdim=True))
    torch.testing.assert_close(found, expected)
    assert (found[MAP > 0] == 0).all()
    assert (only(intercept(call(Tensor.masked_fill, dependent(MAP), MAP > 0, -math.inf))) == 0).all()


@pytest.mark.parametrize(
    "function", [functional.dropout, functional.dropout2d, lambda x: torch.dropout(x, 0.5, True)]
)
def test_a_random_operation_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(XGradCamError, match="random"):
        recorded(function, MAP)


def test_statistics_of_the_batch_are_refused() -> None:
    with pytest.raises(XGradCamError, match="statistics of the batch"):
        recorded(lambda x: functional.batch_norm(x, None, None, training=True), MAP)


def test_a_library_may_call_its_own_operation_relu() -> None:
    with torch.library._scoped_library("xgradcam_test", "DEF") as library:
        library.define("relu(Tensor x) -> Tensor")
        library.impl("relu", lambda x: x.exp(), "CompositeImplicitAutograd")
        found = only(intercept(call(torch.ops.xgradcam_test.relu, dependent(MAP))))
        assert not is_linear(call(torch.ops.xgradcam_test.relu, dependent(MAP)))
    torch.testing.assert_close(found, (1 - MAP) * MAP.exp())
