"""The constants of Eq. 5 at their places: maps that make a CAM add up to the score.

An operation v behind the layer adds b_v(x, y) = Σ_c ĝ_v[c, x, y] c_v[c, x, y] at the places of its result,
where ĝ is the gradient of the score and c_v the operation's intercept. With HiResCAM's map of the features,

    S = Σ_xy Σ_k g_k F^k (x, y) + Σ_xy Σ_v b_v(x, y) + nowhere

exactly, at any layer. *Nowhere* is what has no place: constants behind global pooling, class tokens.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from xgradcam.capture.layers import recorded
from xgradcam.capture.recording import Recording
from xgradcam.errors import XGradCamError
from xgradcam.layouts.following import follower_at
from xgradcam.layouts.layout import Layout, Said, said_layout
from xgradcam.layouts.memory import finder_of
from xgradcam.lending.differentiating import refuse_custom_functions
from xgradcam.lending.finding import AnyLayer, find_layer
from xgradcam.lending.keeping import kept
from xgradcam.lending.several import for_sample
from xgradcam.operations.calls import refuse_scripted
from xgradcam.operations.constants import Kind
from xgradcam.operations.masses import Masses
from xgradcam.operations.places import Follower
from xgradcam.proof.tracing import TracedIntercept, Tracer
from xgradcam.proof.verification import RELATIVE_TOLERANCE, tolerance_of
from xgradcam.scores.score import Score, of_sample, values_of

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of Eq. 5 at their places, of N scores; float64.

    feature: Σ_xy Σ_k g_k F^k over the layer's places, (N,). constants: kind -> map (N, h, w). nowhere: what
    has no place, (N,). magnitude: the sum of the absolute terms, entry by entry in the feature term, (N,).
    """

    feature: Tensor
    constants: dict[Kind, Tensor]
    nowhere: Tensor
    magnitude: Tensor

    def budget(self, score: Tensor) -> dict[str, Tensor]:
        """The parts of the scores (N,), (N,) each; see `Explanation`."""
        sums: dict[str, Tensor] = {kind: maps.flatten(1).sum(dim=1) for kind, maps in self.constants.items()}
        cancellation = self.magnitude / score.double().abs()
        return {"feature": self.feature, **sums, "nowhere": self.nowhere, "cancellation": cancellation}

    def sum(self) -> Tensor:
        """The score as its terms have it, (N,)."""
        placed = sum(constants.flatten(1).sum(dim=1) for constants in self.constants.values())
        return self.feature + placed + self.nowhere


