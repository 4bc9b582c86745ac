"""Checkpoints' pickles, read without running code: what a pickle would call or make is only written down."""

import pickle
from collections.abc import Callable, Iterable
from struct import unpack
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

import torch

# How a pickle names a storage of bytes.
UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
ORDERED = "collections.OrderedDict"
MALFORMED = "a malformed pickle"
# Above the largest integer that is kept as a key. Larger ones may be chosen to have the same hash.
MOST_INDEX = 2**20

Key: TypeAlias = str | int


class Inert:
    """Record of a class, a function or an object in a pickle. It holds values and runs nothing.

    name: of the class or function, as `torch.Size`. arguments: what it would be called with, or None for the
    class or function itself. state: what the object's `__setstate__` would get. entries: by their names, if
    it was filled like a dictionary. elements: if it was filled like a list or a set.
    """

    __slots__ = ("arguments", "elements", "entries", "name", "state")

    def __init__(self, name: str, arguments: Any = None) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None
        self.entries: dict[Key, Any] | None = None
        self.elements: list[Any] | None = None


def pickle_module(bytes_of: Callable[[str], int], whole: int) -> Any:
    """Stand-in for the `pickle` module, for `torch.load`; what it loads holds an `Inert` for every object.

    Only tensors' storages are real; torch reads them. bytes_of: the number of bytes that the file has for
    the storage of this key, or 0. whole: the most bytes that all storages together can have.
    """

    class Reader(InertUnpickler):
        stored = staticmethod(bytes_of)
        left = whole

    def load(file: Any, **options: Any) -> Any:
        content = Reader(file, **options).load()
        # torch looks these up in a dictionary, and hashing nested tuples may take for ever.
        if isinstance(content, (int, dict)) or _are_keys(content):
            return content
        raise pickle.UnpicklingError(MALFORMED)

    return SimpleNamespace(__name__="inert_pickle", Unpickler=Reader, load=load)


def _are_keys(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(key, str) for key in content)


