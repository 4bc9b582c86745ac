"""Run a caller's model in evaluation mode and leave it as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

# For smaller batches, converting the weights to channels last costs more than it saves.
CHANNELS_LAST_BATCH = 4


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode without a graph, then restore its modes and the grad mode."""
    # The flags are set one by one: a model may override eval() to do more, which could not be undone.
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@dataclass
class Arrangement:
    """The memory layout of a model's inputs, chosen for fast convolutions.

    Batches of `CHANNELS_LAST_BATCH` and more on a CPU are given in channels last. A model that fails on it,
    for example in `view`, runs again on the inputs as they are; `refused` remembers this for later batches.
    """

    refused: bool = False

    def run(self, inputs: Tensor, run: Callable[[Tensor], T]) -> T:
        """Return `run(inputs)`, where `run` calls the model; inputs: (N, ...)."""
        small = inputs.ndim != 4 or len(inputs) < CHANNELS_LAST_BATCH
        if self.refused or small or inputs.device.type != "cpu":
            return run(inputs)
        try:
            return run(inputs.contiguous(memory_format=torch.channels_last))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            result = run(inputs)
        self.refused = True
        return result
