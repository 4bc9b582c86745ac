"""The begin and the end of a run in shards, whichever processes do them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from xgradcam.files import make_folder, remove_parts
from xgradcam.runs.batches import sized, with_batch_size
from xgradcam.runs.gallery import write_gallery
from xgradcam.runs.journal import Journal, names_in, require_own, require_same, settings_in
from xgradcam.runs.ledger import NAME, Ledger, alone_in
from xgradcam.runs.merging import begin, clear, gather, left_to_do, merge, names_of_shards
from xgradcam.runs.outputs import Outputs
from xgradcam.runs.packs import remove_others
from xgradcam.runs.parts import reopen_if_changed
from xgradcam.runs.preparation import prepare
from xgradcam.runs.run import USUAL_BATCH, Run
from xgradcam.runs.shards import (
    FOLDER,
    USUAL_SHARD,
    Files,
    Plan,
    plan_in,
    plan_of,
    require_files,
    shard_size,
)

# Locked while a plan is made, or parts are merged.
PLANNING = ".xgrad-cam.planning"
# A setting of a run whose results are packed by shards.
SHARD_SIZE = "shard_size"
Note = Callable[[str], None]


@dataclass(frozen=True)
class Launch:
    """A run in shards that this process takes part in.

    run: with the plan's batch size, and its network prepared.
    """

    run: Run
    plan: Plan

    def left(self, indices: Iterable[int]) -> list[int]:
        """Those of the shards that are not done."""
        folder = self.run.writing.folder
        # Where another process has merged them, all are done.
        left = set[int]()
        with suppress(FileNotFoundError):
            left = set(left_to_do(folder, self.plan)) if plan_in(folder) == self.plan else left
        return [index for index in indices if index in left]

    def reopen(self, indices: Iterable[int]) -> None:
        """Have those of the shards done again of which a photograph or a result has changed."""
        folder = self.run.writing.folder
        with _planning(folder):
            if plan_in(folder) != self.plan:
                return
            for index in indices:
                files = Files(folder, index)
                if files.part.exists():
                    reopen_if_changed(self.run, files, self.plan.of(index, self.run.sources))

    def finish(self, title: str) -> bool:
        """Merge the shards into the run's journal and page, if all are done; True if this call did so.

        title: of the page.
        """
        run, folder = self.run, self.run.writing.folder
        with _planning(folder):
            # Another process may have merged them, and even begun another run.
            if plan_in(folder) != self.plan or left_to_do(folder, self.plan):
                return False
            merge(folder, self.plan)
            if run.writing.is_packed:
                remove_others(folder, run.writing.output_format, self.plan.count)
            if run.writing.page:
                journal = Journal(folder, run.settings, run.sources, True)
                write_gallery(folder, journal.records(), title, run.writing.style)
            _clear_up(run)
            if (folder / NAME).exists():
                ledger = Ledger(folder, ())
                ledger.announce(())
                ledger.end(names_in(folder)[0])
            clear(folder)
            return True


@contextmanager
def alone(run: Run, resume: bool, note: Note, processes: int, size: int | None) -> Iterator[Launch]:
    """The run, begun anew or gone on with, in a folder that no other run writes into.

    processes: that do the shards. size: photographs in a shard, if it is said. Raises XGradCamError as
    `Record` does.
    """
    require_files(run.sources)
    folder = run.writing.folder
    make_folder(folder)
    with alone_in(folder, note):
        before = plan_in(folder) if resume else None
        if before is None:
            yield _begun(run, resume, processes, size)
            return
        joined, plan = _as_planned(run, before, processes, size)
        if plan == before:
            _clear_up(joined)
            prepare(joined, before.folded)
            yield Launch(joined, before)
            return
        require_same(before.settings, plan.settings, folder / FOLDER)
        unfinished = names_of_shards(folder)
        gather(folder, before)
        yield _begun(run, resume, processes, size, unfinished)


@contextmanager
def together(
    run: Run, resume: bool, note: Note, processes: int, size: int | None, first: int = 0
) -> Iterator[Launch]:
    """The run, begun by this process or by another one, each of which does shards of it.

    first: the first shard of this process, without which it begins no run: the others may have ended it. The
    other arguments are those of `alone`. Raises XGradCamError as `Record` does, and, naming the options, for
    an unfinished run in the folder with others.
    """
    require_files(run.sources)
    folder = run.writing.folder
    make_folder(folder)
    with alone_in(folder, note, shared=True):
        with _planning(folder):
            before = plan_in(folder)
            if before is None:
                launch = _begun(run, resume, processes, size, first=first)
            else:
                joined, plan = _as_planned(run, before, processes, size)
                before.require_same(plan, folder)
                prepare(joined, before.folded)
                launch = Launch(joined, before)
        yield launch


def _begun(
    run: Run, resume: bool, processes: int, size: int | None, unfinished: Iterable[str] = (), first: int = 0
) -> Launch:
    """The run with a new plan.

    unfinished: names of files that are not in the folder's records any more. first: a shard that there must
    be, or else nothing is written.
    """
    folder = run.writing.folder
    outputs = Outputs(run)
    _clear_up(run)
    if not resume:
        require_own(folder)
    run = with_batch_size(run, resume)
    ledger = Ledger(folder, {*names_in(folder)[0], *names_of_shards(folder), *unfinished})
    outputs.require_free(ledger.known)
    size = _size_for(run, resume, processes, size)
    run = _recorded(run, size)
    plan = plan_of(run, prepare(run), size)
    if first >= plan.count:
        return Launch(run, plan)
    if ledger.known:
        # The journal that names them is going to be replaced.
        ledger.announce(())
    begin(folder, plan, run.sources, resume)
    return Launch(run, plan)


def _as_planned(run: Run, plan: Plan, processes: int, asked: int | None) -> tuple[Run, Plan]:
    """The run with the plan's batch and shards, where nobody has said others, and its own plan."""
    run = run if run.explaining.batch_size is not None else sized(run, plan.batch)
    size = plan.size if asked is None else _size_for(run, False, processes, asked)
    return _recorded(run, size), plan_of(_recorded(run, size), plan.folded, size)


def _size_for(run: Run, resume: bool, processes: int, asked: int | None) -> int:
    """Photographs in a shard of a new plan.

    Where the results of a shard are in one file, neither resuming nor the number of processes changes it.
    """
    batch = run.explaining.batch_size or USUAL_BATCH
    if asked is None and run.writing.is_packed:
        recorded = settings_in(run.writing.folder).get(SHARD_SIZE) if resume else None
        asked = recorded if type(recorded) is int else USUAL_SHARD
    return shard_size(len(run.sources), batch, processes, asked)


def _recorded(run: Run, size: int) -> Run:
    """The run with the size of its shards among its settings, if files depend on it."""
    return replace(run, settings={**run.settings, SHARD_SIZE: size}) if run.writing.is_packed else run


def _parents(run: Run) -> set[PurePath]:
    """The folders of results, relative to the run's."""
    return {PurePath(source.stem).parent for source in run.sources} | {PurePath()}


def _clear_up(run: Run) -> None:
    """Delete temporary files that killed processes have left."""
    for parent in _parents(run):
        remove_parts(run.writing.folder / parent)


def _planning(folder: Path) -> AbstractContextManager[None]:
    """Alone among the processes of a run; the others wait."""
    return alone_in(folder, lambda _line: None, PLANNING, patience=float("inf"))
