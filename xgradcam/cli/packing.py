"""The form of a run's results: `--output-format`, and what does not go with it."""

import argparse
from collections.abc import Callable

from xgradcam.cli.scale_options import FILES, PARQUET, WEBDATASET
from xgradcam.errors import XGradCamError

# Options whose results are files beside the pictures, and those of pictures, with their values by default.
OF_FILES = ("html", "report")
OF_PICTURES = {
    "panel": False,
    "guided": False,
    "save_maps": False,
    "full_resolution": False,
    "colormap": None,
    "alpha": None,
    "format": "jpg",
    "color_bar": False,
    "dpi": None,
    "signed": False,
}


def format_of(arguments: argparse.Namespace, photographs: int, say: Callable[[str], None]) -> str:
    """The form of the results of so many photographs; `say` is told where nobody has chosen it.

    Raises XGradCamError, naming the options, for what does not go together, and without pyarrow for a table.
    """
    from xgradcam.runs.packs import MANY, require_pyarrow

    asked = arguments.output_format
    if asked is None:
        asked = _recorded(arguments)
    of_files = [f"--{name}" for name in OF_FILES if getattr(arguments, name, None)]
    if asked is None and photographs > MANY and not of_files:
        asked = WEBDATASET
        say(
            f"{photographs:,} photographs: their results are written into tar files, one of each shard "
            "(--output-format files: each into a file of its own)"
        )
    asked = FILES if asked is None else asked
    if asked != FILES and of_files:
        raise XGradCamError(f"{of_files[0]} needs results in files of their own: --output-format {FILES}")
    if asked == PARQUET:
        require_pyarrow()
        if named := _of_pictures(arguments):
            raise XGradCamError(
                f"{named}: --output-format {PARQUET} holds numbers, the maps among them, and no pictures: "
                "leave it out, or take another format"
            )
    if asked != FILES and "-" in arguments.image_path:
        raise XGradCamError(f"- reads a photograph from stdin: save it as a file for --output-format {asked}")
    return asked


def _recorded(arguments: argparse.Namespace) -> str | None:
    """The form of an interrupted run that goes on; None if there is none."""
    from xgradcam.runs.journal import settings_in
    from xgradcam.runs.shards import plan_in

    plan = plan_in(arguments.output_dir) if arguments.resume or arguments.shard is not None else None
    settings = plan.settings if plan is not None else {}
    if plan is None and arguments.resume:
        settings = settings_in(arguments.output_dir)
    found = settings.get("output_format", FILES) if settings else None
    return found if found in (FILES, WEBDATASET, PARQUET) else None


def _of_pictures(arguments: argparse.Namespace) -> str:
    """The first option about pictures that is given; '' if none is."""
    given = [name for name, usual in OF_PICTURES.items() if getattr(arguments, name) != usual]
    return f"--{given[0].replace('_', '-')}" if given else ""
