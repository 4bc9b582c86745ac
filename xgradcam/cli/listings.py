"""The listings of --list-layers and --list-methods."""

import argparse
from typing import TextIO

from xgradcam.cli.setup import open_classifier
from xgradcam.cli.terminal import note, say
from xgradcam.errors import XGradCamError


def print_layers(prog: str, arguments: argparse.Namespace, out: TextIO) -> None:
    """Print name, type, output shape and layout of all layers as they run; mark the default."""
    from xgradcam.lending.finding import INPUT
    from xgradcam.models.load import DEFAULT_WEIGHTS, NO_WEIGHTS

    if arguments.model is not None and arguments.weights == DEFAULT_WEIGHTS:
        # The layers are the same without weights, which may have to be downloaded.
        arguments = argparse.Namespace(**{**vars(arguments), "weights": NO_WEIGHTS})
    classifier = open_classifier(prog, arguments, quietly=True)
    layers = classifier.layers()
    try:
        default, problem = classifier.default_layer(), ""
    except XGradCamError as error:
        default, problem = "", str(error)
    has_input = any(layer.name == INPUT for layer in layers)
    width = max(len(INPUT), *(len(layer.name) for layer in layers))
    kind = max(len(type(layer.module).__name__) for layer in layers)
    if not has_input:
        shape = " x ".join(map(str, classifier.blank().shape))
        say(f"{INPUT:{width}}  {'Tensor':{kind}}  {shape}  channels-first", out)
    for layer in layers:
        shape = "not a tensor" if layer.shape is None else " x ".join(map(str, layer.shape))
        layout = f"  {layer.layout}" if layer.is_map else ""
        runs = f"  runs {layer.runs} times" if layer.runs > 1 else ""
        mark = "  <- default" if layer.name and layer.name == default else ""
        name = layer.name or "(model)"
        say(f"{name:{width}}  {type(layer.module).__name__:{kind}}  {shape}{layout}{runs}{mark}", out)
    if problem:
        note(prog, f"no default layer: {problem}")


def print_methods(out: TextIO) -> None:
    """Print name, source and weights of every method."""
    from xgradcam.cam.methods import METHODS

    width, source = (max(map(len, column)) for column in (METHODS, [one.source for one in METHODS.values()]))
    for name, method in METHODS.items():
        say(f"{name:{width}}  {method.source:{source}}  {method.says}", out)
