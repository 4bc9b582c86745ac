"""Every option of both commands. Nothing here imports torch, so that --help is quick."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xgradcam.cli.arranging import misplaced
from xgradcam.cli.bands import add_bands_argument
from xgradcam.cli.figure_options import add_figure_arguments
from xgradcam.cli.help_pages import ShortPage
from xgradcam.cli.input_options import add_column_argument
from xgradcam.cli.lookup_options import LISTINGS, add_lookup_arguments, lists
from xgradcam.cli.model_options import (
    add_device_arguments,
    add_model_arguments,
    add_own_model_arguments,
    add_probability_argument,
    add_range_argument,
)
from xgradcam.cli.page_options import add_page_arguments
from xgradcam.cli.parsing import Parser as Parser
from xgradcam.cli.parsing import paths_taken
from xgradcam.cli.report_options import add_report_arguments
from xgradcam.cli.scale_options import add_format_argument, add_scale_arguments
from xgradcam.cli.score_options import add_score_argument
from xgradcam.cli.truth_options import add_truth_argument

# A value of --target-layer and of --method.
ALL = "all"
# A value of --target-layer and of --batch-size.
AUTO = "auto"
FLOAT32 = "float32"
PRECISIONS = (FLOAT32, "tf32", "bf16")
# The default methods; `xgradcam.cam.explain` has them too, but importing it takes a second.
BOTH = ("grad-cam", "xgrad-cam")

DESCRIPTION = """\
Explain why a network gives a photograph its class:

  {prog} photo.jpg
  {prog} photo.jpg --target espresso --panel
  {prog} photos --target top3 --output-dir out --html
  {prog} photo.jpg --model resnet50 --target-layer layer3

cam.jpg (Grad-CAM) and X_cam.jpg (XGrad-CAM, Fu et al., BMVC 2020) are written: the photograph with the
evidence for the class in red. Of several photographs or classes the names begin with both:
cat_285_X_cam.jpg. @FILE reads arguments from a file. Exit code: 0 done, 1 some photographs failed, 2 could
not run; 129, 130 and 143 stopped by a signal."""
SHORT = """\
Show which parts of a photograph speak for a class of a network:

  {prog} photo.jpg                            the class of the highest score
  {prog} photo.jpg --target espresso --panel  a class by name, with captions
  {prog} photos --target top3 --html          all of a folder, as a page"""
SHORT_OPTIONS = {
    "PHOTOGRAPH": "files, folders or patterns; - reads one from stdin",
    "--target": "the class: name or index; top3 takes the best three",
    "--model": "resnet50, timm/NAME, hf:NAME, your file.py:function",
    "--weights": "a checkpoint, default (ImageNet's) or none (random)",
    "--target-layer": "the layer to explain by; auto chooses one",
    "--method": "grad-cam, xgrad-cam, complete-cam, ...; or all",
    "--output-dir": "where to write (default: here)",
    "--panel": "photograph and maps side by side, too",
    "--full-resolution": "paint at the photograph's own resolution",
    "--signed": "evidence against in blue, too",
    "--format": "jpg, png, or figures with a colour bar: pdf, svg",
    "--html": "a page to look through all results",
    "--truth": "the true classes: which are wrong, and why",
    "--report": "a page on where each class's evidence lies",
    "--json": "print the numbers as JSON",
    "--use-cuda": "compute on the GPU if there is one",
}
MORE = "{prog} --help shows all options. Choices: --list-models, --list-layers, --list-methods."

PROOF_DESCRIPTION = """\
Verify Eq. 5 of XGrad-CAM's paper (Fu et al., BMVC 2020) on a photograph:

  {prog} photo.jpg
  {prog} photo.jpg --target espresso --target-layer all
  {prog} photo.jpg --plot split.png --maps maps

