"""Tries of a shard, by which the photograph that kills its process is found."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xgradcam.errors import CannotWriteError
from xgradcam.runs.shards import lines_in
from xgradcam.runs.sources import Source

# Deaths of its process after which a shard is done batch by batch, and a batch that was fatal one by one.
DEATHS = 2


class Tries:
    """Finds the photograph that kills its process, by what was begun and never ended.

    A shard is one unit of work. After two deaths each batch is one; of a batch that was fatal, each
    photograph; and a photograph that was fatal alone is not tried again. An error or an interrupt ends a unit
    as success does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._deaths: Counter[str] = Counter()
        begun = ""
        for _, line in lines_in(path) if path.exists() else ():
            # What is begun while another thing is not ended was begun by another process.
            self._deaths[begun] += "begun" in line
            begun = str(line.get("begun", ""))
        self._deaths[begun] += 1

    def units(self, sources: Sequence[Source], batch: int) -> Iterator[tuple[str, Sequence[Source], bool]]:
        """The units of a shard: name, photographs, and True for one that is not to be tried again."""
        if self._deaths["shard"] < DEATHS:
            yield "shard", sources, False
            return
        for start in range(0, len(sources), batch):
            name, unit = f"batch {start}", sources[start : start + batch]
            if not self._deaths[name]:
                yield name, unit, False
                continue
            for index, source in enumerate(unit, start):
                name = f"photograph {index}"
                yield name, [source], self._deaths[name] > 0

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """A try of a unit, which is noted as ended when the block is left."""
        self._note({"begun": name})
        try:
            yield
        finally:
            self._note({})

    def _note(self, line: Mapping[str, Any]) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise CannotWriteError(f"cannot write {self.path}: {error.strerror}") from None
