"""PyTorch's random numbers on the CPU: those that a borrowed model draws are put back."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import active_count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from xgradcam.lending.dispatching import DispatchMode

# True for models that drew numbers when they were watched.
_DRAWING: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class Chance:
    """The random numbers that a model may draw while it is borrowed.

    The generator is that of the whole process: to set it back would give other threads, as one that trains
    another model, the same numbers again. So where there are others it is set back only for a model that
    draws; its first run among them tells.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Set the generator back at the end, if the model may have drawn from it."""
        before = torch.get_rng_state()
        try:
            yield
        finally:
            if active_count() == 1 or _DRAWING.get(self._model, False):
                torch.set_rng_state(before)

    def watched(self) -> AbstractContextManager[Any]:
        """A context for a run of the model, in which it is seen whether it draws, if that must be known."""
        known = active_count() == 1 or self._model in _DRAWING
        return nullcontext() if known else _Watch(self._model)


class _Watch(DispatchMode):
    """Notes whether a model draws."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        _DRAWING[model] = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operation; some of those that can draw do so by what they are given alone."""
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **(kwargs or {}))
        before = torch.get_rng_state()
        result = function(*args, **(kwargs or {}))
        if not torch.equal(before, torch.get_rng_state()):
            _DRAWING[self._model] = True
        return result
