"""All measures of the maps of one photograph, and the randomisation check over several photographs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xgradcam.cam.evidence import Evidence, Progress, probe_of
from xgradcam.cam.explain import evidence_of
from xgradcam.cam.explanation import conservation_error, heatmap, sensitivity_error, weighted_map
from xgradcam.cam.methods import METHODS
from xgradcam.errors import NotApplicableError
from xgradcam.evaluation import metrics
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
    steps, removed: see `metrics`. probability, layout: as in `explain`.
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
    started = time.perf_counter()
    evidence = _evidence(question, question.model, layer, count)
    shared = time.perf_counter() - started
    weights: dict[str, Tensor] = {}
    costs: dict[str, dict[str, float]] = {}
    # First all weights, then all measures: evaluations for a measure are kept, and a method that needs the
    # same ones would seem to cost nothing.
    for method in methods:
        count.done, started = 0, time.perf_counter()
        found = _weights(method, evidence)
        if found is not None:
            weights[method] = found
            seconds = shared + time.perf_counter() - started
            costs[method] = {"seconds": seconds, "evaluations": 1 + count.done}
    return {method: {**_measures(question, evidence, weights[method]), **costs[method]} for method in weights}


def _weights(method: str, evidence: Evidence) -> Tensor | None:
    """The method's weights; None if it does not apply."""
    try:
        return METHODS[method](evidence)
    except NotApplicableError:
        return None


def _measures(question: Question, evidence: Evidence, weights: Tensor) -> dict[str, Any]:
    """Measure -> value for one method's weights, and the points of its curves."""
    signed = weighted_map(weights, evidence.activation)
    hot = _heatmap(question, signed)
    probability = _probability(question, evidence)
    both = torch.cat([question.inputs, metrics.fade(question.inputs, hot)])
    whole, faded = metrics.scores_in_batches(probability, both)
    deletion = metrics.deletion(probability, question.inputs, hot, question.steps)
    insertion = metrics.insertion(probability, question.inputs, hot, question.steps)
    return {
        **_axiom_errors(evidence, weights, signed),
        "drop": float(metrics.average_drop(whole, faded)),
        "increase": float(metrics.increase_in_confidence(whole, faded)),
        "deletion": deletion.area,
        "insertion": insertion.area,
        "road": metrics.road(probability, question.inputs, hot, question.removed),
        "blank": float(not hot.any()),
        "curves": {"deletion": deletion.scores.tolist(), "insertion": insertion.scores.tolist()},
        **_localisation(question.region, hot),
    }


def _axiom_errors(evidence: Evidence, weights: Tensor, signed: Tensor) -> dict[str, float]:
    probe = probe_of(evidence)
    score = probe.score.detach()
    channel_sums = (weights * evidence.activation).sum(dim=(2, 3))
    drops = score[:, None] - probe.without_channels
    return {
        "conservation": float(conservation_error(signed, score)),
        "sensitivity": float(sensitivity_error(channel_sums, drops)),
    }


def _localisation(region: Tensor | None, hot: Tensor) -> dict[str, float]:
    """Pointing game and energy inside; nothing if the object's region is not known."""
    if region is None:
        return {}
    region = region.to(hot.device)
    return {
        "pointing": float(metrics.pointing_game(hot, region)),
        "energy": metrics.energy_inside(hot, region),
    }


def _heatmap(question: Question, signed: Tensor) -> Tensor:
    """The heatmap of a map (1, h, w) at the size of the inputs, (H, W)."""
    return heatmap(signed, (question.inputs.shape[2], question.inputs.shape[3]))[0]


def _probability(question: Question, evidence: Evidence) -> metrics.ScoreFunction:
    """The function from inputs (M, C, H, W) to the target's probabilities (M,).

    The rule is the same for all inputs: the one for the question's own, whose scores have a graph.
    """
    scores = logits_of(probe_of(evidence).recording.output, question.output)
    of_scores = PROBABILITY_RULES[question.probability or probability_rule(scores)[0]]

    def probability(inputs: Tensor) -> Tensor:
        with borrowed(question.model) as run:
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
    for _, changed in randomised(model, inputs, seed, counts):
        for index, question in enumerate(questions):
            now = _heatmaps(question, changed, layer, [*likeness])
            for method in likeness:
                correlation = rank_correlation(before[index][method], now[method])
                likeness[method][index].append(abs(correlation))
    return {
        method: [
            float(np.mean(values)) if before[index][method].any() else None
            for index, values in enumerate(found)
        ]
        for method, found in likeness.items()
    }


def _evidence(
    question: Question, model: nn.Module, layer: str, progress: Progress = lambda _done, _total: None
) -> Evidence:
    about = question.target, question.output, progress
    return evidence_of(model, question.inputs, layer, *about, layout=question.layout)


def _heatmaps(question: Question, model: nn.Module, layer: str, methods: Sequence[str]) -> dict[str, Tensor]:
    """Method -> heatmap (H, W), without the methods that do not apply."""
    evidence = _evidence(question, model, layer)
    weights = {method: _weights(method, evidence) for method in methods}
    return {
        method: _heatmap(question, weighted_map(found, evidence.activation))
        for method, found in weights.items()
        if found is not None
    }
