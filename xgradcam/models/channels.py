"""Channels of a network's input: grey, colours, or more."""

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from xgradcam.lending.borrowing import borrowed
from xgradcam.models.preprocessing import CHANNELS


def input_channels(module: nn.Module, size: tuple[int, int]) -> int:
    """The channels of the inputs (1, channels, h, w) that the model runs on: three if it runs on these.

    Otherwise those of its first convolution, or one if it has none; three if it runs on neither. A model
    whose first convolution takes three is not run.
    """
    first = next((part.in_channels for part in module.modules() if isinstance(part, _ConvNd)), None)
    if first == CHANNELS or _runs(module, CHANNELS, size):
        return CHANNELS
    return first if first and _runs(module, first, size) else 1 if _runs(module, 1, size) else CHANNELS


def _runs(module: nn.Module, channels: int, size: tuple[int, int]) -> bool:
    parameter = next(module.parameters(), None)
    floating = parameter is not None and parameter.is_floating_point()
    like = parameter if parameter is not None and floating else torch.zeros(1, device="cpu")
    inputs = torch.zeros(1, channels, *size, dtype=like.dtype, device=like.device)
    try:
        with borrowed(module) as run:
            run(inputs)
    # A model may raise anything.
    except Exception:
        return False
    return True
