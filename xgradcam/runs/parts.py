"""One shard: its photographs explained and written, and its part of the journal finished."""

import json
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from xgradcam.cam.evidence import Progress
from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.files import write_files
from xgradcam.runs.explainer import unheard
from xgradcam.runs.journal import Journal
from xgradcam.runs.ledger import Ledger, alone_in
from xgradcam.runs.outputs import Outputs
from xgradcam.runs.packing import new_pack
from xgradcam.runs.packs import ARCHIVE, pack_name
from xgradcam.runs.pipeline import Explainer, Outcome, Record, explain_photographs
from xgradcam.runs.run import USUAL_BATCH, Run
from xgradcam.runs.shards import PROBLEM, Files, digest_of, lines_in
from xgradcam.runs.sources import Source, state_of
from xgradcam.runs.tries import Tries
from xgradcam.runs.verdicts import Verdicts, verdicts_on

Outcomes: TypeAlias = Generator[Outcome, None, None]
# The records of a photograph, or its problem.
PhotographsResults: TypeAlias = tuple[Sequence[Record], str]

# Key of a journal's line: the photographs of the shard in whose file the results are.
SHARD = "shard"
FATAL = "its process was killed or crashed whenever it was explained: repair it, or take it out"


@dataclass(frozen=True)
class Report:
    """The counts of a shard that is done.

    explained: photographs; earlier: paths of those that were done before; told: explanations; notes: on them;
    problems: of photographs that failed. verdicts: on predictions, where the true classes are known.
    """

    index: int
    explained: int
    earlier: frozenset[str]
    told: int
    notes: Counter[str] = field(default_factory=Counter)
    problems: Sequence[str] = ()
    verdicts: Verdicts = field(default_factory=Counter)


