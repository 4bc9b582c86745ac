"""Attention computed openly: the weights of every attention that runs, as tensors of the graph.

PyTorch's fused attention keeps its weights to itself. Here it is computed step by step, with the same result
but for rounding: o = A v, A = softmax(q kᵀ / √d + mask).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from xgradcam.errors import XGradCamError
from xgradcam.lending.borrowing import fields_of
from xgradcam.lending.hooks import Looking, OfThread
from xgradcam.lending.turns import turn_of
from xgradcam.operations.calls import Call, edge_of, tensors_of
from xgradcam.operations.unfused import unguarded

Edge = tuple[Any, int]

# Functions of PyTorch in Python whose operations count: what is checkpointed runs once more in a gradient.
_IN_PYTHON = (functional.multi_head_attention_forward, torch.autograd.grad)


@dataclass(frozen=True)
class Ran:
    """A module that ran around one attention alone.

    given: shapes and edges in the graph of its inputs. outputs: copies, since the next module may write into
    them; edges: theirs.
    """

    name: str
    module: nn.Module
    given: list[tuple[torch.Size, Edge]]
    outputs: list[Tensor]
    edges: list[Edge]


@dataclass(frozen=True)
class Attention:
    """An attention that ran: its weights, and the logits that they are the softmax of.

    edge: that of the weights in the graph. name: of the innermost module that ran it. around: the modules
    that ran around it alone, the innermost first.
    """

    weights: Tensor
    logits: Tensor
    edge: Edge
    name: str
    around: list[Ran] = field(default_factory=list)


class Opening(TorchFunctionMode):
    """Computes attention openly, and lists what is in the graph: `found`, in the order in which it runs.

    running: names of the running modules, the innermost last. lists: False to compute only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Attention] = []
        self.running: list[str] = []
        self.lists = True

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, an attention in its open form."""
        kwargs = kwargs or {}
        if function in _IN_PYTHON:
            with self:
                return unguarded(function)(*args, **kwargs)
        name = getattr(function, "__name__", "").strip("_").partition(".")[0]
        if name == "scaled_dot_product_attention":
            return self._attend(function, args, kwargs)
        if name not in ("softmax", "special_softmax"):
            return function(*args, **kwargs)
        weights = function(*args, **kwargs)
        call = Call(function, args, kwargs)
        logits, axis = call.argument(0, "input"), call.argument(1, "dim")
        if axis in (-1, weights.ndim - 1) and weights.ndim > 2:
            self._list(weights, logits)
        return weights

    def _attend(self, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        call = Call(function, args, kwargs)
        if not call.dependents or call.tensors[0].is_nested:
            return function(*args, **kwargs)
        query, key, value = (call.argument(*one) for one in ((0, "query"), (1, "key"), (2, "value")))
        if call.argument(4, "dropout_p", 0.0):
            raise XGradCamError(
                "the model's attention drops weights by chance in evaluation too: set its dropout to 0"
            )
        if kwargs.get("enable_gqa") and key.shape[-3] != query.shape[-3]:
            key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
        mask = call.argument(3, "attn_mask")
        if call.argument(5, "is_causal", False):
            mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        logits, weights = _opened(query, key, mask, kwargs.get("scale"))
        self._list(weights, logits)
        return weights.to(value.dtype) @ value

    def _list(self, weights: Tensor, logits: Tensor) -> None:
        if self.lists and weights.requires_grad:
            name = self.running[-1] if self.running else ""
            self.found.append(Attention(weights, logits, edge_of(weights), name))


def _opened(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    """The logits and the weights, at least in float32, as in fused attention."""
    wide = torch.promote_types(query.dtype, torch.float32)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (query.to(wide) * factor) @ key.to(wide).transpose(-2, -1)
    if mask is None:
        return logits, logits.softmax(dim=-1)
    logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    # A query that may see no key gets 0, as in fused attention.
    blind = logits.isneginf().all(dim=-1, keepdim=True)
    return logits, logits.masked_fill(blind, 0).softmax(dim=-1).masked_fill(blind, 0)


@contextmanager
def opened(model: nn.Module) -> Iterator[Opening]:
    """Yield an `Opening` that is entered, and told of the modules that run."""
    opening, begun = Opening(), list[int]()
    given: list[list[tuple[torch.Size, Edge]]] = []

    def enter(name: str, args: Any, kwargs: Any) -> None:
        opening.running.append(name)
        begun.append(len(opening.found))
        given.append([(one.shape, edge_of(one)) for one in _in_graph((args, kwargs))])

    def leave(module: nn.Module, output: Any) -> None:
        name, first, tokens = opening.running.pop(), begun.pop(), given.pop()
        if len(opening.found) == first + 1:
            outputs = _in_graph(fields_of(output))
            ran = Ran(name, module, tokens, [one.clone() for one in outputs], [*map(edge_of, outputs)])
            opening.found[first].around.append(ran)

    with turn_of(model), ExitStack() as hooks:
        for name, module in model.named_modules():
            # The defaults bind this loop's name; append returns None, so the hooks change nothing.
            hooks.enter_context(
                module.register_forward_pre_hook(
                    OfThread(lambda _m, args, kwargs, name=name: enter(name, args, kwargs)), with_kwargs=True
                )
            )
            hooks.enter_context(module.register_forward_hook(Looking(lambda m, _i, output: leave(m, output))))
        hooks.enter_context(opening)
        yield opening
    opening.lists = False


def _in_graph(tree: Any) -> list[Tensor]:
    return [one for one in tensors_of(tree) if one.ndim > 1 and one.requires_grad]
