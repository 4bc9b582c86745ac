"""Photographs that a classifier gets wrong: their true class explained too, and why it prefers another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from xgradcam.cam.class_maps import ClassMaps, finished, numbers_of
from xgradcam.cam.explanation import ClassExplanation, Explanation
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.cam.methods import METHODS
from xgradcam.cam.score_explainer import ScoreExplainer
from xgradcam.lending.inputs import lent
from xgradcam.models.labels import label_of
from xgradcam.runs.explainer import Explainer, explain_layers
from xgradcam.runs.page_maps import BASELINE
from xgradcam.runs.scoring import Scoring
from xgradcam.scores.outputs import logits_of
from xgradcam.scores.probability import probability_rule
from xgradcam.scores.score import ClassScore, Contrast
from xgradcam.scores.targets import choose_targets
from xgradcam.scores.versus import Versus

# Parts that a class, or a contrast of two, plays for a photograph.
PREDICTED, TRUE, CONTRAST = "predicted", "true", "contrast"
# Methods that compare classes by themselves: for no contrast.
OF_CLASSES = frozenset({"finer-cam"})


@dataclass(frozen=True)
class OfSome:
    """An explanation of some samples of a batch; rows: sample -> its row there."""

    explanation: Explanation
    rows: Mapping[int, int]

    def to(self, device: torch.device | str) -> "OfSome":
        """The same with its tensors on another device."""
        return replace(self, explanation=self.explanation.to(device))

    def sample(self, index: int) -> Explanation | None:
        """One sample of the batch, as a batch of its own; None if it is not explained."""
        return self.explanation.sample(self.rows[index]) if index in self.rows else None


# For each layer the predicted class of all samples; for the mistakes the true class, and their contrast.
WithMistakes: TypeAlias = list[list[ClassExplanation | OfSome]]


def explain_mistakes(
    explainers: Sequence[Explainer], inputs: Tensor, truths: Sequence[int | None], guided: bool = False
) -> WithMistakes:
    """Explain the class of the highest score at several layers; of mistakes the true class and the contrast.

    truths: the true class of each of N samples; None where it is not known. The contrast is the logit of the
    predicted class less that of the true one: it and the true class share a forward, of the mistakes alone.
    guided: as in `explain_layers`; a contrast has no such picture.
    """
    of_predicted = [one for (one,) in explain_layers(explainers, inputs, [None], guided)]
    explained: WithMistakes = [[one] for one in of_predicted]
    predicted = of_predicted[0].targets
    wrong = [
        (sample, truth)
        for sample, (truth, target) in enumerate(zip(truths, predicted.tolist(), strict=True))
        if truth not in (None, target)
    ]
    if not wrong:
        return explained
    rows = {sample: row for row, (sample, _) in enumerate(wrong)}
    chosen = inputs[list(rows)]
    true = torch.tensor([truth for _, truth in wrong], device=inputs.device)
    preferred = predicted[list(rows)]
    gradient = None
    if guided:
        one = explainers[0]
        gradient = guided_backpropagation(one.model, chosen, true, one.output, one.image)
    for explainer, of_layer in zip(explainers, explained, strict=True):
        for found in _true_and_contrast(explainer, chosen, true, preferred):
            if isinstance(found, ClassExplanation):
                found = replace(found, guided=gradient)
            of_layer.append(OfSome(found, rows))
    return explained


def _true_and_contrast(
    explainer: Explainer, inputs: Tensor, true: Tensor, preferred: Tensor
) -> Iterator[Explanation]:
    """The class of each sample, and another one less it; in one forward, if the methods are for both."""
    model, inputs = lent(explainer.model, inputs, explainer.image)
    output, methods = explainer.output, explainer.methods
    scores: list[ClassScore | Versus] = [ClassScore(true, output), Versus(preferred, true, output)]

    def explained(methods: Sequence[str], scores: Sequence[ClassScore | Versus]) -> Iterator[Explanation]:
        scorer = ScoreExplainer(
            model, explainer.layer, methods, explainer.progress, explainer.axioms, explainer.layout
        )
        returned, found = scorer.run(inputs, lambda returned: _in_range(scores, true, returned, output))
        found = scorer.averaged(inputs, found) if explainer.augment else found
        for one in found:
            yield _finished(one, logits_of(returned, output), true, explainer.probability)

    of_contrasts = [method for method in methods if method not in OF_CLASSES]
    if of_contrasts == list(methods):
        yield from explained(methods, scores)
        return
    yield from explained(methods, scores[:1])
    if of_contrasts:
        yield from explained(of_contrasts, scores[1:])


def _in_range(
    scores: Sequence[ClassScore | Versus], true: Tensor, returned: Any, output: str | int | None
) -> Sequence[ClassScore | Versus]:
    """The scores; XGradCamError for a class that the model does not have."""
    choose_targets(logits_of(returned, output).detach(), true.cpu())
    return scores


def _finished(one: Any, logits: Tensor, true: Tensor, probability: str | None) -> Explanation:
    """The explanation of one score: of the class, or of a contrast."""
    rule = (probability, "") if probability else probability_rule(logits)
    logits = logits.detach().float() if logits.dtype in (torch.bfloat16, torch.float16) else logits.detach()
    maps = [dict(one.maps)]
    found = ClassMaps(
        logits, rule, not probability, numbers_of(logits, [one.facts], maps), [one.score], [true], maps,
        [dict(one.sensitivity)], [dict(one.budget)], [dict(one.constants)], [dict(one.depth)],
        one.channels, one.share,
    )  # fmt: skip
    (of_class,) = finished(found, [true])
    if isinstance(one.score_of, ClassScore):
        return of_class
    shared = {field.name: getattr(of_class, field.name) for field in fields(Explanation)}
    return Explanation(**{**shared, "score_of": one.score_of})


def contrast_scoring(contrast: Contrast, labels: Sequence[str] | None) -> Scoring:
    """The contrast of a mistake as a score of a run: its words, and its part of a file's name."""
    target, (other,) = contrast.targets[0], contrast.others
    name, part = f"contrast:{other}", f"{target}-less-{other}"
    return Scoring(name, CONTRAST, lambda _framing, _shapes: contrast, labels, part=part)


def truth_record(
    truth: int | None, explanation: ClassExplanation, labels: Sequence[str] | None
) -> dict[str, Any]:
    """The part of a photograph's records on its true and its predicted class; empty if it is not known.

    explanation: of any class of the photograph, a batch of one.
    """
    if truth is None:
        return {}
    highest = replace(explanation, targets=explanation.logits.argmax(dim=1))
    predicted = int(highest.targets[0])
    return {
        "truth": {"index": truth, "name": label_of(labels, truth)},
        "prediction": {
            "index": predicted,
            "name": label_of(labels, predicted),
            "probability": float(highest.probability),
        },
    }


def telling_method(methods: Sequence[str]) -> str:
    """The method whose maps tell most: the first complete one, XGrad-CAM, or the first but the baseline."""
    complete = [method for method in methods if METHODS[method].complete]
    xgrad_cam = [method for method in methods if method == "xgrad-cam"]
    others = [method for method in methods if method != BASELINE]
    return next(iter([*complete, *xgrad_cam, *others, *methods]))
