"""The public entry: from a model, a batch and a layer to an explanation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from xgradcam.cam.class_maps import (
    Classes,
    ClassMaps,
    finished,
    notes_of,
    numbers_of,
    require_list,
    require_rule,
)
from xgradcam.cam.evidence import Evidence, Probe, Progress, probe_of
from xgradcam.cam.explanation import ClassExplanation, Explanation, sensitivity_error, weighted_map
from xgradcam.cam.methods import METHODS, known_methods
from xgradcam.cam.notes import evidence_facts
from xgradcam.capture.layers import recorded
from xgradcam.capture.probability import probability_rule
from xgradcam.capture.recording import Recording
from xgradcam.capture.scores import (
    ClassScore,
    Score,
    Targets,
    choose_targets,
    finite_logits_of,
    logits_of,
    parse_targets,
    require_finite,
    values_of,
)
from xgradcam.errors import NoGradientError, XGradCamError
from xgradcam.layouts.layout import Layout, Said
from xgradcam.lending.inputs import plain_inputs

DEFAULT_METHODS = ("grad-cam", "xgrad-cam")
# Mirrored or not, and a factor for the contrast about the mean colour; the first changes nothing.
AUGMENTATIONS = tuple(product((False, True), (1.0, 0.9, 1.1)))


def explain(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    targets: Targets = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    output: str | int | None = None,
    *,
    augment: bool = False,
    axioms: bool = False,
    probability: str | None = None,
    progress: Progress = lambda _done, _total: None,
    layout: Said | None = None,
) -> ClassExplanation:
    """Explain a class score of each sample by the activation of one layer.

    model: any module that returns class scores (N, classes), or has them in a dictionary, a tuple or an
    object at `output`, or deeper at a path (`head.logits`); it is left as it was found.
    inputs: (N, ...).
    layer: a module of the model or its name. It must return maps (N, C, h, w), maps with channels last, or
    tokens of a grid of patches; class, register and detection tokens are left out.
    targets: None (each sample's highest score), one class index, or N of them.
    methods: keys of `METHODS`. They share one forward and one backward behind the layer; some ask the network
    again.
    augment: average the maps over `AUGMENTATIONS` of the inputs (N, C, H, W), with a forward for each.
    axioms: measure the sensitivity error too; the network behind the layer runs once for each channel.
    probability: how scores become probabilities, `softmax`, `sigmoid`, `exp` or `none`; None: as the model's
    last operation tells, with a note where it is not the softmax of logits. The maps do not depend on it.
    progress: told of each evaluation that a method or an axiom asks for.
    layout: of the layer's output, where it is not certain: "channels-first", "channels-last", a grid with the
    number of tokens before it ("14x14+1"), or a function from the output to (N, C, h, w) that chooses and
    orders its entries.
    Raises XGradCamError for a wrong layer, class, method or model, and for a layout that is not certain.
    """
    return explain_classes(
        model, inputs, layer, [targets], methods, output,
        augment=augment, axioms=axioms, probability=probability, progress=progress, layout=layout,
    )[0]  # fmt: skip


def explain_classes(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    classes: Classes,
    methods: Sequence[str] = DEFAULT_METHODS,
    output: str | int | None = None,
    *,
    augment: bool = False,
    axioms: bool = False,
    probability: str | None = None,
    progress: Progress = lambda _done, _total: None,
    layout: Said | None = None,
) -> tuple[ClassExplanation, ...]:
    """Explain several class scores of each sample: one explanation for each of `classes`.

    classes: several `targets` as in `explain`, or a function from the class scores (N, classes) to them, such
    as `top_classes(3)`. All of them take one forward and, usually, one backward.
    The other arguments are those of `explain`.
    """
    require_compatible(augment, axioms)
    require_rule(probability)
    explainer = ScoreExplainer(model, layer, known_methods(methods), progress, axioms, layout)
    return finished(explainer.classes(plain_inputs(inputs), classes, output, augment, probability), classes)


def require_compatible(augment: bool, axioms: bool) -> None:
    """Raise XGradCamError if both are asked for."""
    if augment and axioms:
        raise XGradCamError(
            "the axioms are about one input, not about an average over augmentations: "
            "leave out augment or axioms"
        )


def explain_score(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    score: Score,
    methods: Sequence[str] = DEFAULT_METHODS,
    progress: Progress = lambda _done, _total: None,
    layout: Said | None = None,
) -> Explanation:
    """Explain any number computed from the model's output by the activation of one layer.

    score: a function of the model's output that gives a number for each sample, (N,), from its own row, such
    as `Contrast`, `RegionMean` and `Similarity`. The other arguments are those of `explain`.
    Raises XGradCamError for a wrong layer, method or model, and for a score that is not finite.
    """
    explainer = ScoreExplainer(model, layer, known_methods(methods), progress, layout=layout)
    inputs = plain_inputs(inputs)
    _, explained = explainer.run(inputs, lambda _output: [score])
    (one,) = explained
    numbers = numbers_of(one.score, [one.facts], [one.maps])
    right, (notes,) = notes_of(numbers, [one.maps], one.channels)
    if not right:
        require_finite(one.score)
    return Explanation(one.maps, one.score, notes, sensitivity=one.sensitivity)


def evidence_of(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    targets: Targets = None,
    output: str | int | None = None,
    progress: Progress = lambda _done, _total: None,
    layout: Said | None = None,
) -> Evidence:
    """The evidence for a class score: activation, gradient, and a probe that asks the network again.

    The arguments are those of `explain`.
    """
    inputs = plain_inputs(inputs)
    with torch.inference_mode(False):
        recording, laid_out = recorded(model, inputs, layer, layout)
        logits = finite_logits_of(recording.output, output)
        score_of = ClassScore(choose_targets(logits, targets), output)
        score = score_of(recording.output)
        probe = Probe(recording, inputs, layer, laid_out, score_of, score, progress)
        return _evidence(probe, recording.gradient(score))


AnyScore = TypeVar("AnyScore", bound=Score)


@dataclass(frozen=True)
class _Explained(Generic[AnyScore]):
    """A score and its maps, still on the device: none of the numbers has been read.

    score: (N,), at least float32. facts: see `evidence_facts`. channels: the layer's.
    """

    score_of: AnyScore
    score: Tensor
    maps: Mapping[str, Tensor]
    sensitivity: Mapping[str, Tensor]
    facts: Tensor
    channels: int


# The shape of a sample's activation, and its layout.
FoundLayout: TypeAlias = tuple[torch.Size, Layout]


@dataclass(frozen=True)
class ScoreExplainer:
    """Explains scores of any inputs by the same model, layer and methods.

    found: layouts by the shape of an input; callers with many batches keep them while the model is the same.
    """

    model: nn.Module
    layer: str | nn.Module
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
            recording, layout = self._recorded(inputs)
            chosen = scores_of(recording.output)
            scores = [values_of(score_of, recording.output, len(inputs)) for score_of in chosen]
            if self.axioms or any(METHODS[method].asks_again for method in self.methods):
                # Before the network is asked thousands of times for nothing.
                for score in scores:
                    require_finite(score)
            explained = []
            for score_of, score, gradient in zip(
                chosen, scores, self._gradients(recording, scores), strict=True
            ):
                probe = Probe(recording, inputs, self.layer, layout, score_of, score, self.progress)
                explained.append(self._explained(score_of, _evidence(probe, gradient)))
        return recording.output, explained

    def _recorded(self, inputs: Tensor) -> tuple[Recording, Layout]:
        shape, known = self.found.get(inputs.shape[1:], (None, None))
        if known is not None:
            with suppress(XGradCamError):
                recording, layout = recorded(self.model, inputs, self.layer, known)
                # Where nothing in the model tells of another layout, its shape may.
                if recording.activation.shape[1:] == shape:
                    return recording, layout
        recording, layout = recorded(self.model, inputs, self.layer, self.layout)
        self.found[inputs.shape[1:]] = recording.activation.shape[1:], layout
        return recording, layout

    def _gradients(self, recording: Recording, scores: Sequence[Tensor]) -> Iterator[Tensor]:
        """The gradient of each score; NaN if no method needs it, for a model may have none."""
        if not any(METHODS[method].needs_gradient for method in self.methods):
            unknown = recording.activation.detach().new_tensor(torch.nan)
            yield from (unknown.expand_as(recording.activation) for _ in scores)
            return
        try:
            yield from recording.gradient_each(scores)
        except NoGradientError as error:
            without = ", ".join(name for name, method in METHODS.items() if not method.needs_gradient)
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
            [one.score_of.targets for one in explained],
            [dict(one.maps) for one in explained],
            [dict(one.sensitivity) for one in explained],
            explained[0].channels if explained else 0,
        )

    def _explained(self, score_of: AnyScore, evidence: Evidence) -> _Explained[AnyScore]:
        probe = probe_of(evidence)
        maps: dict[str, Tensor] = {}
        sensitivity: dict[str, Tensor] = {}
        score = _at_least_single(probe.score.detach())
        for method in self.methods:
            weights = METHODS[method](evidence)
            maps[method] = weighted_map(weights, evidence.activation)
            if self.axioms:
                channel_sums = (weights * evidence.activation).sum(dim=(2, 3))
                drops = score[:, None] - probe.without_channels
                sensitivity[method] = sensitivity_error(channel_sums, drops)
        channels = evidence.activation.shape[1]
        return _Explained(
            score_of, score, maps, sensitivity, evidence_facts(evidence, self.methods), channels
        )

    def averaged(
        self, inputs: Tensor, explained: Sequence[_Explained[AnyScore]]
    ) -> list[_Explained[AnyScore]]:
        """The same scores with maps averaged over the augmentations of the inputs."""
        if inputs.ndim != 4:
            raise XGradCamError(f"augmentation needs inputs (N, C, H, W), not {tuple(inputs.shape)}")
        sums = [dict(one.maps) for one in explained]
        scores = [one.score_of for one in explained]
        for flipped, contrast in AUGMENTATIONS[1:]:
            _, varied = self.run(contrast * (inputs.flip(3) if flipped else inputs), lambda _: scores)
            for total, one in zip(sums, varied, strict=True):
                for method, signed in one.maps.items():
                    total[method] = total[method] + (signed.flip(2) if flipped else signed)
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


def _evidence(probe: Probe, gradient: Tensor) -> Evidence:
    maps, gradients = probe.maps(), probe.layout.to_maps(gradient)
    return Evidence(_at_least_single(maps), _at_least_single(gradients), probe)


def _at_least_single(values: Tensor) -> Tensor:
    """The values in float32 or more: half precision is too coarse for sums."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
