"""Replace a layer's output, in the very object that the model and its hooks keep."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, register_module_forward_hook

from xgradcam.lending.borrowing import borrowed, fields_of
from xgradcam.lending.finding import find_layer, is_input
from xgradcam.operations.calls import tensors_of


@contextmanager
def at_output(module: nn.Module, see: Callable[[int, Any, Any], Any]) -> Iterator[None]:
    """Call `see(place, inputs, output)` at the module's output, before and after each of its forward hooks.

    place: 0 before all hooks, those of all modules too; 1 after those; then one more after each of its own.
    What `see` returns is the output for the hooks that follow, None to leave it.
    """

    def first(ran: nn.Module, given: Any, output: Any) -> Any:
        return see(0, given, output) if ran is module else None

    def hook(place: int) -> Callable[[nn.Module, Any, Any], Any]:
        return lambda _module, given, output: see(place, given, output)

    with ExitStack() as hooks:
        handle = hooks.enter_context(register_module_forward_hook(first))
        cast(OrderedDict[int, Any], _global_forward_hooks).move_to_end(handle.id, last=False)
        own = list(module._forward_hooks)
        hooks.enter_context(module.register_forward_hook(hook(1), prepend=True))
        for place, key in enumerate(own, 2):
            cast(OrderedDict[int, Any], module._forward_hooks).move_to_end(key)
            hooks.enter_context(module.register_forward_hook(hook(place)))
        yield


def is_new(module: nn.Module, output: Any, given: Any) -> bool:
    """True if the module made this tensor; False if it is a parameter, or one of its inputs or buffers."""
    others = (*tensors_of(given), *module.buffers())
    return type(output) is Tensor and all(output is not one for one in others)


def in_place_of(output: Tensor, replacement: Tensor) -> Tensor:
    """The replacement, as the output's object where possible: modules and hooks may keep that object.

    The other object is then the output. It may be one that the model keeps for later, so it is put back.
    """
    try:
        torch.utils.swap_tensors(output, replacement)  # type: ignore[no-untyped-call]
    # Another tensor, for example a view, or a weak reference holds it.
    except RuntimeError:
        return replacement
    return output


def replay(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    activation: Tensor,
    place: int = 0,
) -> Any:
    """Run `model(inputs)` without a graph, with the layer's output replaced by `activation`.

    activation: (M, ...), any number of variants of one sample's. The inputs of one sample suffice if the
    rest of the model depends on the layer's output only. A model that works in place writes to `activation`.
    place: the recording's.
    """
    _name, module = find_layer(model, layer)
    if is_input(model, layer):
        with borrowed(model) as run:
            return run(activation)
    before: list[Any] = []
    replaced: list[tuple[Tensor, Tensor]] = []

    def replace(at: int, given: Any, output: Any) -> Tensor | None:
        before.append(output)
        if at != place:
            return None
        # An object of its own, since the output takes its place.
        replacement = activation.data
        new = is_new(module, output, given) if at == 0 else output is before[-2]
        if not new or in_place_of(output, replacement) is replacement:
            return replacement
        replaced.append((output, replacement))
        return None

    returned: Any = None
    try:
        with borrowed(model) as run, at_output(module, replace):
            returned = run(inputs)
        return returned
    finally:
        handed_on = {id(tensor) for tensor in tensors_of(fields_of(returned))}
        for output, original in replaced:
            # It may be kept for later, as a table of positions is. Not if it is what the model returned.
            if id(output) not in handed_on and (handed_on or returned is None):
                output.data = original
