"""The journal of a run: a line of JSON for each photograph, from which an interrupted run goes on."""

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
# Errors of reading a line that another program wrote.
READ_ERRORS = (AttributeError, KeyError, TypeError, ValueError)


class Journal:
    """The file `xgrad-cam.jsonl` in a run's folder, as a context; each finished photograph adds a line.

    Its first line holds the run's settings. sources: the photographs of the run. done: path of a complete
    photograph -> its records. Raises XGradCamError where it cannot be written, or where a resumed run had
    other settings.
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
        # Files that a photograph no longer has (of a class that is not the highest now, of another stem) are
        # deleted at the end: until then another photograph's result may take the name.
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
        """Delete files that finished photographs no longer have; what cannot be deleted stays in the journal.

        Results of other photographs and the photographs of the run are kept. Files of an earlier run are
        deleted too: it may have been killed before it deleted them.
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
        """Paths of photographs whose files are all written, by this run or an earlier one."""
        return self._added | self.done.keys()

    def add(self, source: Source, state: Mapping[str, int], records: Sequence[Mapping[str, Any]]) -> None:
        """Add a photograph whose files are all written; state: `state_of` its file when it was read."""
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
        """Write the file anew, without lines that were cut off or whose files have gone, and open it."""
        self._write(self._begin)
        return self.path.open("a", encoding="utf-8")

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        aside = self.path.with_name(f".{NAME}.part")
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        aside.replace(self.path)

    def _latest(self, images: Container[str]) -> Iterator[Mapping[str, Any]]:
        """All lines except the earlier ones of these images."""
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
            except ValueError:  # the last line, if the run was killed while it wrote
                continue
        return [line for line in lines if isinstance(line, dict)]

    def _is_complete(self, line: Mapping[str, Any], stems: Mapping[str, str]) -> bool:
        image = line["image"]
        try:
            same = all(line[key] == value for key, value in state_of(image).items())
            files = [name for record in line["records"] for name in files_of(record)]
            named = bool(files) and all(map(self._has, files))
            return same and named and line["stem"] == stems.get(image)
        except READ_ERRORS:
            return False

    def _has(self, name: str) -> bool:
        """True if there is a file of this name in the folder."""
        path = self.folder / name
        return path.is_file() and path.resolve().is_relative_to(self.folder.resolve())


def _of_photographs(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of photographs: without the settings and anything else."""
    return [line for line in lines[1:] if isinstance(line.get("image"), str)]


def _files_in(line: Mapping[str, Any]) -> set[str]:
    """Names of the files in a line of the journal; none where it is malformed."""
    try:
        return {name for record in line["records"] for name in files_of(record) if isinstance(name, str)}
    except READ_ERRORS:
        return set()


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    differing = [key for key in now if before.get(key) != now[key]]
    # More photographs are welcome: a shell's pattern finds new ones by itself.
    if "photographs" in differing and set(before.get("photographs", ())) <= set(now["photographs"]):
        differing.remove("photographs")
    if differing:
        raise XGradCamError(
            f"cannot go on with the run of {path}: it had other settings for {', '.join(differing)}; "
            "give the same options, another --output-dir, or no --resume"
        )
