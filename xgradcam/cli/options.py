"""Every option of both commands. Nothing here imports torch, so that --help is quick."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xgradcam import __version__
from xgradcam.cli.bands import add_bands_argument
from xgradcam.cli.parsing import COLOURS
from xgradcam.cli.parsing import Parser as Parser
from xgradcam.cli.scale_options import add_scale_arguments
from xgradcam.cli.score_options import add_score_argument
from xgradcam.errors import XGradCamError
from xgradcam.layouts.layout import HOW_TO_SAY, parse_layout

# A value of --target-layer and of --method.
ALL = "all"
# A value of --target-layer and of --batch-size.
AUTO = "auto"
FLOAT32 = "float32"
PRECISIONS = (FLOAT32, "tf32", "bf16")
# How scores become probabilities; `xgradcam.scores.probability` has them too.
PROBABILITIES = ("softmax", "sigmoid", "exp", "none")
# The default methods; `xgradcam.cam.explain` has them too, but importing it takes a second.
BOTH = ("grad-cam", "xgrad-cam")

MODEL_HELP = (
    "a model of torchvision (vgg16, resnet50, ...), timm/NAME for one of timm (also timm/hf-hub:OWNER/NAME "
    "and timm/local-dir:FOLDER), hf:FOLDER or hf:OWNER/NAME for one of transformers, your own "
    "file.py:function or package.module:function, or the bundled efficientnet-lite0. Default: VGG-16 as in "
    "the paper, or the bundled network where VGG-16's weights are neither cached nor reachable"
)
LAYER_HELP = (
    "the layer to explain by, or several, or a pattern in quotes, for a map of each and one of all; 'input' "
    f"for the pixels themselves; '{AUTO}' for the finest layer at which the methods' maps can be trusted, "
    "with the reason; default: the last feature map before pooling or flattening"
)
PROOF_LAYER_HELP = (
    f"the layer to verify Eq. 5 at, any that returns one tensor; 'input'; '{ALL}', the input and every "
    "layer of feature maps; a pattern in quotes, such as 'features.*'; or "
    f"'{AUTO}', the finest layer at which XGrad-CAM can be trusted, with the reason. Default: the last "
    f"feature map before pooling or flattening; with --plot or --maps, {ALL}"
)


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; a photograph is required unless the command only lists something."""
    arguments = parser.parse_args(argv)
    only_lists = arguments.list_layers or getattr(arguments, "list_methods", False)
    if arguments.image_path is None and not only_lists:
        parser.error("--image-path is missing: which photograph?")
    return arguments


def xgrad_cam_parser(prog: str = "xgrad-cam") -> Parser:
    """The parser of `xgrad-cam`."""
    parser = _common_parser(
        prog,
        "Explain why a network gives a photograph its class: writes cam.jpg (Grad-CAM) and X_cam.jpg\n"
        "(XGrad-CAM, Fu et al., BMVC 2020), the photograph with the evidence for the class in red. Of\n"
        "several photographs or classes the names begin with both: cat_285_X_cam.jpg.\n"
        "Exit code: 0 done, 1 some photographs failed, 2 could not run; 129, 130 and 143 stopped by a\n"
        "signal. @FILE reads arguments from a file.",
        f"{prog} --image-path examples/cat-and-coffee.jpg --target-index 967\n"
        f"  {prog} --image-path photos --target-index top3 --output-dir out --resume",
        LAYER_HELP,
        several=True,
    )
    add_score_argument(parser)
    _add_method_arguments(parser)
    add_probability_argument(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where to write; made if missing (default: .)",
    )
    _add_picture_arguments(parser)
    output.add_argument(
        "--save-maps", action="store_true", help="write the signed, unscaled maps and the scores too, as .npz"
    )
    output.add_argument(
        "--json", action="store_true",
        help="print a JSON object per photograph and class on stdout, all text on stderr",
    )  # fmt: skip
    output.add_argument(
        "--html",
        action="store_true",
        help="write index.html, a page to look through all results, that opens from disk",
    )
    amount = output.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="no text but errors, no progress bar")
    amount.add_argument("--verbose", action="store_true", help="the notes on every one of many photographs")
    _add_run_arguments(parser)
    return parser


def proof_verify_parser(prog: str = "proof-verify") -> Parser:
    """The parser of `proof-verify`."""
    parser = _common_parser(
        prog,
        "Verify Eq. 5 of XGrad-CAM's paper (Fu et al., BMVC 2020) on a photograph: at a layer of a ReLU-CNN\n"
        "the class score is gradients*feature plus a bias term. The three are computed independently of one\n"
        "another. Exit code: 0 where Eq. 5 holds, 1 where it does not, 2 where it could not be computed.\n"
        "129, 130 and 143: stopped by a signal. @FILE reads arguments from a file.",
        f"{prog} --image-path examples/cat.jpg --target-index 285\n"
        f"  {prog} --image-path examples/cat.jpg --target-layer 'features.*' --plot split.png",
        PROOF_LAYER_HELP,
    )
    add_score_argument(parser)
    parser.add_argument(
        "--contrast", metavar="CLASS", nargs="+",
        help="verify the score of the class less the mean score of these classes, as --score contrast:CLASS",
    )  # fmt: skip
    parser.add_argument_group("precision").add_argument(
        "--double", action="store_true", help="compute in float64 instead of float32"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--plot", metavar="FILE", type=Path,
        help="draw how the score splits at the layers (.png, .pdf or .svg); its folder is made if missing",
    )  # fmt: skip
    output.add_argument(
        "--maps", metavar="DIR", type=Path,
        help="draw the complete maps of about 12 of the layers as one figure, maps.png, and write them, "
        "signed, as maps.npz; made if missing",
    )  # fmt: skip
    output.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, and all text on stderr"
    )
    return parser


