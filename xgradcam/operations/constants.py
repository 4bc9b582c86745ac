"""The intercept of one operation: the constant that it adds to what comes from the layer.

An operation is v = h(p), where p are its inputs that depend on the layer. Its tangent at p is J(p)·p + c.
The intercept c = h(p) − J(p)·p is *bias* if h is piecewise affine, *bypass* if c comes from a tensor that
enters h beside p (a skip path, a parallel branch, a positional embedding), and *curvature* for any other h.
`RULES` has shortcuts for common operations, `curved` formulas; all others are computed from this definition.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Number
from types import FunctionType
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from xgradcam.errors import XGradCamError
from xgradcam.operations.calls import Call, depends, float_tensors_of, tensors_of
from xgradcam.operations.curved import CLOSED
from xgradcam.operations.unfused import Unfused

Kind: TypeAlias = Literal["bias", "bypass", "curvature"]

make_dual: Callable[[Tensor, Tensor], Tensor] = forward_ad.make_dual
unpack_dual: Callable[[Tensor], tuple[Tensor, Tensor | None]] = forward_ad.unpack_dual


@dataclass(frozen=True)
class Intercept:
    """The constant that an operation adds: its kind, and a broadcastable tensor per floating-point result."""

    kind: Kind
    values: list[Tensor]


Rule: TypeAlias = Callable[[Call], "Intercept | None"]


def intercept(call: Call) -> Intercept | None:
    """h(p) − J(p)·p of the call, by a rule if there is one; None if it is known to be 0."""
    if not call.is_of_torch():
        return tangent_intercept(call)
    if rule := RULES.get(call.operation):
        return rule(call)
    with torch.no_grad():
        value = CLOSED[call.operation](call) if call.operation in CLOSED else None
    return tangent_intercept(call) if value is None else Intercept("curvature", [value])


def is_linear(call: Call) -> bool:
    """True if the operation has no intercept, whatever its inputs are."""
    return call.operation in LINEAR and call.is_of_torch()


def tangent_intercept(call: Call, kind: Kind = "curvature") -> Intercept:
    """h(p) − J(p)·p by its definition, in forward mode, or by double backward if forward mode has no rule.

    Curved operations are computed in float64, because the difference cancels. Piecewise affine ones keep
    their own precision: the difference is exact there, and another precision could cross a kink.
    """
    own = call.dependents[0].dtype
    failure: Exception | None = None
    for dtype in dict.fromkeys([torch.float64 if kind == "curvature" else own, own]):
        for method in (_by_forward_mode, _by_double_backward):
            try:
                with Unfused():  # fused attention has no second derivatives
                    return Intercept(kind, method(call, partial(_converted, own=own, dtype=dtype)))
            except (RuntimeError, TypeError) as error:  # no such derivative, or no such dtype
                failure = error
    raise XGradCamError(f"no tangent of the operation '{call.operation}' can be computed: {failure}")


def _by_forward_mode(call: Call, convert: Callable[[Tensor], Tensor]) -> list[Tensor]:
    def dual(tensor: Tensor) -> Tensor:
        point = convert(tensor)
        return make_dual(point, _direction(point)) if depends(tensor) else point

    with torch.no_grad(), forward_ad.dual_level():
        pairs = [unpack_dual(result) for result in float_tensors_of(call.run(dual))]
        return [value if tangent is None else value - tangent for value, tangent in pairs]


def _by_double_backward(call: Call, convert: Callable[[Tensor], Tensor]) -> list[Tensor]:
    points: list[Tensor] = []

    def variable(tensor: Tensor) -> Tensor:
        if not depends(tensor):
            return convert(tensor)
        points.append(convert(tensor).requires_grad_())
        return points[-1]

    with torch.enable_grad():
        results = float_tensors_of(call.run(variable))
        return [result.detach() - _tangent(result, points) for result in results]


def _tangent(result: Tensor, points: list[Tensor]) -> Tensor:
    """J·p, as the derivative of u ↦ ⟨Jᵀu, p⟩, which is linear in u."""
    if not result.requires_grad:
        return torch.zeros_like(result)
    seed = torch.zeros_like(result, requires_grad=True)
    pulled = torch.autograd.grad(result, points, seed, create_graph=True, allow_unused=True)
    pairs = [(b, p) for b, p in zip(pulled, points, strict=True) if b is not None and b.requires_grad]
    if not pairs:
        return torch.zeros_like(result)
    inner = torch.stack([(back * _direction(point.detach())).sum() for back, point in pairs]).sum()
    (tangent,) = torch.autograd.grad(inner, seed, retain_graph=True, allow_unused=True)
    return torch.zeros_like(result) if tangent is None else tangent


def _converted(tensor: Tensor, own: torch.dtype, dtype: torch.dtype) -> Tensor:
    """The tensor without its graph, in `dtype` if it is in `own`."""
    return tensor.detach().to(dtype) if tensor.dtype == own else tensor.detach()


def _direction(point: Tensor) -> Tensor:
    """The point as a direction, with 0 for infinite entries, such as those of a mask."""
    return point.nan_to_num(nan=torch.nan, posinf=0.0, neginf=0.0)


def _of_bias_argument(call: Call) -> Intercept | None:
    """Linear layers and convolutions, with a bias for each channel."""
    bias = call.argument(3 if call.operation == "bilinear" else 2, "bias")
    if len(call.dependents) > 1 or (bias is not None and depends(bias)):
        return tangent_intercept(call)
    if bias is None:
        return None
    channels_last = call.operation in ("linear", "bilinear", "conv_tbc")
    spatial = 0 if channels_last else call.argument(1, "weight").dim() - 2
    return Intercept("bias", [bias.detach().reshape(-1, *[1] * spatial)])


def _of_batch_norm(call: Call) -> Intercept | None:
    """Batch normalisation with fixed statistics: β − γ μ / √(σ² + eps)."""
    statistics, affine = ("running_mean", "running_var"), ("weight", "bias")
    names = statistics + affine if isinstance(call.function, FunctionType) else affine + statistics
    values = {name: call.argument(position, name) for position, name in enumerate(names, start=1)}
    mean, variance, weight, bias = (values[name] for name in statistics + affine)
    if call.argument(5, "training", False) or mean is None:
        raise XGradCamError(
            "a batch normalisation behind the layer uses the statistics of the batch, in evaluation mode too "
            "(track_running_stats=False or training=True): the score has no fixed bias term"
        )
    if len(call.dependents) > 1:
        return tangent_intercept(call)
    slope = (variance.detach().double() + call.argument(7, "eps", 1e-5)).rsqrt()
    if weight is not None:
        slope = slope * weight.detach()
    shift = -slope * mean.detach()
    if bias is not None:
        shift = shift + bias.detach()
    return Intercept("bias", [shift.reshape(-1, *[1] * (call.dependents[0].dim() - 2))])


def _of_instance_norm(call: Call) -> Intercept | None:
    """Instance normalisation: curved by the input's statistics, a batch normalisation by fixed ones."""
    by_input = call.argument(5, "use_input_stats", True)
    return tangent_intercept(call) if by_input else _of_batch_norm(call)


