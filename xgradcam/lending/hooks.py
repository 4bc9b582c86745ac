"""Hooks on a model that is in use: those of a thread see nothing of others that run the model too."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock, get_ident
from typing import Any, cast

from torch import nn
from torch.nn.modules.module import _global_forward_hooks, register_module_forward_hook
from torch.utils.hooks import RemovableHandle

# PyTorch numbers hooks without a lock: two threads could get one number, and one of them lose its hook.
_REGISTERING = Lock()


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


def is_of_another_thread(hook: Any) -> bool:
    """True for a hook that changes nothing in this thread."""
    return isinstance(hook, OfThread) and not hook.is_own()


def _leave(*_given: Any) -> None:
    """Change nothing."""


def on_all_modules(hook: Callable[..., Any], first: bool = False) -> RemovableHandle:
    """Have a forward hook called for every module that this thread runs; first: before other such hooks."""
    with _REGISTERING:
        handle = register_module_forward_hook(OfThread(hook))
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
            hooks.enter_context(module.register_forward_hook(OfThread(leave)))
        yield names
