"""The listings of models, layers, methods and colour maps."""

import argparse
import os
from collections import Counter
from importlib.util import find_spec
from typing import TextIO

from xgradcam.cli.setup import open_classifier
from xgradcam.cli.terminal import note, say
from xgradcam.errors import XGradCamError

# Steps of a colour map that a terminal shows.
STEPS = 32


def print_listing(prog: str, arguments: argparse.Namespace, out: TextIO) -> bool:
    """Print what the arguments ask to list, if anything; True if that is done."""
    if arguments.list_models is not None:
        print_models(prog, arguments.list_models, out)
    elif arguments.list_layers:
        print_layers(prog, arguments, out)
    elif getattr(arguments, "list_methods", False):
        print_methods(out)
    elif getattr(arguments, "list_colormaps", False):
        print_colormaps(out)
    else:
        return False
    return True


def print_models(prog: str, wanted: str, out: TextIO) -> None:
    """Print name, source and kind of the models, and which weights are here; wanted: a filter, or ''."""
    from xgradcam.models.catalogue import all_models, matching

    models = all_models()
    if wanted:
        models = matching(models, wanted)
    width = max(len(model.name) for model in models)
    for model in models:
        about = [model.source, model.kind, "weights here" * model.here]
        say(f"{model.name:{width}}  {', '.join(filter(None, about))}", out)
    sources = Counter(model.source for model in models)
    counts = ", ".join(f"{count} of {source}" for source, count in sources.items() if source != "bundled")
    note(prog, f"{len(models)} model{'s' * (len(models) != 1)}{f', {counts}' * bool(counts)}")
    if not wanted:
        needs = "" if find_spec("transformers") else ", which needs pip install 'xgradcam[hf]'"
        note(
            prog,
            f"also hf:OWNER/NAME and hf:FOLDER of transformers{needs}; timm/hf-hub:OWNER/NAME; your own "
            "file.py:function; --list-models resnet lists those with resnet in their names",
        )


def print_colormaps(out: TextIO) -> None:
    """Print the names of the colour maps; on a terminal with their colours, from no evidence to most."""
    from xgradcam.pictures.paint import COLORMAPS, colours_of

    in_colour = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = max(map(len, COLORMAPS))
    for name in COLORMAPS:
        strip = ""
        if in_colour:
            table = colours_of(name)[:: 256 // STEPS]
            strip = "".join(f"\x1b[48;2;{red};{green};{blue}m " for red, green, blue in table) + "\x1b[0m"
        print(f"{name:{width}}  {strip}".rstrip(), file=out, flush=True)


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
