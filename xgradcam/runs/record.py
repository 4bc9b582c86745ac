"""The record of a run in its folder: journal and ledger, under a lock."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import PurePath
from types import TracebackType

from xgradcam.files import make_folder, remove_parts
from xgradcam.runs.journal import Journal, names_in, require_own
from xgradcam.runs.ledger import Ledger, alone_in
from xgradcam.runs.merging import clear, gather, names_of_shards
from xgradcam.runs.outputs import Outputs
from xgradcam.runs.run import Run
from xgradcam.runs.shards import plan_in


class Record:
    """The record of a run, as a context: the folder is locked, and what a killed run left is cleared up.

    A resumed run goes on with an unfinished one in shards, too.

    journal: the photographs that are done. announce: to be told of names before files are written. note: is
    told of what is odd. Raises XGradCamError where another run is at work in the folder, where a file that no
    run has made is in the way, and as `Journal` does.
    """

    def __init__(self, run: Run, outputs: Outputs, resume: bool, note: Callable[[str], None]) -> None:
        folder = run.writing.folder
        make_folder(folder)
        with ExitStack() as stack:
            stack.enter_context(alone_in(folder, note))
            for parent in {PurePath(stem).parent for stem in outputs.stems} | {PurePath()}:
                remove_parts(folder / parent)
            unfinished = names_of_shards(folder)
            if resume and (plan := plan_in(folder)) is not None:
                gather(folder, plan)
            if not resume:
                require_own(folder)
            in_journal, damaged = names_in(folder)
            ledger = Ledger(folder, in_journal | unfinished)
            outputs.require_free(ledger.known)
            if unfinished:
                ledger.announce(())
            clear(folder)
            # Of the functions called at the end the last comes first.
            stack.callback(lambda: ledger.end(names_in(folder)[0]))
            self.announce = ledger.announce
            self.journal = stack.enter_context(
                Journal(folder, run.settings, run.sources, resume, outputs.is_result)
            )
            if resume and damaged:
                lines, theirs = (f"{damaged} damaged lines", "their photographs are")
                if damaged == 1:
                    lines, theirs = "1 damaged line", "its photograph is"
                note(f"{lines} in {self.journal.path}: {theirs} explained anew")
            self._stack = stack.pop_all()

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
