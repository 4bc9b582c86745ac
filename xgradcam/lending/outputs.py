"""A module's output: seen beside its hooks, and replaced in the very object that the model and they keep."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks

from xgradcam.lending.hooks import Looking, OfModel, is_of_another_thread, on_all_modules
from xgradcam.operations.calls import tensors_of


@contextmanager
def at_output(module: nn.Module, see: Callable[[int, Any, Any], Any]) -> Iterator[None]:
    """Call `see(place, inputs, output)` at the module's output, before and after each of its forward hooks.

    place: 0 before all hooks, those of all modules too; 1 after those; then one more after each of its own,
    but for those that only look: they may be there in one run and not in the next.
    What `see` returns is the output for the hooks that follow, None to leave it.
    """

    def hook(place: int) -> Callable[[nn.Module, Any, Any], Any]:
        return OfModel(module, lambda _module, given, output: see(place, given, output))

    with ExitStack() as hooks:
        own = [(key, one) for key, one in module._forward_hooks.items() if not is_of_another_thread(one)]
        hooks.enter_context(module.register_forward_hook(hook(1), prepend=True))
        # A hook on all modules takes every one the slow way through PyTorch's call.
        if all(map(is_of_another_thread, _global_forward_hooks.values())):
            hooks.enter_context(module.register_forward_hook(hook(0), prepend=True))
        else:
            hooks.enter_context(on_all_modules(hook(0), first=True))
        places = count(2)
        for key, one in own:
            cast(OrderedDict[int, Any], module._forward_hooks).move_to_end(key)
            if not isinstance(one, Looking):
                hooks.enter_context(module.register_forward_hook(hook(next(places))))
        yield


def is_new(module: nn.Module, output: Any, given: Any) -> bool:
    """True if the module made this tensor; False if it is a parameter, or one of its inputs or buffers."""
    others = (*tensors_of(given), *module.buffers())
    return type(output) is Tensor and all(output is not one for one in others)


def in_place_of(output: Tensor, replacement: Tensor) -> Tensor:
    """The replacement, as the output's object where possible: modules and hooks may keep that object.

    The other object is then the output. It may be one that the model keeps for later, so it is put back.
    """
    # What the model has noted on the output.
    vars(replacement).update(vars(output))
    try:
        torch.utils.swap_tensors(output, replacement)  # type: ignore[no-untyped-call]
    # Another tensor, for example a view, or a weak reference holds it.
    except RuntimeError:
        return replacement
    return output