def add_model_arguments(parser: Parser, layer_help: str, many: dict[str, Any]) -> None:
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
    model.add_argument("--list-layers", action="store_true", help="show the model's layers and end")
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


def add_probability_argument(parser: Parser) -> None:
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


def _batch_size(text: str) -> int | None:
    """The number in the text; None for `auto`."""
    try:
        return None if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r} is no number, nor {AUTO}") from None


def add_device_arguments(parser: Parser) -> None:
    """Add the options of the device."""
    device = parser.add_argument_group("device").add_mutually_exclusive_group()
    device.add_argument(
        "--use-cuda", action="store_true", help="compute on the GPU if there is one, else on the CPU"
    )
    device.add_argument("--device", metavar="DEVICE", help="auto, cpu (default), cuda, cuda:N or mps")


def _common_parser(
    prog: str, description: str, example: str, layer_help: str, several: bool = False
) -> Parser:
    """A parser with the options that both commands share; several: photographs and classes at once."""
    parser = Parser(
        prog=prog,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
        help="the class of interest: its index, its id, its name, or words of its name; "
        + ("top3 takes the three of the highest scores; " if several else "")
        + "-1, the default, takes the one of the highest score",
    )  # fmt: skip
    add_range_argument(photograph)
    add_bands_argument(photograph)
    add_model_arguments(parser, layer_help, many)
    add_device_arguments(parser)
    return parser


def _add_run_arguments(parser: Parser) -> None:
    many = parser.add_argument_group("many photographs")
    many.add_argument(
        "--batch-size", metavar="INT", type=_batch_size, default=AUTO,
        help=f"photographs at a time; {AUTO}, the default, takes 8, and on a GPU up to 32 by its free "
        "memory; fewer where the memory is too small",
    )  # fmt: skip
    many.add_argument(
        "--precision", choices=PRECISIONS, default=PRECISIONS[0],
        help="of the network's arithmetic: float32 (default), exact on a GPU too; tf32, which NVIDIA's GPUs "
        "do several times as fast; or bf16, which takes half the time where the processor knows it. "
        "Heatmaps then differ by thousandths (tf32) or hundredths (bf16) at the last layer, but by anything "
        "at an early one, where evidence for and against nearly cancels",
    )  # fmt: skip
    many.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run: pass over what is complete"
    )
    add_scale_arguments(many)


def _add_method_arguments(parser: Parser) -> None:
    methods = parser.add_argument_group("methods")
    methods.add_argument(
        "--method", metavar="NAME", nargs="+", default=list(BOTH),
        help="how to weigh the layer's channels: grad-cam and xgrad-cam (default), ablation-cam, score-cam, "
        "...; all takes those that apply",
    )  # fmt: skip
    methods.add_argument("--list-methods", action="store_true", help="show the methods and end")
    methods.add_argument(
        "--augment",
        action="store_true",
        help="smoother maps: average over the photograph, its mirror image and two contrasts of each",
    )
    methods.add_argument(
        "--guided", action="store_true",
        help="write guided backpropagation (gb.jpg) and each map guided by it (X_cam_gb.jpg), too: the "
        "pixels that speak for the class, as the network sees them",
    )  # fmt: skip
    methods.add_argument(
        "--axioms", action="store_true",
        help="print how far each map is from the axioms: conservation and sensitivity error (0 is exact); "
        "evaluates the network behind the layer once a channel",
    )  # fmt: skip


def _add_picture_arguments(parser: Parser) -> None:
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--full-resolution", action="store_true", help="at the photograph's own resolution, not the network's"
    )
    pictures.add_argument(
        "--crop", action="store_true",
        help="resize and crop as the weights expect it, instead of stretching; the rest is dimmed",
    )  # fmt: skip
    pictures.add_argument(
        "--panel", action="store_true", help="photograph and maps side by side with captions, too"
    )
    pictures.add_argument(
        "--colormap",
        metavar="NAME",
        default="jet",
        help="one of OpenCV's: jet (default), turbo, viridis, ...",
    )
    pictures.add_argument(
        "--alpha", metavar="SHARE", type=float,
        help="of the colours, from 0 to 1; default: the sum of colours and photograph, as in the originals",
    )  # fmt: skip
