"""Run a model once; keep the activation of one layer and the graph from it to the output."""

import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge

from xgradcam.errors import UNWARNED, NoGradientError, XGradCamError
from xgradcam.figures.reprs import Brief
from xgradcam.lending.borrowing import arranged, borrowed, fields_of
from xgradcam.lending.detours import detours, listing_new
from xgradcam.lending.differentiating import REENTRANT, inside_checkpoint, readable_autograd_errors
from xgradcam.lending.finding import AnyLayer, LayerRun, at_run, find_layer, is_input, run_of
from xgradcam.lending.hooks import StackOfThread, is_found_aside
from xgradcam.lending.inputs import Inputs, advice_on, lent
from xgradcam.lending.keeping import kept
from xgradcam.lending.norms import contiguous_norm_gradients
from xgradcam.lending.outputs import at_output, in_place_of, is_new
from xgradcam.lending.several import Place
from xgradcam.lending.turns import in_turn
from xgradcam.operations.calls import custom_functions, edge_of, edges_of, refuse_scripted, tensors_of

# From the layer's output, as the rest of the model gets it, to a context for that rest.
Downstream: TypeAlias = Callable[[Tensor], AbstractContextManager[Any]]

# Limit on the gradient entries computed in one batch: 64 MB in float32.
MAX_ENTRIES = 2**24
DETOUR = (
    "the score also depends on the layer's output by a tensor that the layer makes of it and keeps, as in an "
    "attribute or a hook's list: take the module inside it that makes the output, or make that tensor outside"
)


@dataclass(frozen=True, repr=False)
class Recording(Brief):
    """One forward pass of a model, with a graph that starts at a layer.

    activation: a copy of the layer's output, (N, ...), the leaf of the graph. output: everything that the
    model returned, a tensor or a structure of tensors, which depend on `activation`. model: the one that ran.
    place: among the layer's hooks, where the graph starts, for `replay`. find_detours: tells of which tensors
    in the output the layer's own reaches past the graph. edges: others by which it does.
    """

    activation: Tensor
    output: Any
    model: nn.Module
    place: int = 0
    find_detours: Callable[[], Sequence[bool]] = tuple
    edges: Sequence[tuple[Any, int]] = ()

    @kept
    def _detours(self) -> set[tuple[Any, int]]:
        found = zip(tensors_of(fields_of(self.output)), self.find_detours(), strict=False)
        return {*self.edges, *(edge_of(one) for one, past in found if past and one.requires_grad)}

    def refuse_detours(self, score: Tensor) -> None:
        """Raise XGradCamError if the score depends on the layer's output past the graph: see `detours`."""
        if self._detours and not self._detours.isdisjoint(edges_of(score)):
            raise XGradCamError(DETOUR)

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
        self.refuse_detours(score)
        if score.requires_grad:
            # Borrowed again: checkpointed modules run once more here, and must run as before.
            with borrowed(self.model), torch.enable_grad():
                all_edges = [get_gradient_edge(self.activation), *edges]
                with readable_autograd_errors():
                    gradient, *others = torch.autograd.grad(
                        score.sum(), all_edges, retain_graph=True, allow_unused=True
                    )
        if gradient is None:
            raise NoGradientError(self._why_no_gradient(score))
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
        self.refuse_detours(sums)
        if not sums.requires_grad:
            return None
        try:
            # PyTorch warns of operations that loop over the batch; users need not know.
            with borrowed(self.model), torch.enable_grad(), UNWARNED:
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
        for function in custom_functions(score):
            # PyTorch gives 0 for its second derivatives, without an error.
            if function.backward.__code__.co_filename == once_differentiable.__code__.co_filename:
                name = function.__name__
                raise NotImplementedError(f"the function {name} has none, it is marked once_differentiable")
        with borrowed(self.model), torch.enable_grad():
            with readable_autograd_errors():
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
                    if not re.search("is not implemented|differentiate twice|double backward", str(error)):
                        raise
                    raise NotImplementedError(str(error).splitlines()[0]) from None
        return zero if second is None else second


@in_turn
def record(
    model: nn.Module,
    inputs: Inputs,
    layer: AnyLayer,
    downstream: Downstream | None = None,
    *,
    image: Place | None = None,
    run: int | None = None,
) -> Recording:
    """Run `model(inputs)` once and record the graph from the output of `layer` on.

    inputs, image, run: as in `explain`; other runs of the layer are as in the plain network. layer: a module
    of the model, or its name; `input` for the inputs themselves.
    downstream: makes a context that is entered after the layer and left after the forward pass.
    The layer's output is that of its last forward hook that returns another one. The rest of the model, and
    whoever keeps the output in a hook or an attribute, gets a copy in the graph. So if the layer works in
    place, another branch that reads its input sees the written values, but without a graph.
    Raises XGradCamError for a layer of another model, or one that does not return one tensor exactly once.
    """
    layer = layer if isinstance(layer, LayerRun) else at_run(layer, run)
    (name, module), number = find_layer(model, layer), run_of(layer)
    model, inputs = lent(model, inputs, image)
    start, of_input = _Start(name, module, downstream, number), is_input(model, layer)
    again: Callable[[], Sequence[bool]] = tuple
    with ExitStack() as failed:
        failed.callback(start.release)
        with advice_on(model, inputs), borrowed(model) as forward:
            inputs = arranged(model, forward, inputs)
            at_layer = nullcontext() if of_input else start.at_layer()
            with start.behind, at_layer, readable_autograd_errors():
                given = start(0, inputs, inputs) if of_input else inputs
                returned = forward(inputs if given is None else given)
        if not start.runs and is_found_aside(module):
            return record(model, inputs, layer, downstream)
        if not start.runs:
            refuse_scripted(model, around=name)
            raise XGradCamError(f"layer '{name}' did not run: the model's forward does not call it here")
        if start.keeps and not start.place:
            again = partial(detours, model, inputs, module, number)
            start.give_edges(returned)
        leaf = start.leaf_or_error()
        recording = Recording(leaf, returned, model, start.place, again, start.edges)
        failed.pop_all()
    weakref.finalize(recording, start.release).atexit = False
    return recording


