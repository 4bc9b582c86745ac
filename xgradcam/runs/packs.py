"""Results of a shard in one file: the formats, the names, and the keys of photographs in it."""

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from xgradcam.errors import XGradCamError
from xgradcam.files import open_regular
from xgradcam.runs.sources import LONGEST, short_name

# Each result a file, or those of a shard in a tar of WebDataset's form or in a table.
FILES, WEBDATASET, PARQUET = FORMATS = ("files", "webdataset", "parquet")
ENDINGS = {WEBDATASET: "tar", PARQUET: "parquet"}
# Results of more photographs are packed unless it is said: file systems are slow with millions of files.
MANY = 100_000
# Key of a record that names the file with its results.
ARCHIVE = "archive"
# In the header of a tar, or among the metadata of a table, by which our own are known.
MARK = b"xgradcam"
TAR_COMMENT = b"comment=" + MARK + b"\n"
PARQUET_MAGIC = b"PAR1"
# Bytes at the begin of a tar, and at the end of a table, that are looked at.
LOOKED_AT = 2**20
# What is not printable, begins an ending, or means something in a path or to a shell.
UNSAFE = frozenset('%.\\:*?"<>|')


# The name of a shard's file.
NAMED = re.compile(rf"xgrad-cam-(\d{{6,}})\.({'|'.join(ENDINGS.values())})")


INSTALL = "pyarrow is not installed, which writes and reads Parquet: pip install 'xgradcam[parquet]'"


def require_pyarrow() -> None:
    """Raise XGradCamError, with how to install it, where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise XGradCamError(INSTALL)


def pack_name(output_format: str, index: int) -> str:
    """The name of a shard's file in the run's folder."""
    return f"xgrad-cam-{index:06}.{ENDINGS[output_format]}"


def packs_named(output_format: str, count: int) -> str:
    """The names of all shards' files, as a shell's braces and WebDataset's say them."""
    if count == 1:
        return pack_name(output_format, 0)
    return f"xgrad-cam-{{{0:06}..{count - 1:06}}}.{ENDINGS[output_format]}"


def packs_in(folder: Path, output_format: str) -> Iterator[tuple[str, int]]:
    """The files in a folder that have the name of a shard's, and the shards, sorted."""
    names = os.listdir(folder) if folder.is_dir() else []
    for name in sorted(names):
        found = NAMED.fullmatch(name)
        if found and found[2] == ENDINGS[output_format]:
            yield name, int(found[1])


def remove_others(folder: Path, output_format: str, count: int) -> None:
    """Delete our own files of shards from `count` on: of an earlier run of more photographs.

    Who reads all files of the folder would find their photographs twice.
    """
    for name, index in packs_in(folder, output_format):
        if index >= count and is_own_pack(folder / name):
            (folder / name).unlink(missing_ok=True)


def is_own_pack(path: Path) -> bool:
    """True for a tar or a table of results that this package has written."""
    try:
        with open_regular(path) as file:
            if path.suffix == ".tar":
                return TAR_COMMENT in file.read(1024)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            length = int.from_bytes(file.read(4), "little")
            if file.read(4) != PARQUET_MAGIC or length > LOOKED_AT:
                return False
            file.seek(max(0, size - 8 - length))
            return MARK in file.read(length)
    except (OSError, XGradCamError):
        return False


def key_of(stem: str, part: str) -> str:
    """The key of a photograph's class, or score, in a tar: no dot in it, and no two stems have the same.

    stem: of the photograph's results. part: the class or the score in a name. What could mean something else
    in a name is written as in URLs, `%2E` for a dot.
    """
    *above, name = stem.split("/")
    return "/".join([*map(_safe, above), short_name(_safe(f"{name}_{part}"), LONGEST)])


def _safe(name: str) -> str:
    """A part of a path with its unsafe letters written as in URLs."""
    letters = [
        letter if letter.isprintable() and letter not in UNSAFE else _quoted(letter) for letter in name
    ]
    # WebDataset passes over names in double underscores.
    if name.startswith("__"):
        letters[0] = _quoted("_")
    return "".join(letters)


def _quoted(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
