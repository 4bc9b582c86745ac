"""One PyTorch operation as it was called: its name, its arguments and its result."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from xgradcam.errors import XGradCamError

# Special methods and the operations that they are. `rdiv` is missing: c / x is not linear.
DUNDERS = {"truediv": "div", "itruediv": "div", "idiv": "div"}
DUNDERS |= {"floordiv": "floor_divide", "ifloordiv": "floor_divide"}
DUNDERS |= {prefix + name: name for name in ("add", "sub", "mul", "pow", "matmul") for prefix in "ir"}


class Call:
    """One operation between the layer and the score: `function(*args, **kwargs)`.

    tensors: among its inputs, in order; one that is passed twice is listed twice. dependents: those of them
    that depend on the layer.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.tensors = list(tensors_of((args, kwargs)))
        self.dependents = [tensor for tensor in self.tensors if depends(tensor)]

    @cached_property
    def operation(self) -> str:
        """The name of the operation; `x + y`, `torch.add`, `x.add_` and `x += y` are all 'add'."""
        # Exported programs call overloads, such as `add.Tensor`.
        name = str(getattr(self.function, "__name__", self.function)).strip("_").split(".")[0]
        return DUNDERS.get(name, name)

    @cached_property
    def destination(self) -> Tensor | None:
        """The tensor that an in-place operation writes to; None for other operations."""
        return self.argument(0, "input") if self._is_in_place() else None

    def _is_in_place(self) -> bool:
        name = getattr(self.function, "__name__", "")
        if name.startswith("__"):
            return name == "__setitem__" or (name[2] == "i" and name.strip("_") in DUNDERS)
        position = _inplace_position(self.function)
        flag = self.argument(len(self.args) if position is None else position, "inplace", False)
        return bool(name.endswith("_") or flag)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at this position or with this name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def run(self, replace: Callable[[Tensor], Tensor]) -> Any:
        """Run the operation with every tensor replaced; an in-place one returns the tensor it wrote to."""
        destination = self.destination

        def replaced(tensor: Tensor) -> Tensor:
            return replace(tensor).clone() if tensor is destination else replace(tensor)

        args, kwargs = substitute(self.args, replaced), substitute(dict(self.kwargs), replaced)
        result = self.function(*args, **kwargs)
        return result if destination is None else (args[0] if args else kwargs["input"])

    def is_of_torch(self) -> bool:
        """True for PyTorch's own operations, whose names tell what they compute."""
        module = getattr(self.function, "__module__", None) or "torch"
        return module.split(".")[0] == "torch" and not re.match(r"torch\._ops\.(?!aten)", module + ".")


def depends(tensor: Tensor) -> bool:
    """True if the tensor depends on the layer: it is in the graph and is not a parameter."""
    return tensor.requires_grad and not tensor.is_leaf


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            # Looked at here, since most branches are numbers, and this runs for every operation.
            if isinstance(branch, Tensor):
                yield branch
            elif isinstance(branch, (tuple, list, dict)):
                yield from tensors_of(branch)


def float_tensors_of(result: Any) -> list[Tensor]:
    """The floating-point tensors in an operation's result: those that can have an intercept."""
    return [tensor for tensor in tensors_of(result) if tensor.is_floating_point()]


def substitute(tree: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    """Copy nested tuples, lists and dictionaries with every tensor replaced."""
    if isinstance(tree, Tensor):
        return replace(tree)
    if isinstance(tree, (tuple, list)):
        branches = [substitute(branch, replace) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    if isinstance(tree, dict):
        return {key: substitute(branch, replace) for key, branch in tree.items()}
    return tree


@lru_cache
def _inplace_position(function: Callable[..., Any]) -> int | None:
    if not isinstance(function, FunctionType):
        return None
    names = list(inspect.signature(function, follow_wrapped=False).parameters)
    return names.index("inplace") if "inplace" in names else None


def edges_of(score: Tensor) -> Iterator[tuple[Any, int]]:
    """Yield the edges of the score's graph, its own first: nodes and the numbers of their results."""
    waiting = [edge_of(score)] if score.requires_grad else []
    seen = {*waiting, (None, 0)}
    while waiting:
        edge = waiting.pop()
        yield edge
        for following in edge[0].next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)


def edge_of(tensor: Tensor) -> tuple[Any, int]:
    """The edge of the graph at which a tensor is made."""
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def nodes_between(edge: GradientEdge, score: Tensor, start: Tensor) -> set[Node] | None:
    """The graph nodes between an edge and the score; None if a path from `start` to the score avoids it."""
    first = get_gradient_edge(start).node
    if score.grad_fn is None:
        return None
    behind, waiting, met = {score.grad_fn}, [score.grad_fn], False
    while waiting:
        for node, output in waiting.pop().next_functions:
            if node is None or node in behind:
                continue
            if node == edge.node and output == edge.output_nr:
                met = True
            elif node == first:
                return None
            else:
                behind.add(node)
                waiting.append(node)
    return behind if met else None


def custom_functions(score: Tensor) -> Iterator[Any]:
    """Yield the `torch.autograd.Function`s in the score's graph."""
    for node in dict.fromkeys(node for node, _ in edges_of(score)):
        if isinstance(node, BackwardCFunction):
            yield node._forward_cls  # type: ignore[attr-defined]


def refuse_scripted(model: nn.Module, around: str | None = None) -> None:
    """Raise XGradCamError for a model with a scripted module, whose operations cannot be intercepted.

    around: the name of a layer; then only for one that contains it.
    """
    for name, module in model.named_modules():
        contains = around is None or not name or around.startswith(f"{name}.")
        if contains and isinstance(module, torch.jit.ScriptModule):
            where = f"'{name}'" if name else "the model"
            raise XGradCamError(
                f"{where} is scripted or traced: give the module that it was made from; its weights are in "
                "scripted.state_dict(), for the module's load_state_dict"
            )


def refuse_exported(model: Any) -> None:
    """Raise XGradCamError for a model whose layers do not run: exported, scripted or traced."""
    nodes = model.graph.nodes if isinstance(model, torch.fx.GraphModule) else ()
    # The module that an exported program makes has another that only checks the inputs.
    modules = [node.target for node in nodes if node.op == "call_module" and node.target != "_guards_fn"]
    merged = not modules and any(isinstance(node.target, torch._ops.OpOverload) for node in nodes)
    if merged or type(model).__name__ == "ExportedProgram":
        raise XGradCamError(
            "the model is exported, which merges its layers: give the module that it was made from; its "
            "weights are in the program's state_dict, for the module's load_state_dict"
        )
    if isinstance(model, torch.jit.ScriptModule):
        refuse_scripted(model)
