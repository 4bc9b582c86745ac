"""Checkpoints: the named tensors in a file, read without running code that it may hold."""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from xgradcam.errors import XGradCamError

NESTED_UNDER = ("state_dict", "model_state_dict", "model")
# To read a file that holds objects of unknown classes: each is taken for any object first, and then, where it
# turns out to be one, for a dictionary or a list.
ATTEMPTS = 100
REMEDY = "save a state dict: torch.save(model.state_dict(), ...)"


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """The named tensors in a checkpoint (`.pth`, `.safetensors`, ...), mapped into memory where that can be.

    A state dict nested under `state_dict`, `model_state_dict`, `model`, or any other name if it is the only
    one, is found, and so are the tensors of a pickled model. Only tensors are read, and no code that a pickle
    may hold is run. Raises XGradCamError for what is no checkpoint, or has no state dict, or several.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise XGradCamError(f"cannot read weights {path}: {error.strerror}") from None
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    try:
        found = _state_dicts_in(loaded)
    except (AttributeError, RecursionError, TypeError):
        raise XGradCamError(f"no state dict in {path}, but a malformed object: {REMEDY}") from None
    if not found:
        names = f"; there is: {', '.join(map(str, loaded))}" if isinstance(loaded, Mapping) and loaded else ""
        raise XGradCamError(f"no state dict in {path}{names}: {REMEDY}")
    if len(found) > 1:
        several = ", ".join(str(name) or "the whole" for name, _ in found)
        raise XGradCamError(f"several state dicts in {path}: {several}; {REMEDY}")
    ((_, holder),) = found
    state = OrderedDict(_tensors_in(holder))
    # Keeps the versions by which modules read checkpoints of older layouts.
    state._metadata = getattr(holder, "_metadata", None)  # type: ignore[attr-defined]
    return state


def _state_dicts_in(loaded: Any) -> list[tuple[Any, Any]]:
    """Names and values of what may be the state dict: this itself, nameless, or what it has under a name.

    That is what holds the most tensors, be they beside it or it beside them, as a loss's weights or a history
    of numbers. Several where it and what is in it hold much the same, or another has a fifth as many.
    """
    entries = loaded if isinstance(loaded, Mapping) else {}
    for key in NESTED_UNDER:
        found = _state_dicts_in(entries[key]) if key in entries else []
        if found:
            return found
    own = _weights_in(loaded)
    counts = [(_weights_in(value), name, value) for name, value in entries.items()]
    most = max((count for count, _, _ in counts), default=0)
    whole = [("", loaded)] if 2 * own > most else []
    nested = [(name, value) for count, name, value in counts if count and 5 * count >= most]
    return whole + (nested if 2 * most > own else [])


def _weights_in(loaded: Any) -> int:
    """How many tensors of more than one number there are."""
    return sum(tensor.ndim > 0 for tensor in _tensors_in(loaded).values())


class _Unread:
    """Stands for an object in a pickle that is no tensor: has its attributes, and none of its code."""

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


class _UnreadDictionary:
    """Stands for a class of dictionaries: what it makes are plain ones."""

    def __new__(cls, *_arguments: Any) -> Any:
        return OrderedDict()


class _UnreadList(list[Any]):
    """Stands for a class of lists or queues."""

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _tensors_in(loaded: Any) -> dict[str, Tensor]:
    """The tensors by their names, of a state dict or of a module; empty if it is neither."""
    if isinstance(loaded, _Unread):
        return dict(_tensors_of_module(loaded))
    entries = loaded.items() if isinstance(loaded, Mapping) else ()
    return {key: value for key, value in entries if isinstance(key, str) and isinstance(value, Tensor)}


def _tensors_of_module(module: _Unread, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """What `module.state_dict()` would have held."""
    own = vars(module)
    passing = own.get("_non_persistent_buffers_set", ())
    for name, value in {**own.get("_parameters", {}), **own.get("_buffers", {})}.items():
        if isinstance(value, Tensor) and name not in passing:
            yield prefix + name, value.detach()
    for name, part in own.get("_modules", {}).items():
        if isinstance(part, _Unread):
            yield from _tensors_of_module(part, f"{prefix}{name}.")


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise XGradCamError(f"cannot read weights {path}: {error}") from None


def _read_pickle(path: Path) -> Any:
    with warnings.catch_warnings(record=True) as warned:
        # torch warns of other pickle protocols; what it cannot read, it refuses.
        warnings.simplefilter("always")
        try:
            return _load(path)
        # A damaged file makes torch raise many kinds of error.
        except Exception as error:
            raise XGradCamError(_reason(path, error, [str(warning.message) for warning in warned])) from None


def _reason(path: Path, error: Exception, warned: Sequence[str]) -> str:
    """Why torch could not read the file, and what helps."""
    text = str(error)
    if "TorchScript" in text:
        return f"refused to read {path}: a TorchScript archive, which holds code; {REMEDY}"
    if "Creating a Tensor subclass" in text:
        return f"cannot read weights {path}: it holds tensors of a class that torch does not know; {REMEDY}"
    if not isinstance(error, pickle.UnpicklingError):
        first_line = (text or type(error).__name__).splitlines()[0]
        return f"cannot read weights {path}: damaged? ({first_line})"
    if re.search("Unsupported (global|class)|GLOBAL |Can only |Only persistent_load", text):
        return f"refused to read {path}: it holds more than tensors, which could run code; {REMEDY}"
    protocol = re.search(r"pickle protocol (\d+)", " ".join(warned))
    if "Unsupported operand" in text and protocol:
        return (
            f"cannot read weights {path}: of pickle protocol {protocol[1]}, where 2 can be read without "
            f"running code; {REMEDY} without pickle_protocol"
        )
    return f"cannot read weights {path}: not a checkpoint, or a damaged one"


def _load(path: Path) -> Any:
    """What is in the file, with a stand-in for every object that torch does not know to be harmless."""
    mapped = zipfile.is_zipfile(path)
    stand_ins: dict[str, type] = {}
    for _ in range(ATTEMPTS):
        try:
            with safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            found = _stand_in(str(error))
            if found is None:
                raise
            name, stand_in = found
            if mapped and not stand_ins:
                stand_ins = {other: _any_object(other) for other in get_unsafe_globals_in_checkpoint(path)}
            stand_ins[name] = stand_in
    raise pickle.UnpicklingError("Unsupported global: too many")


def _any_object(name: str) -> type:
    return type(name, (_Unread,), {})


def _stand_in(refusal: str) -> tuple[str, type] | None:
    """For what torch refused to read: its name, and what can be read for it."""
    unknown = re.search(r"Unsupported global: GLOBAL (\S+) was not", refusal)
    if unknown:
        # torch leaves out the first name of what is built in.
        name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
        return name, _any_object(name)
    filled = re.search(rf"Can only (SETITEM|append).* got <class '{re.escape(__name__)}\.(\S+)'>", refusal)
    if filled:
        return filled[2], _UnreadDictionary if filled[1] == "SETITEM" else _UnreadList
    return None
