"""The layers that --target-layer means, and those that --list-layers shows."""

import argparse
import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from xgradcam.cli.setup import ALL, note, open_classifier
from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from torch import Tensor

    from xgradcam.models.classifier import Classifier


def is_pattern(layer: str) -> bool:
    """Whether a value of --target-layer may mean several layers."""
    return layer == ALL or any(mark in layer for mark in "*?[")


def layers_named(
    classifier: "Classifier", inputs: "Tensor", pattern: str, *, maps_only: bool = False
) -> list[str]:
    """The names of the layers that a pattern or `all` means for these inputs, in the order of execution.

    `all`, and a pattern with `maps_only`, mean those that make feature maps. XGradCamError for none.
    """
    from torch import nn

    from xgradcam.capture.layers import list_layers

    layers = [layer for layer in list_layers(classifier.module, inputs) if layer.name]
    # A sequence gives what its last module gave; the others hand on what they are given.
    repeats = (nn.Sequential, nn.Identity, nn.Dropout, nn.Dropout2d)
    maps = [layer.name for layer in layers if layer.is_map and not isinstance(layer.module, repeats)]
    names = maps if maps_only or pattern == ALL else [layer.name for layer in layers]
    if pattern == ALL:
        problem = "gives feature maps (N, C, h, w): name one, or a pattern in quotes, with --target-layer"
    else:
        what = "with feature maps matches" if maps_only else "matches"
        problem = f"{what} {pattern!r}{_near(pattern, names)}"
        names = [name for name in names if fnmatchcase(name, pattern)]
    if not names:
        raise XGradCamError(f"no layer of {classifier.name} {problem} (--list-layers shows all)")
    return names


def _near(pattern: str, names: Sequence[str]) -> str:
    below = dict.fromkeys(name.rpartition(".")[0] + ".*" for name in names if "." in name)
    near = difflib.get_close_matches(pattern, [*below, *names], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def print_layers(prog: str, arguments: argparse.Namespace) -> None:
    """Print name, type and output shape of every layer, in the order of execution, and mark the default."""
    from xgradcam.models.load import DEFAULT_WEIGHTS, NO_WEIGHTS

    if arguments.model is not None and arguments.weights == DEFAULT_WEIGHTS:
        # The layers are the same without weights, which may have to be downloaded.
        arguments = argparse.Namespace(**{**vars(arguments), "weights": NO_WEIGHTS})
    classifier = open_classifier(prog, arguments, quietly=True)
    layers = classifier.layers()
    try:
        chosen, reason = classifier.default_layer(), ""
    except XGradCamError as error:
        chosen, reason = "", str(error)
    width = max(len(layer.name) for layer in layers)
    kind = max(len(type(layer.module).__name__) for layer in layers)
    for layer in layers:
        shape = "not a tensor" if layer.shape is None else " x ".join(map(str, layer.shape))
        runs = f"  runs {layer.runs} times" if layer.runs > 1 else ""
        mark = "  <- default" if layer.name and layer.name == chosen else ""
        print(f"{layer.name or '(model)':{width}}  {type(layer.module).__name__:{kind}}  {shape}{runs}{mark}")
    if reason:
        note(prog, f"no default layer: {reason}")
