"""All measures of the maps of a photograph, method by method, and what they come to over many photographs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xgradcam.cam.evidence import Evidence, probe_of
from xgradcam.cam.explain import evidence_of
from xgradcam.cam.explanation import conservation_error, heatmap, sensitivity_error, weighted_map
from xgradcam.cam.methods import METHODS
from xgradcam.capture.borrowing import borrowed
from xgradcam.capture.scores import finite_logits_of
from xgradcam.errors import NotApplicableError
from xgradcam.evaluation import metrics
from xgradcam.evaluation.randomisation import randomised, rank_correlation, with_parameters

# Measure -> its name in a table, and whether more of it is better (None: it is a cost, or only said).
MEASURES: Mapping[str, tuple[str, bool | None]] = MappingProxyType(
    {
        "conservation": ("conservation error", False),
        "sensitivity": ("sensitivity error", False),
        "drop": ("average drop", False),
        "increase": ("increase in confidence", True),
        "deletion": ("deletion", False),
        "insertion": ("insertion", True),
        "road": ("ROAD", True),
        "pointing": ("pointing game", True),
        "energy": ("energy inside", True),
        "randomised": ("likeness when randomised", False),
        "blank": ("blank", None),
        "seconds": ("seconds", None),
        "evaluations": ("evaluations", None),
    }
)
RESAMPLES = 2000


@dataclass(frozen=True)
class Question:
    """What is asked about a photograph.

    inputs: (1, C, H, W). target: the class. output: where the scores are, see `explain`.
    region: where the class's object is, (H, W) bool, if that is known. steps, removed: see `metrics`.
    """

    model: nn.Module
    inputs: Tensor
    target: int
    output: str | int | None = None
    region: Tensor | None = None
    steps: int = 28
    removed: Sequence[float] = metrics.REMOVED


@dataclass
class _Count:
    """Evaluations that one method asks for."""

    done: int = field(default=0)

    def __call__(self, done: int, _total: int) -> None:
        self.done = done


def measure(question: Question, layer: str, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Method -> its measures and curves at a layer; what does not apply there is left out.

    The score is the logit for the axioms and the probability for the others. seconds and evaluations are
    those of a map by itself: a forward, a backward, and what its method asks beside them.
    """
    count = _Count()
    started = time.perf_counter()
    evidence = evidence_of(question.model, question.inputs, layer, question.target, question.output, count)
    shared = time.perf_counter() - started
    weights: dict[str, Tensor] = {}
    costs: dict[str, dict[str, float]] = {}
    # Before any measure: what one of them asks the network would be there for the methods that ask the same.
    for method in methods:
        count.done, started = 0, time.perf_counter()
        found = _weights(method, evidence)
        if found is not None:
            weights[method] = found
            seconds = shared + time.perf_counter() - started
            costs[method] = {"seconds": seconds, "evaluations": 1 + count.done}
    return {method: {**_measures(question, evidence, weights[method]), **costs[method]} for method in weights}


def _weights(method: str, evidence: Evidence) -> Tensor | None:
    """The method's weights; None where it does not apply."""
    try:
        return METHODS[method](evidence)
    except NotApplicableError:
        return None


def _hot(question: Question, signed: Tensor) -> Tensor:
    """The heatmap of a map (1, h, w), of the inputs' size (H, W)."""
    return heatmap(signed, (question.inputs.shape[2], question.inputs.shape[3]))[0]


def _measures(question: Question, evidence: Evidence, weights: Tensor) -> dict[str, Any]:
    probe = probe_of(evidence)
    score = probe.score.detach()
    signed = weighted_map(weights, evidence.activation)
    channel_sums = (weights * evidence.activation).sum(dim=(2, 3))
    drops = score[:, None] - probe.without_channels
    hot = _hot(question, signed)
    probability = _probability(question)
    both = torch.cat([question.inputs, metrics.fade(question.inputs, hot)])
    whole, faded = metrics.scores_in_batches(probability, both)
    deletion = metrics.deletion(probability, question.inputs, hot, question.steps)
    insertion = metrics.insertion(probability, question.inputs, hot, question.steps)
    found = {
        "conservation": float(conservation_error(signed, score)),
        "sensitivity": float(sensitivity_error(channel_sums, drops)),
        "drop": float(metrics.average_drop(whole, faded)),
        "increase": float(metrics.increase_in_confidence(whole, faded)),
        "deletion": deletion.area,
        "insertion": insertion.area,
        "road": metrics.road(probability, question.inputs, hot, question.removed),
        "blank": float(not hot.any()),
        "curves": {"deletion": deletion.scores.tolist(), "insertion": insertion.scores.tolist()},
    }
    if question.region is not None:
        inside = question.region.to(hot.device)
        found["pointing"] = float(metrics.pointing_game(hot, inside))
        found["energy"] = metrics.energy_inside(hot, inside)
    return found


def _probability(question: Question) -> metrics.ScoreFunction:
    def probability(inputs: Tensor) -> Tensor:
        with borrowed(question.model):
            logits = finite_logits_of(question.model(inputs), question.output)
        return logits.softmax(dim=1)[:, question.target]

    return probability


def likeness_when_randomised(
    questions: Sequence[Question], layer: str, methods: Sequence[str], stages: Sequence[float], seed: int = 0
) -> dict[str, list[float | None]]:
    """Method -> for each question, the mean over stages of how like its map is to that of a random model.

    None where the map is blank: there is nothing that could change.

    stages: shares of the modules, from the output down, that are randomised; see `sanity.randomised`, which
    is given all inputs.
    Likeness is the rank correlation of the heatmaps without its sign; near 0 the map depends on what was
    learned.
    """
    model = questions[0].model
    before = [_heatmaps(question, question.model, layer, methods) for question in questions]
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


def _heatmaps(question: Question, model: nn.Module, layer: str, methods: Sequence[str]) -> dict[str, Tensor]:
    """Method -> heatmap, of those that apply."""
    evidence = evidence_of(model, question.inputs, layer, question.target, question.output)
    weights = {method: _weights(method, evidence) for method in methods}
    return {
        method: _hot(question, weighted_map(found, evidence.activation))
        for method, found in weights.items()
        if found is not None
    }


@dataclass(frozen=True)
class Mean:
    """A mean over photographs, and the interval that 95% of the means of their bootstrap resamples are in."""

    value: float
    low: float
    high: float
    count: int


def mean_of(values: Sequence[float | None], seed: int = 0) -> Mean:
    """The mean of what is finite with its bootstrap interval by percentiles. Efron 1979."""
    finite = np.asarray([value for value in values if value is not None and np.isfinite(value)], float)
    if not len(finite):
        return Mean(np.nan, np.nan, np.nan, 0)
    drawn = np.random.default_rng(seed).integers(0, len(finite), (RESAMPLES, len(finite)))
    low, high = np.percentile(finite[drawn].mean(axis=1), (2.5, 97.5))
    return Mean(float(finite.mean()), float(low), float(high), len(finite))
