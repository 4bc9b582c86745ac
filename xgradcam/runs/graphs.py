"""Repeat work on a GPU by a CUDA graph, which launches all of its kernels at once."""

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from itertools import chain
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.parameter import is_lazy
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from xgradcam.lending.precision import is_coarse, tf32_switches
from xgradcam.operations.calls import substitute, tensors_of
from xgradcam.runs.values import Values, is_dense, parts_of

T = TypeVar("T")

# The call of one kind after which a graph is made, and the most graphs that are kept.
CALLS, KEPT = 3, 4
# After so many changes of the model without a graph, this many calls are made without a look for one.
CHANGES, CALLS_WITHOUT = 8, 100
# A model that holds more objects than this counts as changed at every call.
MOST_OBJECTS = 200_000
# For smaller batches, converting the weights to channels last costs more than it saves.
CHANNELS_LAST_BATCH = 4
# Largest difference of two results, as a share of the largest number; the second between those of TF32 or
# half precision by other operations.
ROUNDING, COARSE_ROUNDING = 1e-4, 2e-2
_CODE = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Graphs(Protocol):
    """A way to capture work on fixed tensors; device: the type of device that it is for."""

    device: str

    def capture(self, work: Callable[[], T], device: torch.device) -> tuple[T, Callable[[], object]]:
        """The result of the work, and a function that computes it again, into the same tensors.

        May raise anything where that is not possible.
        """


class CudaGraphs:
    """Captures work on a CUDA device."""

    device = "cuda"

    def capture(self, work: Callable[[], T], device: torch.device) -> tuple[T, Callable[[], object]]:
        """The result of the work, and a function that computes it again, into the same tensors."""
        random = torch.cuda.default_generators[device.index]
        unharmed = random.clone_state()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            here = torch.cuda.current_stream()
            aside, capturing = torch.cuda.Stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                work()  # at its first run on a stream, a library allocates memory
            here.wait_stream(aside)
            try:
                # Other threads may go on using the device. The current stream is set again after an error.
                with (
                    torch.cuda.stream(here),
                    torch.cuda.graph(graph, stream=capturing, capture_error_mode="thread_local"),
                ):
                    result = work()
            except BaseException:
                # PyTorch (2.11) leaves the generator in the state of a capture, in which it draws nothing.
                random.graphsafe_set_state(unharmed)
                raise
        return result, graph.replay


class State:
    """Everything that a model holds: which objects, and the memory, shape and version of its tensors.

    Numbers and words are objects too. All are kept alive, so that no other gets their identity or memory.
    by_value: compare copies of the tensors too, for writing by `.data` or NumPy leaves the version.
    """

    def __init__(self, model: nn.Module, by_value: bool = False) -> None:
        self._model = model
        # Live views, which show what is in a dictionary or list when they are read, and what is still empty.
        self._views: list[Collection[Any]] = []
        self._empty: list[Any] = []
        self._tensors: list[Tensor] = []
        seen: set[int] = set()
        left: list[Any] = [model]
        while left and len(seen) < MOST_OBJECTS:
            thing = left.pop()
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            if isinstance(thing, Tensor):
                # One that a lazy module has not made yet: its hooks, which go then, tell when it is made.
                self._tensors += [] if is_lazy(thing) else [thing]
                left += [] if is_lazy(thing) else parts_of(thing)
            elif isinstance(thing, (tuple, frozenset)):
                left += thing
            elif isinstance(thing, (dict, list, set)) and not thing:
                self._empty.append(thing)
            elif isinstance(thing, (dict, list, set)):
                self._views.append(thing.values() if isinstance(thing, dict) else thing)
                left += self._views[-1]
            elif hasattr(thing, "__dict__") and not isinstance(thing, _CODE):
                left.append(vars(thing))
        self._is_whole = not left
        self._things = [*chain.from_iterable(self._views)]
        self._kept = [tensor.detach() for tensor in self._tensors]
        self._dense = [tensor for tensor in self._tensors if is_dense(tensor)]
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._read_before = self._read()
        self._values = Values(self._dense) if by_value else None

    def is_that_of(self, model: nn.Module) -> bool:
        """True if the model is the same and holds the same."""
        return (
            self._is_whole
            and self._model is model
            and not any(self._empty)
            and sum(map(len, self._views)) == len(self._things)
            # Without a list of its own: this is done at every call.
            and all(map(is_, chain.from_iterable(self._views), self._things))
            and self._read_before == self._read()
            and (self._values is None or self._values.are_unchanged())
        )

    def _read(self) -> tuple[list[Any], ...]:
        memory = [[*map(of, self._dense)] for of in (Tensor.data_ptr, Tensor.size, Tensor.stride)]
        return *memory, [tensor._version for tensor in self._counted]


