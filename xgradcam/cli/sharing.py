"""A share of a run, done by this process beside others."""

import argparse
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from xgradcam.cli.progress import Console
from xgradcam.cli.ranks import Rank, rank_in
from xgradcam.cli.report_options import report_on_merged
from xgradcam.cli.scale_options import ENVIRONMENT
from xgradcam.cli.setup import choose_device
from xgradcam.cli.signals import exit_code_of
from xgradcam.cli.terminal import DONE, FAILED
from xgradcam.errors import CannotWriteError, XGradCamError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from tqdm import tqdm

    from xgradcam.runs.launches import Launch
    from xgradcam.runs.run import Run


def rank_of(arguments: argparse.Namespace) -> Rank | None:
    """This process's share, as --shard gives it; None without it."""
    if arguments.shard is None:
        return None
    if arguments.workers is not None:
        raise XGradCamError("--shard is one process of several, --workers starts several: give one of them")
    return rank_in(os.environ) if arguments.shard == ENVIRONMENT else Rank(*arguments.shard)


def device_of(prog: str, arguments: argparse.Namespace, rank: Rank | None) -> "torch.device":
    """The device of this process, whose workers on other machines may have GPUs where it has none."""
    import torch

    if arguments.ray_address is not None and arguments.device == "cuda" and not torch.cuda.is_available():
        return torch.device("cpu")
    return own_device(choose_device(prog, arguments), rank)


def own_device(device: "torch.device", rank: Rank | None) -> "torch.device":
    """The device, and of several GPUs of a machine the one for this process of it."""
    import torch

    if device.type != "cuda" or device.index is not None or rank is None or rank.local is None:
        return device
    return torch.device("cuda", rank.local % torch.cuda.device_count())


def carry_out_share(
    work: "Run", console: Console, rank: Rank | None, arguments: argparse.Namespace, title: str
) -> int:
    """Do the shards of this process, and merge all if no other is left; return the exit code.

    rank: its share; None for all, in a folder that no other process writes into. title: of the page.
    """
    from xgradcam.runs.launches import alone, together

    if work.writing.original_names:
        console.say("nothing to do: the first process does an only photograph")
        return DONE
    how = work, arguments.resume, console.note
    size, console.total = arguments.shard_size, 0
    launched = alone(*how, 1, size) if rank is None else together(*how, rank.count, size, rank.index)
    rank = rank or Rank(0, 1)
    with launched as launch:
        count = launch.plan.count
        own = range(rank.index, count, rank.count)
        if not own:
            console.say(f"nothing to do: of {count} shards none is left for process {rank.index + 1}")
            return DONE
        console.total = sum(len(launch.plan.of(index, work.sources)) for index in own)
        code = _explain(launch, console, own, rank)
        if code not in (DONE, FAILED):
            return code
        tell_end(launch, console, title)
        return code


def tell_end(launch: "Launch", console: Console, title: str) -> None:
    """Merge the shards if all are done, and say so; or how many are left."""
    from xgradcam.runs.gallery import PAGE
    from xgradcam.runs.journal import NAME
    from xgradcam.runs.packs import packs_named

    folder, count = launch.run.writing.folder, launch.plan.count
    if launch.finish(title):
        console.say(f"all shards are done: wrote {folder / NAME}")
        if launch.run.writing.is_packed:
            console.say(f"wrote {folder / packs_named(launch.run.writing.output_format, count)}")
        if launch.run.writing.page:
            console.say(f"wrote {folder / PAGE}")
        if launch.run.writing.report:
            console.say(f"wrote {report_on_merged(launch.run, title, console.note)}")
    elif left := launch.left(range(count)):
        console.say(f"shards left: {len(left)} of {count}; who does the last of them merges all")


def _explain(launch: "Launch", console: Console, own: Sequence[int], rank: Rank) -> int:
    """Do these shards and print each photograph; return the exit code."""
    from xgradcam.runs.cores import usable_cores
    from xgradcam.runs.parts import Worker
    from xgradcam.runs.pipeline import Outcome
    from xgradcam.runs.turns import MachineTurn

    run, plan = launch.run, launch.plan
    launch.reopen(own)
    left = launch.left(own)
    with progress_bar(console) as bar, ending(console, run.writing.folder, bar) as codes:

        def tell(_outcome: Outcome) -> None:
            bar.update()

        def tell_done(outcome: Outcome) -> None:
            console.tell(outcome.records, outcome.problem)

        for index in sorted({*own} - {*left}):
            tell_finished(console, run.writing.folder, index)
            bar.update(len(plan.of(index, run.sources)))
        cores = max(1, usable_cores() // rank.beside)
        explain = run.explainer(console.evaluations)
        # Of photographs that fill the memory one at a time is in work on a machine.
        large = MachineTurn("large") if rank.count > 1 else None
        worker = Worker(
            run,
            explain,
            console.note,
            tell,
            tell_done,
            console.add_earlier,
            console.evaluations,
            cores,
            large,
        )
        for index in left:
            worker.do(index, plan.of(index, run.sources))
    return codes[0] if codes else FAILED if console.failed else DONE


def tell_finished(
    console: Console, folder: "Path", index: int, earlier: Container[str] | None = None
) -> None:
    """Print the photographs of a finished shard.

    earlier: paths of those that were done before this run; None for all but those that failed.
    """
    from xgradcam.runs.parts import PhotographsResults, results_in
    from xgradcam.runs.shards import Files

    results: Sequence[PhotographsResults] = ()
    # Another process may have merged it meanwhile.
    with suppress(FileNotFoundError):
        results = results_in(Files(folder, index))
    for records, problem in results:
        if problem or (earlier is not None and records[0]["image"] not in earlier):
            console.tell(records, problem)
        else:
            console.add_earlier(records)


@contextmanager
def progress_bar(console: Console) -> "Iterator[tqdm]":
    """A bar of the console's photographs, above which it prints its lines."""
    from tqdm import tqdm

    silent = True if console.quiet or console.total == 1 else None
    with tqdm(total=console.total, unit="photo", leave=False, disable=silent) as bar:
        console.write = bar.write
        yield bar


@contextmanager
def ending(console: Console, folder: "Path", bar: "tqdm") -> Iterator[list[int]]:
    """Print the last lines of a run, however it ends; the list is given the exit code of an interrupt."""
    codes: list[int] = []
    try:
        yield codes
    except KeyboardInterrupt as error:
        # A terminal that is gone takes no last line.
        with suppress(OSError):
            bar.close()
            console.sum_up(folder, "interrupted")
        codes.append(exit_code_of(error))
        return
    except CannotWriteError as error:
        bar.close()
        console.sum_up(folder, "stopped")
        raise XGradCamError(f"{error}; --resume goes on later") from None
    bar.close()
    console.sum_up(folder)
