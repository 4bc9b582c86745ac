"""Run a model once and keep, at one layer, the activation and the graph from there to the output."""

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
from xgradcam.capture.layers import find_layer
from xgradcam.errors import XGradCamError

# Numbers in the gradients that are computed at once: 64 MB in float32.
LARGEST = 2**24


@dataclass(frozen=True)
class Recording:
    """One forward of a model whose graph starts at a layer.

    activation: a copy of the layer's output and the leaf of the graph, (N, ...).
    output: what the model returned; its tensors depend on `activation`. model: that ran.
    """

    activation: Tensor
    output: Any
    model: nn.Module

    def gradient(self, score: Tensor) -> Tensor:
        """Gradient of the score by the activation, of its shape; `score` is (N,), one number a sample.

        Raises XGradCamError where the score does not depend on the layer.
        """
        return self.gradients(score)[0]

    def gradients(
        self, score: Tensor, further: Sequence[GradientEdge] = ()
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """The gradient by the activation, and those at further places, None where nothing arrives."""
        gradient: Tensor | None = None
        others: Sequence[Tensor | None] = ()
        if score.requires_grad:
            # Checkpointed modules run once more here: as they ran before.
            with borrowed(self.model), torch.enable_grad():
                edges = [get_gradient_edge(self.activation), *further]
                with _autograds_refusals():
                    gradient, *others = torch.autograd.grad(
                        score.sum(), edges, retain_graph=True, allow_unused=True
                    )
        if gradient is None:
            raise XGradCamError(
                "the score does not depend on the layer: take a layer on the way to it, one that the model "
                "does not run under torch.no_grad()"
            )
        return gradient, tuple(others)

    def gradient_each(self, scores: Sequence[Tensor]) -> Iterator[Tensor]:
        """The gradient of each of the scores, in their order; `LARGEST` numbers of them at a time."""
        together = max(1, LARGEST // max(1, self.activation.numel()))
        for start in range(0, len(scores), together):
            chosen = scores[start : start + together]
            batched = self._batched(chosen) if len(chosen) > 1 else None
            yield from map(self.gradient, chosen) if batched is None else batched

    def _batched(self, scores: Sequence[Tensor]) -> Tensor | None:
        """The gradients by one backward for all; None where an operation does not take to that."""
        sums = torch.stack([score.sum() for score in scores])
        if not sums.requires_grad:
            return None
        try:
            with borrowed(self.model), torch.enable_grad(), warnings.catch_warnings():
                # That an operation goes through them one by one is no news to a user.
                warnings.simplefilter("ignore")
                each = torch.eye(len(scores), dtype=sums.dtype, device=sums.device)
                return torch.autograd.grad(
                    sums, self.activation, each, retain_graph=True, is_grads_batched=True
                )[0]
        except RuntimeError:
            return None

    def hessian_product(self, score: Tensor, direction: Tensor) -> Tensor:
        """H·direction, of the activation's shape, with H the score's second derivatives by the activation.

        0 where the network behind the layer is piecewise linear. Raises NotImplementedError where an
        operation has no second derivative.
        """
        zero = torch.zeros_like(self.activation)
        if not score.requires_grad:
            return zero
        with borrowed(self.model), torch.enable_grad():
            with _autograds_refusals():
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


def replay(model: nn.Module, inputs: Tensor, layer: str | nn.Module, activation: Tensor) -> Any:
    """What `model(inputs)` returns if the layer returns `activation`, without a graph.

    activation: as the layer's output, of one sample or of any number M of variants of it: inputs of one
    sample are enough where everything behind the layer is computed from the layer's output. It is written to
    where the model works in place.
    """
    _name, module = find_layer(model, layer)

    def stand_in(_module: nn.Module, _inputs: Any, _output: Any) -> Tensor:
        return activation

    with borrowed(model):
        inputs = inputs.clone() if inputs.is_inference() else inputs
        with module.register_forward_hook(stand_in):
            return model(inputs)


def record(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    downstream: AbstractContextManager[Any] | None = None,
    arrangement: Arrangement | None = None,
) -> Recording:
    """Run `model(inputs)` once and record the graph from the output of `layer` on.

    inputs: (N, ...). layer: a module of the model, or its name. downstream: a context that is entered
    behind the layer and left after the forward. arrangement: kept by a caller with many batches.
    What follows is given a copy of the layer's output: of a layer that works in place, its input keeps what
    was written to it, but is no part of the graph. One call at a time for a model: it is not thread-safe.
    Raises XGradCamError where the layer is not the model's, or does not return one tensor exactly once.
    """
    name, module = find_layer(model, layer)
    if not isinstance(inputs, Tensor):
        raise XGradCamError(f"the inputs are a {type(inputs).__name__}: give a tensor (N, ...)")
    if isinstance(model, torch.jit.ScriptModule):
        raise XGradCamError("the model is scripted: give the module that it was made from")

    def run(arranged: Tensor) -> Recording:
        leaves: list[Tensor] = []

        def start_graph(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
            if leaves:
                raise XGradCamError(
                    f"layer '{name}' runs more than once in a forward: take one that runs once"
                )
            # A module may hand on its own input, which the rest of the model may still write to.
            leaf = _rows(_activation_of(name, output).detach()).requires_grad_()
            leaves.append(leaf)
            torch.set_grad_enabled(True)
            behind.enter_context(_mended_norms())
            # An in-place operation that follows must write to a copy, never to the leaf.
            activation = leaf.clone()
            if downstream is not None:
                behind.enter_context(downstream)
            return activation

        # Not without a graph by `borrowed` alone: what ran before may have ended behind the layer.
        with torch.no_grad(), ExitStack() as behind:
            with module.register_forward_hook(start_graph):
                with _autograds_refusals():
                    output = model(arranged)
        if not leaves:
            raise XGradCamError(f"layer '{name}' did not run: the model's forward does not call it here")
        return Recording(leaves[0], output, model)

    with borrowed(model):
        inputs = inputs.clone() if inputs.is_inference() else inputs
        return run(inputs) if downstream is not None else (arrangement or Arrangement()).run(inputs, run)


def _rows(output: Tensor) -> Tensor:
    """A copy, row by row in memory if it is of maps: what follows shall not meet another order than usual."""
    return output.clone(memory_format=torch.contiguous_format if output.ndim == 4 else torch.preserve_format)


@contextmanager
def _autograds_refusals() -> Iterator[None]:
    """Say in one line what of the model autograd does not allow."""
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


def _mended_norms() -> AbstractContextManager[Any]:
    """Have batch and instance norms hand on their gradients in the memory layout of their outputs.

    For one sample on a CPU, PyTorch (2.14) takes strides as of a transposed sequence of tokens for another
    layout, and then returns a wrong gradient without a word.
    """
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}

    def mend(module: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(module, _NormBase) or not isinstance(output, Tensor) or not output.requires_grad:
            return
        if len(output) == 1 and output.ndim in layouts:
            layout = torch.contiguous_format if output.is_contiguous() else layouts[output.ndim]
            output.register_hook(partial(torch.Tensor.contiguous, memory_format=layout))  # type: ignore[no-untyped-call]

    return register_module_forward_hook(mend)


def _activation_of(name: str, output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise XGradCamError(
            f"layer '{name}' returns a {type(output).__name__}, not a tensor: take one inside it"
        )
    if not output.is_floating_point():
        raise XGradCamError(f"layer '{name}' returns {output.dtype} numbers, which have no gradient")
    return output
