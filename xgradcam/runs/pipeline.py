"""Many photographs: read, explained in batches and written, all three at the same time.

Reading and writing take a thread each for every core. At most a few batches of photographs are in memory, and
of large ones one at a time.
"""

from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from threading import Barrier, BoundedSemaphore, RLock
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from xgradcam.cam.evidence import Progress
from xgradcam.errors import (
    CannotWriteError,
    NotFiniteError,
    NothingFoundError,
    XGradCamError,
    first_line,
    is_out_of_memory,
)
from xgradcam.pictures.photograph import Photograph
from xgradcam.runs.cores import usable_cores
from xgradcam.runs.page_maps import PagePictures
from xgradcam.runs.results import Announce, Results, results_of, write_results
from xgradcam.runs.run import USUAL_BATCH, Explained, Run, Truths
from xgradcam.runs.scoring import Shape
from xgradcam.runs.sources import STDIN, Source, state_of

T = TypeVar("T")
Record = Mapping[str, Any]
Explainer: TypeAlias = Callable[[Tensor, Sequence[Shape], Truths], Explained]

# Threads that read, and as many that write. Two on one core: a disk is waited for. More than eight wait for
# the interpreter's lock.
FEWEST, MOST = 2, 8
# Photographs of more pixels are read and drawn one at a time, and read twice rather than kept.
LARGE = 16_000_000
# Photographs of more pixels than these are read and drawn at most so many at a time.
BIG, BIG_AT_ONCE = 2_000_000, 8
# Result for a photograph that was not explained: explanations, its place in their batch, its problem.
NOTHING: tuple[Explained, int, str] = ((), 0, "")


@dataclass(frozen=True)
class Outcome:
    """A photograph with its records, one for each class and layer, or with its problem.

    state: of its file before it was read, see `state_of`. results: what is to be packed, where it is not
    written yet.
    """

    source: Source
    records: Sequence[Record]
    problem: str = ""
    state: Mapping[str, int] = field(default_factory=dict)
    results: Results | None = None


@dataclass(frozen=True)
class Prepared:
    """A photograph on its way: the network's input and the pixels to draw on, or the problem.

    inputs: (1, C, h, w), on the CPU. canvas: None where there is a problem, or where it is too large to keep.
    notes: on what was assumed of its values. shape: the photograph's. page: its pictures for the page of the
    run, if it has one.
    """

    source: Source
    inputs: Tensor | None
    canvas: Photograph | None
    problem: str = ""
    state: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    shape: Shape = (0, 0)
    page: PagePictures | None = None


class _Turns:
    """Lets threads work on photographs at the same time as far as their size allows."""

    def __init__(self, alone: AbstractContextManager[Any] | None = None) -> None:
        self.alone = RLock() if alone is None else alone
        self._several = BoundedSemaphore(BIG_AT_ONCE)

    def of(self, pixels: int) -> AbstractContextManager[Any]:
        """The turn of a photograph of so many pixels, to be held while it is worked on."""
        if pixels > LARGE:
            return self.alone
        return self._several if pixels > BIG else nullcontext()


def threads() -> int:
    """The number of threads that read, and of those that write."""
    return threads_on(usable_cores())


def threads_on(cores: int) -> int:
    """The same for a process that uses so many cores."""
    return min(MOST, max(FEWEST, cores))


def explain_photographs(
    run: Run,
    done: Container[str] = (),
    progress: Progress = lambda _done, _total: None,
    announce: Announce = lambda _names: None,
    *,
    explain: Explainer | None = None,
    cores: int | None = None,
    large: AbstractContextManager[Any] | None = None,
) -> Generator[Outcome, None, None]:
    """Explain the photographs of a run and write the results; yields outcomes in the order of the sources.

    Results that are packed by shards are not written, but in the outcomes.

    done: paths of photographs that are complete. They have no outcome, but stay in the batches of those that
    are not: a last bit may depend on a photograph's companions, and a resumed run must end as one that was
    never interrupted. progress: is told of evaluations of the network. announce: of the names of files before
    they are written. explain: the run's explainer, if it is kept for further calls. cores: those to use, None
    for all. large: a reentrant lock, held while a large photograph is worked on, that other processes share.
    A photograph that cannot be read, whose scores are not finite, whose results cannot have their names, or
    for which the memory is too small, is an outcome with a problem. Raises XGradCamError for what all have in
    common: a wrong layer or class, a full disk.
    """
    size = run.explaining.batch_size or USUAL_BATCH
    batches = [run.sources[start : start + size] for start in range(0, len(run.sources), size)]
    left = [batch for batch in batches if any(source.path not in done for source in batch)]
    explain = run.explainer(progress) if explain is None else explain
    turns, count = _Turns(large), threads() if cores is None else threads_on(cores)
    with _Pool(count, "read") as readers, _Pool(count, "write") as writers:
        read = _ahead(readers, lambda source: _read(run, source, turns), chain(*left), size + count)
        writing: deque[Future[Outcome]] = deque()

        def write(item: Prepared, explained: Explained, index: int) -> Future[Outcome]:
            return writers.submit(_write, run, item, explained, index, turns, announce)

        for batch in left:
            writing += _explain_and_write(run, explain, list(islice(read, len(batch))), done, write)
            while len(writing) > size:
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()


