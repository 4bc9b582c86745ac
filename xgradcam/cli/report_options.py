"""The options of the report on a run; nothing here imports torch."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xgradcam.runs.run import Run


def add_report_arguments(group: argparse._ActionsContainer) -> None:
    """Add the options to the group of the output."""
    group.add_argument(
        "--report", action="store_true",
        help="write report.html, a page on where the evidence for each class lies: mean maps, groups of "
        "maps, the most typical and the most unusual ones, mistakes. Saves the maps, too; with --resume also "
        "for a run that has them. Needs pip install 'xgradcam[report]'",
    )  # fmt: skip
    group.add_argument(
        "--boxes", metavar="PATH", type=Path,
        help="where the objects are, for --report: COCO .json, VOC .xml, or a folder of VOC files",
    )  # fmt: skip


def require_report(arguments: argparse.Namespace) -> None:
    """Have the maps saved for a report; XGradCamError where it cannot be made."""
    if not arguments.report:
        if arguments.boxes is not None:
            raise XGradCamError("--boxes are for the report of a run: give --report, too")
        return
    from xgradcam.evaluation.boxes import read_annotations
    from xgradcam.evaluation.clusters import require_clustering

    require_clustering()
    if arguments.boxes is not None:
        read_annotations(arguments.boxes)
    arguments.save_maps = True


def report_on_run(
    work: "Run", records: "Sequence[Mapping[str, Any]]", title: str, say: Callable[[str], None]
) -> Path:
    """Write the report on a run, and return its path; `say` is told what it knows of boxes."""
    from xgradcam.evaluation.overview import overview_of
    from xgradcam.evaluation.overview_page import write_report

    overview = overview_of(work, records, work.writing.boxes, say)
    return write_report(work.writing.folder, overview, title)


def report_on_merged(work: "Run", title: str, say: Callable[[str], None]) -> Path:
    """The same on a run whose shards have just been merged."""
    from xgradcam.runs.journal import Journal

    journal = Journal(work.writing.folder, work.settings, work.sources, True)
    return report_on_run(work, journal.records(), title, say)
