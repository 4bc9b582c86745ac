"""Photographs in the rows of Parquet tables, as Hugging Face's data sets and others have them."""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

from xgradcam.errors import XGradCamError, did_you_mean, listed
from xgradcam.runs.held import Held
from xgradcam.runs.packs import require_pyarrow
from xgradcam.runs.remote import is_url, opened, reading

# Rows that are read at a time; that are kept for the threads that read, at most; and their bytes.
AT_ONCE, KEPT, KEPT_BYTES = 8, 64, 2**28
# Row groups that are read at the same time: where one ends, the next one begins.
GROUPS = 2
# The field of a struct with an image's bytes, and the one with its name.
BYTES, PATH = "bytes", "path"
TURN = Lock()


@dataclass(frozen=True, slots=True)
class Row(Held):
    """A row of a table, by its group and the place there; column: with the image's bytes."""

    place: str
    column: str
    group: int
    index: int

    def content(self, name: str) -> bytes:
        """The bytes."""
        with TURN:
            group = _group(self.place, self.column, self.group, _state(self.place))
        with reading(self.place):
            found = group.row(self.index)
        if found is None:
            raise XGradCamError(f"no image in {name}: the row of the column {self.column!r} is empty")
        return found


def rows_of(place: str, asked: str | None) -> list[tuple[str | None, Row]]:
    """The rows of a table, each with the name of its image where the table has it; no image is read.

    asked: the column, None for the only one of images. Raises XGradCamError for what is no table, and where
    there is no such column, or several.
    """
    require_pyarrow()
    rows: list[tuple[str | None, Row]] = []
    with opened(place) as file, reading(place):
        table = _parquet().ParquetFile(file)
        column, fields = _image_column(table.schema_arrow, asked, place)
        for group in range(table.num_row_groups):
            names: list[Any] = [None] * table.metadata.row_group(group).num_rows
            if PATH in fields:
                read = table.read_row_group(group, columns=[f"{column}.{PATH}"]).column(0)
                names = [(value or {}).get(PATH) for value in read.to_pylist()]
            rows += [
                (name if isinstance(name, str) and name else None, Row(place, column, group, index))
                for index, name in enumerate(names)
            ]
    if not rows:
        raise XGradCamError(f"no rows in the table {place}")
    return rows


def values_of(place: str, name: str) -> tuple[list[tuple[tuple[int, int], Any]], list[str] | None, list[str]]:
    """The values of a column of numbers or texts, by group and row; and the names of its classes, if known.

    The names are those of Hugging Face's `ClassLabel`, of which the values are numbers. And the names of all
    columns. There are no values where there is no such column. Raises XGradCamError for one of another type.
    """
    with opened(place) as file, reading(place):
        table = _parquet().ParquetFile(file)
        schema = table.schema_arrow
        if name not in schema.names:
            return [], None, schema.names
        kind = schema.field(name).type
        if not _states_a_class(kind):
            raise XGradCamError(f"the column {name} of {place} is of {kind}: a class is a number or a text")
        groups = range(table.num_row_groups)
        values = [
            ((group, index), value)
            for group in groups
            for index, value in enumerate(table.read_row_group(group, columns=[name]).column(0).to_pylist())
        ]
        return values, _names_of_classes(schema.metadata or {}, name), schema.names


def _states_a_class(kind: Any) -> bool:
    """True for a type of whole numbers or texts, or of numbers that may be whole."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return bool(text or number or types.is_null(kind))


def _names_of_classes(metadata: Mapping[bytes, bytes], name: str) -> list[str] | None:
    """The names of the classes of a column, as Hugging Face's data sets have them in the metadata."""
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][name]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(one, str) for one in names) else None


def _parquet() -> Any:
    from pyarrow import parquet

    return parquet


def _image_column(schema: Any, asked: str | None, place: str) -> tuple[str, list[str]]:
    """The column of images, and the fields of its values: bytes, or a struct of bytes and a path."""
    columns = {field.name: _fields(field.type) for field in schema if _fields(field.type) is not None}
    if asked is not None:
        if asked not in columns:
            raise XGradCamError(
                f"no column {asked!r} of images in {place}: {_there(columns, schema)}"
                f"{did_you_mean(asked, columns)}"
            )
        return asked, columns[asked] or []
    if len(columns) != 1:
        advice = "choose by --column" if columns else "a column of the bytes of image files is read"
        raise XGradCamError(
            f"{'several columns' if columns else 'no column'} of images in {place}: "
            f"{_there(columns, schema)}; {advice}"
        )
    ((column, fields),) = columns.items()
    return column, fields or []


def _there(columns: dict[str, Any], schema: Any) -> str:
    if columns:
        return f"there are {listed(columns, 8)}"
    return f"its columns are {listed((f'{field.name} ({field.type})' for field in schema), 5)}"


def _fields(kind: Any) -> list[str] | None:
    """The fields of a type that can hold an image, none of bytes themselves; None for another type."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))

    if is_bytes(kind):
        return []
    if not types.is_struct(kind):
        return None
    fields = {field.name: field.type for field in (kind.field(index) for index in range(kind.num_fields))}
    return list(fields) if BYTES in fields and is_bytes(fields[BYTES]) else None


class _Group:
    """A group of rows that is read from its begin to its end, as its rows are asked for.

    Threads that read ask nearly in order: the last rows are kept. One before these begins anew.
    """

    def __init__(self, place: str, column: str, group: int) -> None:
        self._place, self._column, self._number = place, column, group
        self._turn = Lock()
        self._kept: OrderedDict[int, bytes | None] = OrderedDict()
        self._rows: Iterator[bytes | None] = iter(())
        self._next = self._bytes = 0
        self._is_open = False

    def row(self, index: int) -> bytes | None:
        """The bytes in a row, None where there are none."""
        with self._turn:
            if index in self._kept:
                return self._kept[index]
            if index < self._next or not self._is_open:
                self._kept.clear()
                self._rows, self._next, self._bytes, self._is_open = self._read(), 0, 0, True
            while self._next <= index:
                self._keep(self._next, next(self._rows))
                self._next += 1
            return self._kept[index]

    def _keep(self, index: int, content: bytes | None) -> None:
        self._kept[index] = content
        self._bytes += len(content or b"")
        while len(self._kept) > KEPT or (self._bytes > KEPT_BYTES and len(self._kept) > 1):
            _, gone = self._kept.popitem(last=False)
            self._bytes -= len(gone or b"")

    def _read(self) -> Iterator[bytes | None]:
        """The rows, of which a few are in memory."""
        with opened(self._place) as file:
            table = _parquet().ParquetFile(file, buffer_size=2**20, pre_buffer=False)
            is_struct = _fields(table.schema_arrow.field(self._column).type) != []
            columns = [f"{self._column}.{BYTES}" if is_struct else self._column]
            batches = table.iter_batches(
                AT_ONCE, row_groups=[self._number], columns=columns, use_threads=False
            )
            for batch in batches:
                values = batch.column(0)
                yield from (value.as_py() for value in (values.flatten()[0] if is_struct else values))


def _state(place: str) -> tuple[int, ...]:
    if is_url(place):
        return ()
    with reading(place):
        state = os.stat(place)
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=GROUPS)
def _group(place: str, column: str, group: int, _state: tuple[int, ...]) -> _Group:
    """The group of a file in this state, kept while its rows are read."""
    return _Group(place, column, group)
