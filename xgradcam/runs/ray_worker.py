"""A worker process: makes its run once, and does shards of it until it is told to stop."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from threading import Event
from typing import Any, NamedTuple

from xgradcam.errors import XGradCamError
from xgradcam.runs.cores import usable_cores
from xgradcam.runs.parts import Report, Worker
from xgradcam.runs.pipeline import Outcome
from xgradcam.runs.run import Run
from xgradcam.runs.sources import Source
from xgradcam.runs.turns import MachineTurn

# Seconds to wait for a shard's lock: a worker that was killed, or whose command was, ends a moment later.
PATIENCE = 60.0


class Progress(NamedTuple):
    """Photographs of a shard that are done, and of these those that failed."""

    done: int = 0
    failed: int = 0


class StoppedError(Exception):
    """The run ends before the shard is done."""


class Doing:
    """An actor of Ray's that does shards.

    make: makes its run. folder: to work in, by which paths are meant. most: threads that the network may use,
    if it is said. fetches: the machine may be another one, where one worker fetches the weights, and the
    others wait.
    """

    def __init__(self, make: Callable[[], Run], folder: str, most: int | None, fetches: bool) -> None:
        self._make, self._folder, self._most, self._fetches = make, folder, most, fetches
        self._stop = Event()
        self._progress = Progress()
        self._explain: Any = None

    def open(self) -> tuple[str, int]:
        """Make the run; the machine's name at Ray's, and the cores that its processes may use."""
        import ray

        try:
            os.chdir(self._folder)
        except OSError as error:
            node = ray.util.get_node_ip_address()
            raise XGradCamError(
                f"no folder {self._folder} on the machine {node} ({error.strerror}): workers need the same "
                "paths, on a file system that they share"
            ) from None
        with MachineTurn("weights") if self._fetches else nullcontext():
            self._run = self._make()
        self._explain = self._run.explainer()
        return ray.get_runtime_context().get_node_id(), usable_cores()

    def do(self, index: int, sources: Sequence[Source], threads: int, again: bool) -> Report:
        """Do a shard with so many threads; again: this run began it, and what is done of it is its own."""
        import torch

        torch.set_num_threads(min(threads, self._most or threads))
        self._progress = Progress()
        worker = Worker(
            self._run, self._explain, lambda _line: None, self._tell, cores=threads, patience=PATIENCE,
            large=MachineTurn("large"),
        )  # fmt: skip
        report = worker.do(index, sources)
        if not again:
            return report
        return replace(report, explained=report.explained + len(report.earlier), earlier=frozenset())

    def _tell(self, outcome: Outcome) -> None:
        done, failed = self._progress
        self._progress = Progress(done + 1, failed + bool(outcome.problem))
        if self._stop.is_set():
            raise StoppedError

    def progress(self) -> Progress:
        """Photographs done of the shard that is at work."""
        return self._progress

    def stop(self) -> None:
        """Have the shard that is at work end after the photograph at hand."""
        self._stop.set()
