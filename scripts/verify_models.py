"""Verify the default layer, the map and Eq. 5 for models of torchvision, timm and transformers.

    python scripts/verify_models.py [--only PART_OF_A_NAME ...]

Networks have random weights, and inputs of a few pixels where they take these. For each:

- the default layer, and the grid of its maps;
- Grad-CAM's map, compared in float64 with one from a hook and plain autograd on the whole network;
- the places of the grid, by what changes in its corners where the corners of the image (of a video, of space
  and time) are changed: with means for weights or, where these tell nothing, with the random ones;
- Eq. 5 at the layer: the residual, as a share of the tolerance of its rounding, in float32.

A model that is refused has the message in its row. Prints a Markdown table; the exit code is 1 if a map is
wrong, if Eq. 5 does not close, if a refusal is not expected, or if an error is not one of the package's.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model_zoo import Case, cases

from xgradcam import default_layer, explain_score, list_layers, verify
from xgradcam.capture.layers import Layer
from xgradcam.errors import XGradCamError

# Relative difference of two maps that rounding may make, in float64: deep random networks amplify it.
ROUNDING = 1e-6
METHOD = "grad-cam"
# Margins of the places up to these tell nothing: with random weights, and with means for weights.
DOUBT, LEAST = math.log(2), 0.1


class Row(NamedTuple):
    """A row of the table. right: False for a wrong map, an equation that does not close, or a bug."""

    name: str
    layer: str
    grid: str
    map: str
    equation: str
    right: bool

    def __str__(self) -> str:
        """The row in Markdown."""
        return f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in self[:-1])} |"


def row_of(case: Case) -> Row:
    """The row of one model."""
    try:
        model, inputs = case.build()
        layers = list_layers(model, inputs)
        name = default_layer(layers)
        layer = next(one for one in layers if one.name == name)
        equation, closes = equation_at(model, inputs, name, case)
        # Random weights may amplify rounding a thousandfold from layer to layer.
        model, inputs = model.double(), inputs.double()
        found = explain_score(model, inputs, name, case.score, [METHOD]).maps[METHOD]
        same = is_plain_grad_cam(model, inputs, layer, case.plain, found)
        placed = places(model, inputs, layer)
    except XGradCamError as error:
        return Row(case.name, "", "", f"refused: {error}", "", is_due(error, case))
    # A model may raise anything: its row says so, and fails the script.
    except Exception as error:
        return Row(case.name, "", "", f"{type(error).__name__}: {error}", "", False)
    grid = " x ".join(map(str, found.shape[1:]))
    said = placed if same else "wrong values"
    return Row(case.name, f"`{name}`", grid, said, equation, not said.startswith("wrong") and closes)


def is_due(error: XGradCamError, case: Case) -> bool:
    """True if the case has to be refused with this message."""
    return bool(case.refused) and case.refused in str(error)


def equation_at(model: nn.Module, inputs: Tensor, layer: str, case: Case) -> tuple[str, bool]:
    """The residual of Eq. 5 as a share of its tolerance, and whether it closes; or why it is refused."""
    try:
        found = verify(model, inputs, layer, score=case.score)
    except XGradCamError as error:
        return f"refused: {error}", is_due(error, case)
    ratio = float((found.residual.abs() / found.tolerance).max())
    return (f"{ratio:.2g}", True) if ratio <= 1 else (f"wrong: {ratio:.2g}", False)


class _ReachedError(Exception):
    """Ends a forward pass at the layer."""


def activation_of(model: nn.Module, inputs: Tensor, layer: Layer, ends: bool = False) -> tuple[Tensor, Any]:
    """The layer's output and what the model returned, by a hook of our own; ends: nothing runs behind it."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        kept.append(output)
        if ends:
            raise _ReachedError
        return output.clone()

    handle = layer.module.register_forward_hook(keep)
    returned = None
    try:
        with suppress(_ReachedError):
            returned = model(inputs.clone())
    finally:
        handle.remove()
    return kept[-1], returned


def on_grid(output: Tensor, layer: Layer) -> Tensor:
    """A layer's output (N, ...) as (N, C, ...) over the grid, written here once more."""
    layout = layer.layout
    assert layout is not None
    if layout.kind == "maps":
        return output
    if layout.kind == "channels last":
        return output.permute(0, output.ndim - 1, *range(1, output.ndim - 1))
    assert layout.kind == "tokens", layout
    grid = [side for side in (layout.depth, layout.height, layout.width) if side]
    rows = output[:, layout.prefix : layout.prefix + math.prod(grid)]
    return rows.reshape(len(output), *grid, -1).permute(0, len(grid) + 1, *range(1, len(grid) + 1))


