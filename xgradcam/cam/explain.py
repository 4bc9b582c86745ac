"""From a model, a batch and a layer to signed maps, and from those to heatmaps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from xgradcam.cam.evidence import Evidence, Probe, Progress, probe_of
from xgradcam.cam.explanation import ClassExplanation, Explanation, sensitivity_error, weighted_map
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.cam.methods import METHODS, known_methods
from xgradcam.cam.notes import notes_on, signs_of
from xgradcam.capture.borrowing import Arrangement
from xgradcam.capture.layers import Layout, find_layer, layout_of
from xgradcam.capture.recording import record
from xgradcam.capture.scores import (
    ClassScore,
    Score,
    choose_targets,
    finite_logits_of,
    logits_of,
    require_finite,
)
from xgradcam.errors import XGradCamError

# Mirrored or not, and the contrast about the mean colour; the first is the photograph as it is.
AUGMENTATIONS = tuple(product((False, True), (1.0, 0.9, 1.1)))


Targets: TypeAlias = int | Sequence[int] | Tensor | None
BOTH = ("grad-cam", "xgrad-cam")


def explain(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    targets: Targets = None,
    methods: Sequence[str] = BOTH,
    output: str | int | None = None,
    *,
    augment: bool = False,
    axioms: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> ClassExplanation:
    """Explain a class score of each sample by the feature maps of one layer.

    model: any module that returns class scores (N, classes), or has them in a dictionary, a tuple or an
    object at `output`; it is left as it was found.
    inputs: (N, ...). layer: a module of the model or its name; it must return maps (N, C, h, w), maps with
    channels last, or tokens with the image's aspect, of which class and register tokens are left out.
    targets: None (each sample's highest score), one class index, or N of them.
    methods: keys of `METHODS`. They share one forward and one backward behind the layer; what those that ask
    the network again cost beside it their docstrings say.
    augment: average the maps over `AUGMENTATIONS` of the inputs (N, C, H, W), a forward for each.
    axioms: measure the sensitivity error too, an evaluation of the network behind the layer a channel.
    progress: is told of evaluations by what asks the network again.
    Raises XGradCamError for a wrong layer, class, method or model.
    """
    return explain_classes(
        model, inputs, layer, [targets], methods, output, augment=augment, axioms=axioms, progress=progress
    )[0]


def explain_classes(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    classes: Sequence[Targets] | Callable[[Tensor], Sequence[Targets]],
    methods: Sequence[str] = BOTH,
    output: str | int | None = None,
    *,
    augment: bool = False,
    axioms: bool = False,
    progress: Progress = lambda _done, _total: None,
    arrangement: Arrangement | None = None,
) -> tuple[ClassExplanation, ...]:
    """Explain several class scores of each sample: one explanation for each of `classes`.

    classes: what `explain` takes for `targets`, several times; or a function from the class scores
    (N, classes) to that, such as `top_classes(3)`. All of them cost one forward and, mostly, one backward.
    arrangement: kept by a caller with many batches, see `Arrangement`. The other arguments are those of
    `explain`.
    """

    def scores_of(found: Any) -> list[ClassScore]:
        logits = logits_of(found, output)
        chosen = classes(logits.detach()) if callable(classes) else classes
        return [ClassScore(choose_targets(logits, one, trusted=callable(classes)), output) for one in chosen]

    require_compatible(augment, axioms)
    task = _Task(model, layer, known_methods(methods), progress, axioms, arrangement or Arrangement())
    returned, found = task.run(inputs, scores_of)
    if augment:
        found = task.averaged(inputs, found)
    logits = _at_least_single(logits_of(returned, output).detach())
    # Up to here a device has not been waited for.
    require_finite(logits)
    return tuple(
        ClassExplanation(
            one.maps, one.score, notes, logits, one.score_of.targets, sensitivity=one.sensitivity
        )
        for one, notes in zip(found, _notes(found), strict=True)
    )


def explain_score(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    score: Score,
    methods: Sequence[str] = BOTH,
    progress: Progress = lambda _done, _total: None,
) -> Explanation:
    """Explain any number that is computed from what the model returns by the feature maps of one layer.

    score: a function of the model's output that gives a number for each sample, (N,), from its own row, such
    as `Contrast`, `RegionMean` and `Similarity`. The other arguments are those of `explain`.
    Raises XGradCamError for a wrong layer, method or model, and for a score that is not finite.
    """
    _, found = _Task(model, layer, known_methods(methods), progress).run(inputs, lambda _output: [score])
    require_finite(found[0].score)
    return Explanation(found[0].maps, found[0].score, _notes(found)[0], sensitivity=found[0].sensitivity)


def evidence_of(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    targets: Targets = None,
    output: str | int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Evidence:
    """What the methods look at: activation and gradient of a class score, and the network to ask more.

    The arguments are those of `explain`.
    """
    with torch.inference_mode(False):
        recording = record(model, inputs, layer)
        layout = _layout(model, layer, recording.activation, inputs)
        logits = finite_logits_of(recording.output, output)
        score_of = ClassScore(choose_targets(logits, targets), output)
        score = score_of(recording.output)
        probe = Probe(recording, inputs, layer, layout, score_of, score, progress)
        return _evidence(probe, recording.gradient(score))


ScoreOf = TypeVar("ScoreOf", bound=Score)


@dataclass(frozen=True)
class _Found(Generic[ScoreOf]):
    """What was computed of a score; no number of it has been looked at.

    score: (N,), in float32 at least. signs: see `signs_of`. channels: of the layer.
    """

    score_of: ScoreOf
    score: Tensor
    maps: Mapping[str, Tensor]
    sensitivity: Mapping[str, Tensor]
    signs: Tensor
    channels: int


def _notes(found: Sequence[_Found[Any]]) -> list[tuple[tuple[str, ...], ...]]:
    """For each score the notes on its samples."""
    if not found:
        return []
    return notes_on([one.signs for one in found], [one.maps for one in found], found[0].channels)


@dataclass(frozen=True)
class _Task:
    """What is to be computed of any inputs."""

    model: nn.Module
    layer: str | nn.Module
    methods: Sequence[str]
    progress: Progress
    axioms: bool = False
    arrangement: Arrangement = field(default_factory=Arrangement)

    def run(
        self, inputs: Tensor, scores_of: Callable[[Any], Sequence[ScoreOf]]
    ) -> tuple[Any, list[_Found[ScoreOf]]]:
        """What the model returned, and what was found of each of the scores."""
        with torch.inference_mode(False):
            recording = record(self.model, inputs, self.layer, arrangement=self.arrangement)
            layout = _layout(self.model, self.layer, recording.activation, inputs)
            asked = scores_of(recording.output)
            scores = [_checked(score_of(recording.output), len(inputs)) for score_of in asked]
            if self.axioms or any(METHODS[method].asks_again for method in self.methods):
                # Before a network is asked thousands of times in vain.
                for score in scores:
                    require_finite(score)
            found = []
            for score_of, score, gradient in zip(asked, scores, recording.gradient_each(scores), strict=True):
                probe = Probe(
                    recording, inputs, self.layer, layout, score_of, score, self.progress, self.arrangement
                )
                found.append(self._found(score_of, _evidence(probe, gradient)))
        return recording.output, found

    def _found(self, score_of: ScoreOf, evidence: Evidence) -> _Found[ScoreOf]:
        probe = probe_of(evidence)
        maps: dict[str, Tensor] = {}
        sensitivity: dict[str, Tensor] = {}
        score = _at_least_single(probe.score.detach())
        for method in self.methods:
            weights = METHODS[method](evidence)
            maps[method] = weighted_map(weights, evidence.activation)
            if self.axioms:
                contributions = (weights * evidence.activation).sum(dim=(2, 3))
                drops = score[:, None] - probe.without_channels
                sensitivity[method] = sensitivity_error(contributions, drops)
        channels = evidence.activation.shape[1]
        return _Found(score_of, score, maps, sensitivity, signs_of(evidence), channels)

    def averaged(self, inputs: Tensor, found: Sequence[_Found[ScoreOf]]) -> list[_Found[ScoreOf]]:
        """The same with maps that are averages over the augmentations of the inputs."""
        if inputs.ndim != 4:
            raise XGradCamError(f"augmentation is of inputs (N, C, H, W), not {tuple(inputs.shape)}")
        sums = [dict(one.maps) for one in found]
        scores = [one.score_of for one in found]
        for flipped, contrast in AUGMENTATIONS[1:]:
            _, varied = self.run(contrast * (inputs.flip(3) if flipped else inputs), lambda _: scores)
            for total, one in zip(sums, varied, strict=True):
                for method, signed in one.maps.items():
                    total[method] = total[method] + (signed.flip(2) if flipped else signed)
        means = [{method: total / len(AUGMENTATIONS) for method, total in maps.items()} for maps in sums]
        return [replace(one, maps=maps) for one, maps in zip(found, means, strict=True)]


def _evidence(probe: Probe, gradient: Tensor) -> Evidence:
    maps, gradients = probe.maps(), probe.layout.to_maps(gradient)
    return Evidence(_at_least_single(maps), _at_least_single(gradients), probe)


def _at_least_single(values: Tensor) -> Tensor:
    """The values in float32 at least: what a network computes in half precision is summed in more."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _checked(score: Tensor, samples: int) -> Tensor:
    if not isinstance(score, Tensor) or score.shape != (samples,):
        what = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise XGradCamError(f"the score is {what}: it must be a number for each sample, ({samples},)")
    return score


def require_compatible(augment: bool, axioms: bool) -> None:
    """Raise XGradCamError where the axioms' errors are asked of an average over augmentations."""
    if augment and axioms:
        raise XGradCamError(
            "the axioms are about one input, not about an average: leave out augment or axioms"
        )


def top_classes(count: int) -> Callable[[Tensor], Sequence[Tensor]]:
    """The `count` classes of the highest scores, best first, for `explain_classes`."""
    return lambda logits: logits.topk(min(count, logits.shape[1]), dim=1).indices.unbind(dim=1)


def _layout(model: nn.Module, layer: str | nn.Module, activation: Tensor, inputs: Tensor) -> Layout:
    shape = tuple(activation.shape)
    if len(activation) != len(inputs):
        name, _ = find_layer(model, layer)
        raise XGradCamError(
            f"layer {name!r} gives shape {shape} for {len(inputs)} samples: take one outside of it"
        )
    if inputs.ndim != 4 and activation.ndim == 4:
        return Layout("maps", shape[2], shape[3])
    try:
        return layout_of(shape, (inputs.shape[-2], inputs.shape[-1]))
    except XGradCamError as error:
        name, _ = find_layer(model, layer)
        raise XGradCamError(f"layer {name!r}: {error}; --list-layers shows the shapes of all") from None


def explain_layers(
    model: nn.Module,
    inputs: Tensor,
    layers: Sequence[str],
    classes: Sequence[Targets] | Callable[[Tensor], Sequence[Targets]],
    *,
    output: str | int | None = None,
    guided: bool = False,
    **options: Any,
) -> list[tuple[ClassExplanation, ...]]:
    """For each layer an explanation for each class, a forward for each layer.

    guided: put guided backpropagation into the explanations, the same at every layer. options, and the other
    arguments: those of `explain_classes`.
    """
    first = explain_classes(model, inputs, layers[0], classes, output=output, **options)
    # What a function chose by the scores is chosen once.
    targets = [one.targets for one in first]
    others = [
        explain_classes(model, inputs, layer, lambda _logits: targets, output=output, **options)
        for layer in layers[1:]
    ]
    if not guided:
        return [first, *others]
    gradients = [guided_backpropagation(model, inputs, target, output) for target in targets]
    return [
        tuple(replace(one, guided=gradient) for one, gradient in zip(explained, gradients, strict=True))
        for explained in (first, *others)
    ]
