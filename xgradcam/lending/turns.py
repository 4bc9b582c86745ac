"""Threads take turns with a model: its modules are lent to one thread at a time.

So do threads with models that share modules, as a model and a part of it do.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from threading import Condition, get_ident, local
from typing import Any, TypeVar, cast

from torch import nn

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])
_Modules = set[int]


class _Desk:
    """Lends modules, by their identity, to threads: first come, first served.

    A thread that waits for more hands on what it has until it gets all: else two threads could wait for one
    another for ever. It is in a call of its own then, as by a score function, and gets everything back as it
    was.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin anew, with what this thread has: the only thread of a process that was forked."""
        lent: dict[int, int] = vars(self).get("_lent", {})
        # Reentrant, since the garbage collector may end a loan at any time.
        self._changed = Condition()
        self._lent = {module: thread for module, thread in lent.items() if thread == get_ident()}
        self._waiting: list[_Modules] = []

    def take(self, modules: _Modules, thread: int) -> _Modules:
        """Wait for the modules, and lend them to the thread; returns those that it did not have."""
        with self._changed:
            new = {module for module in modules if self._lent.get(module) != thread}
            if not self._is_free(new, self._waiting):
                self._wait(new, thread)
            self._lent.update(dict.fromkeys(new, thread))
        return new

    def give_back(self, modules: _Modules, thread: int) -> None:
        """Have the modules lent to others, as far as the thread still has them."""
        with self._changed:
            for module in modules:
                if self._lent.get(module) == thread:
                    del self._lent[module]
            if self._waiting:
                self._changed.notify_all()

    def _is_free(self, modules: _Modules, before: Iterable[_Modules]) -> bool:
        return self._lent.keys().isdisjoint(modules) and all(map(modules.isdisjoint, before))

    def _wait(self, new: _Modules, thread: int) -> None:
        own = {module for module, holder in self._lent.items() if holder == thread}
        self.give_back(own, thread)
        wanted = new | own
        self._waiting.append(wanted)

        def has_come() -> bool:
            before = self._waiting[: next(at for at, one in enumerate(self._waiting) if one is wanted)]
            return self._is_free(wanted, before)

        try:
            self._changed.wait_for(has_come)
        except BaseException:
            # What it had is needed to leave it as it was.
            wanted.intersection_update(own)
            self._changed.wait_for(has_come)
            raise
        finally:
            self._waiting[:] = [one for one in self._waiting if one is not wanted]
            self._lent.update(dict.fromkeys(own, thread))
            self._changed.notify_all()


_DESK = _Desk()
# The identities of the models that this thread has, which it need not ask for again.
_OWN = local()
_NOTHING = nullcontext()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_DESK.begin)


def turn_of(model: Any) -> AbstractContextManager[None]:
    """Have the model in this thread alone until the end; another thread waits for its turn.

    Within a turn of the same thread nothing is waited for. What is no module is no matter of turns.
    """
    own: set[int] = vars(_OWN).setdefault("models", set())
    if id(model) in own or not isinstance(model, nn.Module):
        return _NOTHING
    return _turn(model, own)


@contextmanager
def _turn(model: nn.Module, own: set[int]) -> Iterator[None]:
    thread = get_ident()
    new = _DESK.take(set(map(id, modules_of(model))), thread)
    own.add(id(model))
    try:
        yield
    finally:
        own.discard(id(model))
        _DESK.give_back(new, thread)


def in_turn(function: AnyFunction) -> AnyFunction:
    """A function that takes a model first, or a method of something with a `model`, in the model's turn."""

    @wraps(function)
    def turned(model: Any, *args: Any, **kwargs: Any) -> Any:
        with turn_of(model if isinstance(model, nn.Module) else getattr(model, "model", None)):
            return function(model, *args, **kwargs)

    return cast(AnyFunction, turned)


def modules_of(model: nn.Module) -> Collection[nn.Module]:
    """The modules of a model, each once, in any order: in a quarter of the time of `model.modules()`."""
    if type(model).modules is not nn.Module.modules:  # it may have others than those in its attributes
        return [*model.modules()]
    found: dict[nn.Module, None] = {model: None}
    left = [model]
    while left:
        module = left.pop()
        if not names_as_usual(module):
            return [*model.modules()]
        for child in module._modules.values():
            if child is not None and child not in found:
                found[child] = None
                left.append(child)
    return found


def names_as_usual(module: nn.Module) -> bool:
    """True if the modules in this one are those in its attributes, by the names of these."""
    return type(module).named_modules is nn.Module.named_modules