def is_plain_grad_cam(
    model: nn.Module, inputs: Tensor, layer: Layer, score: Callable[[Any], Tensor], found: Tensor
) -> bool:
    """True if these maps are Grad-CAM's by plain autograd: Σ_k mean(∂S/∂A_k) A_k; False for maps of zeros."""
    # Of one sample, PyTorch's gradient of batch norm is wrong in some memory layouts.
    twice = inputs.repeat(2, *[1] * (inputs.ndim - 1)).requires_grad_()
    activation, returned = activation_of(model, twice, layer)
    (gradient,) = torch.autograd.grad(score(returned)[0], activation)
    maps, weights = (on_grid(one[:1].detach(), layer) for one in (activation, gradient))
    terms = weights.mean(dim=tuple(range(2, maps.ndim)), keepdim=True) * maps
    # The map is a sum over channels that may cancel: rounding is relative to their size.
    size = terms.abs().sum(dim=1).amax()
    expected = terms.sum(dim=1)
    if found.shape != expected.shape or not size > 0:
        return False
    return bool(((expected - found).abs() <= ROUNDING * size).all())


def places(model: nn.Module, inputs: Tensor, layer: Layer) -> str:
    """Tell whether the grid lies over the image as it should; the model's weights are changed."""
    random = places_margin(model, inputs, layer)
    blurred = places_margin(as_blur(model), inputs, layer)
    # Random weights mix places by chance, means evenly.
    margin = blurred if abs(blurred) > LEAST else random if abs(random) > DOUBT else 0.0
    return "right" if margin > 0 else "wrong places" if margin < 0 else "right, places not told"


def as_blur(model: nn.Module) -> nn.Module:
    """The model, with weights by which each layer is a tenth of the mean of its inputs: they move no place.

    Deep networks with random weights may mix all places; where maps lie does not depend on the weights. Of a
    tenth, what residual connections pass on unmoved outweighs the mean.
    """
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if isinstance(tensor, nn.Parameter) and tensor.ndim > 1:
                sums = tensor.abs_().flatten(1).sum(dim=1).clamp(min=1e-9)
                tensor.div_(10 * sums.reshape(-1, *[1] * (tensor.ndim - 1)))
            elif name.endswith((".weight", "running_var")):
                tensor.fill_(1)
            elif name.endswith((".bias", "running_mean")):
                tensor.zero_()
    return model


def places_margin(model: nn.Module, inputs: Tensor, layer: Layer) -> float:
    """The logarithm by which the grid's corners fit the image's better than in any other pairing.

    A change of one corner may change all places, by gates or attention: a pairing is judged by the product of
    the changes, for which neither the size of a change nor that of a place matters. It is about 0 where all
    places are mixed, and 0 where nothing changes. Axes of one place have no corners.
    """
    with torch.no_grad():
        plain = on_grid(activation_of(model, inputs, layer, ends=True)[0], layer)
        corners = list(product(*[(False, True) if side > 1 else (None,) for side in plain.shape[2:]]))
        changes = []
        for corner in corners:
            changed = inputs.clone()
            # Neither a constant, which norms take off, nor of mean 0, which a blur takes off.
            part = (slice(None), slice(None), *_third(inputs, corner))
            changed[part] = 1 - changed[part] ** 2
            change = on_grid(activation_of(model, changed, layer, ends=True)[0], layer) - plain
            change = change.abs().sum(dim=(0, 1))
            changes.append([change[_third(change, place)].mean() for place in corners])
    found = torch.tensor(changes).double()
    if not (found.amax() > 0 and found.isfinite().all()):
        return 0.0
    logs = found.clamp(min=1e-9 * float(found.amax())).log()
    pairings = torch.tensor(list(permutations(range(len(corners)))))
    own, *others = logs[torch.arange(len(corners)), pairings].sum(dim=1).tolist()
    return float(own - max(others, default=own))


def _third(maps: Tensor, corner: Sequence[bool | None]) -> tuple[slice, ...]:
    """A third of each of the last axes, at the end if True, at the start if False; all of it for None."""
    sides = (max(1, side // 3) for side in maps.shape[-len(corner) :])
    return tuple(
        slice(None) if end is None else slice(-side, None) if end else slice(side)
        for side, end in zip(sides, corner, strict=True)
    )


def rows_of(only: Sequence[str]) -> Iterator[Row]:
    """The rows of all cases, or of those with one of these in their names."""
    for case in cases():
        if not only or any(part in case.name for part in only):
            with torch.random.fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                yield row_of(case)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 if all maps are right."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", default=[], help="models with this in their names"
    )
    write = partial(print, flush=True)
    write("| model | default layer | grid | map | Eq. 5 |\n|---|---|---|---|---|")
    right = True
    for row in rows_of(parser.parse_args(argv).only):
        write(row)
        right &= row.right
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
