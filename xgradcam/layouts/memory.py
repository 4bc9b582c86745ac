"""Layouts found before, kept while the model is as it was.

It is the same if its modules, their classes, hooks and attributes are, and no tensor was replaced or written
into. Neither global variables are seen, nor arrays of NumPy that change.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from inspect import getattr_static
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules

from xgradcam.layouts.layout import Layout
from xgradcam.lending.hooks import is_of_another_thread

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
_DICTIONARIES = frozenset({dict, OrderedDict})
_OBJECT = object()
_FOUND: "WeakKeyDictionary[nn.Module, tuple[_Held, Known]]" = WeakKeyDictionary()


def known_layouts(model: nn.Module) -> Known:
    """The layouts found for the model as it is now, to read and to add to; they keep no model alive."""
    try:
        things = _things(model)
    # What a model holds may answer by anything.
    except Exception:
        return {}
    if len(things.atoms) > MOST_OBJECTS:
        return {}
    held, known = _FOUND.get(model, (None, {}))
    if held is None or not held.holds(things) or len(known) > MOST_LAYOUTS:
        known = {}
        _FOUND[model] = _Held(things), known
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


@dataclass(slots=True)
class _Things:
    """Everything that a model holds, in an order that is the same while it holds the same.

    atoms: numbers, words and so on, and `_OBJECT` in the place of each of the objects.
    """

    atoms: list[Any] = field(default_factory=list)
    objects: list[Any] = field(default_factory=list)

    def add(self, thing: Any) -> None:
        self.atoms.append(_OBJECT)
        self.objects.append(thing)


class _Held:
    """The things of a model, held weakly, that the model may go."""

    def __init__(self, things: _Things) -> None:
        self._atoms, self._objects = things.atoms, [*map(_hold, things.objects)]

    def holds(self, things: _Things) -> bool:
        """True if these are the same: objects the same ones, numbers and words equal and of the same type."""
        return (
            len(self._objects) == len(things.objects)
            and self._atoms == things.atoms
            and all(map(is_, map(type, self._atoms), map(type, things.atoms)))
            and all(held() is thing for held, thing in zip(self._objects, things.objects, strict=True))
        )


def _things(model: nn.Module) -> _Things:
    # A network of 200 modules has 5,000 of them, which are read at every call: hence one plain loop.
    things, seen, kinds = _Things(), set[int](), set[type]()
    add, atoms = things.add, things.atoms
    of_all = of_all_modules._global_forward_hooks.values()
    left: list[Any] = [model, [hook for hook in of_all if not is_of_another_thread(hook)]]
    left.append([*of_all_modules._global_forward_pre_hooks.values()])
    while left and len(atoms) <= MOST_OBJECTS:
        thing = left.pop()
        kind = type(thing)
        if kind in _ATOMS:
            atoms.append(thing)
            continue
        is_container = isinstance(thing, (dict, list, tuple, set, frozenset))
        add(thing) if not is_container else atoms.append(len(thing))
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            # What is written into a tensor of inference is not counted.
            atoms += object() if thing.is_inference() else thing._version, thing.shape
        elif is_container:
            left += [*thing, *thing.values()] if isinstance(thing, dict) else thing
        elif isinstance(thing, FunctionType):
            left += [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
        elif isinstance(thing, MethodType):
            left += thing.__self__, thing.__func__
        elif isinstance(thing, partial):
            left += thing.func, thing.args, thing.keywords
        elif hasattr(thing, "__dict__") and not isinstance(thing, _CODE):
            add(kind)
            if isinstance(thing, nn.Module) and kind not in kinds:
                kinds.add(kind)
                add(getattr_static(kind, "forward", None))
            for name, one in vars(thing).items():
                if name in _ASIDE:
                    continue
                if type(one) in _ATOMS:
                    atoms.append(one)
                elif type(one) in _DICTIONARIES and not one:  # such as those of the hooks
                    atoms.append(0)
                else:
                    left.append(one)
    return things


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _hold(thing: Any) -> Callable[[], Any]:
    """A function that returns the thing, while it lives if it can be held weakly."""
    try:
        return ref(thing)
    except TypeError:
        return lambda: thing
