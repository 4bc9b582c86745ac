"""All measures of the maps of one photograph, and the randomisation check over several photographs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xgradcam.cam.evidence import Evidence, Progress, probe_of
from xgradcam.cam.explain import evidence_of
from xgradcam.cam.explanation import conservation_error, heatmap, sensitivity_error
from xgradcam.cam.methods import METHODS
from xgradcam.errors import NotApplicableError, XGradCamError
from xgradcam.evaluation import metrics
from xgradcam.evaluation.changed_pixels import ChangedPixels
from xgradcam.evaluation.randomisation import randomised, rank_correlation, with_parameters
from xgradcam.lending.borrowing import borrowed
from xgradcam.scores.outputs import finite_logits_of, logits_of
from xgradcam.scores.probability import PROBABILITY_RULES, probability_rule


class Measure(NamedTuple):
    """A column of the report. more_is_better: None for a cost or a mere count."""

    title: str
    more_is_better: bool | None


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "conservation": Measure("conservation error", False),
        "sensitivity": Measure("sensitivity error", False),
        "drop": Measure("average drop", False),
        "increase": Measure("increase in confidence", True),
        "deletion": Measure("deletion", False),
        "insertion": Measure("insertion", True),
        "road": Measure("ROAD", True),
        "pointing": Measure("pointing game", True),
        "energy": Measure("energy inside", True),
        "focus": Measure("focus in mosaics", True),
        "unfocused": Measure("blank in mosaics", None),
        "randomised": Measure("likeness when randomised", False),
        "blank": Measure("blank", None),
        "seconds": Measure("seconds", None),
        "evaluations": Measure("evaluations", None),
    }
)


@dataclass(frozen=True)
class Question:
    """A photograph and the class whose maps are measured.

    inputs: (1, C, H, W). target: index of the class. output: place of the scores in what the model returns,
    as in `explain`. region: True where an object of the class is, (H, W) bool; None if not known.
    steps, removed: see `metrics`. probability, layout: as in `explain`. asked: a model that computes the same
    in less time, for the measures that ask it for many scores.
    """

    model: nn.Module
    inputs: Tensor
    target: int
    output: str | int | None = None
    region: Tensor | None = None
    steps: int = 28
    removed: Sequence[float] = metrics.REMOVED
    probability: str | None = None
    layout: str | None = None
    asked: nn.Module | None = None

    @cached_property
    def changed_pixels(self) -> ChangedPixels:
        """The measures by changed pixels; they keep what they found, for the next layer."""
        return ChangedPixels(self.inputs, self.steps, self.removed)

    def at(
        self,
        layer: str,
        progress: Progress = lambda _done, _total: None,
        model: nn.Module | None = None,
        *,
        complete: bool = False,
    ) -> "AtLayer":
        """The evidence for the class at a layer, of the model or of another with the same layers.

        complete: as in `evidence_of`.
        """
        model = model or self.model
        started = time.perf_counter()
        about = self.target, self.output, progress
        evidence = evidence_of(model, self.inputs, layer, *about, layout=self.layout, complete=complete)
        return AtLayer(self, layer, model, evidence, time.perf_counter() - started)

    def heatmap(self, signed: Tensor) -> Tensor:
        """The heatmap of a map (1, h, w) at the size of the inputs, (H, W)."""
        return heatmap(signed, (self.inputs.shape[2], self.inputs.shape[3]))[0]


@dataclass(frozen=True)
class DrawnMap:
    """A method's signed map (1, h, w), and the part of each channel in it, (1, C), if it weighs channels.

    nowhere: what of the score has no place in a complete map, (1,). seconds: what it took, alone.
    """

    signed: Tensor
    channel_sums: Tensor | None
    nowhere: Tensor | None
    seconds: float


@dataclass(frozen=True)
class AtLayer:
    """The evidence for a class at a layer; seconds: what it took."""

    question: Question
    layer: str
    model: nn.Module
    evidence: Evidence
    seconds: float

    @cached_property
    def complete(self) -> "AtLayer":
        """The same with the terms of Eq. 5; XGradCamError for a model whose constants cannot be found."""
        return self.question.at(self.layer, model=self.model, complete=True)

    def drawn(self, method: str) -> DrawnMap:
        """The method's map; NotApplicableError, or XGradCamError for a complete one, if there is none."""
        at = self.complete if METHODS[method].complete else self
        evidence, of_attention = at.evidence, METHODS[method].of_attention
        if of_attention:  # seen anew by each method, for its cost
            evidence = replace(evidence, probe=replace(probe_of(evidence)))
        started = time.perf_counter()
        weights = METHODS[method](evidence)
        signed = METHODS[method].map(evidence, weights)
        seconds = at.seconds + time.perf_counter() - started
        channel_sums = None if of_attention else (weights * evidence.activation).sum(dim=(2, 3))
        nowhere = None if evidence.terms is None else evidence.terms.nowhere
        return DrawnMap(signed, channel_sums, nowhere, seconds)

    def drawn_if_any(self, method: str) -> DrawnMap | None:
        """The method's map; None if it does not apply, or a complete map cannot be found."""
        try:
            return self.drawn(method)
        except NotApplicableError:
            return None
        except XGradCamError:
            if METHODS[method].complete:
                return None
            raise


