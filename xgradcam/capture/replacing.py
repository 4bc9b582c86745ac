"""Run a model again with its layer's output replaced, in the object that the model and its hooks keep."""

from typing import Any

from torch import Tensor, nn

from xgradcam.lending.borrowing import borrowed, fields_of
from xgradcam.lending.finding import AnyLayer, find_layer, is_input, run_of
from xgradcam.lending.outputs import at_output, in_place_of, is_new
from xgradcam.operations.calls import tensors_of


def replay(
    model: nn.Module,
    inputs: Tensor,
    layer: AnyLayer,
    activation: Tensor,
    place: int = 0,
) -> Any:
    """Run `model(inputs)` without a graph, with the layer's output replaced by `activation`.

    activation: (M, ...), any number of variants of one sample's. The inputs of one sample suffice if the
    rest of the model depends on the layer's output only. A model that works in place writes to `activation`.
    place: the recording's.
    """
    (_, module), number, runs = find_layer(model, layer), run_of(layer), 0
    if is_input(model, layer):
        with borrowed(model) as run:
            return run(activation)
    before: list[Any] = []
    replaced: list[tuple[Tensor, Tensor]] = []

    def replace(at: int, given: Any, output: Any) -> Tensor | None:
        nonlocal runs
        runs += at == 0
        before.append(output)
        if at != place or number not in (None, runs - 1):
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
