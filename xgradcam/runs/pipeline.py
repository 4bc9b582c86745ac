"""Many photographs: read, explained in batches and written at the same time, in their order.

However many they are, no more than a few batches of them are in memory, and of large ones no more than one.
"""

from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from threading import Lock
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from xgradcam.cam.explanation import ClassExplanation
from xgradcam.errors import NotFiniteError, XGradCamError
from xgradcam.models.classifier import Classifier
from xgradcam.pictures.photograph import Photograph, pixels_in
from xgradcam.runs.sources import STDIN, Source, state_of

T = TypeVar("T")
Record = Mapping[str, Any]
# For each layer, an explanation for each class.
Explained: TypeAlias = Sequence[Sequence[ClassExplanation]]

READERS, WRITERS = 2, 2
# Photographs of more pixels are read and drawn on one at a time, and read again rather than kept.
LARGE = 16_000_000
# Of a photograph that was not explained: its explanations, its place in their batch, its problem.
NOTHING: tuple["Explained", int, str] = ((), 0, "")


@dataclass(frozen=True)
class Job:
    """What is to be made of each photograph.

    explain: from inputs (N, 3, h, w) on the model's device to its explanations, for each layer one for each
    class. batch_size: photographs at a time.
    read: the photograph of a source. frame: the network's input (1, 3, h, w) for it, on the CPU, and what
    of it is to be drawn on. write: given a source, that, its explanations (one for each class) and its place
    in their batch, writes its files and returns a record for each class.
    """

    explain: Callable[[Tensor], Explained]
    batch_size: int
    read: Callable[[Source], Photograph]
    frame: Callable[[Photograph], tuple[Tensor, Photograph]]
    write: Callable[[Source, Photograph, Explained, int], Sequence[Record]]


@dataclass(frozen=True)
class Outcome:
    """A photograph with its records, one for each class, or with the problem that it has.

    state: of its file before it was read, as `state_of` has it.
    """

    source: Source
    records: Sequence[Record]
    problem: str = ""
    state: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Read:
    """A photograph on its way: what `Job.frame` gave, or the problem.

    drawn_on: None where there is a problem, or where it is too large to be kept.
    """

    source: Source
    inputs: Tensor | None
    drawn_on: Photograph | None
    problem: str = ""
    state: Mapping[str, int] = field(default_factory=dict)


def explain_photographs(
    classifier: Classifier, sources: Sequence[Source], job: Job, done: Container[str] = ()
) -> Generator[Outcome, None, None]:
    """Do the job for each photograph; the outcomes come in the order of the sources.

    done: paths of photographs that are complete. They have no outcome, but stay in the batches of those that
    are not: a last bit may depend on a photograph's companions, and a run that goes on shall end as one.
    A photograph that cannot be read, or whose scores are not finite, is an outcome with a problem. Raises
    XGradCamError for what all have in common: a wrong layer or class, a folder that cannot be written to.
    """
    batches = [sources[start : start + job.batch_size] for start in range(0, len(sources), job.batch_size)]
    left = [batch for batch in batches if any(source.path not in done for source in batch)]
    alone = Lock()
    with _Pool(READERS, "read") as readers, _Pool(WRITERS, "write") as writers:
        read = _ahead(
            readers, lambda source: _read(source, job, alone), chain(*left), job.batch_size + READERS
        )
        writing: deque[Future[Outcome]] = deque()

        def write(item: _Read, explanations: Explained, index: int) -> Future[Outcome]:
            return writers.submit(_write, item, explanations, index, job, alone)

        for batch in left:
            writing += _explain_and_write(classifier, list(islice(read, len(batch))), job, done, write)
            while len(writing) > job.batch_size:
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()


def _explain_and_write(
    classifier: Classifier,
    batch: Sequence[_Read],
    job: Job,
    done: Container[str],
    write: Callable[[_Read, Explained, int], Future[Outcome]],
) -> Iterator[Future[Outcome]]:
    """The outcomes to come of those photographs of a batch that are not done."""
    good = [item for item in batch if item.inputs is not None]
    wanted = any(item.source.path not in done for item in good)
    explained = iter(_explain(classifier, [item.inputs for item in good], job) if wanted else ())
    for item in batch:
        explanations, index, problem = next(explained, NOTHING) if item.inputs is not None else NOTHING
        if item.source.path not in done:
            item = replace(item, problem=f"{item.source.path}: {problem}") if problem else item
            yield write(item, explanations, index)


class _Pool(ThreadPoolExecutor):
    """Threads whose waiting work is dropped when the block ends by an error or an interrupt."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)

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


def _read(source: Source, job: Job, alone: Lock) -> _Read:
    state = state_of(source.path)
    try:
        with _place_for(source, alone):
            inputs, drawn_on = job.frame(job.read(source))
    except XGradCamError as error:
        return _Read(source, None, None, str(error), state)
    keep = source.path == STDIN or drawn_on.shape[0] * drawn_on.shape[1] <= LARGE
    return _Read(source, inputs, drawn_on if keep else None, "", state)


def _place_for(source: Source, alone: Lock) -> AbstractContextManager[Any]:
    return alone if source.path != STDIN and pixels_in(source.path) > LARGE else nullcontext()


def _write(item: _Read, explanations: Explained, index: int, job: Job, alone: Lock) -> Outcome:
    if item.problem:
        return Outcome(item.source, (), item.problem)
    if item.drawn_on is not None:
        records = job.write(item.source, item.drawn_on, explanations, index)
        return Outcome(item.source, records, "", item.state)
    with alone:
        try:
            photograph = job.read(item.source)
        except XGradCamError as error:
            return Outcome(item.source, (), str(error))
        if state_of(item.source.path) != item.state:
            return Outcome(item.source, (), f"{item.source.path} changed while it was being explained")
        records = job.write(item.source, job.frame(photograph)[1], explanations, index)
    return Outcome(item.source, records, "", item.state)


def _explain(
    classifier: Classifier, inputs: Sequence[Tensor | None], job: Job
) -> list[tuple[Explained, int, str]]:
    """For each input its explanations and its place in their batch, or a problem.

    A batch that is too large is halved, and so is one in which the scores of a photograph are not finite.
    """
    batch = torch.cat([one for one in inputs if one is not None])
    try:
        explanations = _on_cpu(job.explain(_on_device(classifier.like_weights(batch), classifier.device())))
        return [(explanations, index, "") for index in range(len(inputs))]
    except torch.OutOfMemoryError:
        if len(inputs) == 1:
            raise XGradCamError("the device has not enough memory for one photograph: --device cpu") from None
    except NotFiniteError as error:
        if len(inputs) == 1:
            return [((), 0, str(error))]
    half = len(inputs) // 2
    return [
        *_explain(classifier, inputs[:half], job),
        *_explain(classifier, inputs[half:], job),
    ]


def _on_device(batch: Tensor, device: torch.device) -> Tensor:
    """The batch on the device; a GPU copies it from pinned memory while the CPU goes on."""
    if device.type == "cuda":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)


def _on_cpu(explained: Explained) -> Explained:
    """The explanations where they are written: their numbers are not to be fetched one by one."""
    return [[explanation.to("cpu") for explanation in of_classes] for of_classes in explained]
