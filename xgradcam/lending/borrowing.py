"""Run a caller's model in evaluation mode, on copies of its inputs, and leave it as it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import active_count
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError, is_out_of_memory
from xgradcam.lending.chance import Chance
from xgradcam.lending.precision import is_coarse
from xgradcam.lending.turns import modules_of, turn_of
from xgradcam.operations.calls import substitute, tensors_of

# From inputs (N, ...) to what the model returns.
Run: TypeAlias = Callable[[Tensor], Any]

# For smaller batches, converting the weights to channels last costs more than it saves.
CHANNELS_LAST_BATCH = {"cpu": 4, "cuda": 64}
# Relative differences that are still rounding, in exact single precision and more, and in less.
ROUNDING, COARSE_ROUNDING = 1e-3, 5e-2


@contextmanager
def borrowed(model: nn.Module) -> Iterator[Run]:
    """Put the model into evaluation mode without a graph, yield a way to run it, then restore everything.

    Other threads that want it, or a model that shares modules with it, wait: see `turn_of`. It runs on a copy
    of its inputs, into which it may write. Wrappers for compilation and for training on
    several devices step aside: after a forward in a graph, DistributedDataParallel expects a training step.
    """
    with turn_of(model), ExitStack() as restored:
        modules = [*modules_of(model)]
        for module in modules:
            # The flags are set one by one: a model may override eval() to do more, which could not be undone.
            # What is scripted and frozen has none.
            if getattr(module, "training", False):
                restored.callback(setattr, module, "training", True)
                module.training = False
            if (inner := wrapped(module)) is not None:
                _replace(module, "forward", partial(_pass_on, module, inner), restored)
            if module.__dict__.get("_compiled_call_impl") is not None:
                _replace(module, "_compiled_call_impl", None, restored)
        chance = Chance(model)
        restored.enter_context(chance.kept())
        restored.enter_context(torch.inference_mode(False))
        restored.enter_context(torch.no_grad())

        def run(inputs: Tensor) -> Any:
            with chance.watched():
                return model(inputs.clone())

        yield run
        _refuse_training(modules)


def _refuse_training(modules: Sequence[nn.Module]) -> None:
    """Raise XGradCamError if another thread has put the borrowed model into training mode."""
    # One module alone may be put there by the model itself, such as a dropout that always draws.
    if active_count() > 1 and all(getattr(one, "training", False) for one in modules[1:] or modules):
        raise XGradCamError(
            "another thread put the model into training mode while it was explained: explain a copy of it, "
            "copy.deepcopy(model)"
        )


def wrapped(module: nn.Module) -> nn.Module | None:
    """The module in a wrapper for compilation or for training on several devices; None for other modules."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return module.module  # type: ignore[no-any-return]
    # By its name: to import the compiler takes seconds.
    return module._orig_mod if type(module).__name__ == "OptimizedModule" else None  # type: ignore[return-value]


def _pass_on(wrapper: nn.Module, inner: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if getattr(wrapper, "device_ids", None):  # then the wrapper moves the inputs to the first
        device = next(inner.parameters()).device
        args, kwargs = substitute((args, kwargs), lambda tensor: tensor.to(device))
    return inner(*args, **kwargs)


def _replace(module: nn.Module, name: str, value: Any, restored: ExitStack) -> None:
    attributes = vars(module)
    if name in attributes:
        restored.callback(attributes.__setitem__, name, attributes[name])
    else:
        restored.callback(attributes.pop, name)
    attributes[name] = value


# Kept between calls, True for models that return the same for inputs in channels last: trying it in each call
# would cost what it saves.
_TAKES_CHANNELS_LAST: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def arranged(model: nn.Module, run: Run, inputs: Tensor) -> Tensor:
    """The inputs (N, ...) in the order in memory to give them to the model, chosen for fast convolutions.

    Batches of `CHANNELS_LAST_BATCH` and more are given in channels last, unless the model fails on that, for
    example in `view`, or returns something else, for example by `as_strided`: two samples are tried once for
    each model. run: from `borrowed`.
    """
    smallest = CHANNELS_LAST_BATCH.get(inputs.device.type)
    if inputs.ndim != 4 or smallest is None or len(inputs) < smallest:
        return inputs
    ordered = inputs.contiguous(memory_format=torch.channels_last)
    if model not in _TAKES_CHANNELS_LAST:
        try:
            plain, found = (list(tensors_of(fields_of(run(batch[:2])))) for batch in (inputs, ordered))
            same = bool(plain) and len(plain) == len(found) and all(map(is_close, found, plain))
        # A model may raise anything; what is wrong with the inputs shows when all of them are run.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            same = False
        _TAKES_CHANNELS_LAST[model] = same
    return ordered if _TAKES_CHANNELS_LAST[model] else inputs


def fields_of(returned: Any) -> Any:
    """The attributes of an object that a model returned; a tensor or a collection as it is."""
    return vars(returned) if hasattr(returned, "__dict__") and not isinstance(returned, Tensor) else returned


def is_close(found: Tensor, expected: Tensor, size: Tensor | float = 0.0, share: float | None = None) -> bool:
    """True if two tensors differ by no more than rounding of the largest number or of `size`.

    share: of these that is rounding; None for what suits the precision. True where NaN is expected.
    """
    if found.shape != expected.shape or not found.numel():
        return found.shape == expected.shape
    share = share or (COARSE_ROUNDING if is_coarse(found) else ROUNDING)
    largest = expected.abs().max() + size
    return bool(((found - expected).abs() <= share * largest).all() | expected.isnan().any())