def _explain_and_write(
    run: Run,
    explain: Explainer,
    batch: Sequence[Prepared],
    done: Container[str],
    write: Callable[[Prepared, Explained, int], Future[Outcome]],
) -> Iterator[Future[Outcome]]:
    """The future outcomes of those photographs of a batch that are not done."""
    good = [item for item in batch if item.inputs is not None]
    wanted = any(item.source.path not in done for item in good)
    results = iter(explain_inputs(run, explain, good) if wanted else ())
    for item in batch:
        explained, index, problem = next(results, NOTHING) if item.inputs is not None else NOTHING
        if item.source.path not in done:
            item = replace(item, problem=f"{item.source.path}: {problem}") if problem else item
            yield write(item, explained, index)


class _Pool(ThreadPoolExecutor):
    """Threads whose waiting work is dropped when the block ends by an error or an interrupt."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)
        # All are started now: a thread needs memory, of which there may be none when it is wanted.
        ready = Barrier(threads)
        for _ in range(threads):
            self.submit(ready.wait)

    def __exit__(self, *_error: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Source], T], sources: Iterable[Source], count: int
) -> Iterator[T]:
    """The results of the work in order, `count` of them being worked on ahead."""
    waiting = iter(sources)
    pending = deque(pool.submit(work, source) for source in islice(waiting, count))
    while pending:
        result = pending.popleft().result()
        pending.extend(pool.submit(work, source) for source in islice(waiting, 1))
        yield result


def _read(run: Run, source: Source, turns: _Turns) -> Prepared:
    state = state_of(source.path)
    with ExitStack() as turn:

        def before(pixels: int) -> None:
            """Wait until there are not too many other large photographs."""
            turn.enter_context(turns.of(pixels))

        try:
            # A file of so many bytes is not read beside another one either.
            size = state["bytes"] if source.held is None else source.held.length
            if size // 3 > LARGE:
                turn.enter_context(turns.alone)
            reading = source.read(run.value_range, before)
            inputs, canvas = run.prepared(reading.photograph, reading.bands)
            page = run.page_of(reading.photograph) if run.writing.page else None
        except XGradCamError as error:
            return Prepared(source, None, None, str(error), state)
        except Exception as error:
            return Prepared(source, None, None, _too_little_memory(source, error), state)
        keep = source.path == STDIN or canvas.shape[0] * canvas.shape[1] <= LARGE
        shape = reading.photograph.shape[0], reading.photograph.shape[1]
        return Prepared(source, inputs, canvas if keep else None, "", state, reading.notes, shape, page)


def _too_little_memory(source: Source, error: Exception) -> str:
    """The problem of a photograph for which there was too little memory; any other error is raised."""
    if not is_out_of_memory(error):
        raise error
    return f"{source.path}: not enough memory for this photograph: {first_line(error)}: make it smaller"


def _write(
    run: Run,
    item: Prepared,
    explained: Explained,
    index: int,
    turns: _Turns,
    announce: Announce,
) -> Outcome:
    source = item.source
    if item.problem:
        return Outcome(source, (), item.problem)

    def write(canvas: Photograph) -> Outcome:
        about = item.notes, item.shape, item.page
        if run.writing.is_packed:
            results = results_of(run, source, canvas, explained, index, *about)
            return Outcome(source, results.records, "", item.state, results)
        records = write_results(run, source, canvas, explained, index, announce, *about)
        return Outcome(source, records, "", item.state)

    try:
        if item.canvas is not None:
            with turns.of(item.canvas.shape[0] * item.canvas.shape[1]):
                return write(item.canvas)
        with turns.alone:
            photograph = source.read(run.value_range).photograph
            if state_of(source.path) != item.state:
                return Outcome(source, (), f"{source.path} changed while it was being explained")
            return write(run.canvas(photograph))
    # A full disk, or a folder that has gone, ends the run.
    except CannotWriteError:
        raise
    except XGradCamError as error:
        return Outcome(source, (), str(error))
    except Exception as error:
        return Outcome(source, (), _too_little_memory(source, error))


def explain_inputs(
    run: Run, explain: Explainer, read: Sequence[Prepared]
) -> list[tuple[Explained, int, str]]:
    """For each photograph its batch's explanations and its place there, or a problem.

    A batch that is too large for the memory is halved, and so is one in which the scores of a photograph are
    not finite, or in which one has nothing to explain.
    """
    try:
        return _explain_at_once(run, explain, read)
    except (NotFiniteError, NothingFoundError) as error:
        if len(read) == 1:
            return [((), 0, str(error))]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(read) == 1:
            problem = f"not enough memory for one photograph ({first_line(error)}): take another --device"
            return [((), 0, f"{problem}, a smaller model or fewer methods")]
    half = len(read) // 2
    return [*explain_inputs(run, explain, read[:half]), *explain_inputs(run, explain, read[half:])]


def _explain_at_once(
    run: Run, explain: Explainer, read: Sequence[Prepared]
) -> list[tuple[Explained, int, str]]:
    classifier = run.classifier
    batch = classifier.like_weights(torch.cat([one.inputs for one in read if one.inputs is not None]))
    shapes, truths = [one.shape for one in read], [one.source.truth for one in read]
    explained = _on_cpu(explain(_on_device(batch, classifier.device()), shapes, truths))
    return [(explained, index, "") for index in range(len(read))]


def _on_device(batch: Tensor, device: torch.device) -> Tensor:
    """The batch on the device; a GPU copies it from pinned memory while the CPU goes on."""
    if device.type == "cuda":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)


def _on_cpu(explained: Explained) -> Explained:
    """The explanations on the CPU, where they are written: fetching numbers one by one is slow."""
    return [[explanation.to("cpu") for explanation in of_classes] for of_classes in explained]