class InertUnpickler(pickle._Unpickler):
    """Unpickler that calls nothing: in place of each object it makes an `Inert` record.

    It changes the pickle machine's instructions that call, build, or hash; the others move plain values
    around. Dictionaries keep only the entries whose keys are strings, as state dicts have them, or small
    integers, as of several models.
    """

    stored: Callable[[str], int]
    left: int
    # Of Python's own machine in Python: it reads, and it keeps a stack.
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # The list is kept, as its identity is the key.
        self.from_pairs: dict[int, tuple[list[Any], dict[Key, Any]]] = {}
        self.storages: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """The record of this class or function; nothing is imported."""
        return Inert(f"{module}.{name}")

    def _call(self) -> None:
        arguments = self.stack.pop()
        made = self.stack[-1] = _made_by(self.stack[-1], arguments)
        match arguments:
            case ([*_] as pairs,) if made.name == ORDERED:
                made.entries = self._from_pairs(pairs)

    def _from_pairs(self, pairs: list[Any]) -> dict[Key, Any]:
        """The entries of an ordered dictionary of Python 2, made once however often it is called for."""
        if id(pairs) not in self.from_pairs:
            entries: dict[Key, Any] = {}
            for pair in pairs:
                if isinstance(pair, (list, tuple)) and len(pair) == 2:
                    _put(entries, [*pair])
            self.from_pairs[id(pairs)] = (pairs, entries)
        return self.from_pairs[id(pairs)][1]

    def _call_with_names(self) -> None:
        self.stack.pop()
        self._call()

    def _call_marked(self) -> None:
        function, *arguments = self.pop_mark()
        self.append(_made_by(function, tuple(arguments)))

    def _call_named(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        # Popping a mark changes what `self.append` appends to.
        arguments = tuple(self.pop_mark())
        self.append(_made_by(self.find_class(module, name), arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def _dictionary(self) -> None:
        items = self.pop_mark()
        self.append({})
        _put(self.stack[-1], items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        items = self.pop_mark()
        _put(self.stack[-1], items)

    def _append_one(self) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _append_many(self) -> None:
        values = self.pop_mark()
        _extend(self.stack[-1], values)

    def _empty_set(self) -> None:
        self.append(Inert("builtins.set", ()))

    def _frozen_set(self) -> None:
        values = self.pop_mark()
        self.append(Inert("builtins.frozenset", (values,)))

    def _byte_array(self) -> None:
        # Python's own fills memory before it knows that the file is as long.
        (length,) = unpack("<Q", self.read(8))
        self.append(self.read(length))

    def _persistent(self) -> None:
        self.append(self._storage(self.stack.pop()))

    def _refuse(self) -> None:
        raise pickle.UnpicklingError(MALFORMED)

    def _storage(self, saved_id: Any) -> Any:
        """A storage that torch saved outside of the pickle; checked here, since torch trusts it."""
        match saved_id:
            case ("module", container, *_):
                return container
            case ("storage", kind, str(key), str(location), int(length), *views):
                untyped = isinstance(kind, Inert) and kind.name in UNTYPED
                dtype = torch.uint8 if untyped else getattr(kind, "dtype", None)
                if isinstance(dtype, torch.dtype) and length >= 0 and all(map(_is_view, views)):
                    size = length * dtype.itemsize
                    if key not in self.storages:
                        self.storages.add(key)
                        self.left -= size
                    if size > self.stored(key) or self.left < 0:
                        raise RuntimeError(f"fewer than the {length} numbers of storage {key}")
                    kind = torch.UntypedStorage if untyped else kind
                    return self.persistent_load(("storage", kind, key, location, length, *views))
        raise pickle.UnpicklingError(MALFORMED)

    dispatch |= {
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.NEWOBJ_EX[0]: _call_with_names,
        pickle.OBJ[0]: _call_marked,
        pickle.INST[0]: _call_named,
        pickle.BUILD[0]: _build,
        pickle.DICT[0]: _dictionary,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.APPEND[0]: _append_one,
        pickle.APPENDS[0]: _append_many,
        pickle.EMPTY_SET[0]: _empty_set,
        pickle.ADDITEMS[0]: _append_many,
        pickle.FROZENSET[0]: _frozen_set,
        pickle.BYTEARRAY8[0]: _byte_array,
        pickle.BINPERSID[0]: _persistent,
        pickle.PERSID[0]: _refuse,
        # These would find objects that this process has loaded before.
        pickle.EXT1[0]: _refuse,
        pickle.EXT2[0]: _refuse,
        pickle.EXT4[0]: _refuse,
        pickle.NEXT_BUFFER[0]: _refuse,
        pickle.READONLY_BUFFER[0]: _refuse,
    }


def _made_by(function: Any, arguments: Any) -> Inert:
    return Inert(function.name if isinstance(function, Inert) else type(function).__name__, arguments)


def _is_view(view: Any) -> bool:
    """True for what describes a part of a storage, in files of before 2020, or the lack of it."""
    match view:
        case None:
            return True
        case (str(), int(offset), int(length)):
            return offset >= 0 and length >= 0
    return False


def _put(holder: Any, items: list[Any]) -> None:
    """Give a dictionary, or what stands for one, the items: key, value, key, value, ..."""
    if isinstance(holder, Inert):
        holder.entries = {} if holder.entries is None else holder.entries
        holder = holder.entries
    if not isinstance(holder, dict):
        raise pickle.UnpicklingError(MALFORMED)
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, str) or (type(key) is int and 0 <= key < MOST_INDEX):
            holder[key] = value


def _extend(holder: Any, values: Iterable[Any]) -> None:
    if isinstance(holder, Inert):
        holder.elements = [] if holder.elements is None else holder.elements
        holder = holder.elements
    if not isinstance(holder, list):
        raise pickle.UnpicklingError(MALFORMED)
    holder.extend(values)
