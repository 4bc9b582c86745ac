"""Watch the operations behind a layer while the model runs, and record what each of them adds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from xgradcam.errors import XGradCamError
from xgradcam.lending.finding import AnyLayer, find_layer, run_of
from xgradcam.lending.hooks import OfThread
from xgradcam.operations.calls import Call, float_tensors_of, substitute
from xgradcam.operations.constants import Intercept, Kind, intercept, is_linear
from xgradcam.operations.places import Follower, Places

# Attributes of a tensor and questions about it that make no other tensor.
_READERS = frozenset(
    [getattr(Tensor, name).__get__ for name in "shape dtype device ndim is_cuda requires_grad layout".split()]
    + [Tensor.dim, Tensor.size, Tensor.is_floating_point, Tensor.numel, Tensor.stride, Tensor.is_contiguous]
)


@dataclass(frozen=True)
class TracedIntercept:
    """An intercept and its edge in the graph: the operation's result, before later in-place writes.

    module: the name of the innermost module that ran the operation. value: broadcasts against the result.
    places: of the result, if they are followed. dtype: of the result.
    """

    module: str
    operation: str
    kind: Kind
    edge: GradientEdge
    value: Tensor
    places: Places = None
    dtype: torch.dtype = torch.float32


class Tracer(TorchFunctionMode):
    """Run every operation unchanged, and record the intercepts of those that depend on the layer.

    running: the names of the running modules, as `running_modules` yields them. follower: of the results'
    places, if they are wanted.
    """

    def __init__(self, running: Sequence[str] = (), follower: Follower | None = None) -> None:
        super().__init__()
        self.running = running
        self.follower = follower
        self.intercepts: list[TracedIntercept] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and record its intercept."""
        if function in _READERS:  # many, and they compute nothing
            return function(*args, **(kwargs or {}))
        call = Call(function, args, kwargs or {})
        if any(map(is_functorch_wrapped_tensor, call.tensors)):
            raise XGradCamError(
                f"the model runs '{call.operation}' inside of torch.func or torch.vmap: out of reach"
            )
        if not call.dependents:
            if not any(tensor.requires_grad for tensor in call.tensors):
                return function(*args, **call.kwargs)
            with torch.no_grad():  # else results of parameters alone would seem to depend on the layer
                return function(*args, **call.kwargs)
        if call.operation in ("numpy", "array"):  # leaves PyTorch, and comes back as a constant
            return function(*substitute(args, Tensor.detach), **call.kwargs)
        if any(tensor.is_inference() for tensor in call.tensors):
            call = Call(function, *substitute((args, call.kwargs), _without_inference_mode))
        if not torch.is_grad_enabled():
            return function(*call.args, **call.kwargs)
        if is_linear(call):
            return self._followed(call, function(*call.args, **call.kwargs))
        return self._run(call) if call.destination is None else self._run_in_place(call, call.destination)

    def _run(self, call: Call) -> Any:
        result = call.function(*call.args, **call.kwargs)
        if any(tensor.requires_grad for tensor in float_tensors_of(result)):
            self._record(call, intercept(call), self._followed(call, result))
        return result

    def _run_in_place(self, call: Call, destination: Tensor) -> Any:
        constant = intercept(call)  # computed first, since the operation overwrites its input
        if constant is None or not destination._is_view():
            call.function(*call.args, **call.kwargs)
            self._record(call, constant, self._followed(call, destination))
            return destination
        # A view has no edge of its own in its base's graph: write to a copy, then copy that into the view.
        written = self._followed(call, call.run(lambda tensor: tensor))
        self._record(call, constant, written)
        destination.copy_(written)
        if self.follower is not None:
            self.follower.put(destination, self.follower.places_of(written))
        return destination

    def _followed(self, call: Call, result: Any) -> Any:
        if self.follower is not None:
            self.follower.follow(call, result)
        return result

    def _record(self, call: Call, constant: Intercept | None, result: Any) -> None:
        if constant is None:
            return
        module = self.running[-1] if self.running else ""
        for tensor, value in zip(float_tensors_of(result), constant.values, strict=True):
            if tensor.requires_grad:
                edge = get_gradient_edge(tensor)
                places = None if self.follower is None else self.follower.places_of(tensor)
                self.intercepts.append(
                    TracedIntercept(module, call.operation, constant.kind, edge, value, places, tensor.dtype)
                )


def _without_inference_mode(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if it was made in inference mode, since no graph may keep such a tensor."""
    return tensor.detach().clone() if tensor.is_inference() else tensor


@dataclass(frozen=True)
class TracedActivation:
    """A layer's output: its edge in the graph, a copy of its values, and their places if known."""

    edge: GradientEdge
    activation: Tensor
    places: Places = None


@contextmanager
def trace_activations(
    model: nn.Module, layers: Sequence[AnyLayer], tracer: Tracer
) -> Iterator[list[TracedActivation | None]]:
    """Yield a list that gets each layer's output in a forward pass that the tracer watches.

    None for a layer that does not run exactly once, or at the run that is meant, or whose output is not in
    the graph.
    """
    traced: list[TracedActivation | None] = [None] * len(layers)
    runs = [0] * len(layers)

    def keep(index: int, output: Any) -> None:
        runs[index] += 1
        number = run_of(layers[index])
        if number not in (None, runs[index] - 1):
            return
        traced[index] = None
        if (number is not None or runs[index] == 1) and isinstance(output, Tensor) and output.requires_grad:
            places = None if tracer.follower is None else tracer.follower.places_of(output)
            with torch.no_grad():
                traced[index] = TracedActivation(get_gradient_edge(output), output.detach().clone(), places)

    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            module = find_layer(model, layer)[1]
            hook = OfThread(lambda _m, _i, output, index=index: keep(index, output))
            hooks.enter_context(module.register_forward_hook(hook))
        yield traced
