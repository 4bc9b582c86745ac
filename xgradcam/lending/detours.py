"""Detours of a module's output: what the module makes of it inside, keeps, and hands to others unseen."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, compress, count, repeat
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from xgradcam.errors import is_out_of_memory
from xgradcam.lending.borrowing import borrowed, fields_of
from xgradcam.lending.dispatching import DispatchMode
from xgradcam.lending.hooks import OfModel
from xgradcam.lending.outputs import at_output, in_place_of, is_new
from xgradcam.operations.calls import edge_of, edges_of, substitute, tensors_of


@contextmanager
def listing_new(module: nn.Module) -> Iterator[Callable[[], list[Tensor]]]:
    """Yield a function that lists the tensors that the module made in this run, and that are still there.

    It is to be called at the module's output. Listed are floating-point tensors, wherever they are kept: the
    youngest objects of the garbage collector, but for those that other threads made meanwhile. Its buffers
    and attributes into which it wrote are listed too.
    """
    versions: list[tuple[Tensor, int]] = []
    watching, memory, collected = ExitStack(), _Memory(), 0

    def begin(*_: Any) -> None:
        versions[:] = [(one, one._version) for one in _held_by(module) if not one.is_inference()]
        watching.close()
        nonlocal collected
        _COLLECTOR.pause()
        collected = _collections()
        watching.callback(_COLLECTOR.resume)
        watching.enter_context(memory)

    def new() -> list[Tensor]:
        # What is young has grown old where the model, or another thread, had it collected.
        made = _tensors_of_generation(0 if collected == _collections() else None)
        watching.close()
        made = [one for one in made if memory.has(one)]
        made += [tensor for tensor, version in versions if tensor._version != version]
        return [tensor for tensor in made if tensor.is_floating_point()]

    with ExitStack() as left:
        left.callback(watching.close)
        left.enter_context(module.register_forward_pre_hook(OfModel(module, begin)))
        yield new


def _tensors_of_generation(generation: int | None) -> list[Tensor]:
    """The tensors in a generation of the garbage collector, or in all.

    It is one call of `list`, in which no other thread gets a turn: tuples that one is making, as OpenCV does
    in several steps, are among the objects, and to hold one of them breaks it. By types, in C: `isinstance`
    asks the objects, which may answer by anything.
    """
    objects = chain.from_iterable(map(gc.get_objects, (generation,)))
    each = chain.from_iterable(map(partial(repeat, times=2), objects))  # once to be given, once for its type
    return list(compress(each, map(partial(type.__subclasscheck__, Tensor), map(type, each))))


class _Collector:
    """Python's garbage collector, which rests while a listing in any thread needs what is young."""

    def __init__(self) -> None:
        self._lock = RLock()  # what is collected may end a listing
        self._resting, self._was_enabled = 0, True

    def pause(self) -> None:
        """Have nothing leave the youngest generation from now on; what is older has left it."""
        with self._lock:
            # A listing of another thread would not see what it made, if that was collected now.
            if not self._resting:
                gc.collect(0)
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._resting += 1

    def resume(self) -> None:
        """Let it go on as before, once no other thread needs it to rest."""
        with self._lock:
            self._resting -= 1
            if not self._resting and self._was_enabled:
                gc.enable()


_COLLECTOR = _Collector()


def _collections() -> int:
    """The number of times that the garbage collector has run."""
    return sum(generation["collections"] for generation in gc.get_stats())


class _Memory(DispatchMode):
    """The memory of the results of operations in this thread."""

    def __init__(self) -> None:
        # PyTorch gives its modes no types.
        super().__init__()  # type: ignore[no-untyped-call]
        self._places: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operation, and note the memory of what it makes."""
        result = function(*args, **(kwargs or {}))
        self._places.update(map(_place_of, tensors_of(result)))
        return result

    def has(self, tensor: Tensor) -> bool:
        """True if the tensor lies in this memory: a view of a result is another object than the result."""
        return _place_of(tensor) in self._places


def _place_of(tensor: Tensor) -> int:
    """A number for the memory of a tensor; 0 for a sparse one and the like, whose memory is that of parts."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else 0


def _held_by(module: nn.Module) -> Iterator[Tensor]:
    """Yield the buffers and attributes of a module and those in it; PyTorch's own write into none here."""
    for inner in module.modules():
        if not type(inner).__module__.startswith("torch.nn."):
            held = chain(inner._buffers.values(), vars(inner).values())
            yield from (one for one in held if issubclass(type(one), Tensor))


def detours(model: nn.Module, inputs: Tensor, module: nn.Module, number: int | None = None) -> list[bool]:
    """For each tensor that the model returns: True if it depends on the module's output past that output.

    It does if it depends on a tensor that the module makes of its output and that the model finds elsewhere,
    as in an attribute or a hook's list; what is made on the way to the output is another matter.
    The model runs with a graph from the module's inputs on, which is cut at the output. Empty if it cannot.
    number: of the run of the module that is meant, if it runs several times.
    """
    runs = count()
    cuts: list[tuple[Any, int]] = []
    kept: list[Tensor] = []
    try:
        # Only the shape of the graph is read: the tensors in it need no memory.
        with (
            borrowed(model) as run,
            listing_new(module) as new,
            module.register_forward_pre_hook(OfModel(module, _tracked), with_kwargs=True),
            saved_tensors_hooks(lambda tensor: tensor.new_empty(0), lambda empty: empty),
        ):

            def cut(place: int, given: Any, output: Tensor) -> Tensor | None:
                if place:
                    return None
                kept.extend(new())
                if next(runs) != (number or 0) or not output.requires_grad:
                    return None
                base = output._base
                cuts.append(edge_of(output if base is None or base.numel() != output.numel() else base))
                plain = output.detach().clone()
                return in_place_of(output, plain) if is_new(module, output, given) else plain

            with at_output(module, cut):
                returned = run(inputs)
        return [any(edge in cuts for edge in edges_of(one)) for one in tensors_of(fields_of(returned))]
    # A model may raise anything where it expects no graph, for example in numpy().
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return []
    finally:
        for tensor in kept:
            if tensor.grad_fn is not None:
                in_place_of(tensor, tensor.detach()) if tensor._is_view() else tensor.detach_()


def _tracked(_module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Start a graph, which `borrowed` ends, and put the arguments of a module into it."""
    torch.set_grad_enabled(True)

    def track(tensor: Tensor) -> Tensor:
        # A copy, since nothing may be written into a leaf.
        return tensor.detach().requires_grad_().clone() if tensor.is_floating_point() else tensor

    return substitute((args, kwargs), track)
