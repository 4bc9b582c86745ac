"""Checkpoints: the state dicts in a file, read without running code that the file may hold."""

import os
import stat
import tarfile
import zipfile
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xgradcam.errors import XGradCamError, listed
from xgradcam.models.rebuilding import Unreadable, tensor_of
from xgradcam.models.unpickling import Inert, pickle_module

REMEDY = "save a state dict: torch.save(model.state_dict(), ...)"
# Where training scripts put the state dict of the model, by habit.
USUAL_NAMES = ("state_dict", "model_state_dict", "model")
ZIP = b"PK\x03\x04"
# Maximum levels of dictionaries in which to look for state dicts, and letters of a name there.
DEEPEST, LONGEST = 16, 200
# Maximum levels of modules in a pickled model, and letters of all its names. Where modules are shared, a
# small file can stand for more names than fit into memory.
DEEPEST_MODULE, LETTERS = 100, 4_000_000
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"

State = Mapping[str, Tensor | Unreadable]


def split_weights(weights: str) -> tuple[Path, str | None]:
    """`FILE:NAME` as the file and the name in it; the name is None for `FILE`.

    A file whose own name has a colon wins.
    """
    end = len(weights)
    while end > 0:
        if os.path.exists(weights[:end]):
            return Path(weights[:end]), weights[end + 1 :] if end < len(weights) else None
        end = weights.rfind(":", 0, end)
    return Path(weights), None


def read_state_dicts(path: Path, name: str | None = None) -> dict[str, State]:
    """The state dicts in a checkpoint (`.pth`, `.safetensors`, ...), by name.

    A state dict is a dictionary from strings to tensors, or a pickled module. Its name says where it is:
    `ema.state_dict` for the entry `state_dict` of the entry `ema`, and '' for the content of the file itself.
    name: read only this one. It may also be a prefix of tensors' names, without the dot at its end.
    No code in the file is run. Tensors are mapped into memory where possible. Raises XGradCamError if the
    file is no checkpoint, or has no state dict, or none of this name.
    """
    loaded = _read(path)
    budget = _Budget()
    try:
        found = _state_dicts_in(loaded, budget)
        chosen = found if name is None else {name: _state_dict_at(loaded, name, budget)}
    except _MalformedError:
        raise XGradCamError(f"no state dict in {path}, but a malformed object: {REMEDY}") from None
    if any(chosen.values()):
        return chosen
    if name is not None and found:
        there = listed((other or "the whole" for other in found), 8)
        raise XGradCamError(f"no state dict {name!r} in {path}; there is: {there}")
    names = listed(_entries_of(loaded) or (), 8)
    raise XGradCamError(f"no state dict in {path}{names and f'; there is: {names}'}: {REMEDY}")


class _MalformedError(Exception):
    """A module within itself, or with more names than any network has."""


@dataclass
class _Budget:
    """The letters left for names of tensors: shared modules let a small file stand for endless names."""

    letters: int = LETTERS

    def spend(self, letters: int) -> None:
        self.letters -= letters
        if self.letters < 0:
            raise _MalformedError


def _state_dicts_in(loaded: Any, budget: _Budget) -> dict[str, State]:
    """All state dicts, outer ones first. A dictionary that has only single numbers is none."""
    found: dict[str, State] = {}
    seen: set[int] = set()
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), loaded)])
    while waiting:
        keys, value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        state = _state_dict_of(value, budget)
        if any(isinstance(tensor, Unreadable) or tensor.ndim > 0 for tensor in state.values()):
            found.setdefault(".".join(keys), state)
        if len(keys) < DEEPEST and not _is_module(value):
            entries = (_entries_of(value) or {}).items()
            waiting.extend(((*keys, key), inner) for key, inner in entries if len(key) <= LONGEST)
    return found


def _state_dict_at(loaded: Any, name: str, budget: _Budget) -> State:
    """The state dict of this name, or the tensors whose names begin with it; empty for none."""
    entries = _entries_of(loaded) or {}
    if name in entries:
        return _state_dict_of(entries[name], budget)
    # Names may have dots of their own.
    for end in range(len(name) - 1, 0, -1):
        if name[end] == "." and name[:end] in entries:
            inner = _state_dict_at(entries[name[:end]], name[end + 1 :], budget)
            if inner:
                return inner
    begin = f"{name}."
    state = _state_dict_of(loaded, budget)
    return {key[len(begin) :]: tensor for key, tensor in state.items() if key.startswith(begin)}


def _entries_of(value: Any) -> Mapping[str, Any] | None:
    """The entries of a dictionary of any class; None for anything else."""
    if isinstance(value, Inert):
        return value.entries
    return value if isinstance(value, dict) else None


def _is_module(value: Any) -> bool:
    """True for the record of a pickled torch.nn.Module."""
    state = _entries_of(value.state) if isinstance(value, Inert) else None
    return state is not None and not {"_parameters", "_buffers", "_modules"}.isdisjoint(state)


