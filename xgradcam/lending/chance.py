"""PyTorch's random numbers on the CPU: those that a borrowed model draws are put back."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import active_count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from xgradcam.lending.dispatching import DispatchMode
from xgradcam.lending.turns import modules_of

# Names of functions of PyTorch that draw, or may.
_CAN_DRAW = re.compile(
    "rand|normal|uniform|bernoulli|multinomial|exponential|poisson|binomial|cauchy|geometric|dropout|rrelu"
    "|gumbel|gamma|dirichlet|fractional|dot_product_attention|multi_head_attention"
)
# Modules that PyTorch computes by operations of their own, if nothing sees its functions.
_FAST = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
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
        if active_count() == 1 or self._model in _DRAWING:
            return nullcontext()
        _DRAWING[self._model] = False
        # Under a mode of functions PyTorch's own attention is computed, and rounded, in another way, and it
        # sees none in what is scripted. Under a mode of operations what is compiled on its way fails, as
        # flexible attention.
        unseen = any(isinstance(one, (*_FAST, torch.jit.ScriptModule)) for one in modules_of(self._model))
        return _Operations(self._model) if unseen else _Functions(self._model)


class _Functions(TorchFunctionMode):
    """Sees PyTorch's functions that can draw: see `_noting`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call the function."""
        work = partial(function, *args, **(kwargs or {}))
        if torch.compiler.is_compiling() or not _CAN_DRAW.search(getattr(function, "__name__", "")):
            return work()
        return _noting(self._model, work)


class _Operations(DispatchMode):
    """Sees PyTorch's operations that can draw: see `_noting`."""

    def __init__(self, model: nn.Module) -> None:
        # PyTorch gives its modes no types.
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operation."""
        work = partial(function, *args, **(kwargs or {}))
        return _noting(self._model, work) if torch.Tag.nondeterministic_seeded in function.tags else work()


def _noting(model: nn.Module, work: Callable[[], Any]) -> Any:
    """Do the work, and note if it draws: some functions do so by what they are given alone."""
    before = torch.get_rng_state()
    result = work()
    if not torch.equal(before, torch.get_rng_state()):
        _DRAWING[model] = True
    return result
