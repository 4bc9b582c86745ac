"""Values that are computed once, when they are first asked for."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def kept(compute: Callable[[Any], T]) -> "_Kept[T]":
    """A property that is computed once, as by `functools.cached_property`, without a lock.

    Before Python 3.12 that has one lock for all objects of a class: a thread that holds it and waits for its
    turn with a model would keep the thread that has the turn from ending it.
    """
    return _Kept(compute)


class _Kept(Generic[T]):
    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, thing: Any, owner: type | None = None) -> T:
        # From now on it is found in the object itself.
        value = vars(thing)[self._name] = self._compute(thing)
        return value
