"""The record of a run, a line of JSON for each photograph, by which an interrupted run goes on."""

import json
import os
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.runs.results import files_of
from xgradcam.runs.sources import STDIN, Source, state_of

NAME = "xgrad-cam.jsonl"
# What a line of another's making may raise where it is looked into.
MALFORMED = (AttributeError, KeyError, TypeError, ValueError)


class Journal:
    """The file `xgrad-cam.jsonl` of a run's folder; a context that is written to photograph by photograph.

    Its first line is the run's settings. sources: the photographs of the run. Raises XGradCamError where it
    cannot be written, or where a run is to go on that had other settings.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], sources: Sequence[Source], resume: bool
    ) -> None:
        self.path = folder / NAME
        self.folder = folder
        before = self._read() if resume else []
        if before:
            _require_same(before[0], settings, self.path)
        self._order = [source.path for source in sources]
        stems = {source.path: source.stem.as_posix() for source in sources if source.path != STDIN}
        lines = _of_photographs(before)
        latest = {line["image"]: line for line in lines}
        self._last = {image: _files_in(line) for image, line in latest.items()}
        complete = {image: line for image, line in latest.items() if self._is_complete(line, stems)}
        self.done: dict[str, list[dict[str, Any]]] = {
            image: line["records"] for image, line in complete.items()
        }
        # The files that photographs have of their own now, and those that they had: of a class that is no
        # more the highest, of another stem. What is another's now must stay, so they go when all is written.
        self._named = {name for line in complete.values() for name in _files_in(line)}
        self._stale: defaultdict[str, set[str]] = defaultdict(set)
        self._begin = [dict(settings)]
        for line in lines:
            left = {name for name in _files_in(line) - self._named if self._has(name)}
            if left and line is not complete.get(line["image"]):
                self._stale[line["image"]] |= left
                self._begin.append(line)
        self._begin += complete.values()
        self._added: set[str] = set()
        self._file: TextIO | None = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        with suppress(OSError, XGradCamError):
            self._clear_up()

    def _clear_up(self) -> None:
        """Delete what photographs that are written no longer have; what cannot be stays in the record.

        Not what is another's, or a photograph of the run. Those that an earlier run wrote count, too: it may
        have been killed before it came here.
        """
        there = self._there()
        replaced = there & self._stale.keys()
        if not replaced:
            return
        if self._file is None:
            self._write(self._begin)
        kept = self._named.union(*(files for image, files in self._last.items() if image not in there))
        photographs = {os.path.realpath(path) for path in self._order}
        for name in set().union(*map(self._stale.__getitem__, replaced)) - kept:
            path = self.folder / name
            if os.path.realpath(path) not in photographs:
                path.unlink(missing_ok=True)
        self._write(self._latest(replaced))

    def _there(self) -> set[str]:
        """The photographs whose files are all written, by this run or an earlier one."""
        return self._added | self.done.keys()

    def add(self, source: Source, state: Mapping[str, int], records: Sequence[Mapping[str, Any]]) -> None:
        """Note that all files of a photograph, which was in this state when it was read, are there."""
        line = {"image": source.path, "stem": source.stem.as_posix(), **state, "records": records}
        if self._file is not None and not self.path.exists():
            raise CannotWriteError(f"{self.path} has gone during the run: was the folder moved or emptied?")
        try:
            if self._file is None:
                self._file = self._started()
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise CannotWriteError(f"cannot write {self.path}: {error.strerror}") from None
        self._added.add(source.path)
        self._named |= _files_in(line)

    def _started(self) -> TextIO:
        """The file, anew: a line that was cut off, or whose files have gone, is not left in it."""
        self._write(self._begin)
        return self.path.open("a", encoding="utf-8")

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        aside = self.path.with_name(f".{NAME}.part")
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        aside.replace(self.path)

    def _latest(self, images: Container[str]) -> Iterator[Mapping[str, Any]]:
        """All lines but the earlier ones of these images."""
        settings, *lines = self._read()
        latest = {line["image"]: line for line in lines}
        yield settings
        for line in lines:
            if line["image"] not in images or line is latest[line["image"]]:
                yield line

    def records(self) -> list[dict[str, Any]]:
        """All records of the run so far, in the order of its photographs."""
        there = self._there()
        lines = {line["image"]: line["records"] for line in _of_photographs(self._read())}
        return [record for image in self._order if image in there for record in lines.get(image, ())]

    def _read(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise XGradCamError(f"cannot read {self.path}: {error}; start anew without --resume") from None
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # the last one, if the run was killed while it wrote
                continue
        return [line for line in lines if isinstance(line, dict)]

    def _is_complete(self, line: Mapping[str, Any], stems: Mapping[str, str]) -> bool:
        image = line["image"]
        try:
            same = all(line[key] == value for key, value in state_of(image).items())
            files = [name for record in line["records"] for name in files_of(record)]
            named = bool(files) and all(map(self._has, files))
            return same and named and line["stem"] == stems.get(image)
        except MALFORMED:
            return False

    def _has(self, name: str) -> bool:
        """Whether there is a file of this name, in the folder."""
        path = self.folder / name
        return path.is_file() and path.resolve().is_relative_to(self.folder.resolve())


def _of_photographs(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without the settings, and without what no photograph wrote."""
    return [line for line in lines[1:] if isinstance(line.get("image"), str)]


def _files_in(line: Mapping[str, Any]) -> set[str]:
    """The files that a line of the record names; none where it is no such line."""
    try:
        return {name for record in line["records"] for name in files_of(record) if isinstance(name, str)}
    except MALFORMED:
        return set()


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    differing = [key for key in now if before.get(key) != now[key]]
    # More of them are welcome: a shell's pattern finds them by itself.
    if "photographs" in differing and set(before.get("photographs", ())) <= set(now["photographs"]):
        differing.remove("photographs")
    if differing:
        raise XGradCamError(
            f"cannot go on with the run of {path}: it had another {', '.join(differing)}; "
            "give the same options, another --output-dir, or no --resume"
        )
