"""What the commands share: arguments, devices, models, errors in one line."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from xgradcam import __version__
from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    import torch

    from xgradcam.images import Photograph
    from xgradcam.models import Classifier

DONE, FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130

MODEL_HELP = (
    "a classification model of torchvision (vgg16, resnet50, ...), timm/NAME for one of timm, or the bundled "
    "efficientnet-lite0. Default: VGG-16 as in the paper, or the bundled network where VGG-16's weights are "
    "neither cached nor reachable"
)
LAYER_HELP = "the layer to explain by; default: the last feature map before pooling or flattening"


class Parser(argparse.ArgumentParser):
    """argparse with errors in one line, as all errors here."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line and end with the exit code for 'could not run'."""
        self.exit(COULD_NOT_RUN, f"{self.prog}: error: {message} ({self.prog} --help shows the options)\n")


def common_parser(prog: str, description: str, example: str, layer_help: str = LAYER_HELP) -> Parser:
    """A parser with the arguments that every command of the package takes."""
    parser = Parser(
        prog=prog,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    photograph = parser.add_argument_group("what to explain")
    photograph.add_argument("--image-path", metavar="PATH", help="the photograph")
    photograph.add_argument(
        "--target-index", metavar="INT", type=int, default=-1,
        help="index of the class of interest; -1, the default, takes the one of the highest score",
    )  # fmt: skip
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", help=MODEL_HELP)
    model.add_argument(
        "--weights", metavar="FILE|default|none", default="default",
        help="a state dict (.pth, .safetensors), the model's ImageNet weights (default), or none (random)",
    )  # fmt: skip
    model.add_argument("--target-layer", metavar="NAME", help=layer_help)
    model.add_argument("--list-layers", action="store_true", help="show the model's layers and end")
    device = parser.add_argument_group("device").add_mutually_exclusive_group()
    device.add_argument(
        "--use-cuda", action="store_true", help="compute on the GPU if there is one, else on the CPU"
    )
    device.add_argument(
        "--device", metavar="DEVICE", help="auto, cpu (default), cuda, cuda:N or mps"
    )  # fmt: skip
    return parser


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with a photograph unless only the layers are asked for."""
    arguments = parser.parse_args(argv)
    if arguments.image_path is None and not arguments.list_layers:
        parser.error("--image-path is missing: which photograph?")
    return arguments


def run(prog: str, work: Callable[[], int]) -> int:
    """Do the work; say in one line what the user can mend, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be text in the terminal's encoding.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            # What the libraries below us will have to change is nothing that a user could mend.
            warnings.simplefilter("ignore", FutureWarning)
            code = work()
        sys.stdout.flush()
        return code
    except XGradCamError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output has gone; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def note(prog: str, line: str) -> None:
    """Tell the user something beside the result: a line on stderr."""
    print(f"{prog}: {line}", file=sys.stderr, flush=True)


def choose_device(prog: str, arguments: argparse.Namespace) -> "torch.device":
    """The device that the arguments ask for; XGradCamError where it does not exist here."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if arguments.use_cuda:
        if not cuda:
            note(prog, "no CUDA device here; falling back to the CPU")
        return torch.device("cuda" if cuda else "cpu")
    if arguments.device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(arguments.device or "cpu")
    except RuntimeError:
        raise XGradCamError(f"no device {arguments.device!r}: take auto, cpu, cuda, cuda:N or mps") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}.get(device.type, 0)
    if (device.index or 0) >= count:
        there = [f"cuda:{index}" for index in range(torch.cuda.device_count())] + ["mps"] * mps
        raise XGradCamError(f"no device {arguments.device!r} here; there is: {', '.join(['cpu', *there])}")
    return device


def open_classifier(prog: str, arguments: argparse.Namespace) -> "Classifier":
    """The classifier that the arguments name."""
    from xgradcam.models import NO_WEIGHTS, load_classifier

    classifier = load_classifier(arguments.model, arguments.weights, lambda line: note(prog, line))
    if arguments.weights == NO_WEIGHTS:
        note(prog, "random weights: what follows says nothing about the photograph")
    return classifier


def open_photograph_and_classifier(
    prog: str, arguments: argparse.Namespace, say: Callable[[str], None]
) -> "tuple[Photograph, Classifier]":
    """The photograph, and the classifier on its device; what needs no network is checked before one loads."""
    from xgradcam.images import read_image

    photograph = read_image(arguments.image_path)
    device = choose_device(prog, arguments)
    say("Using GPU for acceleration" if device.type != "cpu" else "Using CPU for computation")
    return photograph, open_classifier(prog, arguments).to(device)


def print_layers(prog: str, classifier: "Classifier") -> None:
    """Print name, type and output shape of every layer, in the order of execution, and mark the default."""
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
