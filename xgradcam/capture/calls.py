"""One operation between a layer and the score: its name, what it reads, what it writes to, and its result."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError

# Other names of the same operation. Not `rdiv`, which is linear in nothing.
DUNDERS = {"truediv": "div", "itruediv": "div", "idiv": "div"}
DUNDERS |= {"floordiv": "floor_divide", "ifloordiv": "floor_divide"}
DUNDERS |= {prefix + name: name for name in ("add", "sub", "mul", "pow", "matmul") for prefix in "ir"}


@dataclass(frozen=True)
class Call:
    """One operation on the way from the layer to the score: `function(*args, **kwargs)`."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @cached_property
    def operation(self) -> str:
        """The name of the operation; `x + y`, `torch.add`, `x.add_` and `x += y` are all 'add'."""
        # An overload of an operator, such as `add.Tensor` of an exported program, is the operation.
        name = str(getattr(self.function, "__name__", self.function)).strip("_").split(".")[0]
        return DUNDERS.get(name, name)

    @cached_property
    def dependents(self) -> list[Tensor]:
        """The inputs that depend on the layer, once for every place where they enter."""
        return [tensor for tensor in tensors_of((self.args, self.kwargs)) if depends(tensor)]

    @cached_property
    def target(self) -> Tensor | None:
        """The tensor that the operation writes to, if it works in place."""
        return self.argument(0, "input") if self._writes() else None

    def _writes(self) -> bool:
        name = getattr(self.function, "__name__", "")
        if name.startswith("__"):
            return name == "__setitem__" or (name[2] == "i" and name.strip("_") in DUNDERS)
        position = _inplace_position(self.function)
        flag = self.argument(len(self.args) if position is None else position, "inplace", False)
        return bool(name.endswith("_") or flag)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """The argument that was given at this position or by this name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def run(self, replace: Callable[[Tensor], Tensor]) -> Any:
        """The operation's result with every tensor replaced; for one in place, the target it wrote to."""
        target = self.target

        def replaced(tensor: Tensor) -> Tensor:
            return replace(tensor).clone() if tensor is target else replace(tensor)

        args, kwargs = substitute(self.args, replaced), substitute(dict(self.kwargs), replaced)
        result = self.function(*args, **kwargs)
        return result if target is None else (args[0] if args else kwargs["input"])

    def is_of_torch(self) -> bool:
        """Whether the operation is PyTorch's own, so that its name tells what it does."""
        module = getattr(self.function, "__module__", None) or "torch"
        return module.split(".")[0] == "torch" and not re.match(r"torch\._ops\.(?!aten)", module + ".")


def depends(tensor: Tensor) -> bool:
    """Whether the tensor depends on the layer: a graph leads to it, and it is not a parameter itself."""
    return tensor.requires_grad and not tensor.is_leaf


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for branch in tree:
            yield from tensors_of(branch)
    elif isinstance(tree, dict):
        yield from tensors_of(list(tree.values()))


def outputs_of(result: Any) -> list[Tensor]:
    """The floating-point tensors that an operation returned: those that an intercept can belong to."""
    return [tensor for tensor in tensors_of(result) if tensor.is_floating_point()]


def substitute(tree: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with every tensor replaced."""
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


def refuse_compiled(model: nn.Module) -> None:
    """Stop before code that runs outside of Python, where operations cannot be intercepted."""
    for name, module in model.named_modules():
        compiled = module._compiled_call_impl is not None or hasattr(module, "_orig_mod")
        if compiled or isinstance(module, torch.jit.ScriptModule):
            where = f"'{name}'" if name else "the model"
            raise XGradCamError(f"{where} is compiled or scripted: verify the module that it was made from")
