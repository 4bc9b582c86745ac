"""Verify the default layer, the map and Eq. 5 for models of torchvision, timm and transformers.

    python scripts/verify_models.py [--only PART_OF_A_NAME ...]

Networks have random weights, and inputs of a few pixels where they take these. For each:

- the default layer, and the grid of its maps;
- Grad-CAM's map, compared with one from a hook and plain autograd on the whole network;
- the places of the grid, by what changes in its corners where the corners of the image are changed;
- Eq. 5 at the layer: the residual, as a share of the tolerance of its rounding.

A model that is refused has the message in its row. Prints a Markdown table; the exit code is 1 if a map is
wrong, if Eq. 5 does not close, or if an error is not one of the package's.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model_zoo import Case, cases

from xgradcam import default_layer, explain_score, list_layers, verify
from xgradcam.capture.layers import Layer
from xgradcam.errors import XGradCamError

# Relative difference of two maps that rounding may make, in float32.
ROUNDING = 2e-3
METHOD = "grad-cam"
# A margin of the places that tells nothing.
DOUBT = math.log(2)


class Row(NamedTuple):
    """A row of the table. right: False for a wrong map, an equation that does not close, or a bug."""

    name: str
    layer: str
    grid: str
    map: str
    equation: str
    right: bool


def row_of(case: Case) -> Row:
    """The row of one model."""
    try:
        model, inputs = case.build()
        layers = list_layers(model, inputs)
        name = default_layer(layers)
        layer = next(one for one in layers if one.name == name)
        equation, closes = equation_at(model, inputs, name, case.score)
        # Random weights may amplify rounding a thousandfold from layer to layer.
        model, inputs = model.double(), inputs.double()
        found = explain_score(model, inputs, name, case.score, [METHOD]).maps[METHOD]
    except XGradCamError as error:
        return Row(case.name, "", "", f"refused: {error}", "", True)
    except Exception as error:
        return Row(case.name, "", "", f"{type(error).__name__}: {error}", "", False)
    same = is_plain_grad_cam(model, inputs, layer, case.score, found)
    margin = places_margin(model, inputs, layer)
    placed = margin > -DOUBT
    said = "right" if margin > 0 else "right, places not told" if placed else "wrong places"
    said = said if same else "wrong values"
    grid = " x ".join(map(str, found.shape[1:]))
    return Row(case.name, f"`{name}`", grid, said, equation, same and placed and closes)


def equation_at(
    model: nn.Module, inputs: Tensor, layer: str, score: Callable[[Any], Tensor]
) -> tuple[str, bool]:
    """The residual of Eq. 5 as a share of its tolerance, and whether it closes; or why it is refused."""
    try:
        found = verify(model, inputs, layer, score=score)
    except XGradCamError as error:
        return f"refused: {error}", True
    ratio = float((found.residual.abs() / found.tolerance).max())
    return f"{ratio:.2g}", ratio <= 1


def activation_of(model: nn.Module, inputs: Tensor, layer: Layer) -> tuple[Tensor, Any]:
    """The layer's output and what the model returned, by a hook of our own."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = layer.module.register_forward_hook(keep)
    try:
        returned = model(inputs.clone())
    finally:
        handle.remove()
    return kept[-1], returned


def on_grid(output: Tensor, layer: Layer) -> Tensor:
    """A layer's output (N, ...) as (N, C, h, w), written here once more."""
    layout = layer.layout
    assert layout is not None
    height, width = layout.height, layout.width
    if output.ndim == 4:
        return output if layout.kind == "maps" else output.permute(0, 3, 1, 2)
    tokens = output[:, layout.prefix : layout.prefix + height * width]
    return tokens.reshape(len(output), height, width, -1).permute(0, 3, 1, 2)


def is_plain_grad_cam(
    model: nn.Module, inputs: Tensor, layer: Layer, score: Callable[[Any], Tensor], found: Tensor
) -> bool:
    """True if these maps are Grad-CAM's by plain autograd: Σ_k mean(∂S/∂A_k) A_k."""
    # Of one sample, PyTorch's gradient of batch norm is wrong in some memory layouts.
    twice = inputs.repeat(2, 1, 1, 1).requires_grad_()
    activation, returned = activation_of(model, twice, layer)
    (gradient,) = torch.autograd.grad(score(returned)[0], activation)
    maps, weights = (on_grid(one[:1].detach(), layer) for one in (activation, gradient))
    weights = weights.mean(dim=(2, 3), keepdim=True)
    terms = weights * maps
    # The map is a sum over channels that may cancel: rounding is relative to their size.
    return bool(((terms.sum(dim=1) - found).abs() <= ROUNDING * terms.abs().sum(dim=1).amax()).all())


def places_margin(model: nn.Module, inputs: Tensor, layer: Layer) -> float:
    """The logarithm by which the grid's corners fit the image's better than in any other pairing.

    A change of one corner may change all places, by gates or attention: a pairing is judged by the product of
    the four changes, for which neither the size of a change nor that of a place matters. Deep networks with
    random weights may mix all places: the margin is then about 0.
    """
    corners = [(bottom, right) for bottom in (False, True) for right in (False, True)]
    changes = []
    for corner in corners:
        changed = inputs.clone()
        part = (..., *_third(inputs, corner))
        changed[part] = 1 - changed[part]
        with torch.no_grad():
            one, other = (on_grid(activation_of(model, of, layer)[0], layer) for of in (inputs, changed))
        change = (other - one).abs().sum(dim=(0, 1))
        changes.append([float(change[_third(change, place)].mean()) for place in corners])
    found = torch.tensor(changes).double()
    logs = found.clamp(min=1e-9 * float(found.amax())).log()
    own, *others = (sum(logs[i, j] for i, j in enumerate(pairing)) for pairing in permutations(range(4)))
    return float(own - max(others))


def _third(maps: Tensor, corner: tuple[bool, bool]) -> tuple[slice, slice]:
    """A third of the rows and of the columns of (..., h, w), at the bottom or the right if True."""
    sides = (max(1, side // 3) for side in maps.shape[-2:])
    rows, columns = (
        slice(-side, None) if end else slice(side) for side, end in zip(sides, corner, strict=True)
    )
    return rows, columns


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
        write(f"| {row.name} | {row.layer} | {row.grid} | {row.map} | {row.equation} |")
        right &= row.right
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
