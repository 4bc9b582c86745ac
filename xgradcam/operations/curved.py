"""Intercepts of common curved operations, h(p) − J(p)·p, as formulas without a difference that cancels.

Each takes the call and returns the value, or None where the call is unusual: then it is computed from the
definition.
"""

from collections.abc import Callable, Mapping
from math import pi, sqrt
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from xgradcam.operations.calls import Call, depends

Closed: TypeAlias = Callable[[Call], "Tensor | None"]


def _point(call: Call) -> Tensor | None:
    """The one input that depends on the layer, if it is the first argument and precise enough."""
    first = call.argument(0, "input")
    alone = len(call.dependents) == 1 and call.dependents[0] is first
    return first.detach() if alone and first.dtype in (torch.float32, torch.float64) else None


def _of_function(formula: Callable[[Tensor], Tensor]) -> Closed:
    """A function of single entries."""

    def closed(call: Call) -> Tensor | None:
        point = _point(call)
        return None if point is None else formula(point)

    return closed


def _sigmoid(x: Tensor) -> Tensor:
    at = x.sigmoid()
    return at - x * at * (1 - at)


def _silu(x: Tensor) -> Tensor:
    at = x.sigmoid()
    return -x.square() * at * (1 - at)


def _tanh(x: Tensor) -> Tensor:
    at = x.tanh()
    return at - x * (1 - at.square())


def _of_gelu(call: Call) -> Tensor | None:
    """GELU, x Φ(x): −x² φ(x), with the normal density φ."""
    x = None if call.argument(1, "approximate", "none") != "none" else _point(call)
    return None if x is None else -x.square() * (-x.square() / 2).exp() / sqrt(2 * pi)


def _of_softmax(call: Call) -> Tensor | None:
    """P (1 − z + Σ P z) of scores z; masked ones, −∞, have P = 0."""
    z, axis = _point(call), call.argument(1, "dim")
    if z is None or not isinstance(axis, int) or call.kwargs.get("dtype") is not None or len(call.args) > 2:
        return None
    shares = z.softmax(axis)
    return shares + _turned(shares, -z.clamp(min=torch.finfo(z.dtype).min), axis)


def _turned(shares: Tensor, direction: Tensor, axis: int) -> Tensor:
    """The derivative of the softmax in a direction, P (d − Σ P d)."""
    product = shares * direction
    return product - shares * product.sum(axis, keepdim=True)


def _of_layer_norm(call: Call) -> Tensor | None:
    """β + γ x̂ σ² / (σ² + eps), where x̂ is the normalised input and σ² its variance."""
    x, shape = _point(call), call.argument(1, "normalized_shape")
    if x is None or not isinstance(shape, (tuple, list, torch.Size)):
        return None
    axes = tuple(range(-len(shape), 0))
    weight, bias = (_plain(call.argument(at, name)) for at, name in ((2, "weight"), (3, "bias")))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    inverse = (variance + call.argument(4, "eps", 1e-5)).reciprocal()
    value: Tensor = (x - mean) * (inverse.sqrt() * inverse * variance)
    value = value if weight is None else value * weight
    return value if bias is None else value + bias


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _of_attention(call: Call) -> Tensor | None:
    """Scaled dot-product attention P V: −dP V, and P V once more if V does not depend on the layer."""
    names = ("query", "key", "value")
    factors = [call.argument(position, name) for position, name in enumerate(names)]
    mask = call.argument(3, "attn_mask")
    usual = all(factor.dtype in (torch.float32, torch.float64) for factor in factors) and not (
        call.argument(4, "dropout_p", 0.0) or call.kwargs.get("enable_gqa")
    )
    if not usual or (isinstance(mask, Tensor) and depends(mask)):
        return None
    ask, key, value = (factor.detach() for factor in factors)
    scale = call.argument(6, "scale")
    products = ask @ key.mT * (ask.shape[-1] ** -0.5 if scale is None else scale)
    shares = _shares(products, _plain(mask), call.argument(5, "is_causal", False))
    sent: Tensor = -_turned(shares, (depends(factors[0]) + depends(factors[1])) * products, -1) @ value
    return sent if depends(factors[2]) else sent + shares @ value


def _shares(products: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """The attention weights; those of a row that is masked whole are 0."""
    if causal:
        mask = torch.ones_like(products[(0,) * (products.ndim - 2)], dtype=torch.bool).tril()
    if mask is None:
        return products.softmax(-1)
    masked = products.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else products + mask
    return masked.softmax(-1).nan_to_num(nan=0.0)


def _of_heads(call: Call) -> Tensor | None:
    """Self-attention of several heads with a plain projection of tokens (L, N, E) and no weights returned.

    The tangent of the projections leaves out their biases.
    """
    names = """query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v
    add_zero_attn dropout_p out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask
    use_separate_proj_weight q_proj_weight k_proj_weight v_proj_weight static_k static_v
    average_attn_weights is_causal""".split()
    given = {**dict.fromkeys(names), "need_weights": True, **dict(zip(names, call.args, strict=False))}
    given |= call.kwargs
    tokens, heads = given["query"], given["num_heads"]
    others = """bias_k bias_v add_zero_attn key_padding_mask need_weights attn_mask use_separate_proj_weight
    static_k static_v is_causal""".split()
    unusual = any(given[name] is not None and given[name] is not False for name in others)
    alone = len(call.dependents) == 3 and all(one is tokens for one in call.dependents)
    if unusual or not alone or (given["training"] and given["dropout_p"]):
        return None
    if tokens.ndim != 3 or tokens.dtype not in (torch.float32, torch.float64):
        return None
    weight, bias, out, out_bias = (
        _plain(given[name]) for name in ("in_proj_weight", "in_proj_bias", "out_proj_weight", "out_proj_bias")
    )

    def per_head(rows: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value (N, heads, L, D) of rows (L, N, 3 E)."""
        length, samples = rows.shape[:2]
        return tuple(rows.reshape(length, samples, 3, heads, -1).permute(2, 1, 3, 0, 4))

    moved = nn.functional.linear(tokens.detach(), weight)
    ask, key, value = per_head(moved if bias is None else moved + bias)
    d_ask, d_key, d_value = per_head(moved)
    scale = ask.shape[-1] ** -0.5
    shares = (ask @ key.mT * scale).softmax(-1)
    turned = _turned(shares, (d_ask @ key.mT + ask @ d_key.mT) * scale, -1)
    mixed = (shares @ (value - d_value) - turned @ value).permute(2, 0, 1, 3).flatten(2)
    return nn.functional.linear(mixed, out, out_bias)


CLOSED: Mapping[str, Closed] = {
    "sigmoid": _of_function(_sigmoid),
    "silu": _of_function(_silu),
    "tanh": _of_function(_tanh),
    "gelu": _of_gelu,
    "softmax": _of_softmax,
    "layer_norm": _of_layer_norm,
    "scaled_dot_product_attention": _of_attention,
    "multi_head_attention_forward": _of_heads,
}