def _state_dict_of(value: Any, budget: _Budget) -> State:
    """The tensors of a dictionary, or of a module as its `state_dict()` has them; empty for anything else."""
    if _is_module(value):
        return dict(_tensors_of_module(value, budget))
    found = ((key, tensor_of(entry)) for key, entry in (_entries_of(value) or {}).items())
    state = OrderedDict((key, tensor) for key, tensor in found if tensor is not None)
    versions = _versions_in(value)
    if versions:
        # By these, modules recognise state dicts of older layouts.
        state._metadata = versions  # type: ignore[attr-defined]
    return state


def _versions_in(value: Any) -> dict[str, dict[str, int]]:
    attributes = _entries_of(value.state) if isinstance(value, Inert) else None
    metadata = _entries_of((attributes or {}).get("_metadata")) or {}
    versions = {key: (_entries_of(entry) or {}).get("version") for key, entry in metadata.items()}
    return {key: {"version": number} for key, number in versions.items() if isinstance(number, int)}


def _tensors_of_module(module: Inert, budget: _Budget) -> Iterator[tuple[str, Tensor | Unreadable]]:
    """Names and tensors, as in `module.state_dict()`."""
    waiting = [("", 0, module)]
    while waiting:
        prefix, depth, module = waiting.pop()
        if depth > DEEPEST_MODULE:
            raise _MalformedError
        own = _entries_of(module.state) or {}
        passing = _strings_in(own.get("_non_persistent_buffers_set"))
        parts = _entries_of(own.get("_modules")) or {}
        budget.spend(1 + len(passing) + len(parts) * (1 + len(prefix)))
        for kind in ("_parameters", "_buffers"):
            for name, record in (_entries_of(own.get(kind)) or {}).items():
                budget.spend(1 + len(prefix) + len(name))
                tensor = tensor_of(record)
                if tensor is not None and name not in passing:
                    yield prefix + name, tensor
        inner = [(f"{prefix}{name}.", depth + 1, part) for name, part in parts.items() if _is_module(part)]
        budget.spend(sum(len(longer) for longer, _, _ in inner))
        waiting.extend(reversed(inner))


def _strings_in(record: Any) -> set[str]:
    """The strings in the record of a set."""
    if not isinstance(record, Inert):
        return set()
    match record.arguments:
        case ([*given],):
            values = given
        case _:
            values = record.elements or []
    return {value for value in values if isinstance(value, str)}


def _read(path: Path) -> Any:
    """The content of the file: dictionaries of tensors, or of records of a pickle's tensors."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise XGradCamError(f"cannot read weights {path}: not a regular file")
        with path.open("rb") as file:
            zipped = file.read(len(ZIP)) == ZIP
    except OSError as error:
        raise XGradCamError(f"cannot read weights {path}: {error.strerror}") from None
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        return _read_zip(path) if zipped else _read_legacy(path)
    except XGradCamError:
        raise
    except RuntimeError as error:
        reason = f"damaged? ({(str(error) or type(error).__name__).splitlines()[0]})"
        if "magic number" in reason:
            reason = f"not written by torch.save, or damaged; {REMEDY}"
    # A damaged file makes the unpickler and torch raise many kinds of error.
    except Exception:
        reason = f"not a checkpoint, or a damaged one; {REMEDY}"
    if os.environ.get(FORCED, "0").lower() in ("1", "y", "yes", "true"):
        reason = f"{FORCED} is set: unset it, no code is run here either; or give a .safetensors file"
    raise XGradCamError(f"cannot read weights {path}: {reason}")


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise XGradCamError(f"cannot read weights {path}: {error}") from None


class _ToCpu(dict[str, str]):
    """A map of every device to the CPU.

    Not the string "cpu": with that, torch.load would run a TorchScript archive; with a dictionary, it raises.
    """

    def get(self, _device: object, _default: object = None) -> str:
        return "cpu"


def _load(path: Path, sizes: Mapping[str, int] | None, mapped: bool) -> Any:
    whole = path.stat().st_size
    module = pickle_module(lambda key: whole if sizes is None else sizes.get(key, 0))
    return torch.load(path, map_location=_ToCpu(), pickle_module=module, weights_only=False, mmap=mapped)


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise XGradCamError(f"refused to read {path}: a TorchScript archive, which holds code; {REMEDY}")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise XGradCamError(
            f"cannot read weights {path}: a compressed archive, as torch.save makes none; {REMEDY}"
        )
    data = members[0].filename.partition("/")[0] + "/data/"
    sizes = {member.filename.removeprefix(data): member.file_size for member in members}
    return _load(path, sizes, mapped=True)


def _read_legacy(path: Path) -> Any:
    """The content of a file as torch wrote it before 2020: several pickles, then their storages."""
    if tarfile.is_tarfile(path):
        raise XGradCamError(f"refused to read {path}: a tar archive, as torch wrote it before 2018; {REMEDY}")
    return _load(path, None, mapped=False)
