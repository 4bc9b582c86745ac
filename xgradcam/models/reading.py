"""Files of weights, read whole into memory: their content decides how, and no code in them is run.

What was read stays as it is if the file changes later; memory that is mapped from a file would not.
"""

import json
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch

from xgradcam.errors import XGradCamError, listed
from xgradcam.files import open_regular
from xgradcam.models import formats
from xgradcam.models.tensor_files import MalformedError, is_safetensors, read_safetensors
from xgradcam.models.unpickling import pickle_module

ZIP = b"PK\x03\x04", b"PK\x05\x06"
# The beginning of a file as torch wrote it before 2020: a pickle of its magic number.
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF"
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# Most bytes of an index of shards.
LONGEST_INDEX = 10_000_000


@dataclass(frozen=True)
class FileState:
    """The state that a file had when it was read: its size, and its time of change in nanoseconds."""

    path: Path
    bytes: int
    modified: int


@dataclass(frozen=True)
class Content:
    """The content of weights: dictionaries of tensors, or of records of a pickle's tensors.

    files: those read; several for shards.
    """

    value: Any
    files: tuple[FileState, ...]


def read_weights(path: Path) -> Content:
    """The content of a checkpoint, or of an index of shards and the shards. Raises XGradCamError."""
    with _opened(path) as (file, state):
        head = file.read(formats.HEAD)
        file.seek(0)
        if head.lstrip()[:1] == b"{" and not is_safetensors(head, state.bytes):
            index = _index_in(file, path)
            if index is not None:
                return _read_shards(path, state, index)
            file.seek(0)
        return Content(_read(file, head, state), (state,))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, FileState]]:
    """The open file, and its state, which must be the same at the end of the block."""
    try:
        with open_regular(path) as file:
            state = _state_of(file, path)
            try:
                yield file, state
            finally:
                if _state_of(file, path) != state:
                    raise XGradCamError(
                        f"cannot read weights {path}: the file changed while it was read: try again"
                    ) from None
    except IsADirectoryError:
        raise XGradCamError(f"cannot read weights {path}: {formats.folder(path)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = ": download it, and give the file" if "://" in str(path) or ":/" in str(path) else ""
        raise XGradCamError(f"cannot read weights {path}: {reason}{hint}") from None


def _state_of(file: BinaryIO, path: Path) -> FileState:
    state = os.fstat(file.fileno())
    return FileState(path, state.st_size, state.st_mtime_ns)


def _read(file: BinaryIO, head: bytes, state: FileState) -> Any:
    """The content of one file."""
    path = state.path
    if is_safetensors(head, state.bytes):
        try:
            return read_safetensors(file, state.bytes)
        except MalformedError as error:
            raise XGradCamError(f"cannot read weights {path}: safetensors with {error}") from None
    file.seek(max(0, state.bytes - len(formats.LEVELDB)))
    named = formats.foreign(head, file.read())
    file.seek(0)
    if named:
        raise XGradCamError(f"cannot read weights {path}: {named}")
    try:
        return _read_zip(file, state) if head.startswith(ZIP) else _read_legacy(file, state)
    except XGradCamError:
        raise
    except RuntimeError as error:
        reason = f"damaged? ({(str(error) or type(error).__name__).splitlines()[0]}): {formats.CUT}"
        if "magic number" in reason:
            reason = f"not written by torch.save, or damaged; {formats.SAVE}"
    # A damaged file makes the unpickler and torch raise many kinds of error.
    except Exception as error:
        reason = formats.unreadable(head, path)
        is_cut = isinstance(error, zipfile.BadZipFile | EOFError) or "truncated" in str(error)
        if is_cut and head.startswith((*ZIP, LEGACY)) and path.suffix.lower() not in formats.ENDINGS:
            reason = f"its end is missing: {formats.CUT}"
    if os.environ.get(FORCED, "0").lower() in ("1", "y", "yes", "true"):
        reason = f"{FORCED} is set: unset it, no code is run here either; or give a .safetensors file"
    raise XGradCamError(f"cannot read weights {path}: {reason}")


class _ToCpu(dict[str, str]):
    """A map of every device to the CPU.

    Not the string "cpu": with that, torch.load would run a TorchScript archive; with a dictionary, it raises.
    """

    def get(self, _device: object, _default: object = None) -> str:
        return "cpu"


def _load(file: BinaryIO, state: FileState, sizes: Mapping[str, int] | None) -> Any:
    module = pickle_module(lambda key: state.bytes if sizes is None else sizes.get(key, 0), state.bytes)
    return torch.load(file, map_location=_ToCpu(), pickle_module=module, weights_only=False, mmap=False)


def _read_zip(file: BinaryIO, state: FileState) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    file.seek(0)
    path = state.path
    named = formats.foreign_archive(member.filename for member in members)
    if named:
        raise XGradCamError(f"refused to read {path}: {named}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise XGradCamError(
            f"cannot read weights {path}: a compressed archive, as torch.save makes none; {formats.SAVE}"
        )
    # Members that overlap would take more memory than the file.
    if sum(member.file_size for member in members) > state.bytes:
        raise XGradCamError(f"cannot read weights {path}: a damaged archive: {formats.AGAIN}")
    data = members[0].filename.partition("/")[0] + "/data/"
    sizes = {member.filename.removeprefix(data): member.file_size for member in members}
    return _load(file, state, sizes)


def _read_legacy(file: BinaryIO, state: FileState) -> Any:
    """The content of a file as torch wrote it before 2020: several pickles, then their storages."""
    if tarfile.is_tarfile(file):
        raise XGradCamError(
            f"refused to read {state.path}: a tar archive: unpack it, or, if torch wrote it before 2018, "
            f"{formats.SAVE}"
        )
    file.seek(0)
    return _load(file, state, None)


def _index_in(file: BinaryIO, path: Path) -> dict[str, str] | None:
    """The shard of each tensor, if the file is an index of shards; None for anything else."""
    text = file.read(LONGEST_INDEX + 1)
    if len(text) > LONGEST_INDEX:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    index = content.get("weight_map") if isinstance(content, dict) else None
    if index is None:
        return None
    if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
        raise XGradCamError(f"cannot read weights {path}: the weight_map is no map from tensors to files")
    return index


def _read_shards(path: Path, state: FileState, index: Mapping[str, str]) -> Content:
    """The tensors of all shards in one dictionary, and the files read."""
    shards = {name: path.parent / name for name in dict.fromkeys(index.values())}
    for name in shards:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name or not parts.parts:
            raise XGradCamError(
                f"cannot read weights {path}: it names {listed([name], 1)!r}, which is not in its folder"
            )
    missing = [name for name, shard in shards.items() if not os.path.lexists(shard)]
    if missing:
        raise XGradCamError(
            f"cannot read weights {path}: of {len(shards)} shards there is no {listed(missing, 3)} beside it"
        )
    found: dict[str, Any] = {}
    files = [state]
    for name, shard in shards.items():
        with _opened(shard) as (file, its):
            head = file.read(formats.HEAD)
            file.seek(0)
            content = _read(file, head, its)
        files.append(its)
        if not isinstance(content, dict):
            content = getattr(content, "entries", None) or {}
        found |= {key: content[key] for key, where in index.items() if where == name and key in content}
    absent = [key for key in index if key not in found]
    if absent:
        raise XGradCamError(f"cannot read weights {path}: its shards have no {listed(absent, 3)}")
    return Content(found, tuple(files))