@dataclass(frozen=True)
class Worker:
    """Does shards of a run, one after another, in one process.

    run: its photographs do not matter. explain: the run's explainer, kept from shard to shard. note: told of
    what is odd. tell: called with each photograph that is explained or failed; tell_done: when its results
    are in place, which are packed by shards; tell_earlier: with the records of one that was done before.
    progress, cores, large: see `explain_photographs`. patience: seconds to wait for another process that is
    doing the shard.
    """

    run: Run
    explain: Explainer
    note: Callable[[str], None]
    tell: Callable[[Outcome], None] = lambda _outcome: None
    tell_done: Callable[[Outcome], None] = lambda _outcome: None
    tell_earlier: Callable[[Sequence[Record]], None] = lambda _records: None
    progress: Progress = unheard
    cores: int | None = None
    large: AbstractContextManager[Any] | None = None
    patience: float = 0

    def do(self, index: int, sources: Sequence[Source]) -> Report:
        """Do a shard, or what is left of it. Raises XGradCamError if another process is doing it."""
        run = replace(self.run, sources=sources)
        files = Files(run.writing.folder, index)
        what = f"another process is doing shard {index} of the run in {files.folder}"
        try:
            with alone_in(files.lock.parent, self.note, files.lock.name, patience=self.patience, what=what):
                return self._alone(run, files)
        except FileNotFoundError:
            raise CannotWriteError(
                f"{files.part.parent} has gone during the run: was it moved or deleted?"
            ) from None

    def _alone(self, run: Run, files: Files) -> Report:
        """Do a shard that no other process is doing."""
        if files.part.exists():
            return report_of(files)
        if run.writing.is_packed:
            return self._packed(run, files)
        problems = dict[str, str]()
        names = Ledger(run.writing.folder, (), files.names)
        with _journal_of(run, files.journal) as journal:
            earlier = frozenset(journal.done)
            for records in journal.done.values():
                self.tell_earlier(records)
            with closing(self._outcomes(run, files, journal.done, names)) as outcomes:
                for outcome in outcomes:
                    if outcome.problem:
                        problems[outcome.source.path] = outcome.problem
                    else:
                        journal.add(outcome.source, outcome.state, outcome.records)
                    self.tell(outcome)
                    self.tell_done(outcome)
        latest = {}
        if files.journal.exists():
            lines_of = ((line, found) for line, found in lines_in(files.journal) if PROBLEM not in found)
            latest = {found["image"]: line for line, found in lines_of if "image" in found}
        results = _finish(run, files, latest, problems)
        _end(files, names)
        return _report(files.index, results, earlier)

    def _packed(self, run: Run, files: Files) -> Report:
        """Do a shard whose results are in one file: whole, or what failed before if the file is there.

        If a photograph that failed has results now, the file is written anew.
        """
        names = Ledger(run.writing.folder, (), files.names)
        before, problems, failed = packed_before(run, files), dict[str, str](), list[Outcome]()
        if before:
            with closing(self._outcomes(run, files, before, names)) as outcomes:
                for outcome in outcomes:
                    if not outcome.problem:
                        before.clear()
                        break
                    problems[outcome.source.path] = outcome.problem
                    failed.append(outcome)
        told = failed
        if before:
            for line in before.values():
                self.tell_earlier(json.loads(line)["records"])
            for outcome in failed:
                self.tell(outcome)
        else:
            # A file that is not of these photographs any more must not be taken for theirs.
            files.journal.unlink(missing_ok=True)
            told, problems = self._pack_anew(run, files, names)
        results = _finish(run, files, before or _lines_of(run, told), problems)
        for outcome in told:
            self.tell_done(outcome)
        _end(files, names)
        return _report(files.index, results, frozenset(before))

    def _pack_anew(self, run: Run, files: Files, names: Ledger) -> tuple[list[Outcome], dict[str, str]]:
        """Write the file of a shard's results; the outcomes without what is in it, and the problems."""
        name = pack_name(run.writing.output_format, files.index)
        where = {ARCHIVE: name, "written": [str(run.writing.folder / name)]}
        told, problems = list[Outcome](), dict[str, str]()
        names.announce([name])
        with new_pack(run, name) as pack, closing(self._outcomes(run, files, (), names)) as outcomes:
            for outcome in outcomes:
                if outcome.problem:
                    problems[outcome.source.path] = outcome.problem
                    pack.add_problem(outcome.source, outcome.problem)
                elif outcome.results is not None:
                    pack.add(outcome.source, outcome.results)
                records = [{**record, **where} for record in outcome.records]
                told.append(replace(outcome, records=records, results=None))
                self.tell(outcome)
        return told, problems

    def _outcomes(self, run: Run, files: Files, done: Container[str], names: Ledger) -> Outcomes:
        """The outcomes of a shard's photographs that are not done, unit by unit of `Tries`."""
        tries = Tries(files.tries)
        for name, unit, is_fatal in tries.units(run.sources, run.explaining.batch_size or USUAL_BATCH):
            left = [source for source in unit if source.path not in done]
            if not left:
                continue
            explained = fatal(left) if is_fatal else self._explained(replace(run, sources=unit), done, names)
            with tries.of(name), closing(explained) as outcomes:
                yield from outcomes

    def _explained(self, run: Run, done: Container[str], names: Ledger) -> Outcomes:
        return explain_photographs(
            run,
            done,
            self.progress,
            names.announce,
            explain=self.explain,
            cores=self.cores,
            large=self.large,
        )


def fatal(sources: Sequence[Source]) -> Outcomes:
    """The outcomes of photographs that killed their process."""
    for source in sources:
        yield Outcome(source, (), f"{source.path}: {FATAL}")


def _journal_of(run: Run, path: Path) -> Journal:
    return Journal(run.writing.folder, run.settings, run.sources, True, Outputs(run).is_result, path)


