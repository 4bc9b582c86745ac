"""A model in evaluation mode for the time of a call, left as it was found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

# Fewer inputs gain less from channels last than it costs to bring the weights into that order with them.
MANY = 4


@dataclass
class Arrangement:
    """The memory layout in which a model is given its inputs: the one that convolutions are fastest in.

    For `MANY` inputs on a CPU that is channels last. A model that does not take to it, because it views
    numbers in another shape, is run again with the inputs as they are; `refused` remembers that for as long
    as the object lives.
    """

    refused: bool = False

    def run(self, inputs: Tensor, run: Callable[[Tensor], T]) -> T:
        """Return `run(inputs)`, which runs the model; inputs: (N, ...)."""
        if self.refused or inputs.ndim != 4 or len(inputs) < MANY or inputs.device.type != "cpu":
            return run(inputs)
        try:
            return run(inputs.contiguous(memory_format=torch.channels_last))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            result = run(inputs)
        self.refused = True
        return result


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode without a graph; leave it, and the grad mode, as they were.

    The flags are set one by one: `model.eval()` may be overridden to do more, and cannot be undone.
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
