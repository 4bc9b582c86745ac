"""`xgrad-cam`: explain a classifier's decisions on photographs by Grad-CAM and XGrad-CAM."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from xgradcam.cli.figure_options import style_of
from xgradcam.cli.finer import with_finer
from xgradcam.cli.listings import print_listing
from xgradcam.cli.options import parse, xgrad_cam_parser
from xgradcam.cli.packing import format_of
from xgradcam.cli.page_options import require_page
from xgradcam.cli.progress import Console
from xgradcam.cli.report_options import report_on_run, require_report
from xgradcam.cli.setup import (
    device_line,
    explaining_of,
    open_classifier,
    run_of,
    sources_of,
)
from xgradcam.cli.sharing import carry_out_share, device_of, rank_of
from xgradcam.cli.signals import exit_code_of
from xgradcam.cli.terminal import COULD_NOT_RUN, DONE, FAILED, run
from xgradcam.cli.truth_options import read_truth, require_labels
from xgradcam.cli.waiting import sleep_when_idle
from xgradcam.cli.workers import carry_out_by_workers, require_workers
from xgradcam.errors import CannotWriteError, XGradCamError

if TYPE_CHECKING:
    from xgradcam.runs.record import Record
    from xgradcam.runs.run import Run

PROG = "xgrad-cam"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 some photographs failed, 2 could not run."""
    return run(PROG, partial(parse, xgrad_cam_parser(PROG)), _main, argv)


def _main(arguments: argparse.Namespace, out: TextIO) -> int:
    if print_listing(PROG, arguments, out):
        return DONE
    sleep_when_idle(arguments.image_path)
    # Errors that need no network come before one is loaded.
    require_page(arguments)
    require_report(arguments)
    read_truth(arguments)
    explaining, style = explaining_of(arguments), style_of(arguments)
    skipped: Counter[str] = Counter()
    sources = sources_of(arguments, skipped)
    require_labels(arguments, sources)
    _require_writable(arguments.output_dir)
    rank = rank_of(arguments)
    require_workers(arguments)
    device = device_of(PROG, arguments, rank)
    several = len(sources) > 1
    verbose = arguments.verbose or not several
    console = Console(
        PROG, arguments.json, arguments.quiet, verbose, len(sources), out,
        skipped=skipped, signed=arguments.signed,
    )  # fmt: skip
    arguments.output_format = format_of(arguments, len(sources), console.note)
    console.say(device_line(device))
    classifier = open_classifier(PROG, arguments, many=several).to(device)
    work = with_finer(run_of(arguments, sources, classifier, explaining, style, console.note), arguments)
    if arguments.workers is not None and not work.writing.original_names:
        return carry_out_by_workers(work, console, arguments, _title(work))
    shared = rank is not None and (rank.index > 0 or not work.writing.original_names)
    if shared or work.writing.is_packed:
        return carry_out_share(work, console, rank, arguments, _title(work))
    return _carry_out(work, console, arguments.resume)


def _require_writable(folder: Path) -> None:
    from xgradcam.files import require_writable

    require_writable(folder)


def _carry_out(work: "Run", console: Console, resume: bool) -> int:
    """Explain and write everything, with a record and a page if the run has them; return the exit code."""
    from xgradcam.runs.batches import with_batch_size
    from xgradcam.runs.outputs import Outputs
    from xgradcam.runs.preparation import prepare
    from xgradcam.runs.record import Record

    work = with_batch_size(work, resume)
    outputs = Outputs(work)
    if work.writing.original_names:
        outputs.require_free(())
        prepare(work)
        return _explain(work, console, None)
    prepare(work)
    with Record(work, outputs, resume, console.note) as record:
        for source in work.sources:
            console.add_earlier(record.journal.done.get(source.path))
        code = _explain(work, console, record)
        if work.writing.page:
            console.say(f"wrote {_page(work, record)}")
        if work.writing.report and code in (DONE, FAILED):
            written = report_on_run(work, record.journal.records(), _title(work), console.note)
            console.say(f"wrote {written}")
        return code


def _explain(work: "Run", console: Console, record: "Record | None") -> int:
    """Explain the photographs and print each; return the exit code."""
    from tqdm import tqdm

    from xgradcam.runs.pipeline import explain_photographs

    silent = True if console.quiet or console.total == 1 else None
    with tqdm(total=console.total, initial=console.earlier, unit="photo", leave=False, disable=silent) as bar:
        console.write = bar.write
        known = (
            (record.journal.done, console.evaluations, record.announce)
            if record
            else ((), console.evaluations)
        )
        outcomes = explain_photographs(work, *known)
        try:
            for outcome in outcomes:
                if record is not None and not outcome.problem:
                    record.journal.add(outcome.source, outcome.state, outcome.records)
                console.tell(outcome.records, outcome.problem)
                bar.update()
        except KeyboardInterrupt as error:
            outcomes.close()
            # A terminal that is gone takes no last line.
            with suppress(OSError):
                bar.close()
                console.sum_up(work.writing.folder, "interrupted")
            return exit_code_of(error)
        except CannotWriteError as error:
            if record is None:
                raise XGradCamError(f"{error}: make room there, or choose another --output-dir") from None
            bar.close()
            console.sum_up(work.writing.folder, "stopped")
            raise XGradCamError(f"{error}; --resume goes on later") from None
    console.sum_up(work.writing.folder)
    if console.total == 1 and console.failed:
        return COULD_NOT_RUN
    return FAILED if console.failed else DONE


def _page(work: "Run", record: "Record") -> Path:
    from xgradcam.runs.gallery import write_gallery

    return write_gallery(work.writing.folder, record.journal.records(), _title(work), work.writing.style)


def _title(work: "Run") -> str:
    """The title of the run's page."""
    layers = "layer" if len(work.layers) == 1 else "layers"
    return f"{work.classifier.name}, {layers} {', '.join(work.layers)}"


if __name__ == "__main__":
    sys.exit(main())
