"""The record of a run, a line of JSON for each photograph, by which an interrupted run goes on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.photographs import STDIN, state_of
from xgradcam.results import files_of

NAME = "xgrad-cam.jsonl"


class Journal:
    """The file `xgrad-cam.jsonl` of a run's folder; a context that is written to photograph by photograph.

    Its first line is the run's settings. Raises XGradCamError where it cannot be written, or where a run is
    to go on that had other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self.path = folder / NAME
        self.folder = folder
        lines = self._read() if resume else []
        if lines:
            _require_same(lines[0], settings, self.path)
        complete = [line for line in lines[1:] if self._is_complete(line)]
        self._begin = [dict(settings), *complete]
        # The files of the photographs to come, of which some may be of classes that are no more the highest.
        self._stale = {line.get("image"): _files_in(line) for line in lines[1:] if line not in complete}
        self._named = {name for line in complete for name in _files_in(line)}
        self.done: dict[str, list[dict[str, Any]]] = {
            line["image"]: line["records"] for line in self._begin[1:]
        }
        self._file: TextIO | None = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, image: str, state: Mapping[str, int], records: Sequence[Mapping[str, Any]]) -> None:
        """Note that all files of a photograph, which was in this state when it was read, are there."""
        line = {"image": image, **state, "records": records}
        if self._file is not None and not self.path.exists():
            raise CannotWriteError(f"{self.path} has gone during the run: was the folder moved or emptied?")
        try:
            if self._file is None:
                self._file = self._started()
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            self._named |= _files_in(line)
            for name in self._stale.pop(image, set()) - self._named:
                if (self.folder / name).resolve().is_relative_to(self.folder.resolve()):
                    (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise CannotWriteError(f"cannot write {self.path}: {error.strerror}") from None

    def _started(self) -> TextIO:
        """The file, anew: a line that was cut off, or whose files have gone, is not left in it."""
        aside = self.path.with_name(f".{NAME}.part")
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in self._begin)
        aside.replace(self.path)
        return self.path.open("a", encoding="utf-8")

    def records(self) -> list[dict[str, Any]]:
        """All records of the run so far, those of photographs that were complete before first."""
        lines = {line["image"]: line["records"] for line in self._read()[1:]}
        return [record for records in lines.values() for record in records]

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

    def _is_complete(self, line: Mapping[str, Any]) -> bool:
        files = _files_in(line)
        try:
            same = all(line[key] == value for key, value in state_of(line["image"]).items())
        except (KeyError, TypeError):
            return False
        return (
            same
            and "records" in line
            and line["image"] != STDIN
            and all((self.folder / name).is_file() for name in files)
        )


def _files_in(line: Mapping[str, Any]) -> set[str]:
    """The files that a line of the record names; none where it is no such line."""
    try:
        return {name for record in line["records"] for name in files_of(record)}
    except (AttributeError, KeyError, TypeError):
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
