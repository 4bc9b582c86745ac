"""The operations behind a layer, watched while they run, and what each of them adds."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from xgradcam.capture.calls import Call, outputs_of, substitute, tensors_of
from xgradcam.capture.layers import find_layer
from xgradcam.errors import XGradCamError
from xgradcam.proof.constants import Intercept, Kind, intercept, is_linear


@dataclass(frozen=True)
class LayerOutput:
    """A layer's output: where it is in the graph, and a copy of its values."""

    edge: GradientEdge
    activation: Tensor


@contextmanager
def watched_outputs(
    model: nn.Module, layers: Sequence[str | nn.Module]
) -> Iterator[list[LayerOutput | None]]:
    """The outputs of the layers in a forward; None for what is not in its graph, or more than once."""
    places: list[LayerOutput | None] = [None] * len(layers)
    runs = [0] * len(layers)

    def keep(index: int, output: Any) -> None:
        runs[index] += 1
        places[index] = None
        if runs[index] == 1 and isinstance(output, Tensor) and output.requires_grad:
            with torch.no_grad():
                places[index] = LayerOutput(get_gradient_edge(output), output.detach().clone())

    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            module = find_layer(model, layer)[1]
            hook = module.register_forward_hook(lambda _m, _i, output, index=index: keep(index, output))
            hooks.enter_context(hook)
        yield places


def nodes_between(score: Tensor, place: GradientEdge, start: Tensor) -> set[Node] | None:
    """The graph between a place and the score; None where a way from the start to the score avoids it."""
    first = get_gradient_edge(start).node
    if score.grad_fn is None:
        return None
    behind, waiting, met = {score.grad_fn}, [score.grad_fn], False
    while waiting:
        for node, output in waiting.pop().next_functions:
            if node is None or node in behind:
                continue
            if node == place.node and output == place.output_nr:
                met = True
            elif node == first:
                return None
            else:
                behind.add(node)
                waiting.append(node)
    return behind if met else None


@dataclass(frozen=True)
class Term:
    """An intercept, and where it enters the graph: an operation's output, before later writes to it."""

    module: str
    operation: str
    kind: Kind
    edge: GradientEdge
    intercept: Tensor


class Intercepting(TorchFunctionMode):
    """Runs every operation as it is, and notes the intercepts of those that depend on the layer."""

    def __init__(self, path: Sequence[str]) -> None:
        super().__init__()
        self.path = path
        self.terms: list[Term] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and note what it adds."""
        call = Call(function, args, kwargs or {})
        if any(map(is_functorch_wrapped_tensor, tensors_of((args, kwargs)))):
            raise XGradCamError(
                f"the model runs '{call.operation}' inside of torch.func or torch.vmap: out of reach"
            )
        if not call.dependents:
            if next(tensors_of((args, kwargs)), None) is None:
                return function(*args, **call.kwargs)
            with torch.no_grad():  # parameters ask for gradients: what depends on them alone must not
                return function(*args, **call.kwargs)
        if call.operation in ("numpy", "array"):  # leaves PyTorch, and comes back as a constant
            return function(*substitute(args, Tensor.detach), **call.kwargs)
        if any(tensor.is_inference() for tensor in tensors_of((args, kwargs))):
            call = Call(function, *substitute((args, call.kwargs), _normal))
        if not torch.is_grad_enabled() or is_linear(call):
            return function(*call.args, **call.kwargs)
        return self._run(call) if call.target is None else self._run_in_place(call, call.target)

    def _run(self, call: Call) -> Any:
        result = call.function(*call.args, **call.kwargs)
        if any(output.requires_grad for output in outputs_of(result)):
            self._note(call, intercept(call), result)
        return result

    def _run_in_place(self, call: Call, target: Tensor) -> Any:
        constant = intercept(call)  # of the values before they are overwritten
        if constant is None:
            return call.function(*call.args, **call.kwargs)
        # A view has no place of its own in the graph of its base: write to a copy, and the copy to the view.
        written = call.run(lambda tensor: tensor)
        self._note(call, constant, written)
        target.copy_(written)
        return target

    def _note(self, call: Call, constant: Intercept | None, result: Any) -> None:
        if constant is None:
            return
        module = self.path[-1] if self.path else ""
        for output, value in zip(outputs_of(result), constant.values, strict=True):
            if output.requires_grad:
                edge = get_gradient_edge(output)
                self.terms.append(Term(module, call.operation, constant.kind, edge, value))


def _normal(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which no graph may keep."""
    return tensor.detach().clone() if tensor.is_inference() else tensor


@contextmanager
def current_module(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that are running, innermost last."""
    path: list[str] = []

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            # A hook that returns None changes nothing; the names are bound now, not when the hooks run.
            hooks.enter_context(module.register_forward_pre_hook(lambda _m, _i, name=name: path.append(name)))
            hooks.enter_context(module.register_forward_hook(lambda _m, _i, _o: _drop(path)))
        yield path


def _drop(path: list[str]) -> None:
    path.pop()


def refuse_custom_functions(score: Tensor) -> None:
    """Stop at a `torch.autograd.Function`: it calls nothing that could be intercepted."""
    ahead: list[Any] = [score.grad_fn]
    seen: set[Any] = {None}
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        if isinstance(node, BackwardCFunction):
            name = type(node).__name__.removesuffix("Backward")
            raise XGradCamError(
                f"the model runs a torch.autograd.Function, {name}: its constants cannot be found"
            )
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
