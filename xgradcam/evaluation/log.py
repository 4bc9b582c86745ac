"""The log of an evaluation, `evaluation.jsonl`: all its numbers, and the means to resume it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xgradcam.errors import XGradCamError
from xgradcam.files import write_files


class Log:
    """A file with one line of JSON for each kind of measure, photograph, layer and method.

    Its first line holds the settings. resume: keep the lines of an earlier run with the same settings.
    Raises XGradCamError if the settings differ, or if the file cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        if resume and path.exists():
            earlier = [line for line in map(_parsed, path.read_text(encoding="utf-8").splitlines()) if line]
            if not earlier or earlier[0] != settings:
                raise XGradCamError(f"{path} is of a run with other settings: leave out --resume")
            self.lines = earlier[1:]
        self._keys = {_key(line) for line in self.lines}
        write_files({path: "".join(map(_text, (settings, *self.lines))).encode()})

    def add(self, line: dict[str, Any]) -> None:
        """Write a line; it has `kind`, `photo`, `layer`, `method` and the measured values."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_text(line))
        self.lines.append(line)
        self._keys.add(_key(line))

    def has(self, kind: str, photo: str, layer: str, method: str) -> bool:
        """True if this was measured already."""
        return (kind, photo, layer, method) in self._keys


def _key(line: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return line["kind"], line["photo"], line["layer"], line["method"]


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"


def _parsed(line: str) -> dict[str, Any] | None:
    """The line's object; None for the last line of a run that was killed while it wrote."""
    try:
        parsed: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return parsed
