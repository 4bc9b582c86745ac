"""Checkpoints: the state dicts in a file, read without running code that the file may hold."""

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from xgradcam.errors import XGradCamError, listed, short
from xgradcam.models.formats import SAVE
from xgradcam.models.reading import FileState, read_weights
from xgradcam.models.rebuilding import Unreadable, tensor_of
from xgradcam.models.unpickling import Inert

# Where training scripts put the state dict of the model, by habit.
USUAL_NAMES = ("state_dict", "model_state_dict", "model")
# Maximum levels of dictionaries in which to look for state dicts, and letters of a name there.
DEEPEST, LONGEST = 16, 200
# Maximum elements of a list, and entries under integers, in which to look.
MOST_INDEXED = 1000
# Maximum levels of modules in a pickled model, and letters of all its names. Where modules are shared, a
# small file can stand for more names than fit into memory.
DEEPEST_MODULE, LETTERS = 100, 4_000_000

State = Mapping[str, Tensor | Unreadable]


@dataclass(frozen=True)
class Checkpoint:
    """The state dicts of a file by name.

    files: those read; several for an index of shards. lists: names of lists of weights, as some averages are
    saved; the weights in them have no names, and cannot be given to a network.
    """

    states: dict[str, State]
    files: tuple[FileState, ...]
    lists: tuple[str, ...] = ()


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


def read_checkpoint(path: Path, name: str | None = None) -> Checkpoint:
    """The state dicts in a checkpoint (`.pth`, `.safetensors`, an index of shards, ...), by name.

    A state dict is a dictionary from strings to tensors, or a pickled module. Its name says where it is:
    `ema.state_dict` for the entry `state_dict` of the entry `ema`, and '' for the content of the file itself.
    Those under integers or in lists (`0`, `models.1`) are found where there are no others, or by their name.
    name: read only this one. It may also be a prefix of tensors' names, without the dot at its end.
    No code in the file is run, and what it has is read into memory. Raises XGradCamError if the file is no
    checkpoint, or has no state dict, or none of this name.
    """
    content = read_weights(path)
    loaded = content.value
    budget = _Budget()
    lists: list[str] = []
    try:
        found = _state_dicts_in(loaded, budget, lists)
        chosen = found if name is None else {name: _state_dict_at(loaded, name, budget)}
    except _MalformedError:
        raise XGradCamError(f"no state dict in {path}, but a malformed object: {SAVE}") from None
    if any(chosen.values()):
        return Checkpoint(chosen, content.files, tuple(lists) if name is None else ())
    if name is not None and found:
        if list(found) == [""]:
            advice = f"the file is one state dict: give it without :{short(name)}"
            raise XGradCamError(f"no state dict {name!r} in {path}; {advice}")
        there = listed((other or "the whole" for other in found), 8)
        raise XGradCamError(f"no state dict {name!r} in {path}; there is: {there}")
    names = listed(_entries_of(loaded) or (), 8)
    raise XGradCamError(f"no state dict in {path}{names and f'; there is: {names}'}: {SAVE}")


def read_state_dicts(path: Path, name: str | None = None) -> dict[str, State]:
    """The state dicts of `read_checkpoint`."""
    return read_checkpoint(path, name).states


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


def _state_dicts_in(loaded: Any, budget: _Budget, lists: list[str]) -> dict[str, State]:
    """All state dicts, outer ones first. A dictionary that has only single numbers is none.

    Names of lists of weights are added to `lists`.
    """
    # An optimiser keeps a dictionary of tensors under an integer for each parameter.
    return _walked(loaded, budget, _entries_of, lists) or _walked(loaded, budget, _parts_of, [])


def _walked(
    loaded: Any, budget: _Budget, parts_of: Callable[[Any], Mapping[str, Any] | None], lists: list[str]
) -> dict[str, State]:
    """The state dicts in what `parts_of` gives again and again."""
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
        elif _is_list_of_weights(value):
            lists.append(".".join(keys))
        if len(keys) < DEEPEST and not _is_module(value):
            parts = (parts_of(value) or {}).items()
            waiting.extend(((*keys, key), inner) for key, inner in parts if len(key) <= LONGEST)
    return found


def _is_list_of_weights(value: Any) -> bool:
    """True for a list with a tensor of two dimensions or more; the states of random generators have one."""
    elements = value.elements if isinstance(value, Inert) else value
    if not isinstance(elements, (list, tuple)):
        return False
    tensors = map(tensor_of, elements[:MOST_INDEXED])
    return any(isinstance(tensor, Tensor) and tensor.ndim > 1 for tensor in tensors)


def _state_dict_at(loaded: Any, name: str, budget: _Budget) -> State:
    """The state dict of this name, or the tensors whose names begin with it; empty for none."""
    parts = _parts_of(loaded) or {}
    if name in parts:
        return _state_dict_of(parts[name], budget)
    # Names may have dots of their own.
    for end in range(len(name) - 1, 0, -1):
        if name[end] == "." and name[:end] in parts:
            inner = _state_dict_at(parts[name[:end]], name[end + 1 :], budget)
            if inner:
                return inner
    begin = f"{name}."
    state = _state_dict_of(loaded, budget)
    return {key[len(begin) :]: tensor for key, tensor in state.items() if key.startswith(begin)}


def _entries_of(value: Any) -> Mapping[str, Any] | None:
    """The entries of a dictionary of any class that have strings as keys; None for anything else."""
    entries = value.entries if isinstance(value, Inert) else value
    if not isinstance(entries, dict):
        return None
    return {key: inner for key, inner in entries.items() if isinstance(key, str)}


def _parts_of(value: Any) -> Mapping[str, Any] | None:
    """The same with those that have integers as keys, and the elements of a list, by their index."""
    entries = _entries_of(value)
    elements = value.elements if isinstance(value, Inert) else value
    if isinstance(elements, (list, tuple)):
        return {str(index): element for index, element in enumerate(elements[:MOST_INDEXED])}
    if entries is None:
        return None
    if "param_groups" in entries:
        return {key: entry for key, entry in entries.items() if key != "state"}  # an optimiser's
    everything: dict[Any, Any] = (value.entries if isinstance(value, Inert) else value) or {}
    numbered = (key for key in everything if isinstance(key, int))
    return {**{str(key): everything[key] for key in islice(numbered, MOST_INDEXED)}, **entries}


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
