"""Scores: functions from what a model returned to a number for each sample, (N,)."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from xgradcam.errors import XGradCamError, shown, users_code
from xgradcam.scores.outputs import described, is_scores, logits_of, select_output
from xgradcam.scores.targets import class_indices, require_class

Score: TypeAlias = Callable[[Any], Tensor]


@dataclass(frozen=True)
class ClassScore:
    """The logit of a class: `targets` (N,) of N samples. output: see `logits_of`."""

    targets: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        logits = logits_of(returned, self.output)
        return logits.gather(1, self.targets.expand(len(logits))[:, None])[:, 0]

    def alone(self, sample: int) -> "ClassScore":
        """The score of one sample's class, for any number of rows."""
        return ClassScore(self.targets[sample : sample + 1], self.output)


def _class(given: Any, classes: int) -> int:
    """One class index as an integer; XGradCamError for anything else, and for one out of range."""
    chosen = class_indices(given)
    if chosen is None or chosen.ndim:
        raise XGradCamError(f"the class is {shown(given)}: give its index, such as {classes - 1}")
    require_class(int(chosen), classes)
    return int(chosen)


def _given(values: Any, what: str) -> Tensor:
    """The tensor of what a user gave as a region or an embedding; XGradCamError if it is not finite."""
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.array(values), device="cpu")
        if tensor.isfinite().all():
            return tensor.detach()
    except (RuntimeError, TypeError, ValueError):
        pass
    raise XGradCamError(f"the {what} is {shown(values)}: give a tensor or an array of finite numbers")


@dataclass(frozen=True)
class Contrast:
    """The logit of a class in contrast to others: S_target − share · mean of the others' logits.

    Its map shows what speaks for the target and not for the others. output: see `logits_of`.
    """

    target: int
    others: tuple[int, ...]
    share: float = 1.0
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        logits = logits_of(returned, self.output)
        classes = logits.shape[1]
        target = _class(self.target, classes)
        given = self.others if isinstance(self.others, Iterable) else ()
        others = [_class(other, classes) for other in given]
        if not others or target in others:
            raise XGradCamError(
                f"a contrast needs at least one other class than {target}, in a tuple such as (3,), not "
                f"{shown(self.others)}"
            )
        if not isinstance(self.share, Real) or not isfinite(self.share):
            raise XGradCamError(f"the share of a contrast is {shown(self.share)}: give a number, such as 1.0")
        return logits[:, target] - self.share * logits[:, others].mean(dim=1)


@dataclass(frozen=True)
class RegionMean:
    """The mean logit of a class over a region of a segmentation (N, classes, H, W).

    region: True inside, (H, W) for all samples or (N, H, W). output: see `logits_of`.
    """

    target: int
    region: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        planes, regions = select_output(returned, self.output), self._regions()
        if not is_scores(planes) or planes.ndim != 4:
            what, hint = described(planes)
            raise XGradCamError(
                f"the mean over a region needs an output (N, classes, H, W), not {what}{hint}"
            )
        if regions.shape[1:] != planes.shape[2:] or len(regions) not in (1, len(planes)):
            raise XGradCamError(
                f"the region is {tuple(np.shape(self.region))}, the model's output {tuple(planes.shape)}: "
                f"give (H, W) as there, {tuple(planes.shape[2:])}, or (N, H, W)"
            )
        target = _class(self.target, planes.shape[1])
        # Sums over an image are beyond float16.
        of_class = planes[:, target].to(torch.promote_types(planes.dtype, torch.float32))
        inside = regions.to(of_class)
        area = inside.sum(dim=(1, 2))
        size = inside.abs().sum(dim=(1, 2))
        if not size.all():
            raise XGradCamError("the region is empty: no pixel of it is True")
        if (area.abs() <= 1e-6 * size).any():
            raise XGradCamError("the region's weights cancel, and have no mean: give True inside, else False")
        return (of_class * inside).sum(dim=(1, 2)) / area

    def alone(self, sample: int) -> "RegionMean":
        """The score with one sample's region, for any number of rows."""
        regions = self._regions()
        one = regions if len(regions) == 1 else regions[sample : sample + 1]
        return RegionMean(self.target, one, self.output)

    def _regions(self) -> Tensor:
        """The regions, (N, H, W) or (1, H, W)."""
        regions = _given(self.region, "region")
        regions = regions[:, 0] if regions.ndim == 4 and regions.shape[1] == 1 else regions
        return regions[None] if regions.ndim == 2 else regions


@dataclass(frozen=True)
class Similarity:
    """The cosine of the model's embedding (N, D) with a given one, (D,) for all samples or (N, D).

    output: see `logits_of`.
    """

    embedding: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        own, goal = select_output(returned, self.output), _given(self.embedding, "embedding")
        if goal.ndim not in (1, 2) or not goal.any(dim=-1).all():
            raise XGradCamError(f"the embedding is {tuple(goal.shape)}: give (D,) or (N, D), not all of it 0")
        fits = is_scores(own) and own.ndim == 2 and own.shape[1] == goal.shape[-1]
        if not fits or (goal.ndim == 2 and len(goal) not in (1, len(own))):
            what, hint = described(own)
            raise XGradCamError(
                f"a similarity needs an output (N, {goal.shape[-1]}) for the embedding {tuple(goal.shape)}, "
                f"not {what}{hint}"
            )
        return torch.cosine_similarity(own, goal.to(own), dim=-1)

    def alone(self, sample: int) -> "Similarity":
        """The score with one sample's embedding, for any number of rows."""
        goal = _given(self.embedding, "embedding")
        return Similarity(goal[sample] if goal.ndim == 2 and len(goal) > 1 else goal, self.output)


def values_of(score_of: Score, returned: Any, samples: int) -> Tensor:
    """The scores of a model's output, (N,) for N samples; XGradCamError if they are none."""
    if not callable(score_of):
        raise XGradCamError(
            f"the score is {shown(score_of)}: give a function of the model's output; explain takes a class"
        )
    with nullcontext() if isinstance(score_of, ClassScore) else users_code("the score failed on the output"):
        score = score_of(returned)
    if is_scores(score) and score.shape == (samples,):
        return score
    what = described(score)[0].removeprefix("shape ").removeprefix("a ")
    raise XGradCamError(
        f"the score is {what}: it must be a number for each sample, a tensor ({samples},) of floats, such as "
        "output[:, 0]"
    )


def of_sample(score: Score, sample: int) -> Score:
    """The score of one sample, for any number of rows; the score itself if it has no `alone`."""
    alone = getattr(score, "alone", None)
    return score if alone is None else alone(sample)
