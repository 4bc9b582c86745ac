"""The journal of a run: a line of JSON for each photograph, from which an interrupted run goes on."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, TextIO

from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.files import KeptFiles, open_regular, write_files
from xgradcam.runs.packs import NAMED
from xgradcam.runs.results import files_of
from xgradcam.runs.settings import differing
from xgradcam.runs.sources import LONGEST, STDIN, Source, state_of
from xgradcam.runs.verdicts import verdict_on

NAME = "xgrad-cam.jsonl"
ANEW = "move it away, and start anew without --resume"
# Settings of every run, by which its record is known.
SETTINGS = {"model", "weights", "layers", "methods"}
# Errors of reading a line that another program wrote.
READ_ERRORS = (AttributeError, KeyError, RecursionError, TypeError, ValueError)
# Types of what a record holds.
RECORD: Mapping[str, type | tuple[type, ...]] = {
    "image": str,
    "class_index": int,
    "class_name": str,
    "score": (int, float),
    "probability": (int, float),
    "rank": int,
    "classes": int,
    "model": str,
    "layer": str,
    "files": dict,
    "written": list,
    "notes": list,
}


class Journal:
    """The file `xgrad-cam.jsonl` in a run's folder, as a context; each finished photograph adds a line.

    Its first line holds the run's settings. sources: the photographs of the run. is_result: whether a name
    can be one of a result with this stem; no other file is deleted. path: of the file instead. done: path of
    a complete photograph -> its records. Raises XGradCamError where it cannot be read or written, or where a
    resumed run had other settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        sources: Sequence[Source],
        resume: bool,
        is_result: Callable[[str, str], bool] = lambda _name, _stem: False,
        path: Path | None = None,
    ) -> None:
        self.path = folder / NAME if path is None else path
        self.folder = folder
        self._is_result = is_result
        self._needs_photograph = bool(settings.get("html"))
        before = self._read() if resume else []
        if before:
            require_same(before[0], settings, self.path, _classes_in(before))
        self._order = [source.path for source in sources]
        stems = {source.path: source.stem for source in sources if source.path != STDIN}
        lines = _of_photographs(before)
        latest = {line["image"]: line for line in lines}
        self._last = {image: names_in_line(line) for image, line in latest.items()}
        complete = {image: line for image, line in latest.items() if self._is_complete(line, stems)}
        self.done: dict[str, list[dict[str, Any]]] = {
            image: line["records"] for image, line in complete.items()
        }
        # Files that a photograph no longer has (of a class that is not the highest now, of another stem) are
        # deleted at the end: until then another photograph's result may take the name.
        self._named = {name for line in complete.values() for name in names_in_line(line)}
        self._stale: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._begin = [dict(settings)]
        for line in lines:
            left = {name for name in names_in_line(line) - self._named if self._has(name)}
            if left and line is not complete.get(line["image"]):
                self._stale[line["image"]] |= dict.fromkeys(left, str(line.get("stem")))
                self._begin.append(line)
        self._begin += complete.values()
        self._added: set[str] = set()
        self._file: TextIO | None = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, XGradCamError):
            if self._file is not None:
                self._file.close()
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
        photographs = KeptFiles(self._order)
        for image in replaced:
            for name, stem in self._stale[image].items():
                path = self.folder / name
                of_image = _is_stem_of(stem, image) and self._is_result(name, stem)
                if of_image and name not in kept and self._has(name) and path not in photographs:
                    path.unlink(missing_ok=True)
        self._write(self._latest(replaced))

    def _there(self) -> set[str]:
        """Paths of photographs whose files are all written, by this run or an earlier one."""
        return self._added | self.done.keys()

    def add(self, source: Source, state: Mapping[str, int], records: Sequence[Mapping[str, Any]]) -> None:
        """Add a photograph whose files are all written; state: `state_of` its file when it was read."""
        line = {"image": source.path, "stem": source.stem, **state, "records": records}
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
        self._named |= names_in_line(line)

    def _started(self) -> TextIO:
        """Write the file anew, without lines that were cut off or whose files have gone, and open it."""
        self._write(self._begin)
        return self.path.open("a", encoding="utf-8")

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        write_files({self.path: "".join(json.dumps(line) + "\n" for line in lines).encode()})

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
            lines = _lines_of(self.path)
        except FileNotFoundError:
            return []
        except (OSError, XGradCamError) as error:
            reason = getattr(error, "strerror", None) or error
            raise XGradCamError(f"cannot read {self.path}: {reason}; {ANEW}") from None
        if lines and not isinstance(lines[0], dict):
            remedy = "start anew without --resume" if any(map(_is_whole, lines)) else ANEW
            raise XGradCamError(f"cannot read {self.path}: its first line holds no settings; {remedy}")
        return [line for line in lines if isinstance(line, dict)]

    def _is_complete(self, line: Mapping[str, Any], stems: Mapping[str, str]) -> bool:
        image = line["image"]
        try:
            same = all(line[key] == value for key, value in state_of(image).items())
            whole = all(map(self._is_record, line["records"]))
            files = [name for record in line["records"] for name in files_of(record)]
            named = bool(files) and all(map(self._has, files))
            return same and whole and named and line["stem"] == stems.get(image)
        except READ_ERRORS:
            return False

    def _is_record(self, record: Mapping[str, Any]) -> bool:
        """True if a record has what will be read of it; raises one of READ_ERRORS for what is no record."""
        json.dumps(record, allow_nan=False)
        verdict_on([record])
        typed = all(isinstance(record[key], kind) for key, kind in RECORD.items() if key in record)
        return typed and ("photograph" in record or not self._needs_photograph)

    def _has(self, name: str) -> bool:
        """True if there is a file of this name in the folder."""
        path = self.folder / name
        return os.path.isfile(path) and path.resolve().is_relative_to(self.folder.resolve())


