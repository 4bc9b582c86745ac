"""Shards done by worker processes that Ray starts, on this machine or on a cluster."""

import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from xgradcam.errors import XGradCamError, first_line
from xgradcam.runs.parts import Report
from xgradcam.runs.ray_worker import Doing, Progress
from xgradcam.runs.run import Run
from xgradcam.runs.sources import Source
from xgradcam.runs.tries import DEATHS

INSTALL = "Ray is not installed, which starts the workers: pip install 'xgradcam[ray]'"
# Bytes of shared memory: what Ray needs at least, since photographs do not pass through it.
STORE = 100_000_000
# Workers in a row that may die before they are ready.
STILLBORN = 3
# Seconds between looks at how far the workers are; for which a stopped worker is waited for; after which one
# that does not start is worth a line.
LOOK, GRACE, LATE = 1.0, 15.0, 60.0
# Settings of the environment, unless users have their own: Ray sends no statistics of usage; and since a
# worker computes in a thread that is not its first, all threads share memory of which freed parts are kept.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "MALLOC_ARENA_MAX": "1"}


def require_ray() -> None:
    """Raise XGradCamError, with how to install it, where Ray is not installed."""
    if find_spec("ray") is None:
        raise XGradCamError(INSTALL)


@dataclass(frozen=True)
class Workers:
    """The workers to start.

    count: how many, at most. make: makes a worker's run, with its network prepared, from what can be pickled.
    address: of a cluster, None for this machine alone. gpus: that each takes.
    """

    count: int
    make: Callable[[], Run]
    address: str | None = None
    gpus: float = 0


Task = tuple[int, Sequence[Source]]


@contextmanager
def connected(workers: Workers) -> Iterator[Any]:
    """Ray, connected to the cluster, or started on this machine and ended with the block."""
    require_ray()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    here: dict[str, Any] = {"object_store_memory": STORE, "include_dashboard": False}
    if workers.address is None:
        # A worker takes one of Ray's processors, however many there are. For each one Ray starts a process.
        here |= {"address": "local", "num_cpus": workers.count}
    else:
        here = {"address": workers.address}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    owned = not ray.is_initialized()
    try:
        if owned:
            ray.init(log_to_driver=False, logging_level="ERROR", configure_logging=True, **here)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = "on this machine" if workers.address is None else f"at {workers.address}"
        raise XGradCamError(f"cannot start Ray {where}: {first_line(error)}") from error
    finally:
        _restore(handlers)
    try:
        yield ray
    finally:
        if owned:
            ray.shutdown()
            _restore(handlers)


def _restore(handlers: dict[Any, Any]) -> None:
    """Put back the handlers of signals that Ray has replaced."""
    with suppress(ValueError):  # not in the main thread
        for number, handler in handlers.items():
            signal.signal(number, handler)


@dataclass
class _Worker:
    """A worker: its actor, None if it died, its machine and its cores, and the shard that it is doing."""

    actor: Any
    node: str = ""
    cores: int = 1
    task: Task | None = None


