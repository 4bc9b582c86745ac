"""Hooks on a model that is in use: those of a thread see nothing of others that run the model too."""

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, TypeVar, cast
from weakref import WeakSet

from torch import nn
from torch.nn.modules.module import _global_forward_hooks, register_module_forward_hook
from torch.utils.hooks import RemovableHandle

from xgradcam.errors import XGradCamError

T = TypeVar("T")

# PyTorch numbers hooks without a lock: two threads could get one number, and one of them lose its hook.
_REGISTERING = Lock()
# Python's own code in which a thread waits for another.
_WAITING = tuple(
    str(Path(threading.__file__).with_name(name))
    for name in ("threading.py", "queue.py", "selectors.py", "asyncio", "concurrent", "multiprocessing")
)
_PACKAGE = str(Path(__file__).parents[1])
# Modules that the model runs in a thread of its own, as far as is known, and those seen to run in another.
_ASIDE: WeakSet[nn.Module] = WeakSet()
_SEEN_ASIDE: WeakSet[nn.Module] = WeakSet()
# Modules seen to run in the thread of the forward, and seconds that it may take to wait for another thread.
_HERE: WeakSet[nn.Module] = WeakSet()
PATIENCE = 0.1


class OfThread:
    """A hook that is called in the thread that made it; in others the module runs as without it."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook, self._thread = hook, get_ident()

    def __call__(self, *given: Any) -> Any:
        """Call the hook, if this is its thread."""
        return self._hook(*given) if self.is_own() else None

    def is_own(self) -> bool:
        """True in the thread that made it."""
        return get_ident() == self._thread

    def __reduce__(self) -> tuple[Any, ...]:
        """Another thread may copy or save the model meanwhile; the hook is none of the copy's."""
        return OfThread, (_leave,)


class OfModel(OfThread):
    """A hook for one module that is also called where the model's forward waits for a thread that runs it.

    That is, once `is_found_aside` has told that it does not run in the thread of the forward.
    """

    def __init__(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        super().__init__(hook)
        self._module = module

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        """Call the hook, if this is its module and its thread, or one that its thread waits for."""
        if module is not self._module:
            return None
        if self.is_own():
            _HERE.add(module)
        elif module in _HERE or not _waits_in_a_model(self._thread):
            return None
        else:
            _SEEN_ASIDE.add(module)
            if module not in _ASIDE:
                return None
        return self._hook(module, *given)


class StackOfThread(ExitStack):
    """Contexts, of which some must be left in the thread that entered them."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = get_ident()

    def enter_own(self, context: AbstractContextManager[T]) -> T:
        """Enter a context that belongs to a thread; XGradCamError in another than that of the stack."""
        if get_ident() != self._thread:
            raise XGradCamError(
                "the model runs this layer in a thread of its own, where Eq. 5 cannot follow what it "
                "computes: take a layer outside of it, or a method other than complete-cam"
            )
        return self.enter_context(context)


class Looking(OfThread):
    """One that leaves what it is given as it is: where a module's output changes does not depend on it."""


def is_of_another_thread(hook: Any) -> bool:
    """True for a hook that changes nothing in this thread."""
    return isinstance(hook, OfThread) and not hook.is_own()


def is_found_aside(module: nn.Module) -> bool:
    """True if the module was found to run in a thread that the model's forward waits for, for the first time.

    From now on hooks at its output are called there.
    """
    # It may have run here before, and a thread that ran it now was left alone.
    found = module in _HERE or (module in _SEEN_ASIDE and module not in _ASIDE)
    if module in _HERE:
        _HERE.discard(module)
    elif found:
        _ASIDE.add(module)
    return found


def _waits_in_a_model(thread: int) -> bool:
    """True if the thread is in the forward of a model that this package runs, and waits there for another.

    It may be on the way to wait, hence some patience.
    """
    end = time.monotonic() + PATIENCE
    while (waits := _waits_now(thread)) is None and time.monotonic() < end:
        time.sleep(PATIENCE / 100)
    return bool(waits)


def _waits_now(thread: int) -> bool | None:
    """As `_waits_in_a_model`; None if it is in the forward and does not wait yet."""
    frame: Any = sys._current_frames().get(thread)
    files, runs = [], False
    while frame is not None:
        files.append(frame.f_code.co_filename)
        runs |= frame.f_code.co_name == "run" and files[-1].startswith(_PACKAGE)
        frame = frame.f_back
    outside = next((one for one in files if not one.startswith(_WAITING)), _PACKAGE)
    # What this package itself waits for are turns.
    if not runs or (files[0].startswith(_WAITING) and outside.startswith(_PACKAGE)):
        return False
    return True if files[0].startswith(_WAITING) else None


def _leave(*_given: Any) -> None:
    """Change nothing."""


def on_all_modules(hook: Callable[..., Any], first: bool = False) -> RemovableHandle:
    """Have a forward hook called for every module that this thread runs; first: before other such hooks."""
    with _REGISTERING:
        handle = register_module_forward_hook(hook if isinstance(hook, OfThread) else OfThread(hook))
        if first:
            cast(OrderedDict[int, Any], _global_forward_hooks).move_to_end(handle.id, last=False)
    return handle


@contextmanager
def running_modules(model: nn.Module) -> Iterator[list[str]]:
    """Yield a list that always holds the names of the modules that are running, innermost last."""
    names: list[str] = []

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        names.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            # append returns None, so the hook changes nothing; the default binds this loop's name.
            hooks.enter_context(
                module.register_forward_pre_hook(OfThread(lambda _m, _i, name=name: names.append(name)))
            )
            hooks.enter_context(module.register_forward_hook(Looking(leave)))
        yield names