@dataclass
class _Graph:
    """Captured work: the tensors that it reads, its result, and a function that does it again."""

    tensors: tuple[Tensor, ...]
    result: Any
    replay: Callable[[], object]

    def __call__(self, given: tuple[Tensor, ...]) -> Any:
        """The result for other tensors, in tensors that the next call leaves alone."""
        with torch.inference_mode(False), torch.no_grad():
            for own, one in zip(self.tensors, given, strict=True):
                own.copy_(one, non_blocking=True)
            self.replay()
            return substitute(self.result, torch.clone)


@dataclass
class _Known:
    """Calls of one kind since the model changed, and the graph that does their work, if there is one."""

    calls: int = 0
    graph: _Graph | None = None


class Repeater:
    """Runs work with a model, after the third call of one kind by a graph where that computes the same.

    graphs: how work is captured. A repeater that was pickled has none of its graphs.
    A graph is trusted once its result is the model's own on inputs other than those that it was captured
    with, and as long as the model holds the same objects of the same versions. Models that have hooks, change
    themselves, draw random numbers or wait for the device always run themselves.
    problem: why the last kind of call that came `CALLS` times has no graph; empty if it has one.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.problem = ""
        self._graphs = graphs
        self._state: State | None = None
        self._changes = self._without = 0
        self._known: dict[Hashable, _Known] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Repeater, (self._graphs,)

    def close(self) -> None:
        """Forget all graphs, which frees their memory."""
        self._state = None
        self._known.clear()

    def run(self, kind: Hashable, model: nn.Module, work: Callable[..., T], tensors: tuple[Tensor, ...]) -> T:
        """Return `work(*tensors)`, tensors in nested tuples, lists and dictionaries.

        kind: what else the work depends on. model: all that the work uses and that may change.
        tensors: a graph gets all of them on the device of the first.
        """
        device, plain = tensors[0].device, all(type(tensor) is Tensor for tensor in tensors)
        if device.type != self._graphs.device or not plain or _is_watched():
            return work(*tensors)
        if self._without:
            self._without -= 1
            return work(*tensors)
        kind = (
            kind,
            _settings(device.type),
            *((one.device, one.dtype, one.shape, one.stride()) for one in tensors),
        )
        known = self._known.pop(kind, _Known())
        repeated: T | None = None if known.graph is None else known.graph(tensors)
        # Looked at while the device computes.
        if not self._holds_the_same(model):
            known, repeated = _Known(), None
        while len(self._known) >= KEPT:
            del self._known[next(iter(self._known))]
        self._known[kind] = known
        if repeated is not None:
            return repeated
        result = work(*tensors)
        known.calls += 1
        if known.calls == CALLS:
            self.problem = self._capture(known, model, work, tensors, result)
        return result

    def _holds_the_same(self, model: nn.Module) -> bool:
        if self._state is not None and self._state.is_that_of(model):
            return True
        self._known.clear()
        self._state = State(model)
        self._changes += 1
        if self._changes > CHANGES:
            self._changes, self._without = 0, CALLS_WITHOUT
        return False

    def _capture(
        self, known: _Known, model: nn.Module, work: Callable[..., T], given: tuple[Tensor, ...], expected: T
    ) -> str:
        """Capture the work for later calls; returns the problem where no graph computes what is expected."""
        if any(getattr(module, hooks) for module in model.modules() for hooks in _HOOKS):
            return "the model has hooks"
        problem, cached = "", torch.is_autocast_cache_enabled()
        # What autocast keeps would be gone when the graph reads it.
        torch.set_autocast_cache_enabled(False)
        try:
            for order in _orders(given[0]):
                # What cannot be captured may raise anything. Nothing is lost: the work itself is done.
                try:
                    problem = self._try(known, work, given, expected, order)
                except Exception as error:
                    problem = str(error).partition("\n")[0] or type(error).__name__
                if not problem:
                    self._changes = 0
                    return ""
        finally:
            torch.set_autocast_cache_enabled(cached)
        known.graph = None
        return problem

    def _try(
        self,
        known: _Known,
        work: Callable[..., T],
        given: tuple[Tensor, ...],
        expected: T,
        order: torch.memory_format,
    ) -> str:
        """Capture the work on inputs in this order in memory; returns the problem, if there is one."""
        inputs, own = given[0], [_varied(tensor, given[0].device) for tensor in given]
        if order is torch.channels_last:
            inputs, own[0] = (tensor.contiguous(memory_format=order) for tensor in (inputs, own[0]))
            ordered = work(inputs, *given[1:])
            # Other operations compute it, and round otherwise.
            if not _is_same(ordered, expected, COARSE_ROUNDING if is_coarse(inputs) else ROUNDING):
                return "the order of the inputs in memory changes the result"
            expected = ordered
        with _Rehearsal():  # type: ignore[no-untyped-call]
            work(*own)
        result, replay = self._graphs.capture(lambda: work(*own), inputs.device)
        known.graph = _Graph(tuple(own), result, replay)
        return "" if _is_same(known.graph(given), expected, ROUNDING) else "a graph computes something else"


def _orders(inputs: Tensor) -> list[torch.memory_format]:
    """The orders in memory to try: with channels last most convolutions are faster."""
    suits = inputs.ndim == 4 and len(inputs) >= CHANNELS_LAST_BATCH
    return [torch.channels_last, torch.preserve_format] if suits else [torch.preserve_format]


def _varied(tensor: Tensor, device: torch.device) -> Tensor:
    """Other inputs of the same shape and strides."""
    with torch.inference_mode(False), torch.no_grad():
        values = tensor.flip(-1) / 2 if tensor.is_floating_point() else tensor
        return torch.empty_like(tensor, device=device).copy_(values)


def _is_same(found: Any, expected: Any, rounding: float) -> bool:
    pairs = zip(tensors_of(found), tensors_of(expected), strict=True)
    return all(_is_close(*pair, rounding) for pair in pairs)


def _is_close(found: Tensor, expected: Tensor, rounding: float) -> bool:
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(found, expected)
    tolerance = rounding * float(expected.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)


class _Rehearsal(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises NotImplementedError for what a graph cannot do: a capture that fails may do harm."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        # Single numbers may be on any device.
        places = {one.device.type for one in tensors_of((args, kwargs, result)) if one.ndim}
        if len(places) > 1 or _is_unforeseeable(function, args, result):
            raise NotImplementedError(f"a graph cannot do {function}")
        return result


def _is_unforeseeable(function: Any, args: Any, result: Any) -> bool:
    """True if there is chance in it, or if numbers come from Python, or go there and are waited for."""
    name, tags = str(function), {torch.Tag.data_dependent_output, torch.Tag.nondeterministic_seeded}
    if "index" not in name or _is_mask(args[1:]):
        tags.add(torch.Tag.dynamic_output_shape)
    from_python = "lift_fresh" in name and (result.ndim or result.device.type != "cpu")
    return from_python or "linalg" in name or not tags.isdisjoint(function.tags)


def _is_mask(indices: Any) -> bool:
    return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors_of(indices))


def _is_watched() -> bool:
    """True if something is told of every operation or module that runs: a graph would not tell it."""
    everywhere = (modules._global_forward_hooks, modules._global_forward_pre_hooks)
    modes = _get_current_function_mode_stack(), _get_current_dispatch_mode_stack()  # type: ignore[no-untyped-call]
    return any(everywhere) or any(modes)


def _settings(device: str) -> Hashable:
    """The caller's settings that decide which kernels run and how exactly they compute."""
    cuda: Any = torch.backends.cuda
    cudnn: Any = torch.backends.cudnn
    return (
        *(getattr(backend, name) for backend, name in tf32_switches()),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
        (torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()),
    )
