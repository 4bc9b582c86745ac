"""The cost of an evaluation to come, from a first batch of everything that it asks the network for."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

import torch

from xgradcam.cam.evidence import Evidence, probe_of
from xgradcam.cam.methods import METHODS
from xgradcam.errors import NotApplicableError, XGradCamError
from xgradcam.evaluation import metrics
from xgradcam.evaluation.measures import AtLayer, Question, probability_of

# Costs of less are not worth a line, in seconds.
WORTH_SAYING = 10


@dataclass
class Cost:
    """Evaluations of the network and seconds, in all; by_method: the seconds of each method.

    refused: lines on complete maps that cannot be found.
    """

    evaluations: float = 0
    seconds: float = 0
    refused: list[str] = field(default_factory=list)
    by_method: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, method: str, evaluations: float, seconds: float) -> None:
        """Add to a method's; '' is what all methods share."""
        self.evaluations += evaluations
        self.seconds += seconds
        if method:
            self.by_method[method] += seconds

    def line(self) -> str:
        """The cost in a line, with the method that takes most of it; empty if it is small."""
        if self.seconds < WORTH_SAYING:
            return ""
        in_all = f"about {self.evaluations:,.0f} evaluations of the network, {_duration(self.seconds)}"
        if len(self.by_method) < 2:
            return in_all
        most, seconds = max(self.by_method.items(), key=itemgetter(1))
        return f"{in_all}; {most} takes {seconds / self.seconds:.0%} of it (--without {most} leaves it out)"


def _duration(seconds: float) -> str:
    """A time in seconds, minutes or hours, to two digits."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} seconds"


class _EnoughError(Exception):
    """Raised to end a method after its first batch."""


@dataclass
class _FirstBatch:
    """Progress callback that ends a method after its first batch of evaluations."""

    done: int = 0
    total: int = 0

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        raise _EnoughError


def cost_of(
    question: Question, layers: Sequence[str], methods: Sequence[str], measured: int, drawn_only: int
) -> Cost:
    """The cost of so many maps that are measured, and of so many that are drawn only, by each method.

    question: one of the photographs, on which a first batch of everything is timed.
    """
    cost = Cost()
    maps = measured + drawn_only
    for layer in layers:
        at = question.at(layer)
        cost.add("", maps, maps * at.seconds)
        of_pixels, seconds_of_pixels = _of_pixels(question, at.evidence)
        for method in methods:
            try:
                evaluations, seconds = _of_method(method, at)
            except NotApplicableError:
                continue
            except XGradCamError as error:
                if not METHODS[method].complete:
                    raise
                cost.refused.append(f"{method} at {layer} is left out: {error}")
                continue
            cost.add(method, maps * evaluations, maps * seconds)
            cost.add(method, measured * of_pixels, measured * seconds_of_pixels)
        # Ablation-CAM's evaluations are those of the sensitivity error, which is measured without it too.
        if "ablation-cam" not in methods:
            evaluations, seconds = _of_method("ablation-cam", at)
            cost.add("", measured * evaluations, measured * seconds)
    return cost


def _of_method(method: str, at: AtLayer) -> tuple[float, float]:
    """Evaluations and seconds of the method's map, from its first batch of evaluations."""
    first = _FirstBatch()
    probe = replace(probe_of(at.evidence), progress=first)
    started = time.perf_counter()
    try:
        replace(at, evidence=replace(at.evidence, probe=probe)).drawn(method)
    except _EnoughError:
        pass
    seconds = time.perf_counter() - started
    return first.total, seconds * first.total / first.done if first.done else seconds


def _of_pixels(question: Question, evidence: Evidence) -> tuple[int, float]:
    """Evaluations and seconds of the measures that change pixels, for a heatmap."""
    heat = torch.rand(
        question.inputs.shape[2:], generator=torch.Generator("cpu").manual_seed(0), device="cpu"
    )
    changed = metrics.removing(question.inputs, metrics.ranks(heat), [0.5])
    started = time.perf_counter()
    one = next(changed)
    filling = time.perf_counter() - started
    batch = one.expand(metrics.BATCH, *one.shape)
    started = time.perf_counter()
    metrics.scores_in_batches(probability_of(question, evidence), batch)
    asking = (time.perf_counter() - started) / len(batch)
    evaluations = question.changed_pixels.evaluations
    return evaluations, evaluations * asking + 2 * len(question.removed) * filling