def _of_sum(call: Call, kind: Kind = "bypass", terms: int | None = None) -> Intercept | None:
    """Operations that are linear in all operands together: their result with p = 0."""
    operands = (*call.args, *call.kwargs.values())[:terms]
    constants = [tensor for tensor in tensors_of(operands) if not depends(tensor)]
    numbers = [operand for operand in operands if isinstance(operand, Number)]
    if not constants and not numbers:
        return None

    def without(tensor: Tensor) -> Tensor:
        return tensor.detach().new_zeros(()).expand_as(tensor) if depends(tensor) else tensor.detach()

    with torch.no_grad():
        results = float_tensors_of(call.run(without))
    if not any(bool(result.any()) for result in results):  # the constants were conditions, indices or zeros
        return None
    beside = any(tensor.dtype != torch.bool for tensor in constants)
    return Intercept(kind if beside else "bias", [_direction(result) for result in results])


def _of_padding(call: Call) -> Intercept | None:
    """Padding: the constant that it pads with, if any."""
    return _of_sum(call) if call.argument(3, "value") else None


def _of_product(call: Call) -> Intercept | None:
    """Operations that are linear in each operand alone: −(n − 1) h(p) if n operands depend on the layer."""
    others = len(call.dependents) - 1
    if others == 0:
        return None
    with torch.no_grad():
        results = float_tensors_of(call.run(Tensor.detach))
        return Intercept("curvature", [-others * result for result in results])


