"""The form of a run's results: `--output-format`, and what does not go with it."""

import argparse
from collections.abc import Callable, Mapping

from xgradcam.cli.scale_options import FILES, PARQUET, WEBDATASET
from xgradcam.errors import XGradCamError

# Options whose results are files beside the pictures, and those of pictures, with their values by default.
OF_FILES = {"html": False, "report": None}
OF_PICTURES = {
    "panel": False,
    "guided": False,
    "save_maps": False,
    "full_resolution": False,
    "colormap": "jet",
    "alpha": None,
}


def format_of(arguments: argparse.Namespace, photographs: int, say: Callable[[str], None]) -> str:
    """The form of the results of so many photographs; `say` is told where nobody has chosen it.

    Raises XGradCamError, naming the options, for what does not go together, and without pyarrow for a table.
    """
    from xgradcam.runs.packs import MANY, require_pyarrow

    asked = arguments.output_format
    if asked is None:
        asked = _recorded(arguments)
    if asked is None and photographs > MANY and not _unlike(arguments, OF_FILES):
        asked = WEBDATASET
        say(
            f"{photographs:,} photographs: their results are written into tar files, one of each shard "
            "(--output-format files: each into a file of its own)"
        )
    asked = FILES if asked is None else asked
    if asked != FILES and (named := _unlike(arguments, OF_FILES)):
        raise XGradCamError(f"{named} needs results in files of their own: --output-format {FILES}")
    if asked == PARQUET:
        require_pyarrow()
        if named := _unlike(arguments, OF_PICTURES):
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

    plan = plan_in(arguments.output_dir)
    joins = arguments.resume or (plan is not None and arguments.shard is not None)
    settings = (plan.settings if plan is not None else settings_in(arguments.output_dir)) if joins else {}
    found = settings.get("output_format", FILES) if settings else None
    return found if found in (FILES, WEBDATASET, PARQUET) else None


def _unlike(arguments: argparse.Namespace, usual: Mapping[str, object]) -> str:
    """The first option that is given, of those with these usual values; '' if none is."""
    given = [name for name, value in usual.items() if getattr(arguments, name, value) != value]
    return f"--{given[0].replace('_', '-')}" if given else ""
