"""Right gradients of norms, where PyTorch's own are wrong."""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from xgradcam.lending.hooks import on_all_modules


def contiguous_norm_gradients() -> AbstractContextManager[Any]:
    """Give batch and instance norms their output's gradient in the memory layout of that output.

    PyTorch (2.14) misreads the strides of one sample on a CPU, for example of transposed tokens, as another
    layout, and returns a wrong gradient without an error.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}

    def fix(module: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(module, _NormBase) or not isinstance(output, Tensor) or not output.requires_grad:
            return
        if len(output) == 1 and output.ndim in formats:
            order = torch.contiguous_format if output.is_contiguous() else formats[output.ndim]
            output.register_hook(partial(torch.Tensor.contiguous, memory_format=order))  # type: ignore[no-untyped-call]

    return on_all_modules(fix)
