"""The options of the page of a run; nothing here imports torch."""

import argparse

from xgradcam.errors import XGradCamError

# The value of "html" in the record of a run that writes the page's files alone.
PAGE_ALONE = "no pictures"


def add_page_arguments(group: argparse._ActionsContainer) -> None:
    """Add the options of the page to the group of the output."""
    group.add_argument(
        "--html",
        action="store_true",
        help="write index.html, a page to look through all results, that opens from disk",
    )
    group.add_argument(
        "--no-pictures",
        action="store_true",
        help="with --html: no overlay pictures; the page colours the maps, from two files a photograph; "
        "--panel and --guided write theirs all the same",
    )


def require_page(arguments: argparse.Namespace) -> None:
    """Raise XGradCamError for a run that would write nothing, or looks of pictures that it leaves out.

    The page begins in the colours that are given.
    """
    if not arguments.no_pictures:
        return
    if not arguments.html:
        raise XGradCamError("--no-pictures writes only the files of a page: give --html, too")
    if arguments.panel or arguments.guided:
        return
    looks = {
        "--format": arguments.format != "jpg",
        "--color-bar": arguments.color_bar,
    }
    for name in (name for name, asked in looks.items() if asked):
        raise XGradCamError(
            f"{name} is about pictures, and --no-pictures leaves them out: leave out one of the two; the "
            "page draws its maps itself"
        )


def recorded_page(arguments: argparse.Namespace) -> bool | str:
    """The value of "html" in the run's record."""
    return PAGE_ALONE if arguments.no_pictures else bool(arguments.html)
