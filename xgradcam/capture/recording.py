"""Run a model once; keep the activation of one layer and the graph from it to the output."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_hook

from xgradcam.capture.borrowing import Arrangement, borrowed
from xgradcam.capture.calls import tensors_of
from xgradcam.capture.layers import find_layer
from xgradcam.errors import XGradCamError

# Limit on the gradient entries computed in one batch: 64 MB in float32.
MAX_ENTRIES = 2**24


@dataclass(frozen=True)
class Recording:
    """One forward pass of a model, with a graph that starts at a layer.

    activation: a copy of the layer's output, (N, ...), the leaf of the graph. output: everything that the
    model returned, a tensor or a structure of tensors, which depend on `activation`. model: the one that ran.
    """

    activation: Tensor
    output: Any
    model: nn.Module

    def gradient(self, score: Tensor) -> Tensor:
        """The gradient of the score with respect to the activation, in its shape; score: (N,).

        Raises XGradCamError if the score does not depend on the layer.
        """
        return self.gradients(score)[0]

    def gradients(
        self, score: Tensor, edges: Sequence[GradientEdge] = ()
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """The gradient with respect to the activation, and those at other edges, None where there is none."""
        gradient: Tensor | None = None
        others: Sequence[Tensor | None] = ()
        if score.requires_grad:
            # Borrowed again: checkpointed modules run once more here, and must run as before.
            with borrowed(self.model), torch.enable_grad():
                all_edges = [get_gradient_edge(self.activation), *edges]
                with _readable_autograd_errors():
                    gradient, *others = torch.autograd.grad(
                        score.sum(), all_edges, retain_graph=True, allow_unused=True
                    )
        if gradient is None:
            raise XGradCamError(self._why_no_gradient(score))
        return gradient, tuple(others)

    def _why_no_gradient(self, score: Tensor) -> str:
        why = "the score does not depend on the layer: take a layer on the way to it"
        if score.requires_grad:
            return why
        loser = "score" if any(tensor.requires_grad for tensor in tensors_of(self.output)) else "model"
        return (
            f"{why}; or the {loser} loses the gradient, by detach(), .data, item(), NumPy or torch.no_grad()"
        )

    def gradient_each(self, scores: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the gradient of each score, in order; at most `MAX_ENTRIES` entries are computed at once."""
        size = max(1, MAX_ENTRIES // max(1, self.activation.numel()))
        for start in range(0, len(scores), size):
            batch = scores[start : start + size]
            gradients = self._batched(batch) if len(batch) > 1 else None
            yield from map(self.gradient, batch) if gradients is None else gradients

    def _batched(self, scores: Sequence[Tensor]) -> Tensor | None:
        """The gradients of all scores in one backward pass; None if an operation cannot be batched."""
        sums = torch.stack([score.sum() for score in scores])
        if not sums.requires_grad:
            return None
        try:
            with borrowed(self.model), torch.enable_grad(), warnings.catch_warnings():
                # PyTorch warns of operations that loop over the batch; users need not know.
                warnings.simplefilter("ignore")
                each = torch.eye(len(scores), dtype=sums.dtype, device=sums.device)
                return torch.autograd.grad(
                    sums, self.activation, each, retain_graph=True, is_grads_batched=True
                )[0]
        except RuntimeError:
            return None

    def hessian_product(self, score: Tensor, direction: Tensor) -> Tensor:
        """H·direction, in the activation's shape; H: the score's second derivatives by the activation.

        0 if the network behind the layer is piecewise linear. Raises NotImplementedError if an operation has
        no second derivative.
        """
        zero = torch.zeros_like(self.activation)
        if not score.requires_grad:
            return zero
        with borrowed(self.model), torch.enable_grad():
            with _readable_autograd_errors():
                (first,) = torch.autograd.grad(
                    score.sum(), self.activation, create_graph=True, allow_unused=True
                )
                if first is None or not first.requires_grad:
                    return zero
                try:
                    (second,) = torch.autograd.grad(
                        first, self.activation, direction, retain_graph=True, allow_unused=True
                    )
                except RuntimeError as error:
                    if not re.search("is not implemented|differentiate twice", str(error)):
                        raise
                    raise NotImplementedError(str(error).splitlines()[0]) from None
        return zero if second is None else second


def record(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    downstream: AbstractContextManager[Any] | None = None,
    arrangement: Arrangement | None = None,
) -> Recording:
    """Run `model(inputs)` once and record the graph from the output of `layer` on.

    inputs: (N, ...). layer: a module of the model, or its name. downstream: a context that is entered after
    the layer and left after the forward pass. arrangement: kept by callers with many batches.
    The rest of the model gets a copy of the layer's output. So if the layer works in place, another branch
    that reads its input sees the written values, but without a graph.
    Not thread-safe: one call at a time for each model.
    Raises XGradCamError for a layer of another model, or one that does not return one tensor exactly once.
    """
    name, module = find_layer(model, layer)
    if not isinstance(inputs, Tensor):
        raise XGradCamError(f"the inputs are a {type(inputs).__name__}: give a tensor (N, ...)")
    if isinstance(model, torch.jit.ScriptModule):
        raise XGradCamError("the model is scripted: give the module that it was made from")

    def run(arranged: Tensor) -> Recording:
        # no_grad once more: a first run that failed behind the layer leaves gradients switched on.
        with torch.no_grad(), _graph_from(name, module, downstream) as leaves, _readable_autograd_errors():
            returned = model(arranged)
        if not leaves:
            raise XGradCamError(f"layer '{name}' did not run: the model's forward does not call it here")
        return Recording(leaves[0], returned, model)

    with borrowed(model):
        inputs = inputs.clone() if inputs.is_inference() else inputs
        return run(inputs) if downstream is not None else (arrangement or Arrangement()).run(inputs, run)


@contextmanager
def _graph_from(
    name: str, module: nn.Module, downstream: AbstractContextManager[Any] | None
) -> Iterator[list[Tensor]]:
    """Start the graph at the output of the module, and enter `downstream`; yield a list for the leaf."""
    leaves: list[Tensor] = []

    def start_graph(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if leaves:
            raise XGradCamError(f"layer '{name}' runs more than once in a forward: take one that runs once")
        # A copy: a module may return its own input, and the rest of the model may write to that.
        leaf = _row_major_copy(_require_activation(name, output).detach()).requires_grad_()
        leaves.append(leaf)
        torch.set_grad_enabled(True)
        behind.enter_context(_contiguous_norm_gradients())
        # Another copy: in-place operations cannot write to a leaf.
        activation = leaf.clone()
        if downstream is not None:
            behind.enter_context(downstream)
        return activation

    with ExitStack() as behind, module.register_forward_hook(start_graph):
        yield leaves


def _require_activation(name: str, output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise XGradCamError(
            f"layer '{name}' returns a {type(output).__name__}, not a tensor: take one inside it"
        )
    if not output.is_floating_point():
        raise XGradCamError(f"layer '{name}' returns {output.dtype} numbers, which have no gradient")
    return output


def _row_major_copy(output: Tensor) -> Tensor:
    """A copy, with maps in row-major order, the order that the rest of the model usually gets."""
    return output.clone(memory_format=torch.contiguous_format if output.ndim == 4 else torch.preserve_format)


def replay(model: nn.Module, inputs: Tensor, layer: str | nn.Module, activation: Tensor) -> Any:
    """Run `model(inputs)` without a graph, with the layer's output replaced by `activation`.

    activation: (M, ...), any number of variants of one sample's. The inputs of one sample suffice if the
    rest of the model depends on the layer's output only. A model that works in place writes to `activation`.
    """
    _name, module = find_layer(model, layer)

    def replace(_module: nn.Module, _inputs: Any, _output: Any) -> Tensor:
        return activation

    with borrowed(model):
        inputs = inputs.clone() if inputs.is_inference() else inputs
        with module.register_forward_hook(replace):
            return model(inputs)


@contextmanager
def _readable_autograd_errors() -> Iterator[None]:
    """Turn autograd's errors about in-place writes and inference tensors into one line."""
    try:
        yield
    except RuntimeError as error:
        if re.search("Inference tensors", str(error)):
            raise XGradCamError(
                "the model was made under torch.inference_mode(), which forbids gradients"
            ) from None
        if not re.search("in-?place", str(error)):
            raise
        reason = str(error).splitlines()[0]
        raise XGradCamError(f"behind the layer the model cannot be differentiated: {reason}") from None


def _contiguous_norm_gradients() -> AbstractContextManager[Any]:
    """Give batch and instance norms their output's gradient in the memory layout of that output.

    PyTorch (2.14) misreads the strides of one sample on a CPU, for example of transposed tokens, as another
    layout, and returns a wrong gradient without an error.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}

    def fix(module: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(module, _NormBase) or not isinstance(output, Tensor) or not output.requires_grad:
            return
        if len(output) == 1 and output.ndim in formats:
            order = torch.contiguous_format if output.is_contiguous() else formats[output.ndim]
            output.register_hook(partial(torch.Tensor.contiguous, memory_format=order))  # type: ignore[no-untyped-call]

    return register_module_forward_hook(fix)