@dataclass
class _EvaluationCount:
    """Progress callback that keeps the number of evaluations done."""

    done: int = 0

    def __call__(self, done: int, _total: int) -> None:
        self.done = done


def measure(question: Question, layer: str, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Method -> its measures and curves at a layer, without the methods that do not apply there.

    The axioms' errors are of the logit, the other measures of the probability. `seconds` and `evaluations`
    are the cost of a map alone: one forward, one backward, and all evaluations that the method asks for.
    """
    count = _EvaluationCount()
    at = question.at(layer, count)
    maps: dict[str, DrawnMap] = {}
    costs: dict[str, dict[str, float]] = {}
    # First all maps, then all measures: evaluations for a measure are kept, and a method that needs the
    # same ones would seem to cost nothing.
    for method in methods:
        count.done = 0
        found = at.drawn_if_any(method)
        if found is not None:
            maps[method] = found
            costs[method] = {"seconds": found.seconds, "evaluations": 1 + count.done}
    hot = [question.heatmap(found.signed) for found in maps.values()]
    changed = question.changed_pixels.measure(probability_of(question, at.evidence), hot)
    return {
        method: {
            **_axiom_errors(at.evidence, found),
            **of_pixels,
            "blank": float(not heatmap.any()),
            **_localisation(question.region, heatmap),
            **costs[method],
        }
        for (method, found), of_pixels, heatmap in zip(maps.items(), changed, hot, strict=True)
    }


def _axiom_errors(evidence: Evidence, found: DrawnMap) -> dict[str, float]:
    probe = probe_of(evidence)
    score = probe.score.detach()
    errors = {"conservation": float(conservation_error(found.signed, score, found.nowhere))}
    if found.channel_sums is not None:
        drops = score[:, None] - probe.without_channels
        errors["sensitivity"] = float(sensitivity_error(found.channel_sums, drops))
    return errors


def measure_focus(
    question: Question, layer: str, methods: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Method -> `metrics.focus` of its map in the question's region, and 1 if there is none, else 0."""
    if question.region is None:
        raise XGradCamError("the focus is measured in a region: give the question one")
    at = question.at(layer)
    maps = {method: at.drawn_if_any(method) for method in methods}
    shares = {
        method: metrics.focus(found.signed, question.region)
        for method, found in maps.items()
        if found is not None
    }
    return {method: {"focus": share, "unfocused": float(share is None)} for method, share in shares.items()}


def _localisation(region: Tensor | None, hot: Tensor) -> dict[str, float]:
    """Pointing game and energy inside; nothing if the object's region is not known."""
    if region is None:
        return {}
    region = region.to(hot.device)
    return {
        "pointing": float(metrics.pointing_game(hot, region)),
        "energy": metrics.energy_inside(hot, region),
    }


def probability_of(question: Question, evidence: Evidence) -> metrics.ScoreFunction:
    """The function from inputs (M, C, H, W) to the target's probabilities (M,).

    The rule is the same for all inputs: the one for the question's own, whose scores have a graph.
    """
    scores = logits_of(probe_of(evidence).recording.output, question.output)
    of_scores = PROBABILITY_RULES[question.probability or probability_rule(scores)[0]]

    def probability(inputs: Tensor) -> Tensor:
        with borrowed(question.asked or question.model) as run:
            logits = finite_logits_of(run(inputs), question.output)
        return of_scores(logits)[:, question.target]

    return probability


def likeness_when_randomised(
    questions: Sequence[Question], layer: str, methods: Sequence[str], stages: Sequence[float], seed: int = 0
) -> dict[str, list[float | None]]:
    """Method -> for each question, how much its heatmap stays the same when the model's weights are random.

    Likeness is the absolute rank correlation of the heatmaps with trained and with random weights, as a mean
    over stages; near 0 the heatmap depends on what the model has learned. None for a blank heatmap, which
    cannot change. The questions share one model.
    stages: shares of the modules that are random, counted from the output; see `randomised`, which gets the
    inputs of all questions.
    """
    model = questions[0].model
    before = [_heatmaps(question, model, layer, methods) for question in questions]
    likeness: dict[str, list[list[float]]] = {method: [[] for _ in questions] for method in before[0]}
    modules = len(with_parameters(model))
    counts = {max(1, round(share * modules)) for share in stages}
    inputs = torch.cat([question.inputs for question in questions])
    if not likeness:
        return {}
    for _, changed in randomised(model, inputs, seed, counts):
        for index, question in enumerate(questions):
            now = _heatmaps(question, changed, layer, [*likeness])
            for method in likeness.keys() & now.keys():
                correlation = rank_correlation(before[index][method], now[method])
                likeness[method][index].append(abs(correlation))
    return {
        method: [
            float(np.mean(values)) if values and before[index][method].any() else None
            for index, values in enumerate(found)
        ]
        for method, found in likeness.items()
    }


def _heatmaps(question: Question, model: nn.Module, layer: str, methods: Sequence[str]) -> dict[str, Tensor]:
    """Method -> heatmap (H, W), without the methods that do not apply."""
    at = question.at(layer, model=model)
    maps = {method: at.drawn_if_any(method) for method in methods}
    return {method: question.heatmap(found.signed) for method, found in maps.items() if found is not None}
