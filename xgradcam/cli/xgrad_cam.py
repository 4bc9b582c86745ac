"""`xgrad-cam`: explain a classifier's decisions on photographs by Grad-CAM and XGrad-CAM."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from xgradcam.cli.listings import print_layers, print_methods
from xgradcam.cli.options import parse, xgrad_cam_parser
from xgradcam.cli.progress import Console
from xgradcam.cli.setup import (
    choose_device,
    device_line,
    explaining_of,
    open_classifier,
    run_of,
    sources_of,
    style_of,
)
from xgradcam.cli.terminal import COULD_NOT_RUN, DONE, FAILED, INTERRUPTED, run
from xgradcam.errors import CannotWriteError, XGradCamError

if TYPE_CHECKING:
    from xgradcam.runs.journal import Journal
    from xgradcam.runs.run import Run

PROG = "xgrad-cam"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 some photographs failed, 2 could not run."""
    arguments = parse(xgrad_cam_parser(PROG), argv)
    return run(PROG, lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> int:
    if arguments.list_layers:
        print_layers(PROG, arguments)
        return DONE
    if arguments.list_methods:
        print_methods()
        return DONE
    # Errors that need no network come before one is loaded.
    explaining, style = explaining_of(arguments), style_of(arguments)
    sources = sources_of(arguments)
    _require_writable(arguments.output_dir)
    device = choose_device(PROG, arguments)
    several = len(sources) > 1
    console = Console(PROG, arguments.json, arguments.quiet, arguments.verbose or not several, len(sources))
    console.say(device_line(device))
    classifier = open_classifier(PROG, arguments, many=several).to(device)
    work = run_of(arguments, sources, classifier, explaining, style, console.note)
    return _carry_out(work, console, arguments.resume)


def _require_writable(folder: Path) -> None:
    from xgradcam.files import require_writable

    require_writable(folder)


def _carry_out(work: "Run", console: Console, resume: bool) -> int:
    """Explain and write everything, with a record and a page if the run has them; return the exit code."""
    from xgradcam.runs.preparation import prepare

    prepare(work)
    with nullcontext() if work.writing.original_names else _journal(work, resume) as journal:
        for source in work.sources:
            console.add_earlier(journal.done.get(source.path) if journal else None)
        code = _explain(work, console, journal)
        if work.writing.page and journal:
            console.say(f"wrote {_page(work, journal)}")
        return code


def _explain(work: "Run", console: Console, journal: "Journal | None") -> int:
    """Explain the photographs and print each; return the exit code."""
    from tqdm import tqdm

    from xgradcam.runs.pipeline import explain_photographs

    silent = True if console.quiet or console.total == 1 else None
    with tqdm(total=console.total, initial=console.earlier, unit="photo", leave=False, disable=silent) as bar:
        console.write = bar.write
        outcomes = explain_photographs(work, journal.done if journal else (), console.evaluations)
        try:
            for outcome in outcomes:
                if journal is not None and not outcome.problem:
                    journal.add(outcome.source, outcome.state, outcome.records)
                console.tell(outcome.records, outcome.problem)
                bar.update()
        except KeyboardInterrupt:
            outcomes.close()
            bar.close()
            console.sum_up(work.writing.folder, "interrupted")
            return INTERRUPTED
        except CannotWriteError as error:
            if journal is None:
                raise
            bar.close()
            console.sum_up(work.writing.folder, "stopped")
            raise XGradCamError(f"{error}; --resume goes on later") from None
    console.sum_up(work.writing.folder)
    if console.total == 1 and console.failed:
        return COULD_NOT_RUN
    return FAILED if console.failed else DONE


def _journal(work: "Run", resume: bool) -> "Journal":
    from xgradcam.files import make_folder
    from xgradcam.runs.journal import Journal

    make_folder(work.writing.folder)
    return Journal(work.writing.folder, work.settings, work.sources, resume)


def _page(work: "Run", journal: "Journal") -> Path:
    from xgradcam.runs.gallery import write_gallery

    layers = "layer" if len(work.layers) == 1 else "layers"
    title = f"{work.classifier.name}, {layers} {', '.join(work.layers)}"
    return write_gallery(journal.folder, journal.records(), title)


if __name__ == "__main__":
    sys.exit(main())
