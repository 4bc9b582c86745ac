"""Scores of outputs that are no classes: a number that a network predicts, and a yes or no."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xgradcam.errors import XGradCamError, shown
from xgradcam.scores.outputs import described, is_scores, select_output
from xgradcam.scores.probability import PROBABILITY_RULES, probability_rule
from xgradcam.scores.targets import class_indices


def _values(returned: Any, output: str | int | None) -> Tensor:
    """The outputs of a model, (N, K), one of (N,) too; XGradCamError for anything else."""
    values = select_output(returned, output)
    if is_scores(values) and values.ndim in (1, 2) and values.numel():
        return values[:, None] if values.ndim == 1 else values
    what, hint = described(values)
    raise XGradCamError(f"the model returns {what}, not numbers (N, outputs) or (N,){hint}")


@dataclass(frozen=True)
class Regression:
    """One number that the model predicts: S = y_index of the outputs (N, K), or of (N,).

    No classes, and no probability. output: see `logits_of`.
    """

    index: int = 0
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        values, index = _values(returned, self.output), class_indices(self.index)
        if index is None or index.ndim or not 0 <= index < values.shape[1]:
            there = f"0 to {values.shape[1] - 1}" if values.shape[1] > 1 else "only 0"
            raise XGradCamError(f"no output {shown(self.index)}: this model has {there}")
        return values[:, int(index)]


@dataclass(frozen=True)
class Binary:
    """The only output of a model that says yes or no, (N, 1) or (N,): S is the logit of yes.

    positive: False for the logit of no, −S. output: see `logits_of`.
    """

    positive: bool = True
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        logit = self._only(returned)[:, 0]
        return logit if self.positive else -logit

    def probability(self, returned: Any) -> Tensor:
        """The probability of yes, or no, (N,): the logit's sigmoid; the output of a model that ends in it."""
        values = self._only(returned)
        shares = PROBABILITY_RULES[probability_rule(values)[0]](values)[:, 0].detach()
        return shares if self.positive else 1 - shares

    def _only(self, returned: Any) -> Tensor:
        values = _values(returned, self.output)
        if values.shape[1] == 1:
            return values
        raise XGradCamError(
            f"the model returns {tuple(values.shape)}, more than one output: explain takes a class, and "
            "Regression one of them"
        )
