"""The public entry: from a model, a batch and a layer to an explanation."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn

from xgradcam.cam.class_maps import finished, notes_of, numbers_of
from xgradcam.cam.evidence import Evidence, Probe, Progress
from xgradcam.cam.explanation import ClassExplanation, Explanation
from xgradcam.cam.methods import METHODS, known_methods
from xgradcam.cam.score_explainer import ScoreExplainer, evidence_from
from xgradcam.capture.layers import recorded
from xgradcam.errors import XGradCamError
from xgradcam.layouts.layout import Said, with_frames
from xgradcam.lending.finding import at_run
from xgradcam.lending.inputs import Inputs, lent
from xgradcam.lending.several import Place
from xgradcam.lending.turns import in_turn
from xgradcam.proof.complete import trace
from xgradcam.scores.outputs import finite_logits_of, require_finite
from xgradcam.scores.probability import require_rule
from xgradcam.scores.score import ClassScore, Score, require_one, settled, values_of
from xgradcam.scores.targets import Classes, Targets, choose_targets

DEFAULT_METHODS = ("grad-cam", "xgrad-cam")


def explain(
    model: nn.Module,
    inputs: Inputs,
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
    image: Place | None = None,
    run: int | None = None,
    frames: int | None = None,
) -> ClassExplanation:
    """Explain a class score of each sample by the activation of one layer.

    model: any module that returns class scores (N, classes), or has them in a dictionary, a tuple or an
    object at `output`, or deeper at a path (`head.logits`); it is left as it was found.
    inputs: (N, ...), or several in a tuple or a dictionary of names. Methods that vary the input vary the
    first of these that is floats of three axes or more, or the one that `image` names.
    layer: a module of the model or its name. It must return maps (N, C, h, w), maps with channels last, or
    tokens of a grid of patches; class, register and detection tokens are left out.
    targets: None (each sample's highest score), one class index, or N of them.
    methods: keys of `METHODS`. They share one forward and one backward behind the layer; some ask the network
    again.
    augment: average the maps over mirrored inputs of more and less contrast, with a forward for each.
    axioms: measure the sensitivity error too; the network behind the layer runs once for each channel.
    probability: how scores become probabilities, `softmax`, `sigmoid`, `exp` or `none`; None: as the model's
    last operation tells, with a note where it is not the softmax of logits. The maps do not depend on it.
    progress: told of each evaluation that a method or an axiom asks for.
    layout: of the layer's output, where it is not certain: "channels-first", "channels-last", a grid with the
    number of tokens before it ("14x14+1"), or a function from the output to (N, C, h, w) that chooses and
    orders its entries.
    run: the one that is explained of a layer that runs several times, 0 for the first.
    frames: of each sample, if the layer's output has a row for each of them; then maps are (N, T, h, w).
    Raises XGradCamError for a wrong layer, class, method or model, and for a layout that is not certain.
    """
    return explain_classes(
        model, inputs, layer, [targets], methods, output,
        augment=augment, axioms=axioms, probability=probability, progress=progress, layout=layout,
        image=image, run=run, frames=frames,
    )[0]  # fmt: skip


@in_turn
def explain_classes(
    model: nn.Module,
    inputs: Inputs,
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
    image: Place | None = None,
    run: int | None = None,
    frames: int | None = None,
) -> tuple[ClassExplanation, ...]:
    """Explain several class scores of each sample: one explanation for each of `classes`.

    classes: several `targets` as in `explain`, or a function from the class scores (N, classes) to them, such
    as `top_classes(3)`. All of them take one forward and, usually, one backward.
    The other arguments are those of `explain`.
    """
    methods = known_methods(methods)
    require_compatible(augment, axioms, methods)
    require_rule(probability)
    model, inputs = lent(model, inputs, image)
    place, layout = at_run(layer, run), with_frames(layout, frames)
    explainer = ScoreExplainer(model, place, methods, progress, axioms, layout)
    return finished(explainer.classes(inputs, classes, output, augment, probability), classes)


def require_compatible(augment: bool, axioms: bool, methods: Sequence[str] = ()) -> None:
    """Raise XGradCamError for augmentation with what is about a single input."""
    if augment and (complete := [method for method in methods if METHODS[method].complete]):
        raise XGradCamError(
            f"{complete[0]} adds up to the score of one input, not to an average over augmentations: leave "
            "out augment or that method"
        )
    if augment and axioms:
        raise XGradCamError(
            "the axioms are about one input, not about an average over augmentations: "
            "leave out augment or axioms"
        )


@in_turn
def explain_score(
    model: nn.Module,
    inputs: Inputs,
    layer: str | nn.Module,
    score: Score,
    methods: Sequence[str] = DEFAULT_METHODS,
    progress: Progress = lambda _done, _total: None,
    layout: Said | None = None,
    *,
    axioms: bool = False,
    image: Place | None = None,
    run: int | None = None,
    frames: int | None = None,
) -> Explanation:
    """Explain any number computed from the model's output by the activation of one layer.

    score: a function of the model's output that gives a number for each sample, (N,), from its own row, such
    as `Contrast`, `BoxScore`, `Text` and the others of the package. The other arguments are those of
    `explain`. Raises XGradCamError for a wrong layer, method or model, and for a score that is not finite.
    """
    model, inputs = lent(model, inputs, image)
    place, layout = at_run(layer, run), with_frames(layout, frames)
    explainer = ScoreExplainer(model, place, known_methods(methods), progress, axioms, layout)
    _, explained = explainer.run(inputs, lambda output: [settled(score, output)])
    (one,) = explained
    numbers = numbers_of(one.score, [one.facts], [one.maps])
    right, (notes,) = notes_of(numbers, [one.maps], one.channels)
    if not right:
        require_finite(one.score)
    return Explanation(
        one.maps, one.score, notes,
        sensitivity=one.sensitivity, budget=one.budget, constants_by_kind=one.constants, depth=one.depth,
        share=one.share,
        score_of=one.score_of,
    )  # fmt: skip


@in_turn
def evidence_of(
    model: nn.Module,
    inputs: Inputs,
    layer: str | nn.Module,
    targets: Targets = None,
    output: str | int | None = None,
    progress: Progress = lambda _done, _total: None,
    layout: Said | None = None,
    *,
    complete: bool = False,
    score: Score | None = None,
    image: Place | None = None,
    run: int | None = None,
    frames: int | None = None,
) -> Evidence:
    """The evidence for a score: activation, gradient, and a probe that asks the network again.

    complete: with the terms of Eq. 5 at their places, too. score: in place of a class, as in `explain_score`.
    The other arguments are those of `explain`.
    """
    require_one(targets, output, score)
    model, inputs = lent(model, inputs, image)
    place, layout = at_run(layer, run), with_frames(layout, frames)
    with torch.inference_mode(False):
        traced = trace(model, inputs, place, layout) if complete else None
        recording, laid_out = (
            recorded(model, inputs, place, layout) if traced is None else (traced.recording, traced.layout)
        )
        if score is None:
            logits = finite_logits_of(recording.output, output)
            score = ClassScore(choose_targets(logits, targets), output)
        score_of = settled(score, recording.output)
        with traced.tracer if traced else nullcontext():  # a score may have constants of its own
            values = values_of(score_of, recording.output, len(inputs))
        require_finite(values)
        probe = Probe(recording, inputs, place, laid_out, score_of, values, progress)
        if traced is None:
            return evidence_from(probe, recording.gradient(values))
        return evidence_from(probe, *traced.terms(score_of, values))
