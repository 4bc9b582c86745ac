"""The score of one class less that of another, where each sample has classes of its own."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xgradcam.scores.outputs import logits_of
from xgradcam.scores.score import Contrast


@dataclass(frozen=True)
class Versus:
    """The logit of each sample's class less that of another: S = y_target − y_other, both (N,).

    `Contrast` is the same for one class and one other. output: see `ClassScore`.
    """

    targets: Tensor
    others: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        logits = logits_of(returned, self.output)
        own, other = (logits.gather(1, one.to(logits.device)[:, None]) for one in (self.targets, self.others))
        return (own - other)[:, 0]

    def alone(self, sample: int) -> Contrast:
        """The score of one sample's classes, for any number of rows."""
        target, other = int(self.targets[sample]), int(self.others[sample])
        return Contrast(target, (other,), output=self.output, targets=(target,))
