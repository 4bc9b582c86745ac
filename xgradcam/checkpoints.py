"""Checkpoints: the named tensors in a file, read without running code that it may hold."""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from xgradcam.errors import XGradCamError

NESTED_UNDER = ("state_dict", "model_state_dict", "model")
REMEDY = "save a state dict: torch.save(model.state_dict(), ...)"


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """The named tensors in a checkpoint (`.pth`, `.safetensors`, ...), mapped into memory where that can be.

    A state dict nested under `state_dict`, `model_state_dict`, `model`, or any other name if it is the only
    one, is found, and so are the tensors of a pickled model. Only tensors are read, and no code that a pickle
    may hold is run. Raises XGradCamError for what is no checkpoint, or has no state dict.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise XGradCamError(f"cannot read weights {path}: {error.strerror}") from None
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for key in NESTED_UNDER:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping | _Unread):
            loaded = loaded[key]
    entries = loaded if isinstance(loaded, Mapping) else {}
    # What modules keep beside their tensors may hold more of them.
    nested = [
        value
        for key, value in entries.items()
        if _tensors_in(value) and not str(key).endswith("_extra_state")
    ]
    # Beside a state dict a tensor is something else, as the best accuracy so far.
    if len(nested) == 1:
        (loaded,) = nested
    tensors = _tensors_in(loaded)
    if not tensors or len(nested) > 1:
        names = f"; there is: {', '.join(map(str, entries))}" if entries else ""
        raise XGradCamError(f"no state dict in {path}{names}: {REMEDY}")
    state = OrderedDict(tensors)
    # Keeps the versions by which modules read checkpoints of older layouts.
    state._metadata = getattr(loaded, "_metadata", None)  # type: ignore[attr-defined]
    return state


class _Unread:
    """Stands for an object in a pickle that is no tensor: has its attributes, and none of its code."""

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


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
    try:
        with warnings.catch_warnings():
            # torch warns of other pickle protocols; what it cannot read, it refuses.
            warnings.simplefilter("ignore")
            return _load(path)
    except pickle.UnpicklingError as error:
        if re.search("Unsupported (global|class)|GLOBAL |Can only ", str(error)):
            raise XGradCamError(
                f"refused to read {path}: it holds more than tensors, which could run code; {REMEDY}"
            ) from None
        raise XGradCamError(f"cannot read weights {path}: not a checkpoint, or a damaged one") from None
    # A damaged file makes torch raise many kinds of error.
    except Exception as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        if "TorchScript" in first_line:
            raise XGradCamError(
                f"refused to read {path}: a TorchScript archive, which holds code; {REMEDY}"
            ) from None
        raise XGradCamError(f"cannot read weights {path}: damaged? ({first_line})") from None


def _load(path: Path) -> Any:
    """What is in the file, with a stand-in for every object that torch does not know to be harmless."""
    zipped = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        if not zipped:
            raise
    # Of the unknown, torch fills only plain dictionaries with items.
    known = {"collections.defaultdict": _plain_dictionary}
    names = get_unsafe_globals_in_checkpoint(path)
    with safe_globals([(known.get(name, _Unread), name) for name in names]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _plain_dictionary(*_factory: Any) -> dict[Any, Any]:
    return {}