def _of_fused_sum(call: Call, kind: Kind) -> Intercept | None:
    """A tensor plus a product of two, such as addmm: the constant summand, if there is one."""
    named = [value for name, value in call.kwargs.items() if name != "input"]
    dependent = sum(depends(factor) for factor in tensors_of([*call.args[1:3], *named]))
    return tangent_intercept(call) if dependent == 2 else _of_sum(call, kind, terms=1 if dependent else 3)


def _of_sum_for_fixed(call: Call, name: str) -> Intercept | None:
    """Operations that are linear in all operands together, if the third, of this name, is a constant."""
    third = call.argument(2, name)
    return tangent_intercept(call) if isinstance(third, Tensor) and depends(third) else _of_sum(call)


def _of_reduction(call: Call) -> Intercept | None:
    """Operations that reduce into a tensor by a named operation: a sum, a choice or a product."""
    by = {argument for argument in (*call.args, *call.kwargs.values()) if isinstance(argument, str)}
    if by & {"sum", "mean"}:
        return _of_sum(call)
    return _of_choice(call) if by & {"amax", "amin"} else tangent_intercept(call)


def _linear_in_first(call: Call) -> Intercept | None:
    """Operations that are linear in their first argument: 0 if no other argument depends on the layer."""
    first = call.argument(0, "input")
    linear = len(call.dependents) == 1 and isinstance(first, Tensor) and depends(first)
    return None if linear else tangent_intercept(call)


def _of_quotient(call: Call) -> Intercept | None:
    """Division: linear in the numerator, or piecewise constant with rounding."""
    return _of_choice(call) if call.kwargs.get("rounding_mode") else _linear_in_first(call)


def _of_choice(call: Call) -> Intercept | None:
    """Piecewise affine operations: by definition; bypass if h has another tensor beside p, else bias."""
    tensors = call.tensors
    if call.operation in ("max", "min") and len(tensors) == 1:
        return None  # a maximum over an axis
    beside = any(tensor.is_floating_point() and not depends(tensor) for tensor in tensors)
    return tangent_intercept(call, "bypass" if beside else "bias")


def _of_cap(call: Call) -> Intercept | None:
    """ReLU6 and hardtanh: each bound where it is reached, and the derivative is 0."""
    low, high = 0.0, 6.0
    if call.operation == "hardtanh":
        low, high = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
    point = call.dependents[0].detach()
    # Written as numbers at once: the fastest way, and this is the commonest operation of small networks.
    value = torch.ge(point, high, out=torch.empty_like(point)).mul_(high)
    if low:
        value += torch.le(point, low, out=torch.empty_like(point)).mul_(low)
    return Intercept("bias", [value])


def _of_dropout(call: Call, by_default: bool) -> Intercept | None:
    """Dropout: no intercept in evaluation mode, XGradCamError in training mode."""
    training = call.argument(2, "train", call.kwargs.get("training", by_default))
    if training and call.argument(1, "p", 0.5):
        raise XGradCamError(
            f"'{call.operation}' is random here (training=True): the score has no fixed terms"
        )
    return None