@dataclass
class Pool:
    """The workers of a run; does shards until none is left.

    ray: as of `connected`. note: told of workers that die, and of waiting. look: called about once a second
    with what the workers have done of the shards that they are at.
    """

    ray: Any
    workers: Workers
    note: Callable[[str], None]
    look: Callable[[Progress], None] | None = None
    pending: dict[Any, _Worker] = field(default_factory=dict)
    actors: list[Any] = field(default_factory=list)
    deaths: Counter[int] = field(default_factory=Counter)
    stillborn: int = 0

    def do(self, tasks: Sequence[Task]) -> Iterator[Report]:
        """Do the shards, in any order; yields a report on each.

        A shard whose worker dies is done by another one. Raises the XGradCamError of a worker; at an error or
        an interrupt all workers stop.
        """
        left = deque(tasks)
        try:
            for _ in range(min(self.workers.count, len(left))):
                self._start()
            waited = 0.0
            while left or any(worker.task for worker in self.pending.values()):
                ready, _ = self.ray.wait([*self.pending], timeout=LOOK)
                waited = 0.0 if ready or self._at_work() else waited + LOOK
                if LATE <= waited < LATE + LOOK:
                    self.note("no worker has started yet: Ray waits for free processors or GPUs")
                for ref in ready:
                    worker = self.pending.pop(ref)
                    report = self._ended(ref, worker, left)
                    if report is not None:
                        yield report
                    self._next(worker, left)
                if not ready and self.look is not None:
                    self.look(self._progress())
        finally:
            self._stop()

    def _at_work(self) -> bool:
        return any(worker.task for worker in self.pending.values())

    def _start(self) -> None:
        """Start a worker; it is ready when its network is."""
        options = {"num_cpus": 1, "num_gpus": self.workers.gpus, "max_restarts": 0, "max_task_retries": 0}
        remote = self.ray.remote(Doing).options(
            **options, max_concurrency=2, scheduling_strategy="SPREAD"
        )  # fmt: skip
        said = os.environ.get("OMP_NUM_THREADS", "")
        most = int(said) if said.isascii() and said.isdigit() else None
        actor = remote.remote(self.workers.make, os.getcwd(), most, self.workers.address is not None)
        self.actors.append(actor)
        self.pending[actor.open.remote()] = _Worker(actor)

    def _ended(self, ref: Any, worker: _Worker, left: "deque[Task]") -> Report | None:
        """The report of a worker on its shard, if it was doing one; a dead one's shard is put back."""
        task, worker.task = worker.task, None
        try:
            result = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, XGradCamError) else error) from None
        except self.ray.exceptions.RayError as error:
            self._died(worker, task, left, first_line(error))
            return None
        if task is None:
            self.stillborn = 0
            worker.node, worker.cores = result
            return None
        report: Report = result
        return report

    def _died(self, worker: _Worker, task: Task | None, left: "deque[Task]", why: str) -> None:
        """Put back the shard of a worker that is dead or out of reach, and start another worker."""
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(worker.actor)
        worker.node, worker.actor = "", None
        if task is None:
            self.stillborn += 1
            if self.stillborn >= STILLBORN:
                raise XGradCamError(
                    f"{STILLBORN} workers died before they were ready, perhaps of too little memory ({why}): "
                    "take fewer --workers, or a smaller model"
                )
        else:
            index, sources = task
            self.deaths[index] += 1
            # By then each photograph was tried in its batch and alone.
            if self.deaths[index] > DEATHS + 2 * len(sources):
                raise XGradCamError(f"workers die again and again on shard {index} ({why})")
            self.note(f"a worker died while it did shard {index}: another one goes on with it")
            left.appendleft(task)
        if left:
            self._start()

    def _next(self, worker: _Worker, left: "deque[Task]") -> None:
        """Give a worker its next shard; one for which there is none rests."""
        if worker.actor is None or not left:
            return
        worker.task = left.popleft()
        beside = sum(other.node == worker.node for other in self.pending.values()) + 1
        threads = max(1, worker.cores // max(beside, self._share(worker.node)))
        again = bool(self.deaths[worker.task[0]])
        self.pending[worker.actor.do.remote(*worker.task, threads, again)] = worker

    def _share(self, node: str) -> int:
        """Workers that share a machine; of this one, all."""
        return self.workers.count if self.workers.address is None else 1

    def _progress(self) -> Progress:
        """The progress of the workers in the shards that they are at."""
        asked = [worker.actor.progress.remote() for worker in self.pending.values() if worker.task]
        with suppress(self.ray.exceptions.RayError):
            found = self.ray.get(asked, timeout=LOOK)
            return Progress(sum(one.done for one in found), sum(one.failed for one in found))
        return Progress()

    def _stop(self) -> None:
        """Have the workers that are at work clean up and end."""
        working = [ref for ref, worker in self.pending.items() if worker.task]
        with suppress(Exception):
            for worker in self.pending.values():
                worker.actor.stop.remote()
            self.ray.wait(working, num_returns=len(working), timeout=GRACE)
        for actor in self.actors:
            with suppress(Exception):
                self.ray.kill(actor)