def names_in(folder: Path) -> tuple[set[str], int]:
    """Names of all files that the folder's journal names, and the number of lines that are damaged."""
    try:
        lines = _lines_of(folder / NAME)
    except (OSError, XGradCamError):
        return set(), 0
    settings = [] if lines[:1] == [None] else lines[:1]
    files = [names_in_line(line) if _is_whole(line) else None for line in lines[len(settings) :]]
    # The last line is cut off if the run was killed while it wrote.
    damaged = sum(names is None for names in files) - (lines[-1:] == [None])
    return set().union(*(names for names in files if names)), damaged


def settings_in(folder: Path) -> dict[str, Any]:
    """The settings of the run whose journal is in the folder; empty where they cannot be read."""
    try:
        with open_regular(folder / NAME) as file:
            first = json.loads(file.readline().decode("utf-8"))
    except (OSError, RecursionError, ValueError, XGradCamError):
        return {}
    return first if isinstance(first, dict) else {}


def _is_whole(line: Any) -> bool:
    """True for a line on a photograph whose files are called after it."""
    names = names_in_line(line) if isinstance(line, dict) else set()
    whole = bool(names) and isinstance(line.get("image"), str)
    return whole and all(name.startswith(f"{line.get('stem')}_") or NAMED.fullmatch(name) for name in names)


def require_own(folder: Path) -> None:
    """Raise XGradCamError if the folder has a file of the journal's name that no run has written."""
    path = folder / NAME
    try:
        lines = _lines_of(path)
    except FileNotFoundError:
        return
    except (OSError, XGradCamError):
        lines = [None]
    is_own = not lines or (isinstance(lines[0], dict) and lines[0].keys() >= SETTINGS)
    # Its first line may be damaged.
    if not is_own and not any(map(_is_whole, lines)):
        raise XGradCamError(f"{path} is no record of a run: move it away, or choose another --output-dir")


def _lines_of(path: Path) -> list[Any]:
    """The values in the lines of a file of JSON; None for a line that is none."""
    with open_regular(path) as file:
        content = file.read()
    lines: list[Any] = []
    for line in content.splitlines():
        try:
            lines.append(json.loads(line.decode("utf-8")))
        except (RecursionError, ValueError):
            lines.append(None)
    return lines


def _is_stem_of(stem: str, image: str) -> bool:
    """True if results of the photograph can have this stem: its name, perhaps cut or with more behind it."""
    return PurePath(stem).name.startswith(PurePath(image).stem[: LONGEST // 4])


def _of_photographs(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of photographs: without the settings and anything else."""
    return [line for line in lines[1:] if isinstance(line.get("image"), str)]


def names_in_line(line: Mapping[str, Any]) -> set[str]:
    """The names of the files in a line of the journal; none where it is malformed."""
    try:
        return {name for record in line["records"] for name in files_of(record) if isinstance(name, str)}
    except READ_ERRORS:
        return set()


def _classes_in(lines: Iterable[Mapping[str, Any]]) -> int | None:
    """The number of the model's classes, by the records; None where none says so."""
    for line in lines:
        with suppress(*READ_ERRORS):
            for record in line["records"]:
                if "classes" in record:
                    return int(record["classes"])
    return None


def require_same(
    before: Mapping[str, Any], now: Mapping[str, Any], path: Path, classes: int | None = None
) -> None:
    """Raise XGradCamError, naming the options, for a run with other settings than that of the record.

    classes: of the model of the record.
    """
    named = differing(before, now, classes)
    # A batch size that was chosen may be said now.
    if "batch_size" in named and "batch_size" not in now:
        named.remove("batch_size")
    # More photographs are welcome: a shell's pattern finds new ones by itself.
    photographs = before.get("photographs")
    if "photographs" in named and isinstance(photographs, list):
        if all(photograph in now.get("photographs", ()) for photograph in photographs):
            named.remove("photographs")
    if named:
        raise XGradCamError(
            f"cannot go on with the run of {path}: it had other settings for {', '.join(named)}; "
            "give the same options, another --output-dir, or no --resume"
        )