# fmt: off
LINEAR = frozenset(
    # Positively homogeneous, h(p) = J(p)·p: rectifiers without a cap, pooling, reductions, moving entries.
    """relu leaky_relu rrelu abs absolute neg negative positive mean sum nansum cumsum trace
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    max_unpool1d max_unpool2d max_unpool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
    adaptive_max_pool3d_with_indices amax amin aminmax sort topk kthvalue median
    nanmedian mode cummax cummin interpolate upsample upsample_nearest upsample_bilinear fold unfold
    pixel_shuffle pixel_unshuffle channel_shuffle affine_grid
    reshape view view_as reshape_as flatten unflatten ravel squeeze unsqueeze permute transpose swapaxes
    swapdims t movedim moveaxis adjoint contiguous clone expand expand_as broadcast_to broadcast_tensors
    repeat repeat_interleave tile roll rot90 flip fliplr flipud getitem select narrow index_select take gather
    take_along_dim masked_select chunk split tensor_split hsplit vsplit dsplit split_with_sizes unbind iter
    diagonal diag diag_embed tril triu as_strided meshgrid atleast_1d atleast_2d atleast_3d alias
    to type type_as double float half bfloat16 cpu cuda requires_grad detach get set
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn
    fft_irfftn fft_hfft fft_ihfft fft_fftshift fft_ifftshift view_as_real view_as_complex real imag conj
    conj_physical resolve_conj resolve_neg stft istft nanmean quantile nanquantile msort sum_to_size
    unsafe_chunk unsafe_split embedding cartesian_prod combinations""".split()
)
# fmt: on

JOINS = "cat concat concatenate stack hstack vstack dstack column_stack row_stack"
SUMS = """where setitem copy fill zero block_diag index_put index_add index_copy index_fill scatter
scatter_add put fill_diagonal diff masked_fill masked_scatter select_scatter slice_scatter diagonal_scatter"""
PRODUCTS = """mul multiply matmul mm bmm mv dot vdot inner outer ger kron tensordot einsum chain_matmul
linalg_multi_dot linalg_matmul linalg_vecdot cross linalg_cross sparse_mm embedding_bag"""
CHOICES = """clamp clip clamp_min clamp_max maximum minimum fmax fmin max min hardsigmoid
threshold hardshrink softshrink round floor ceil trunc fix sign sgn heaviside frac fmod remainder
floor_divide nan_to_num copysign l1_loss"""
FIRSTS = "prelu grid_sample ldexp xlogy trapezoid trapz cumulative_trapezoid gradient"
DROPOUTS = "dropout dropout1d dropout2d dropout3d feature_dropout"
CONVOLUTIONS = """linear bilinear conv_tbc conv1d conv2d conv3d conv_transpose1d conv_transpose2d
conv_transpose3d convolution _convolution"""

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(CONVOLUTIONS.split(), _of_bias_argument),
    **dict.fromkeys(JOINS.split(), partial(_of_sum, terms=1)),
    **dict.fromkeys(SUMS.split(), _of_sum),
    **dict.fromkeys(["add", "sub", "subtract", "rsub"], partial(_of_sum, terms=2)),
    **dict.fromkeys(PRODUCTS.split(), _of_product),
    **dict.fromkeys(CHOICES.split(), _of_choice),
    **dict.fromkeys(["relu6", "hardtanh"], _of_cap),
    **dict.fromkeys(["div", "divide", "true_divide"], _of_quotient),
    **dict.fromkeys(FIRSTS.split(), _linear_in_first),
    **dict.fromkeys(["scatter_reduce", "index_reduce"], _of_reduction),
    "lerp": partial(_of_sum_for_fixed, name="weight"),
    "addcdiv": partial(_of_sum_for_fixed, name="tensor2"),
    "instance_norm": _of_instance_norm,
    **dict.fromkeys(["addmm", "addmv", "addbmm", "baddbmm", "addr"], partial(_of_fused_sum, kind="bias")),
    "addcmul": partial(_of_fused_sum, kind="bypass"),
    **dict.fromkeys(DROPOUTS.split(), partial(_of_dropout, by_default=True)),
    **dict.fromkeys(["alpha_dropout", "feature_alpha_dropout"], partial(_of_dropout, by_default=False)),
    "batch_norm": _of_batch_norm,
    "pad": _of_padding,
}
