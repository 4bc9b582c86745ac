"""The options of the model, its layers, its scores and the device; nothing here imports torch."""

import argparse
from pathlib import Path
from typing import Any

from xgradcam.errors import XGradCamError
from xgradcam.layouts.layout import HOW_TO_SAY, parse_layout

# How scores become probabilities; `xgradcam.scores.probability` has them too.
PROBABILITIES = ("softmax", "sigmoid", "exp", "none")
# Options that take as many numbers as the input has channels.
COLOURS = ("--mean", "--std")
MODEL_HELP = (
    "a model of torchvision (vgg16, resnet50, ...), timm/NAME for one of timm (also timm/hf-hub:OWNER/NAME "
    "and timm/local-dir:FOLDER), hf:FOLDER or hf:OWNER/NAME for one of transformers, your own "
    "file.py:function or package.module:function, or the bundled efficientnet-lite0. Default: VGG-16 as in "
    "the paper, or the bundled network where VGG-16's weights are neither cached nor reachable"
)


def add_model_arguments(parser: argparse.ArgumentParser, layer_help: str, many: dict[str, Any]) -> None:
    """Add the options of the model and of the layer; many: nargs where several layers can be given."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", help=MODEL_HELP)
    model.add_argument(
        "--weights", metavar="FILE|default|none", default="default",
        help="a checkpoint (.pth, .safetensors, an index of shards), the model's ImageNet weights (default), "
        "others of torchvision's (IMAGENET1K_V1), or none (random); FILE:NAME takes one of several state "
        "dicts in a file (w.pth:ema, or w.pth:ema.state_dict)",
    )  # fmt: skip
    model.add_argument("--target-layer", metavar="NAME", **many, help=layer_help)
    if many:
        model.add_argument(
            "--layout", metavar="LAYOUT", type=_layout_text,
            help=f"how the layer's output lies over the photograph, where that is not certain: {HOW_TO_SAY} "
            "(14 x 14 tokens after a class token)",
        )  # fmt: skip


def add_own_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of models that nothing is known of."""
    own = parser.add_argument_group("your own model")
    own.add_argument("--num-classes", metavar="INT", type=int, help="classes of the model, if not ImageNet's")
    own.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="the classes' names: one a line, index and name a line, or JSON (list, object, id2label)",
    )
    own.add_argument(
        "--input-size", metavar="PIXELS", type=int, nargs="+", help="input height and width, or one for both"
    )
    for name in COLOURS:
        own.add_argument(
            name,
            metavar="VALUE",
            type=float,
            nargs="+",
            help=f"{name[2:]} of the normalisation, in [0, 1]: one for each channel, or one for all",
        )
    own.add_argument("--output", metavar="NAME", help="where the scores are in what the model returns")


def add_probability_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option of how scores become probabilities."""
    parser.add_argument_group("probability").add_argument(
        "--probability", choices=PROBABILITIES,
        help="how scores become probabilities: softmax, sigmoid (if classes do not exclude one another), exp "
        "(of logarithms), or none (they are probabilities). Default: as the model's last operation tells; "
        "softmax for logits, sigmoid for an only one. The maps do not depend on it",
    )  # fmt: skip


def add_range_argument(group: argparse._ActionsContainer) -> None:
    """Add the option of the values that become black and white."""
    group.add_argument(
        "--range", metavar=("LOW", "HIGH"), type=float, nargs=2, dest="value_range",
        help="the values that become black and white, in photographs of more than 8 bits a channel or of "
        "floating-point values (0 4095 for 12 bits); default: 0 and 65535 for 16 bits, else "
        "what fits the values, with a note",
    )  # fmt: skip


def _layout_text(text: str) -> str:
    """The text, if it means a layout."""
    try:
        parse_layout(text)
    except XGradCamError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the device."""
    device = parser.add_argument_group("device").add_mutually_exclusive_group()
    device.add_argument(
        "--use-cuda", action="store_true", help="compute on the GPU if there is one, else on the CPU"
    )
    device.add_argument("--device", metavar="DEVICE", help="auto, cpu (default), cuda, cuda:N or mps")
