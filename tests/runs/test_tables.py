"""Photographs in Parquet tables."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from xgradcam.errors import XGradCamError
from xgradcam.runs import tables
from xgradcam.runs.tables import rows_of

pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("own_folder")


def content(index):
    return index.to_bytes(4, "big") * (1 + index % 7)


@pytest.fixture(params=["struct", "binary", "large_binary", "dictionary"])
def table(request, own_folder):
    """300 rows in groups of 70."""
    values = [content(index) for index in range(300)]
    kind = request.param
    if kind == "struct":
        images = pa.array([{"bytes": value, "path": None} for value in values])
    else:
        images = pa.array(values, pa.large_binary() if kind == "large_binary" else pa.binary())
    made = pa.table({"image": images, "label": list(range(300))})
    parquet.write_table(made, "x.parquet", row_group_size=70, use_dictionary=kind == "dictionary")


@pytest.mark.usefixtures("table")
def test_rows_are_read_in_any_order_by_several_threads(monkeypatch):
    rows = pickle.loads(pickle.dumps([row for _, row in rows_of("x.parquet", None)]))
    assert len(rows) == 300
    monkeypatch.setattr(tables, "KEPT", 10)
    order = [*range(300), *range(299, 280, -1)]
    Random(0).shuffle(order[100:150])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda index: rows[index].content("x"), order)) == [content(i) for i in order]


@pytest.mark.usefixtures("table")
def test_in_order_a_group_is_read_once_and_few_rows_are_kept(monkeypatch):
    rows = [row for _, row in rows_of("x.parquet", None)]
    reads, read = [], tables._Group._read
    monkeypatch.setattr(tables._Group, "_read", lambda self: reads.append(self._number) or read(self))
    tables._group.cache_clear()
    # As threads ask that read ahead: nearly in order.
    order = sorted(range(300), key=lambda index: index + Random(index).randrange(30))
    assert [rows[index].content("x") for index in order] == [content(index) for index in order]
    assert sorted(reads) == [0, 1, 2, 3, 4]
    monkeypatch.setattr(tables, "KEPT_BYTES", 40)
    tables._group.cache_clear()
    rows[60].content("x")
    group = tables._group("x.parquet", "image", 0, tables._state("x.parquet"))
    assert group._bytes <= 40
    assert group._bytes == sum(len(content(index)) for index in group._kept)


def test_a_table_that_changes_is_read_anew():
    for value in (b"one", b"other"):
        parquet.write_table(pa.table({"bytes": [value]}), "x.parquet")
        ((_, row),) = rows_of("x.parquet", None)
        assert row.content("x") == value
    with open("x.parquet", "wb") as file:
        file.write(b"PAR1 damaged")
    with pytest.raises(XGradCamError, match=r"cannot read x.parquet: "):
        row.content("x")


def test_names_are_those_of_the_images():
    images = [{"bytes": b"1", "path": "train/a.JPEG"}, {"bytes": b"2", "path": None}, None]
    parquet.write_table(pa.table({"image": images}), "x.parquet")
    assert [name for name, _ in rows_of("x.parquet", "image")] == ["train/a.JPEG", None, None]
    parquet.write_table(pa.table({"image": images[:0], "x": pa.array([], pa.binary())}), "x.parquet")
    with pytest.raises(XGradCamError, match=r"no rows in the table x.parquet"):
        rows_of("x.parquet", "x")
