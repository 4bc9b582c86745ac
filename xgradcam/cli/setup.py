"""What the commands share: arguments, devices, models, errors in one line."""

import argparse
import errno
import io
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xgradcam import __version__
from xgradcam.errors import XGradCamError, users_code

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from xgradcam.cam.explain import Targets
    from xgradcam.models.classifier import Classifier
    from xgradcam.pictures.photograph import Photograph

# Of --target-layer and --method.
ALL = "all"
TOP = re.compile(r"top(\d+)", re.IGNORECASE)
DONE, FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130
# What writing to a full or broken stdout raises.
NO_OUTPUT = (errno.ENOSPC, errno.EIO, errno.EBADF)

MODEL_HELP = (
    "a classification model of torchvision (vgg16, resnet50, ...), timm/NAME for one of timm, your own "
    "file.py:function or package.module:function, or the bundled efficientnet-lite0. Default: VGG-16 as in "
    "the paper, or the bundled network where VGG-16's weights are neither cached nor reachable"
)
LAYER_HELP = (
    "the layer to explain by, or several, or a pattern in quotes, for a map of each and one of all; default: "
    "the last feature map before pooling or flattening"
)


class Parser(argparse.ArgumentParser):
    """argparse with errors in one line, as all errors here."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line and end with the exit code for 'could not run'."""
        self.exit(COULD_NOT_RUN, f"{self.prog}: error: {message} ({self.prog} --help shows the options)\n")

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """The arguments in a line of an @FILE, as a shell splits them; # begins a comment."""
        try:
            return shlex.split(arg_line, comments=True)
        except ValueError as error:
            self.error(f"in an @FILE: {error}: {arg_line.strip()}")


