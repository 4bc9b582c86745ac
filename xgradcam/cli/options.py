"""The options of `xgrad-cam`."""

from pathlib import Path

from xgradcam.cli.setup import Parser, common_parser

BATCH_SIZE = 8
BF16 = "bf16"
PRECISIONS = ("float32", BF16)
# As `xgradcam.cam.explain` has it, which would import torch for the help text.
BOTH = ("grad-cam", "xgrad-cam")


def xgrad_cam_parser(prog: str) -> Parser:
    """The options of `xgrad-cam`."""
    parser = common_parser(
        prog,
        "Explain why a network gives a photograph its class: writes cam.jpg (Grad-CAM) and X_cam.jpg\n"
        "(XGrad-CAM, Fu et al., BMVC 2020), the photograph with the evidence for the class in red. Of\n"
        "several photographs or classes the names begin with both: cat_285_X_cam.jpg.\n"
        "Exit code: 0 done, 1 some photographs failed, 2 could not run. @FILE reads arguments from a file.",
        f"{prog} --image-path examples/cat-and-coffee.jpg --target-index 967\n"
        f"  {prog} --image-path photos --target-index top3 --output-dir out --resume",
        several=True,
    )
    _add_method_arguments(parser)
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
    talk = output.add_mutually_exclusive_group()
    talk.add_argument("--quiet", action="store_true", help="no text but errors, no progress bar")
    talk.add_argument("--verbose", action="store_true", help="the notes on every one of many photographs")
    many = parser.add_argument_group("many photographs")
    many.add_argument(
        "--batch-size", metavar="INT", type=int, default=BATCH_SIZE,
        help=f"photographs at a time (default: {BATCH_SIZE}); fewer where the memory is too small",
    )  # fmt: skip
    many.add_argument(
        "--precision", choices=PRECISIONS, default=PRECISIONS[0],
        help="of the network's arithmetic: float32 (default), or bf16, which takes half the time where the "
        "processor knows it; heatmaps then differ by hundredths at the last layer, but by anything at an "
        "early one, where evidence for and against nearly cancels",
    )  # fmt: skip
    many.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run: pass over what is complete"
    )
    return parser


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