def packed_before(run: Run, files: Files) -> dict[str, bytes]:
    """The lines of a shard's photographs whose results are in its file; none unless it is of these alone."""
    done = _journal_of(run, files.journal).done
    digest, name = digest_of(run.sources), pack_name(run.writing.output_format, files.index)
    lines = {}
    for line, found in lines_in(files.journal) if done else ():
        if PROBLEM in found or "image" not in found:
            continue
        archives = {record.get(ARCHIVE) for record in found.get("records", ())}
        # One that has changed since has results in the file, too.
        if found["image"] not in done or found.get(SHARD) != digest or archives != {name}:
            return {}
        lines[found["image"]] = line
    return lines


def _lines_of(run: Run, outcomes: Iterable[Outcome]) -> dict[str, bytes]:
    """The lines of the journal on photographs whose results are packed together."""
    digest = digest_of(run.sources)
    return {
        outcome.source.path: _line(
            {
                "image": outcome.source.path, "stem": outcome.source.stem, **outcome.state,
                SHARD: digest, "records": outcome.records,
            }
        )
        for outcome in outcomes
        if not outcome.problem
    }  # fmt: skip


def _finish(
    run: Run, files: Files, latest: Mapping[str, bytes], problems: Mapping[str, str]
) -> list[PhotographsResults]:
    """Write the shard's part of the journal: in the photographs' order, with those that failed.

    latest: the line of each photograph that has results. Returns what `results_in` would read: as soon as the
    part is there, another process may merge and delete it.
    """
    lines = [_line(dict(run.settings))]
    for source in run.sources:
        lines += [latest[source.path]] if source.path in latest else []
        if problem := problems.get(source.path):
            lines.append(_line({PROBLEM: problem, "image": source.path, **state_of(source.path)}))
    write_files({files.part: lines})
    return _results(map(json.loads, lines[1:]))


def _end(files: Files, names: Ledger) -> None:
    """Delete what is needed only while a shard is being done."""
    names.end(())
    for path in (files.journal, files.names, files.tries):
        path.unlink(missing_ok=True)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def results_in(files: Files) -> list[PhotographsResults]:
    """The records of each photograph of a finished shard, or its problem."""
    return _results(line for _, line in list(lines_in(files.part))[1:])


def _results(lines: Iterable[Mapping[str, Any]]) -> list[PhotographsResults]:
    results: dict[str, PhotographsResults] = {}
    for line in lines:
        # A photograph that failed may have had results before: the later line says so.
        results[line["image"]] = ((), str(line[PROBLEM])) if PROBLEM in line else (line["records"], "")
    return list(results.values())


def report_of(files: Files, earlier: frozenset[str] = frozenset()) -> Report:
    """The counts of a finished shard; earlier: paths of photographs that were done before."""
    return _report(files.index, results_in(files), earlier)


def _report(index: int, results: Sequence[PhotographsResults], earlier: frozenset[str]) -> Report:
    records = [record for of_image, _ in results for record in of_image]
    problems = [problem for _, problem in results if problem]
    notes = Counter(note for record in records for note in record["notes"])
    explained = len(results) - len(problems) - len(earlier)
    verdicts = verdicts_on([of_image for of_image, _ in results])
    return Report(index, explained, earlier, len(records), notes, problems, verdicts)


def reopen_if_changed(run: Run, files: Files, sources: Sequence[Source]) -> bool:
    """Have a finished shard done again where a photograph or a result has changed; True if so.

    What is still complete is kept. Photographs that failed are not tried again unless they have changed.
    """
    failed = {line["image"]: line for _, line in lines_in(files.part) if PROBLEM in line and "image" in line}
    same = {
        image
        for image, line in failed.items()
        if all(line.get(key) == value for key, value in state_of(image).items())
    }
    run = replace(run, sources=sources)
    done = Journal(run.writing.folder, run.settings, sources, True, path=files.part).done
    if all(source.path in done or source.path in same for source in sources):
        return False
    try:
        files.part.replace(files.journal)
    except OSError as error:
        raise XGradCamError(f"cannot move {files.part}: {error.strerror}") from None
    return True