class _Start:
    """Starts the graph at a layer's output, and enters `downstream`; called at each `place` of `at_output`.

    runs: of the layer. place: the last one at which the output was another than before. keeps: True if a
    tensor made in the layer is kept. edges: of outputs that a hook has made, for what it made of them.
    """

    def __init__(
        self, name: str, module: nn.Module, downstream: Downstream | None, number: int | None
    ) -> None:
        self._number = number
        self.runs, self.place = 0, 0
        self.behind = StackOfThread()
        self._name, self._module, self._downstream = name, module, downstream
        self._output: Any = None
        self._version = 0
        self._new: Callable[[], list[Tensor]] = list
        self.keeps, self.edges = False, list[tuple[Any, int]]()
        self._made: list[weakref.ref[Tensor]] = []
        self._leaf: Tensor | None = None
        self._replaced: list[Tensor] = []
        self._returned: list[Tensor] = []

    def release(self) -> None:
        """Take the outputs that the model or a hook may have kept out of the graph."""
        for output in self._replaced:
            output.detach_()
        for tensor in self._returned:
            tensor.requires_grad_(False)

    def give_edges(self, returned: Any) -> None:
        """Give tensors without a graph an edge, by which a score tells that it depends on them."""
        plain = (one for one in tensors_of(fields_of(returned)) if one.is_floating_point())
        self._returned = [one.requires_grad_() for one in plain if not one.requires_grad]

    @contextmanager
    def at_layer(self) -> Iterator[None]:
        """Have this called at the layer's output, with a list of the tensors that are new there."""
        with listing_new(self._module) as self._new, at_output(self._module, self):
            yield

    def __call__(self, place: int, given: Any, output: Any) -> Tensor | None:
        if place and self._number not in (None, self.runs - 1):
            return None
        if place:
            self.keeps |= any(made() is not None for made in self._made)
            self._made = []
            return self._see(place, given, output)
        self.runs += 1
        made = self._new()
        if self._number not in (None, self.runs - 1):
            return None
        replacement = self._see(place, given, output)
        # Who alone held them lets go of them before the next place.
        self._made = [weakref.ref(tensor) for tensor in made if tensor is not self._output]
        return replacement

    def _see(self, place: int, given: Any, output: Any) -> Tensor | None:
        if self.runs > 1 and self._number is None:
            raise XGradCamError(
                f"layer '{self._name}' runs more than once in a forward: take one that runs once, or name "
                "its run by run=, 0 for the first"
            )
        same = output is self._output
        if same and (self._leaf is None or output._version == self._version):
            return None
        if self._leaf is not None:
            if isinstance(output, Tensor) and output.requires_grad:
                self.edges.append(edge_of(output))
            # A hook changed the output: what others keep of the one before does not come from the new one.
            self._output.detach_()
            self.behind.close()
        self.place, self._output, self._leaf = place, output, None
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        if inside_checkpoint():
            raise XGradCamError(f"layer '{self._name}' runs inside of {REENTRANT}")
        # A hook that writes into the output hands on the object that others keep.
        return self._started(output, same or (place == 0 and is_new(self._module, output, given)))

    def _started(self, output: Tensor, new: bool) -> Tensor:
        # A copy: a module may return its own input, and the rest of the model may write to that.
        leaf = _row_major_copy(output.detach()).requires_grad_()
        torch.set_grad_enabled(True)
        self.behind.enter_context(contiguous_norm_gradients())
        # Another copy: in-place operations cannot write to a leaf.
        replacement = leaf.clone()
        copy = in_place_of(output, replacement) if new else replacement
        if copy is output:
            self._replaced.append(output)
        if self._downstream is not None:
            self.behind.enter_own(self._downstream(copy))
        self._leaf, self._output, self._version = leaf, copy, copy._version
        return copy

    def leaf_or_error(self) -> Tensor:
        """The leaf of the graph; XGradCamError if the layer's output is not one floating-point tensor."""
        if self._leaf is not None:
            return self._leaf
        if self._number is not None and self.runs <= self._number:
            raise XGradCamError(f"layer '{self._name}' runs {self.runs} times: its last is {self.runs - 1}")
        if isinstance(self._output, Tensor):
            what = f"{self._output.dtype} numbers, which have no gradient"
        else:
            what = f"a {type(self._output).__name__}, not a tensor: take one inside it"
        raise XGradCamError(f"layer '{self._name}' returns {what}")


def _row_major_copy(output: Tensor) -> Tensor:
    """A copy, with maps in row-major order, the order that the rest of the model usually gets."""
    return output.clone(memory_format=torch.contiguous_format if output.ndim == 4 else torch.preserve_format)
