"""Explain scores of a model: one forward, then for each score a gradient, the maps and what is to be said."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from xgradcam.cam.attention_methods import seen_by
from xgradcam.cam.class_maps import ClassMaps, numbers_of
from xgradcam.cam.evidence import Evidence, Probe, Progress, Together, probe_of
from xgradcam.cam.explanation import sensitivity_error
from xgradcam.cam.methods import METHODS
from xgradcam.cam.notes import evidence_facts
from xgradcam.capture.layers import recorded
from xgradcam.capture.recording import Recording
from xgradcam.errors import NoGradientError, XGradCamError
from xgradcam.layouts.layout import Layout, Said
from xgradcam.layouts.padding import WHOLE, Share, share_of_image
from xgradcam.layouts.sides import space
from xgradcam.lending.finding import AnyLayer
from xgradcam.lending.varying import require_image
from xgradcam.operations.constants import Kind
from xgradcam.proof.complete import Terms, Trace, trace
from xgradcam.scores.outputs import logits_of, require_finite
from xgradcam.scores.probability import probability_rule, require_rule
from xgradcam.scores.score import ClassScore, Score, values_of
from xgradcam.scores.targets import Classes, Targets, choose_targets, parse_targets, require_list

# Mirrored or not, and a factor for the contrast about the mean colour; the first changes nothing.
AUGMENTATIONS = tuple(product((False, True), (1.0, 0.9, 1.1)))

AnyScore = TypeVar("AnyScore", bound=Score)


@dataclass(frozen=True)
class _Explained(Generic[AnyScore]):
    """A score and its maps, still on the device: none of the numbers has been read.

    score: (N,), at least float32. facts: see `evidence_facts`. channels: the layer's. budget, constants,
    depth and share: see `Explanation`.
    """

    score_of: AnyScore
    score: Tensor
    maps: Mapping[str, Tensor]
    sensitivity: Mapping[str, Tensor]
    facts: Tensor
    channels: int
    budget: Mapping[str, Tensor]
    constants: Mapping[Kind, Tensor]
    depth: Mapping[str, Mapping[str, Tensor]]
    share: Share


# The shape of a sample's activation, and its layout.
FoundLayout: TypeAlias = tuple[torch.Size, Layout]


@dataclass(frozen=True)
class ScoreExplainer:
    """Explains scores of any inputs by the same model, layer and methods.

    found: layouts by the shape of an input; callers with many batches keep them while the model is the same.
    """

    model: nn.Module
    layer: AnyLayer
    methods: Sequence[str]
    progress: Progress
    axioms: bool = False
    layout: Said | None = None
    found: dict[torch.Size, FoundLayout] = field(default_factory=dict)

    def run(
        self, inputs: Tensor, scores_of: Callable[[Any], Sequence[AnyScore]]
    ) -> tuple[Any, list[_Explained[AnyScore]]]:
        """Run the model and explain the scores that `scores_of` chooses; the model's output comes first."""
        with torch.inference_mode(False):
            recording, layout, traced = self._recorded(inputs)
            chosen = scores_of(recording.output)
            with traced.tracer if traced else nullcontext():  # a score may have constants of its own
                scores = [values_of(score_of, recording.output, len(inputs)) for score_of in chosen]
            if self.axioms or traced or any(METHODS[method].asks_again for method in self.methods):
                # Before the network is asked thousands of times for nothing.
                for score in scores:
                    require_finite(score)
            explained = []
            about = recording, inputs, self.layer, layout
            together = Together(chosen, torch.stack(scores).detach()) if scores else None
            each = self._gradients(recording, chosen, scores, traced)
            for number, (score_of, score, derived) in enumerate(zip(chosen, scores, each, strict=True)):
                probe = Probe(*about, score_of, score, self.progress, together, number)
                explained.append(self._explained(score_of, evidence_from(probe, *derived)))
        return recording.output, explained

    def _recorded(self, inputs: Tensor) -> tuple[Recording, Layout, Trace | None]:
        """The recording and the layout, and the trace behind the layer if a method needs it."""
        shape, known = self.found.get(inputs.shape[1:], (None, None))
        if known is not None:
            with suppress(XGradCamError):
                found = self._record(inputs, known)
                # Where nothing in the model tells of another layout, its shape may.
                if found[0].activation.shape[1:] == shape:
                    return found
        found = self._record(inputs, self.layout)
        self.found[inputs.shape[1:]] = found[0].activation.shape[1:], found[1]
        return found

    def _record(self, inputs: Tensor, said: Said | None) -> tuple[Recording, Layout, Trace | None]:
        if not any(METHODS[method].complete for method in self.methods):
            return *recorded(self.model, inputs, self.layer, said), None
        traced = trace(self.model, inputs, self.layer, said)
        return traced.recording, traced.layout, traced

    def _gradients(
        self, recording: Recording, chosen: Sequence[Score], scores: Sequence[Tensor], traced: Trace | None
    ) -> Iterator[tuple[Tensor, Terms | None]]:
        """The gradient of each score; NaN if no method needs it, for a model may have none. And its terms."""
        if not any(METHODS[method].needs_gradient for method in self.methods):
            unknown = recording.activation.detach().new_tensor(torch.nan)
            yield from ((unknown.expand_as(recording.activation), None) for _ in scores)
            return
        try:
            if traced is None:
                yield from ((gradient, None) for gradient in recording.gradient_each(scores))
            else:
                yield from map(traced.terms, chosen, scores)
        except NoGradientError as error:
            each = METHODS.items()
            without = ", ".join(name for name, one in each if not (one.needs_gradient or one.of_attention))
            raise NoGradientError(f"{error}; methods that need no gradient: {without}") from error

    def classes(
        self,
        inputs: Tensor,
        classes: Classes,
        output: str | int | None,
        augment: bool,
        probability: str | None,
        late: bool = False,
    ) -> ClassMaps:
        """The maps of the classes, for `finished`; the arguments are those of `explain_classes`.

        late: leave it to `finished` to check all targets, as it does for those on a device.
        """
        in_range: list[Tensor] = []

        def scores_of(returned: Any) -> list[ClassScore]:
            logits = logits_of(returned, output)
            require_rule(probability, logits.shape[1])
            chosen = classes(logits.detach()) if callable(classes) else classes
            require_list(chosen)
            return [ClassScore(_targets(logits, one, late, in_range), output) for one in chosen]

        returned, explained = self.run(inputs, scores_of)
        if augment:
            explained = self.averaged(inputs, explained)
        scores = logits_of(returned, output)
        logits = _at_least_single(scores.detach())
        return ClassMaps(
            logits,
            (probability, "") if probability else probability_rule(scores),
            not probability,
            numbers_of(logits, [one.facts for one in explained], [one.maps for one in explained], in_range),
            [one.score for one in explained],
            [one.score_of.indices(logits) for one in explained],
            [dict(one.maps) for one in explained],
            [dict(one.sensitivity) for one in explained],
            [dict(one.budget) for one in explained],
            [dict(one.constants) for one in explained],
            [dict(one.depth) for one in explained],
            explained[0].channels if explained else 0,
            explained[0].share if explained else WHOLE,
        )

    def _explained(self, score_of: AnyScore, evidence: Evidence) -> _Explained[AnyScore]:
        probe, terms = probe_of(evidence), evidence.terms
        maps: dict[str, Tensor] = {}
        sensitivity: dict[str, Tensor] = {}
        depth: dict[str, Mapping[str, Tensor]] = {}
        score = _at_least_single(probe.score.detach())
        for method in self.methods:
            weights = METHODS[method](evidence)
            maps[method] = METHODS[method].map(evidence, weights)
            if METHODS[method].of_attention:
                depth[method] = seen_by(probe).depth(weights)
            elif self.axioms:
                channel_sums = (weights * evidence.activation).sum(dim=space(evidence.activation))
                drops = score[:, None] - probe.without_channels
                sensitivity[method] = sensitivity_error(channel_sums, drops)
        facts, channels = evidence_facts(evidence, self.methods), evidence.activation.shape[1]
        budget: dict[str, Tensor] = {}
        if terms is not None:
            budget = {name: value.to(score) for name, value in terms.budget(score).items()}
        elif any(METHODS[method].needs_gradient for method in self.methods):
            products = evidence.gradient * evidence.activation
            budget = {"feature": products.sum(dim=tuple(range(1, products.ndim)))}
        constants = {} if terms is None else {kind: at.to(score) for kind, at in terms.constants.items()}
        share = share_of_image(self.model, probe.inputs, self.layer)
        return _Explained(
            score_of, score, maps, sensitivity, facts, channels, budget, constants, depth, share
        )

    def averaged(
        self, inputs: Tensor, explained: Sequence[_Explained[AnyScore]]
    ) -> list[_Explained[AnyScore]]:
        """The same scores with maps averaged over the augmentations of the inputs."""
        sides = {one.ndim - 1 for each in explained for one in each.maps.values()}
        if inputs.ndim not in (4, 5) or 1 in sides:
            raise XGradCamError(
                "augmentation mirrors left and right, which reverses a signal in time: it needs inputs "
                f"(N, C, H, W), volumes or videos, and maps of them, not {tuple(inputs.shape)}"
            )
        require_image(self.model, inputs, self.layer)
        sums, scores = [dict(one.maps) for one in explained], [one.score_of for one in explained]
        for flipped, contrast in AUGMENTATIONS[1:]:
            _, varied = self.run(contrast * (inputs.flip(-1) if flipped else inputs), lambda _: scores)
            for total, one in zip(sums, varied, strict=True):
                for method, signed in one.maps.items():
                    total[method] = total[method] + (signed.flip(-1) if flipped else signed)
        means = [{method: total / len(AUGMENTATIONS) for method, total in maps.items()} for maps in sums]
        return [replace(one, maps=maps) for one, maps in zip(explained, means, strict=True)]


def _targets(logits: Tensor, targets: Targets, late: bool, in_range: list[Tensor]) -> Tensor:
    """The targets as in `choose_targets`, or else other classes, and False at the end of `in_range`."""
    chosen = parse_targets(targets, len(logits))
    if chosen is None or (chosen.device.type == "cpu" and not late):
        return choose_targets(logits, chosen)
    if isinstance(targets, int):
        chosen = torch.full_like(chosen, targets, device=logits.device)  # without waiting for a copy
    chosen = chosen.to(logits.device, non_blocking=True)
    safe = chosen.clamp(0, logits.shape[1] - 1)
    in_range.append((safe == chosen).all())
    return safe


def evidence_from(probe: Probe, gradient: Tensor, terms: Terms | None = None) -> Evidence:
    """The evidence of a recorded batch and a gradient by the layer's output, of its shape."""
    maps, gradients = probe.maps(), probe.layout.to_maps(gradient)
    return Evidence(_at_least_single(maps), _at_least_single(gradients), probe, terms)


def _at_least_single(values: Tensor) -> Tensor:
    """The values in float32 or more: half precision is too coarse for sums."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
