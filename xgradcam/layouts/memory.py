"""Layouts found before, kept while the model is as it was.

It is the same if its modules, their classes, hooks and attributes are, and no tensor was replaced or written
into. Neither global variables are seen, nor arrays of NumPy that change.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from inspect import getattr_static
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules

from xgradcam.layouts.layout import Layout

# By the module, the shape of the inputs and that of its output: its layout, or why it has none.
Known: TypeAlias = dict[tuple[Any, ...], Layout | str]

# Most layouts of a model, and most objects in a model that are compared.
MOST_LAYOUTS, MOST_OBJECTS = 10_000, 200_000
_ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size})
# Attributes of every module that no forward pass in evaluation mode reads.
_ASIDE = frozenset(
    name for name in vars(nn.Module()) if re.search("backward|state_dict|persistent|train", name)
)
_CODE = (type, BuiltinFunctionType, ModuleType)
_FOUND: WeakKeyDictionary[nn.Module, tuple[list[Any], Known]] = WeakKeyDictionary()


def known_layouts(model: nn.Module) -> Known:
    """The layouts found for the model as it is now, to read and to add to; they keep no model alive."""
    try:
        things = list(_things(model))
    # What a model holds may answer by anything.
    except Exception:
        return {}
    if len(things) > MOST_OBJECTS:
        return {}
    held, known = _FOUND.get(model, ([], {}))
    if len(held) != len(things) or not all(map(_is, held, things)) or len(known) > MOST_LAYOUTS:
        known = {}
        _FOUND[model] = list(map(_hold, things)), known
    return known


def key_of(module: nn.Module, inputs: Tensor, shape: tuple[int, ...], frames: int = 1) -> tuple[Any, ...]:
    """The key of the layout of a module's output of this shape; frames: the rows of a sample in it."""
    return ref(module), inputs.shape, inputs.is_meta, tuple(shape), frames


def finder_of(
    model: nn.Module, module: nn.Module, inputs: Tensor
) -> Callable[[tuple[int, ...]], Layout | None]:
    """A function from the shape of a module's output to its layout, if it is known.

    It is made before the model runs: while it does, hooks make it another one.
    """
    known = known_layouts(model)

    def find(shape: tuple[int, ...]) -> Layout | None:
        found = known.get(key_of(module, inputs, shape))
        return found if isinstance(found, Layout) else None

    return find


def _things(model: nn.Module) -> Iterator[Any]:
    """Yield everything that a model holds, in an order that is the same while it holds the same."""
    seen: set[int] = set()
    left: list[Any] = [model, [*of_all_modules._global_forward_hooks.values()]]
    left.append([*of_all_modules._global_forward_pre_hooks.values()])
    while left and len(seen) <= MOST_OBJECTS:
        thing = left.pop()
        kind = type(thing)
        if kind in _ATOMS:
            yield thing
            continue
        is_container = isinstance(thing, (dict, list, tuple, set, frozenset))
        yield len(thing) if is_container else thing
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            # What is written into a tensor of inference is not counted.
            yield object() if thing.is_inference() else thing._version
            yield thing.shape
        elif is_container:
            left += [*thing, *thing.values()] if isinstance(thing, dict) else thing
        elif isinstance(thing, FunctionType):
            left += [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
        elif isinstance(thing, MethodType):
            left += thing.__self__, thing.__func__
        elif isinstance(thing, partial):
            left += thing.func, thing.args, thing.keywords
        elif hasattr(thing, "__dict__") and not isinstance(thing, _CODE):
            yield kind
            if isinstance(thing, nn.Module):
                yield getattr_static(kind, "forward", None)
            left += [one for name, one in vars(thing).items() if name not in _ASIDE]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _hold(thing: Any) -> Any:
    """A thing of a model, held weakly, that the model may go; itself where it is a number, a word or so."""
    if type(thing) in _ATOMS:
        return thing
    try:
        return ref(thing)
    except TypeError:
        return thing


def _is(held: Any, thing: Any) -> bool:
    if type(held) is ref:
        return held() is thing
    return held is thing or (type(held) in _ATOMS and type(held) is type(thing) and bool(held == thing))