@dataclass(frozen=True, eq=False)
class Trace:
    """One forward of a model, with every operation behind a layer and the places of its results.

    inputs: (N, ...). layout: of the layer's output.
    """

    model: nn.Module
    inputs: Tensor
    layer: AnyLayer
    layout: Layout
    recording: Recording
    tracer: Tracer

    def terms(self, score_of: Score, score: Tensor) -> tuple[Tensor, Terms]:
        """The gradient by the layer's output, in its shape, and the terms of a score (N,).

        score_of: from the model's output to the score.
        Raises XGradCamError if the terms do not add up to the score.
        """
        if score.dtype not in RELATIVE_TOLERANCE:
            raise XGradCamError(
                f"the model computes in {str(score.dtype).removeprefix('torch.')}, too coarse for a map that "
                "adds up to the score: take float32 or float64"
            )
        refuse_custom_functions(score)
        gradient, terms = self._terms(score)
        if terms is None or not bool(self._closes(terms, score).all()):
            terms = self._one_by_one(score_of, score)
        return gradient, terms

    def _closes(self, terms: Terms, score: Tensor) -> Tensor:
        """True where the terms add up to the score, within the tolerance of `Verification`, (N,)."""
        dtype = max(self._dtypes(score) & RELATIVE_TOLERANCE.keys(), key=lambda each: torch.finfo(each).eps)
        score = score.detach().double()
        return (score - terms.sum()).abs() <= tolerance_of(score, terms.magnitude, dtype)

    def _dtypes(self, score: Tensor) -> set[torch.dtype]:
        """The precisions in which the layer's output, the score and what lies between are computed."""
        return {score.dtype, self.recording.activation.dtype, *(one.dtype for one in self.tracer.intercepts)}

    def _terms(self, score: Tensor) -> tuple[Tensor, Terms | None]:
        """The gradient and the terms; None if an operation's result has no axis of the samples.

        The gradient at an operation's result is summed while the backward pass has it, and not kept.
        """
        samples, follower = len(self.inputs), self.tracer.follower or Follower(*self.layout.grid)
        masses = {kind: Masses(follower, samples) for kind in KINDS}
        sizes: list[Tensor | None] = []

        def add(one: TracedIntercept, gradients: Sequence[Tensor | None]) -> None:
            by_result = gradients[one.edge.output_nr]
            if by_result is not None:
                sizes.append(masses[one.kind].add(one.places, by_result, one.value))

        with ExitStack() as hooks:
            for one in self.tracer.intercepts if samples else ():
                hooks.callback(one.edge.node.register_prehook(partial(add, one)).remove)
            gradient = self.recording.gradient(score)
        activation = self.recording.activation.detach()
        products = (self.layout.to_maps(gradient) * self.layout.to_maps(activation)).flatten(1)
        feature = products.sum(dim=1).double()
        # A sample may have several rows.
        every = (gradient * activation).reshape(samples, -1) if samples else gradient.flatten(1)
        nowhere, magnitude = every.sum(dim=1).double() - feature, every.abs().sum(dim=1).double()
        constants = {}
        for kind, mass in masses.items():
            constants[kind], rest = mass.at_cells(feature)
            nowhere = nowhere + rest
        right = [size for size in sizes if size is not None]
        if len(right) < len(sizes):
            return gradient, None
        magnitude = magnitude + sum(size.abs() for size in right)
        return gradient, Terms(feature, constants, nowhere, magnitude)

    def _one_by_one(self, score_of: Score, score: Tensor) -> Terms:
        """The terms of each sample by itself: behind the layer, the first axis may not be the samples'."""
        each, known = [], RELATIVE_TOLERANCE.keys()
        for sample, trace in enumerate(self._alone):
            with trace.tracer:  # the score may have constants of its own
                alone = values_of(of_sample(score_of, sample), trace.recording.output, 1)
            _, terms = trace._terms(alone)
            if terms is None or not trace._closes(terms, score[sample : sample + 1]):
                whole = float(score[sample].detach())
                left = 0.0 if terms is None else whole - float(terms.sum())
                advice = "proof-verify (verify) shows them, float64 (--double there) rounds less"
                if coarse := [str(dtype).removeprefix("torch.") for dtype in trace._dtypes(score) - known]:
                    advice = f"behind the layer the model computes in {coarse[0]}: take float32 or float64"
                raise XGradCamError(
                    f"no complete map: its terms leave {left:.3g} of the score {whole:.6g} open; {advice}"
                )
            each.append(terms)
        return Terms(
            torch.cat([one.feature for one in each]),
            {kind: torch.cat([one.constants[kind] for one in each]) for kind in KINDS},
            torch.cat([one.nowhere for one in each]),
            torch.cat([one.magnitude for one in each]),
        )

    @kept
    def _alone(self) -> list["Trace"]:
        return [
            trace(for_sample(self.model, sample), self.inputs[sample : sample + 1], self.layer, self.layout)
            for sample in range(len(self.inputs))
        ]


def trace(model: nn.Module, inputs: Tensor, layer: AnyLayer, said: Said | None) -> Trace:
    """Run the model once and trace the operations behind the layer; the arguments are those of `explain`."""
    refuse_scripted(model)
    known = finder_of(model, find_layer(model, layer)[1], inputs)
    tracing = _Tracing(said, known, inputs.ndim)
    recording, layout = recorded(model, inputs, layer, said, tracing.begin)
    if tracing.layout != layout:  # it was not known before the layer ran, and guessed wrong
        tracing = _Tracing(layout, known, inputs.ndim)
        recording, layout = recorded(model, inputs, layer, layout, tracing.begin)
    return Trace(model, inputs, layer, layout, recording, tracing.tracer)


class _Tracing:
    """Begins to trace at the layer's output: as the layout said, found before, or else as maps (N, C, h, w).

    known: from the shape of the output to the layout found before, if there is one. axes: of the inputs.
    """

    def __init__(
        self, said: Said | None, known: Callable[[tuple[int, ...]], Layout | None], axes: int
    ) -> None:
        self.said, self.known, self.axes = said, known, axes
        self.layout: Layout | None = None
        self.tracer = Tracer()

    def begin(self, activation: Tensor) -> AbstractContextManager[Any]:
        """The context that traces what is computed from the activation."""
        self.layout = None
        if self.said is not None:
            # Where it does not fit, the recording says so.
            with suppress(XGradCamError):
                self.layout = said_layout(self.said, activation, 1 if self.axes < 4 else 2)
        elif (known := self.known(activation.shape)) is not None:
            self.layout = known
        elif activation.ndim in (4, self.axes):
            self.layout = Layout.of("maps", activation.shape[2:])
        if self.layout is None:
            return nullcontext()
        self.tracer = Tracer(follower=follower_at(self.layout, activation))
        return self.tracer
