"""A run done by workers: processes that an engine starts on this machine or on a cluster."""

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xgradcam.cli.progress import Console
from xgradcam.cli.sharing import ending, progress_bar, tell_end, tell_finished
from xgradcam.cli.terminal import DONE, FAILED
from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from xgradcam.runs.launches import Launch
    from xgradcam.runs.parts import Report
    from xgradcam.runs.ray_engine import Workers
    from xgradcam.runs.run import Run
    from xgradcam.runs.shards import Plan

PROG = "xgrad-cam"
CUDA = "cuda"


def require_workers(arguments: argparse.Namespace) -> None:
    """Raise XGradCamError for options of workers that make no sense, or where the engine is missing."""
    if arguments.workers is None:
        for name in ("ray_address", "gpus_per_worker"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise XGradCamError(f"{option} is about the processes of --workers: say how many")
        return
    from xgradcam.runs.ray_engine import require_ray

    require_ray()
    if (arguments.device or "").startswith(f"{CUDA}:"):
        raise XGradCamError(
            f"--device {arguments.device} is one GPU, but each of --workers is given its own: --device cuda"
        )


def gpus_of(arguments: argparse.Namespace) -> float:
    """The GPUs that each worker takes."""
    import torch

    asked = arguments.gpus_per_worker
    cuda = arguments.use_cuda or arguments.device == CUDA
    there = torch.cuda.is_available()
    if arguments.ray_address is None and not there:
        if asked or arguments.device == CUDA:
            raise XGradCamError("no CUDA device here, which the workers are to use: leave out the GPUs")
        return 0
    if asked is None:
        return float(cuda or (arguments.device == "auto" and there))
    if not asked and cuda:
        raise XGradCamError("--gpus-per-worker 0 leaves no GPU to compute on: leave out one of the options")
    return float(asked)


def carry_out_by_workers(work: "Run", console: Console, arguments: argparse.Namespace, title: str) -> int:
    """Have workers do all shards, and merge them; return the exit code. title: of the page."""
    from xgradcam.runs.launches import alone
    from xgradcam.runs.ray_engine import Workers

    with alone(work, arguments.resume, console.note, arguments.workers, arguments.shard_size) as launch:
        gpus = gpus_of(arguments)
        make = partial(worker_run, *_plain(arguments, launch, gpus))
        workers = Workers(arguments.workers, make, arguments.ray_address, gpus)
        code = _explain(launch, console, workers, arguments)
        if code in (DONE, FAILED):
            tell_end(launch, console, title)
        return code


def _explain(launch: "Launch", console: Console, workers: "Workers", arguments: argparse.Namespace) -> int:
    from xgradcam.runs.ray_engine import Pool, connected
    from xgradcam.runs.ray_worker import Progress

    run, plan = launch.run, launch.plan
    shards = range(plan.count)
    # Those that are done may have photographs that have changed since.
    launch.reopen(shards)
    left = launch.left(shards)
    every = arguments.json or arguments.verbose
    with progress_bar(console) as bar, ending(console, run.writing.folder, bar) as codes:
        for index in sorted({*shards} - {*left}):
            tell_finished(console, run.writing.folder, index)

        def look(progress: Progress) -> None:
            """Show what is done, also of shards that are not done yet."""
            failed = console.failed + progress.failed
            bar.n = console.earlier + console.explained + console.failed + progress.done
            bar.set_postfix({"failed": failed} if failed else {}, refresh=True)

        look(Progress())
        if left:
            shards_left = f"{len(left)} shard{'s' * (len(left) != 1)} of {plan.size} photographs at most"
            console.say(f"{shards_left}, {workers.count} worker{'s' * (workers.count != 1)}")
            _release(run)
            with connected(workers) as ray:
                pool = Pool(ray, workers, console.note, None if bar.disable else look)
                for report in pool.do([(index, plan.of(index, run.sources)) for index in left]):
                    tell_report(console, run.writing.folder, report, every)
                    look(Progress())
    return codes[0] if codes else FAILED if console.failed else DONE


def tell_report(console: Console, folder: Path, report: "Report", every: bool) -> None:
    """Count a shard that is done and print its problems; every: print each photograph."""
    if every:
        tell_finished(console, folder, report.index, report.earlier)
        return
    console.earlier += len(report.earlier)
    console.explained += report.explained
    console.told += report.told
    console.notes.update(report.notes)
    console.verdicts.update(report.verdicts)
    for problem in report.problems:
        console.tell((), problem)


def _release(run: "Run") -> None:
    """Free the memory of the network, on a GPU or not: from here on the workers alone compute."""
    import torch

    from xgradcam.runs.memory import give_freed_memory_back

    is_on_gpu = run.classifier.device().type == CUDA
    with suppress(Exception):  # a model of the user's may not be movable
        run.classifier.module.to("meta")
    if is_on_gpu:
        torch.cuda.empty_cache()
    give_freed_memory_back()


def _plain(
    arguments: argparse.Namespace, launch: "Launch", gpus: float
) -> tuple[argparse.Namespace, "Plan", Sequence[str]]:
    """The parts of a worker's run: the arguments with what was chosen, the plan, files that must stay."""
    run = launch.run
    chosen = copy(arguments)
    chosen.target_layer, chosen.method = list(run.layers), list(run.explaining.methods)
    chosen.batch_size, chosen.use_cuda = launch.plan.batch, False
    if gpus:
        chosen.device = CUDA
    elif arguments.use_cuda or arguments.device == "auto":
        chosen.device = run.classifier.device().type
    return chosen, launch.plan, _inside(run)


def _inside(run: "Run") -> list[str]:
    """Photographs that results could be written over: those in the run's folder, by any name of theirs."""
    folder = os.path.realpath(run.writing.folder) + os.sep
    files = list(dict.fromkeys(source.file for source in run.sources))
    places = {os.path.dirname(file) for file in files}
    near = {place for place in places if f"{os.path.realpath(place)}{os.sep}".startswith(folder)}
    return [
        file for file in files if os.path.dirname(file) in near or os.path.realpath(file).startswith(folder)
    ]


def worker_run(arguments: argparse.Namespace, plan: "Plan", inside: Sequence[str]) -> "Run":
    """The run in a worker: as in the command, with its network prepared alike, and without photographs."""
    from xgradcam.cli.figure_options import style_of
    from xgradcam.cli.record import kept_files
    from xgradcam.cli.setup import choose_device, explaining_of, open_classifier, run_of
    from xgradcam.runs.preparation import prepare

    device = choose_device(PROG, arguments)
    classifier = open_classifier(PROG, arguments, quietly=True, many=True).to(device)
    run = run_of(arguments, [], classifier, explaining_of(arguments), style_of(arguments), lambda _line: None)
    kept = kept_files(arguments, inside)
    run = replace(run, settings=plan.settings, writing=replace(run.writing, kept=kept))
    prepare(run, plan.folded)
    return run
