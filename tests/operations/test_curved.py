"""Formulas of curved operations' intercepts, against the definition in forward mode."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xgradcam.operations.calls import Call, depends
from xgradcam.operations.constants import intercept, tangent_intercept
from xgradcam.operations.curved import CLOSED


def random(*shape: int, seed: int = 0, scale: float = 1.5) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X = random(2, 5, 6)
BESIDE = random(2, 5, 6, seed=1)
SEVERAL_HEADS = random(2, 3, 5, 4, seed=2)
ALLOWED = torch.tensor([[True, False, True, True, False]] * 4 + [[False] * 5])
MASKED_SCORES = X.masked_fill(X > 1, -torch.inf)
sdpa = functional.scaled_dot_product_attention


def norm(x: Tensor, *axes: int, **options: Any) -> Tensor:
    return functional.layer_norm(x, axes, **options)


FORMULAS: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {
    "sigmoid": (X, torch.sigmoid),
    "sigmoid in place": (X, lambda x: x.sigmoid_()),
    "silu": (X, functional.silu),
    "silu in place": (X, lambda x: functional.silu(x, inplace=True)),
    "tanh": (X, Tensor.tanh),
    "gelu": (X, functional.gelu),
    "gelu far out": (40 * X, functional.gelu),
    "softmax": (X, lambda x: x.softmax(-1)),
    "softmax along another axis": (30 * X, lambda x: functional.softmax(x, dim=0)),
    "softmax of masked scores": (MASKED_SCORES, lambda x: torch.softmax(x, 1)),
    "layer_norm": (X, lambda x: norm(x, 6)),
    "layer_norm with weights": (
        X,
        lambda x: norm(x, 5, 6, weight=random(5, 6), bias=random(5, 6, seed=1), eps=0.3),
    ),
    "layer_norm without a bias": (X, lambda x: norm(x, 6, weight=random(6), eps=0.1)),
    "layer_norm of an even row": (torch.ones(1, 2, 6, dtype=torch.float64), lambda x: norm(x, 6)),
    "attention": (X, lambda x: sdpa(x, 2 * x, x.flip(1))),
    "attention of several heads, scaled": (
        SEVERAL_HEADS,
        lambda x: sdpa(x, x.flip(0), x.flip(2), scale=0.7),
    ),
    "causal attention": (SEVERAL_HEADS, lambda x: sdpa(x, x.flip(3), 3 * x, is_causal=True)),
    "attention with a mask": (X, lambda x: sdpa(x, x.flip(1), x, attn_mask=ALLOWED)),
    "attention with weights added": (X, lambda x: sdpa(x, x.flip(1), x, random(5, 5))),
    "attention to other keys": (X, lambda x: sdpa(x, BESIDE, x)),
    "attention by other tokens": (X, lambda x: sdpa(BESIDE, x, x)),
    "attention of other values": (X, lambda x: sdpa(x, x, BESIDE)),
    "attention of values alone": (X, lambda x: sdpa(BESIDE, BESIDE, x)),
    "attention by an input alone": (X, lambda x: sdpa(x, BESIDE, BESIDE)),
}


def recorded(function: Callable[[Tensor], Any], at: Tensor) -> list[Call]:
    """The calls with a formula that a function of a tensor that depends on the layer makes."""
    found: list[Call] = []

    class Recorded(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            call = Call(function, args, kwargs or {})
            if call.operation in CLOSED and any(map(depends, call.tensors)):
                found.append(call)
                if call.destination is not None:
                    return call.run(lambda tensor: tensor)
            return function(*args, **(kwargs or {}))

    with Recorded():
        function(at.clone().requires_grad_().clone())
    return found


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_is_the_definition(name: str) -> None:
    at, function = FORMULAS[name]
    (call,) = recorded(function, at)
    formula = CLOSED[call.operation](call)
    assert formula is not None
    (defined,) = tangent_intercept(call).values
    torch.testing.assert_close(formula.detach(), defined, rtol=1e-11, atol=1e-12)
    found = intercept(call)
    assert found is not None
    assert found.kind == "curvature"
    assert not found.values[0].requires_grad


@pytest.mark.parametrize("bias", [True, False])
def test_several_heads_of_a_module(bias: bool) -> None:
    torch.manual_seed(0)
    heads = nn.MultiheadAttention(6, 3, bias=bias, batch_first=True).double()
    for parameter in heads.parameters():
        nn.init.normal_(parameter)
    (call,) = recorded(lambda x: heads(x, x, x, need_weights=False), X)
    formula = CLOSED[call.operation](call)
    assert formula is not None
    torch.testing.assert_close(formula.detach(), tangent_intercept(call).values[0], rtol=1e-10, atol=1e-11)


UNUSUAL: dict[str, Callable[[Tensor], Any]] = {
    "gelu of another kind": lambda x: functional.gelu(x, approximate="tanh"),
    "softmax in another precision": lambda x: functional.softmax(x, 1, dtype=torch.float32),
    "a norm by a weight that depends": lambda x: norm(x, 6, weight=x[0, 0]),
    "a mask that depends": lambda x: sdpa(x, x, x, x @ x.mT),
    "half precision": lambda x: functional.silu(x.bfloat16()),
    "weights of several heads": lambda x: MODULE(x, x, x),
    "heads that ask other tokens": lambda x: MODULE(x, x.flip(1), x, need_weights=False),
    "heads with a mask": lambda x: MODULE(x, x, x, attn_mask=~ALLOWED[:1].expand(5, 5), need_weights=False),
    "heads beside an empty token": lambda x: WITH_ZERO(x, x, x, need_weights=False),
}
MODULE = nn.MultiheadAttention(6, 2, batch_first=True).double()
WITH_ZERO = nn.MultiheadAttention(6, 2, batch_first=True, add_zero_attn=True).double()


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_left_to_the_definition(name: str) -> None:
    (call,) = recorded(UNUSUAL[name], X)
    assert CLOSED[call.operation](call) is None
    found = intercept(call)
    assert found is not None
    for value, defined in zip(found.values, tangent_intercept(call).values, strict=True):
        torch.testing.assert_close(value, defined)