def common_parser(
    prog: str, description: str, example: str, layer_help: str = LAYER_HELP, several: bool = False
) -> Parser:
    """A parser with the arguments that every command of the package takes.

    several: whether the command takes several photographs and classes at once.
    """
    parser = Parser(
        prog=prog,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    many: dict[str, Any] = {"nargs": "+"} if several else {}
    photograph = parser.add_argument_group("what to explain")
    photograph.add_argument(
        "--image-path", metavar="PATH", **many,
        help="the photographs: files, folders (with those in them), patterns; - reads one from stdin"
        if several
        else "the photograph; - reads it from stdin",
    )  # fmt: skip
    photograph.add_argument(
        "--target-index", metavar="CLASS", **many, default=["-1"] if several else "-1",
        help="the class of interest: its index, or its name or a part of it; "
        + ("top3 takes the three of the highest scores; " if several else "")
        + "-1, the default, takes the one of the highest score",
    )  # fmt: skip
    add_model_arguments(parser, layer_help, many)
    add_device_arguments(parser)
    return parser


def add_device_arguments(parser: Parser) -> None:
    """What `choose_device` reads."""
    device = parser.add_argument_group("device").add_mutually_exclusive_group()
    device.add_argument(
        "--use-cuda", action="store_true", help="compute on the GPU if there is one, else on the CPU"
    )
    device.add_argument("--device", metavar="DEVICE", help="auto, cpu (default), cuda, cuda:N or mps")


def add_model_arguments(parser: Parser, layer_help: str, many: dict[str, Any]) -> None:
    """What `open_classifier` reads, and the layer; many: how argparse takes several of those."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", help=MODEL_HELP)
    model.add_argument(
        "--weights", metavar="FILE|default|none", default="default",
        help="a checkpoint (.pth, .safetensors), the model's ImageNet weights (default), or none (random)",
    )  # fmt: skip
    model.add_argument("--target-layer", metavar="NAME", **many, help=layer_help)
    model.add_argument("--list-layers", action="store_true", help="show the model's layers and end")
    own = parser.add_argument_group("your own model")
    own.add_argument("--num-classes", metavar="INT", type=int, help="classes of the model, if not ImageNet's")
    own.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="the classes' names: one a line, or JSON (list, or object)",
    )
    own.add_argument(
        "--input-size", metavar="PIXELS", type=int, nargs="+", help="input height and width, or one for both"
    )
    for name in ("mean", "std"):
        own.add_argument(
            f"--{name}",
            metavar=("R", "G", "B"),
            type=float,
            nargs=3,
            help=f"{name} of the normalisation, in [0, 1]",
        )
    own.add_argument("--output", metavar="NAME", help="where the scores are in what the model returns")


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with a photograph unless only the layers are asked for."""
    try:
        arguments = parser.parse_args(argv)
    except (RecursionError, UnicodeDecodeError):
        parser.error("an @FILE is not text in UTF-8, or names itself")
    only_shown = arguments.list_layers or getattr(arguments, "list_methods", False)
    if arguments.image_path is None and not only_shown:
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
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except XGradCamError as error:
        print(f"{prog}: error: {one_line(str(error))}", file=sys.stderr)
        return COULD_NOT_RUN
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output has gone; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    # A model's code may end the program, and would with an exit code of its own.
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in NO_OUTPUT:
            print(f"{prog}: error: cannot write the output: {error.strerror}", file=sys.stderr)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            traceback.print_exc()
            print(f"{prog}: error: unforeseen, in the model's code or in ours: see above", file=sys.stderr)
        # Python's own exit code would be 1, by which commands say something else.
        return COULD_NOT_RUN


def one_line(message: str) -> str:
    """The message as one line, though a file's name may hold line breaks."""
    return message.replace("\r", "\\r").replace("\n", "\\n")


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


def open_classifier(
    prog: str, arguments: argparse.Namespace, *, quietly: bool = False, many: bool = False
) -> "Classifier":
    """The classifier that the arguments describe; `quietly` says nothing of random weights.

    many: it is for many photographs, and may take a moment more to be fast.
    """
    from xgradcam.models.labels import read_labels
    from xgradcam.models.load import NO_WEIGHTS, load_classifier
    from xgradcam.models.user_code import is_own

    size = arguments.input_size
    if size is not None and (len(size) > 2 or min(size) < 1):
        raise XGradCamError(
            f"--input-size is {' '.join(map(str, size))}: give height and width, or one for both"
        )
    if arguments.std is not None and not all(0 < value <= 1 for value in arguments.std):
        raise XGradCamError(
            "--std has a value that is not above 0 and up to 1: divide those of 0 to 255 by 255"
        )
    if arguments.mean is not None and not all(0 <= value <= 1 for value in arguments.mean):
        raise XGradCamError("--mean has a value outside of 0 to 1: divide those of 0 to 255 by 255")
    if arguments.num_classes is not None and arguments.num_classes < 1:
        raise XGradCamError(f"--num-classes is {arguments.num_classes}: a model has at least one")
    own = arguments.model is not None and is_own(arguments.model)
    with users_code(f"cannot make {arguments.model}") if own else nullcontext():
        classifier = load_classifier(
            arguments.model,
            arguments.weights,
            lambda line: note(prog, line),
            num_classes=arguments.num_classes,
            labels=None if arguments.labels is None else read_labels(arguments.labels),
            size=None if size is None else (size[0], size[-1]),
            mean=None if arguments.mean is None else tuple(arguments.mean),
            std=None if arguments.std is None else tuple(arguments.std),
            output=arguments.output,
            channels_last=many,
        )
    if own or size is not None:
        height, width = classifier.size
        hint = "" if size else " (--input-size gives another)"
        with users_code(f"{classifier.name} does not run on an input 1 x 3 x {height} x {width}{hint}"):
            classifier.layers()
    if not quietly and arguments.weights == NO_WEIGHTS and not own:
        note(prog, "random weights: what follows says nothing about the photograph")
    return classifier


def class_of(value: str, labels: Sequence[str] | None) -> int | None:
    """The class that a value of --target-index means: an index, a name, or None for the highest score."""
    from xgradcam.models.labels import class_named

    if re.fullmatch(r"[+-]?\d+", value.strip()):
        return None if int(value) == -1 else int(value)
    return class_named(labels, value)


def classes_of(values: Sequence[str], labels: Sequence[str] | None) -> "Callable[[Tensor], list[Targets]]":
    """What the values of --target-index mean, top3 among them, for `explain_classes`."""
    from xgradcam.cam.explain import top_classes

    choices: list[Callable[[Tensor], Sequence[Targets]]] = []
    for value in values:
        if top := TOP.fullmatch(value):
            if not int(top.group(1)):
                raise XGradCamError(f"--target-index is {value}: top1 is the class of the highest score")
            choices.append(top_classes(int(top.group(1))))
        else:
            choices.append(partial(_always, class_of(value, labels)))
    return lambda logits: [target for choice in choices for target in choice(logits)]


def _always(target: int | None, _logits: "Tensor") -> "Sequence[Targets]":
    return [target]


def open_photograph_and_classifier(
    prog: str, arguments: argparse.Namespace, say: Callable[[str], None]
) -> "tuple[Photograph, Classifier]":
    """The photograph, and the classifier on its device; what needs no network is checked before one loads."""
    photograph = read_photograph(arguments.image_path)
    device = choose_device(prog, arguments)
    say("Using GPU for acceleration" if device.type != "cpu" else "Using CPU for computation")
    return photograph, open_classifier(prog, arguments).to(device)


def read_photograph(path: str) -> "Photograph":
    """The photograph in a file, or on stdin for `-`."""
    from xgradcam.pictures.photograph import decode_image, read_image
    from xgradcam.runs.sources import STDIN

    if path != STDIN:
        return read_image(path)
    return decode_image(io.BytesIO(sys.stdin.buffer.read()), "stdin")
