"""Results of photographs written into one file: a tar in WebDataset's form, or a Parquet table."""

import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xgradcam.files import cannot_write, new_file
from xgradcam.runs.packs import MARK, PARQUET, WEBDATASET, require_pyarrow
from xgradcam.runs.results import Map, Results
from xgradcam.runs.run import Run
from xgradcam.runs.sources import Source

# Rows, and bytes of maps, that are in memory at a time.
ROWS, BYTES = 512, 2**26
# Columns of numbers and texts: the keys of a record, and their types as pyarrow calls them.
COLUMNS = {
    "image": "string",
    "class_index": "int64",
    "class_name": "string",
    # Of a score that is no class's: its kind, and what it is of; and of --truth what the row is for.
    "what": "string",
    "interest": "string",
    "role": "string",
    "score": "float64",
    "probability": "float64",
    "rank": "int64",
    "classes": "int64",
    "model": "string",
    "layer": "string",
}


class Pack(ABC):
    """A file that results are added to, photograph by photograph."""

    @abstractmethod
    def add(self, source: Source, results: Results) -> None:
        """Add the results of a photograph."""

    @abstractmethod
    def add_problem(self, source: Source, problem: str) -> None:
        """Add a photograph that failed, where there is a place for it."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


@contextmanager
def new_pack(run: Run, name: str) -> Iterator[Pack]:
    """The file of a shard's results in the run's folder; there once the block has ended without an error.

    Equal results make equal bytes: it holds neither times nor owners. Raises XGradCamError where it cannot be
    written.
    """
    path = run.writing.folder / name
    with new_file(path) as file:
        sink = _Sink(file, path)
        pack = {WEBDATASET: Tar, PARQUET: Table}[run.writing.output_format](run, sink)
        try:
            yield pack
            pack.close()
        except BaseException:
            # Writers close by themselves later.
            sink.is_dropped = True
            with suppress(Exception):
                pack.close()
            raise


class _Sink(io.RawIOBase):
    """A file, whose errors are told as those of writing."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__()
        self._file, self._path = file, path
        self.is_dropped = False

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The bytes that were written."""
        return self._file.tell()

    def write(self, content: Any) -> int:
        """Write bytes, unless the file is given up."""
        if self.is_dropped:
            return len(content)
        try:
            return self._file.write(content)
        except OSError as error:
            raise cannot_write(self._path, error) from None


class Tar(Pack):
    """A tar of the files of `results_of`, one sample for each class or score of a photograph."""

    def __init__(self, run: Run, sink: _Sink) -> None:
        self._sink = sink
        sink.write(tarfile.TarInfo.create_pax_global_header({"comment": MARK.decode()}))

    def add(self, source: Source, results: Results) -> None:
        """Add the files."""
        for name, content in results.files.items():
            # Neither time, owner nor rights of a file.
            member = tarfile.TarInfo(name)
            member.size = len(content)
            # Not by `TarFile`, which keeps all members in memory.
            self._sink.write(member.tobuf(tarfile.PAX_FORMAT) + content)
            self._sink.write(bytes(-len(content) % tarfile.BLOCKSIZE))

    def add_problem(self, source: Source, problem: str) -> None:
        """Add nothing: all samples have the same members, as their readers expect."""

    def close(self) -> None:
        """Write the end."""
        self._sink.write(bytes(2 * tarfile.BLOCKSIZE))


class Table(Pack):
    """A Parquet table: a row for each class or score and layer of a photograph, or for one that failed.

    Columns: `COLUMNS`, null where they do not apply; `notes`, texts; `problem`, null of all that were
    explained; a map of each method, h lists of w float32; and `record`, all that --json prints, as JSON.
    """

    def __init__(self, run: Run, sink: _Sink) -> None:
        require_pyarrow()
        import pyarrow as pa
        from pyarrow import parquet

        self._methods = list(run.explaining.methods)
        maps = pa.list_(pa.list_(pa.float32()))
        self._schema = pa.schema(
            [
                *((name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()),
                ("notes", pa.list_(pa.string())),
                ("problem", pa.string()),
                *((method, maps) for method in self._methods),
                ("record", pa.string()),
            ],
            metadata={MARK: b""},
        )
        self._writer = parquet.ParquetWriter(sink, self._schema)
        self._rows: list[dict[str, Any]] = []
        self._maps: list[Mapping[str, Map]] = []
        self._bytes = 0

    def add(self, source: Source, results: Results) -> None:
        """Add a row for each record."""
        for record, maps in zip(results.records, results.maps, strict=True):
            self._add({**record, "record": json.dumps(record)}, maps)

    def add_problem(self, source: Source, problem: str) -> None:
        """Add a row without results."""
        self._add({"image": source.path, "notes": [], "problem": problem}, {})

    def _add(self, row: dict[str, Any], maps: Mapping[str, Map]) -> None:
        self._rows.append(row)
        self._maps.append(maps)
        self._bytes += sum(one.nbytes for one in maps.values())
        if len(self._rows) >= ROWS or self._bytes >= BYTES:
            self._flush()

    def _flush(self) -> None:
        """Write the rows that wait as a group."""
        import pyarrow as pa

        columns = [
            _maps_column([maps.get(field.name) for maps in self._maps])
            if field.name in self._methods
            else pa.array([_text(row.get(field.name)) for row in self._rows], field.type)
            for field in self._schema
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows, self._maps, self._bytes = [], [], 0

    def close(self) -> None:
        """Write the rows that are left, and the end."""
        if self._rows:
            self._flush()
        self._writer.close()


def _text(value: Any) -> Any:
    """The value as Parquet takes it: texts in UTF-8, in which some names of files are not."""
    if isinstance(value, list):
        return [_text(one) for one in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _maps_column(maps: Sequence[Map | None]) -> Any:
    """The maps as lists of rows of numbers, null for None; without a Python object for each number."""
    import pyarrow as pa

    there = [one for one in maps if one is not None]
    widths = [0, *(one.shape[1] for one in there for _ in range(one.shape[0]))]
    numbers = np.concatenate([one.ravel() for one in there]) if there else np.zeros(0, np.float32)
    rows = pa.ListArray.from_arrays(pa.array(np.cumsum(widths), pa.int32()), pa.array(numbers, pa.float32()))
    starts: list[int | None] = []
    place = 0
    for one in maps:
        starts.append(None if one is None else place)
        place += 0 if one is None else one.shape[0]
    return pa.ListArray.from_arrays(pa.array([*starts, place], pa.int32()), rows)
