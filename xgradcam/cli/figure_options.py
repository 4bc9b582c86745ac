"""The options of colours and of picture files; imports no torch."""

import argparse
from typing import TYPE_CHECKING, Any

from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xgradcam.pictures.paint import Style

FORMATS = ("jpg", "png", "pdf", "svg")
FIGURES = ("pdf", "svg")


def add_figure_arguments(pictures: Any) -> None:
    """Add the options to the group of pictures."""
    pictures.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0],
        help="of the pictures: jpg (default), png; or pdf and svg, figures with a colour bar in the score's "
        "unit, whose text stays text",
    )  # fmt: skip
    pictures.add_argument(
        "--color-bar", action="store_true", help="figures with a colour bar as jpg and png, too"
    )
    pictures.add_argument(
        "--dpi", metavar="INT", type=_dpi, help="dots per inch of figures, 30 to 1200 (default: 150)"
    )
    pictures.add_argument(
        "--signed", action="store_true",
        help="evidence against the class, too, in blue, over the photograph in grey",
    )  # fmt: skip
    pictures.add_argument(
        "--colormap", metavar="NAME",
        help="one of OpenCV's: jet, turbo, viridis, ...; default: jet for cam.jpg and X_cam.jpg, as in the "
        "originals, and viridis for all else, which is even in lightness and safe for colour-blind readers; "
        "red and blue with --signed",
    )  # fmt: skip
    pictures.add_argument(
        "--alpha", metavar="SHARE", type=float,
        help="of the colours, from 0 to 1; default: the sum of colours and photograph, as in the originals; "
        "in figures and with --signed more where there is more evidence",
    )  # fmt: skip


def style_of(arguments: argparse.Namespace) -> "Style":
    """The style that the arguments ask for; XGradCamError for what is no colour map, share or figure."""
    from xgradcam.pictures.paint import DEFAULT as PAINT_DEFAULT
    from xgradcam.pictures.paint import Style

    if arguments.dpi is not None and not (arguments.color_bar or arguments.format in FIGURES):
        raise XGradCamError(
            "--dpi is for figures: add --color-bar, or --format pdf or svg; other pictures have the "
            "network's resolution, or --full-resolution"
        )
    return Style(
        arguments.full_resolution, arguments.colormap or PAINT_DEFAULT, arguments.alpha, arguments.signed
    )


def writing_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of the picture files, for `Writing`."""
    panel, bar = arguments.panel, arguments.color_bar
    return {"panel": panel, "format": arguments.format, "dpi": arguments.dpi, "bar": bar}


def recorded(arguments: argparse.Namespace, methods: "Sequence[str]") -> dict[str, Any]:
    """The settings in the run's record: the colours, and what is not there unless it is said."""
    from xgradcam.runs.settings import USUAL, colours_of

    said = {name: getattr(arguments, name) for name in ("format", "dpi", "color_bar", "signed")}
    said = {name: value for name, value in said.items() if value and USUAL.get(name) != value}
    looks = {**said, "methods": list(methods), "panel": arguments.panel}
    return {"colormap": colours_of(looks, arguments.colormap), **said}


def _dpi(text: str) -> int:
    number = int(text)
    if not 30 <= number <= 1200:
        raise argparse.ArgumentTypeError(f"{text}: give 30 to 1200")
    return number
