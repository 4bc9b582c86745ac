"""Attention step by step: fused attention has no second derivatives."""

import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from xgradcam.operations.calls import Call

_GIVEN = ("query", "key", "value", "attn_mask")


class Unfused(TorchFunctionMode):
    """Computes attention as `torch.nn.attention.sdpa_kernel(MATH)` does, but in this thread alone."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, an attention in steps."""
        call = Call(function, args, kwargs or {})
        if function is functional.multi_head_attention_forward:
            with self:
                return unguarded(function)(*args, **call.kwargs)
        if call.operation != "scaled_dot_product_attention" or not call.is_of_torch():
            return function(*args, **call.kwargs)
        query, key, value, mask = (call.argument(*one) for one in enumerate(_GIVEN))
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
        return torch.ops.aten._scaled_dot_product_attention_math(
            query,
            key,
            value,
            mask,
            call.argument(4, "dropout_p", 0.0),
            call.argument(5, "is_causal", False),
            scale=call.kwargs.get("scale"),
            enable_gqa=call.kwargs.get("enable_gqa", False),
        )[0]


@lru_cache
def unguarded(function: types.FunctionType) -> Callable[..., Any]:
    """A function of PyTorch in Python whose operations a mode sees, not only the call of it."""
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, "has_torch_function": lambda _tensors: False},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
