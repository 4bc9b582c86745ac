"""The log of an evaluation, `evaluation.jsonl`: all its numbers, and the means to resume it."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.evaluation.measures import MEASURES
from xgradcam.files import open_regular, write_files

# What must be the same for a line to count: what was measured, and the state of what it was measured on.
KEY = ("kind", "photo", "layer", "method", "state")
KINDS = ("map", "mosaic", "randomised")
CURVES = ("deletion", "insertion")
# Settings of every evaluation, by which its log is known.
SETTINGS = {"model", "weights", "crop", "steps", "removed", "randomise", "seed"}


class Log:
    """A file with a line of JSON for each kind of measure, photograph, layer and method; a context.

    Its first line holds the settings. resume: keep the lines of an earlier run with the same settings.
    malformed: the number of lines that are passed over.
    Raises XGradCamError if the settings differ, or if the file cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        self.malformed = 0
        self._lines: dict[tuple[str, ...], dict[str, Any]] = {}
        if not (resume and os.path.lexists(path)):
            write_files({path: _text(settings)})
        else:
            self._read(settings)
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise CannotWriteError(f"cannot write {path}: {error.strerror}") from None

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, line: dict[str, Any]) -> None:
        """Write a line at once; it has the keys of `KEY` and the measured values."""
        text = _text(line)
        try:
            if not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                raise FileNotFoundError(0, "another run began in this folder")
            # One write: lines of two runs at once do not mix.
            if self._file.write(text) != len(text):
                raise OSError(0, "the disk is full")
        except OSError as error:
            raise XGradCamError(
                f"cannot write {self.path}: {error.strerror}; --resume goes on later"
            ) from None
        self._lines[_key(line)] = line

    def find(self, kind: str, photo: str, layer: str, method: str, state: str) -> dict[str, Any] | None:
        """The latest line of this measure in this state; None if it is not measured yet."""
        return self._lines.get((kind, photo, layer, method, state))

    def _read(self, settings: Mapping[str, Any]) -> None:
        """Keep the lines of an earlier run with these settings; cut off one that was not written whole."""
        try:
            with open_regular(self.path) as file:
                content = file.read()
        except OSError as error:
            raise XGradCamError(f"cannot read {self.path}: {error.strerror}") from None
        whole = content[: content.rfind(b"\n") + 1]
        first, *lines = map(_parsed, whole.removesuffix(b"\n").split(b"\n"))
        now = json.loads(_text(settings))
        if not isinstance(first, dict):
            raise XGradCamError(f"{self.path} has no settings to compare: leave out --resume")
        if first != now:
            differing = [name for name in {**now, **first} if first.get(name) != now.get(name)]
            raise XGradCamError(
                f"{self.path} is of a run with other settings ({', '.join(differing)}): leave out --resume, "
                "or give the same"
            )
        for line in lines:
            if _is_whole(line, settings.get("steps")):
                self._lines[_key(line)] = line
            else:
                self.malformed += 1
        if len(whole) < len(content):
            try:
                os.truncate(self.path, len(whole))
            except OSError as error:
                raise CannotWriteError(f"cannot write {self.path}: {error.strerror}") from None


def is_log(path: Path) -> bool:
    """True if a file is the log of an evaluation by the command; its first line may be damaged."""
    try:
        with open_regular(path) as file:
            lines = map(_parsed, file.read().split(b"\n"))
    except (OSError, XGradCamError):
        return False
    first = next(lines)
    is_settings = isinstance(first, dict) and first.keys() >= SETTINGS
    return is_settings or any(_is_whole(line, None) for line in lines)


def _key(line: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(line[name] for name in KEY)


def _text(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line) + "\n").encode()


def _parsed(line: bytes) -> Any:
    """The line's value; None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_whole(line: Any, steps: int | None) -> bool:
    """True for a line with a key, whose values are numbers and whose curves have `steps` steps."""
    if not isinstance(line, dict) or not all(isinstance(line.get(name), str) for name in KEY):
        return False
    if line["kind"] not in KINDS or not all(_is_number(line[name]) for name in MEASURES if name in line):
        return False
    if line["kind"] == "randomised":
        return "randomised" in line
    if line["kind"] == "mosaic":
        return "focus" in line
    curves = line.get("curves")
    return isinstance(curves, dict) and all(_is_curve(curves.get(name), steps) for name in CURVES)


def _is_number(value: object) -> bool:
    """True for a measured value; None and infinities are some."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value < 2**63
    return value is None or isinstance(value, float) or is_count


def _is_curve(curve: object, steps: int | None) -> bool:
    return (
        isinstance(curve, Sequence)
        and not isinstance(curve, str)
        and (steps is None or len(curve) == steps + 1)
        and all(isinstance(value, float) and math.isfinite(value) for value in curve)
    )