At a layer of a ReLU-CNN the class score is gradients*feature plus a bias term. The three are computed
independently of one another. @FILE reads arguments from a file. Exit code: 0 where Eq. 5 holds, 1 where it
does not, 2 where it could not be computed; 129, 130 and 143 stopped by a signal."""
PROOF_SHORT = """\
Verify that a class score is the sum of its terms at a layer (the paper's Eq. 5):

  {prog} photo.jpg                          for the highest score
  {prog} photo.jpg --target espresso        for a class by name
  {prog} photo.jpg --target-layer all       at every layer
  {prog} photo.jpg --plot split.png         draw how the score splits"""
PROOF_SHORT_OPTIONS = {
    "PHOTOGRAPH": "the photograph; - reads it from stdin",
    "--target": "the class: its name or index",
    "--model": "resnet50, timm/NAME, hf:NAME, your file.py:function",
    "--weights": "a checkpoint, default (ImageNet's) or none (random)",
    "--target-layer": "a layer, a pattern in quotes, input, all or auto",
    "--plot": "draw how the score splits (.png, .pdf or .svg)",
    "--maps": "draw and write the complete maps of the layers",
    "--double": "compute in float64",
    "--json": "print the numbers as JSON",
    "--use-cuda": "compute on the GPU if there is one",
}
PROOF_MORE = "{prog} --help shows all options. Choices: --list-models, --list-layers."

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


def parse(parser: Parser, argv: Sequence[str] | None, *, several: bool = True) -> argparse.Namespace:
    """Parse the arguments; `image_path` has the photographs, however they were given.

    A photograph is required unless the command only lists something. `paths_taken` has values of options that
    may be photographs. several: photographs are a list, there are methods, and `plain` is True if neither
    methods nor layers are chosen.
    """
    arguments = parser.parse_args(argv)
    given = arguments.image_path or [] if several else [arguments.image_path] * bool(arguments.image_path)
    arguments.paths_taken = paths_taken(parser, arguments)
    # Both name photographs, so that neither can be meant to stand for the other.
    photographs = [*arguments.photographs, *given]
    del arguments.photographs
    if not photographs and not lists(arguments):
        parser.error(f"which photograph? as in: {parser.prog} photo.jpg{misplaced(arguments.paths_taken)}")
    if several:
        arguments.image_path = photographs
        arguments.plain = arguments.method is None and arguments.target_layer is None
        arguments.method = arguments.method or list(BOTH)
    elif len(photographs) > 1:
        parser.error(f"{len(photographs)} photographs, {', '.join(photographs)}: {parser.prog} takes one")
    else:
        arguments.image_path = photographs[0] if photographs else None
    return arguments


def xgrad_cam_parser(prog: str = "xgrad-cam") -> Parser:
    """The parser of `xgrad-cam`."""
    parser = _parser(prog, DESCRIPTION)
    _add_photograph_arguments(parser, several=True)
    add_model_arguments(parser, LAYER_HELP, {"nargs": "+"})
    _add_method_arguments(parser)
    _add_picture_arguments(parser)
    _add_output_arguments(parser)
    _add_run_arguments(parser)
    add_own_model_arguments(parser)
    _add_pixel_arguments(parser)
    add_score_argument(parser)
    add_truth_argument(parser)
    add_probability_argument(parser)
    add_device_arguments(parser)
    add_lookup_arguments(parser, _short(prog, SHORT, SHORT_OPTIONS, MORE), methods=True, colormaps=True)
    return parser


def proof_verify_parser(prog: str = "proof-verify") -> Parser:
    """The parser of `proof-verify`."""
    parser = _parser(prog, PROOF_DESCRIPTION)
    _add_photograph_arguments(parser, several=False)
    add_model_arguments(parser, PROOF_LAYER_HELP, {})
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
        "--format", choices=("png", "jpg", "pdf", "svg"),
        help="of the figure of --maps: png (default), jpg, or pdf and svg, whose text stays text",
    )  # fmt: skip
    output.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, and all text on stderr"
    )
    parser.add_argument_group("precision").add_argument(
        "--double", action="store_true", help="compute in float64 instead of float32"
    )
    add_own_model_arguments(parser)
    _add_pixel_arguments(parser)
    add_score_argument(parser).add_argument(
        "--contrast", metavar="CLASS", nargs="+",
        help="verify the score of the class less the mean score of these classes, as --score contrast:CLASS",
    )  # fmt: skip
    add_device_arguments(parser)
    add_lookup_arguments(parser, _short(prog, PROOF_SHORT, PROOF_SHORT_OPTIONS, PROOF_MORE))
    return parser


def _parser(prog: str, description: str) -> Parser:
    return Parser(prog, "%(prog)s [options] PHOTOGRAPH ...", description.format(prog=prog), LISTINGS)


def _short(prog: str, description: str, options: dict[str, str], more: str) -> ShortPage:
    return ShortPage(description.format(prog=prog), options, more.format(prog=prog))


def _add_photograph_arguments(parser: Parser, several: bool) -> None:
    """Add the photographs and the class; several: of both as many as one likes."""
    many: dict[str, Any] = {"nargs": "+"} if several else {}
    photograph = parser.add_argument_group("what to explain")
    photograph.add_argument(
        "photographs", metavar="PHOTOGRAPH", nargs="*",
        help="the photographs: files, folders (with those in them), patterns, tars, Parquet tables, URLs, "
        "lists (.txt); - reads one from stdin"
        if several
        else "the photograph; - reads it from stdin",
    )  # fmt: skip
    photograph.add_argument(
        "--image-path", metavar="PATH", **many,
        help=f"the same as an option, as in the original scripts{'; both add up' if several else ''}",
    )  # fmt: skip
    if several:
        add_column_argument(photograph)
    photograph.add_argument(
        "--target-index", "--target", metavar="CLASS", **many, default=["-1"] if several else "-1",
        help="the class of interest: its index, its id, its name, or words of its name; "
        + ("top3 takes the three of the highest scores; " if several else "")
        + "-1, the default, takes the one of the highest score",
    )  # fmt: skip


def _add_pixel_arguments(parser: Parser) -> None:
    """Add the options of photographs of other bands than red, green and blue of 8 bits."""
    pixels = parser.add_argument_group("more than 8 bits or three bands")
    add_range_argument(pixels)
    add_bands_argument(pixels)


def _add_method_arguments(parser: Parser) -> None:
    methods = parser.add_argument_group("methods")
    methods.add_argument(
        "--method", metavar="NAME", nargs="+",
        help="how to weigh the layer's channels: grad-cam and xgrad-cam (default), ablation-cam, score-cam, "
        "...; all takes those that apply",
    )  # fmt: skip
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
    add_figure_arguments(pictures)


def _add_output_arguments(parser: Parser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where to write; made if missing (default: .)",
    )
    add_page_arguments(output)
    add_report_arguments(output)
    output.add_argument(
        "--save-maps", action="store_true", help="write the signed, unscaled maps and the scores too, as .npz"
    )
    add_format_argument(output)
    output.add_argument(
        "--json", action="store_true",
        help="print a JSON object per photograph and class on stdout, all text on stderr",
    )  # fmt: skip
    amount = output.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="no text but errors, no progress bar")
    amount.add_argument("--verbose", action="store_true", help="the notes on every one of many photographs")


def _add_run_arguments(parser: Parser) -> None:
    many = parser.add_argument_group("many photographs")
    many.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run: pass over what is complete"
    )
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
    add_scale_arguments(many)


def _batch_size(text: str) -> int | None:
    """The number in the text; None for `auto`."""
    try:
        return None if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r} is no number, nor {AUTO}") from None
