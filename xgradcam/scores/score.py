"""Scores: functions from what a model returned to a number for each sample, (N,)."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from xgradcam.errors import NothingFoundError, XGradCamError, shown, users_code
from xgradcam.scores.outputs import described, is_scores, logits_of, select_output
from xgradcam.scores.targets import Targets, choose_targets, class_indices, require_class

Score: TypeAlias = Callable[[Any], Tensor]


@dataclass(frozen=True)
class ClassScore:
    """The logit of a class: S = y_t of the class scores y (N, classes), t the class of each sample.

    targets: None (each sample's highest score), one class index, or N of them. output: where the class
    scores are in what the model returned: a key, an attribute, a position, or a path (`head.logits`).
    `explain` explains it, with the class's probability.
    """

    targets: Targets = None
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        logits = logits_of(returned, self.output)
        return logits.gather(1, self.indices(logits)[:, None])[:, 0]

    def settled(self, returned: Any) -> "ClassScore":
        """The same score with the classes of what the model returned; XGradCamError for one out of range."""
        logits, targets = logits_of(returned, self.output), self.targets
        if isinstance(targets, Tensor) and targets.shape == (1,):
            targets = int(targets)
        return ClassScore(choose_targets(logits.detach(), targets), self.output)

    def alone(self, sample: int) -> "ClassScore":
        """The score of one sample's class, for any number of rows."""
        targets = self.targets
        if isinstance(targets, int) or targets is None:
            return self
        return ClassScore(targets[sample : sample + 1] if len(targets) > 1 else targets, self.output)

    def indices(self, logits: Tensor) -> Tensor:
        """The class of each row, (N,). Those of a tensor are not checked, which would wait for a GPU."""
        if isinstance(self.targets, Tensor):
            return self.targets.expand(len(logits))
        return choose_targets(logits.detach(), self.targets)


def class_index(given: Any, classes: int) -> int:
    """One class index as an integer; XGradCamError for anything else, and for one out of range."""
    chosen = class_indices(given)
    if chosen is None or chosen.ndim:
        raise XGradCamError(f"the class is {shown(given)}: give its index, such as {classes - 1}")
    require_class(int(chosen), classes)
    return int(chosen)


def given_tensor(values: Any, what: str) -> Tensor:
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
    """The logit of a class in contrast to others: S = y_target − share · mean of the others' logits.

    Its map shows what speaks for the target and not for the others. target: None for each sample's highest
    score. output: see `ClassScore`. targets: found, for each sample.
    """

    target: int | None
    others: tuple[int, ...]
    share: float = 1.0
    output: str | int | None = None
    targets: tuple[int, ...] = field(default=(), kw_only=True)

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        logits = logits_of(returned, self.output)
        targets = self.targets or self._targets(logits.detach())
        others = self._others(logits.shape[1])
        if not others or not set(others).isdisjoint(targets):
            same = next((one for one in targets if one in others), targets[0])
            if self.target is None and others:
                raise NothingFoundError(
                    f"the class of the highest score is {same}, one of those that it is in contrast to: "
                    "name other classes"
                )
            raise XGradCamError(
                f"a contrast needs at least one other class than {same}, in a tuple such as (3,), not "
                f"{shown(self.others)}"
            )
        if not isinstance(self.share, Real) or not isfinite(self.share):
            raise XGradCamError(f"the share of a contrast is {shown(self.share)}: give a number, such as 1.0")
        own = logits.gather(1, torch.tensor(targets, device=logits.device).expand(len(logits))[:, None])
        return own[:, 0] - self.share * logits[:, others].mean(dim=1)

    def settled(self, returned: Any) -> "Contrast":
        """The same score with the classes of what the model returned."""
        return replace(self, targets=self._targets(logits_of(returned, self.output).detach()))

    def alone(self, sample: int) -> "Contrast":
        """The score of one sample's class, for any number of rows."""
        return self if len(self.targets) < 2 else replace(self, targets=(self.targets[sample],))

    def _targets(self, logits: Tensor) -> tuple[int, ...]:
        if self.target is not None:
            return (class_index(self.target, logits.shape[1]),)
        return tuple(logits.argmax(dim=1).tolist())

    def _others(self, classes: int) -> list[int]:
        given = self.others if isinstance(self.others, Iterable) else ()
        return [class_index(other, classes) for other in given]


@dataclass(frozen=True)
class Similarity:
    """The cosine of the model's embedding (N, D) with a given one, (D,) for all samples or (N, D).

    output: see `logits_of`.
    """

    embedding: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        own, goal = select_output(returned, self.output), given_tensor(self.embedding, "embedding")
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
        goal = given_tensor(self.embedding, "embedding")
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


def settled(score: Score, returned: Any) -> Score:
    """The score with what it takes from the model's prediction held; itself if it has no `settled`.

    So that methods that ask the network again ask for the same.
    """
    settle = getattr(score, "settled", None)
    if settle is None or isinstance(score, type):  # what is wrong with a type shows where it is called
        return score
    with users_code("the score failed on the output"):
        held: Score = settle(returned)
    return held


def of_sample(score: Score, sample: int) -> Score:
    """The score of one sample, for any number of rows; the score itself if it has no `alone`."""
    alone = getattr(score, "alone", None)
    return score if alone is None else alone(sample)


def require_one(targets: Any, output: Any, score: Score | None) -> None:
    """Raise XGradCamError where a score is given beside the targets or the output of a class's."""
    if score is not None and (targets is not None or output is not None):
        given = "targets" if targets is not None else "output"
        raise XGradCamError(f"{given} and score: give one of them; a score reads the model's output itself")
