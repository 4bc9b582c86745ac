"""The terms of Eq. 5 and the verdict: does the equation hold?"""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from xgradcam.figures.reprs import Brief, BriefVerification
from xgradcam.operations.constants import Kind

# Share of |score| that the residual may have, by the precision that the network ran in.
RELATIVE_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
# The residual may also have this many rounding errors of the terms.
ROUNDINGS = 16


def tolerance_of(score: Tensor, magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """The rounding error to expect of the sum of the terms, (N,), in float64.

    score, magnitude: (N,), of the terms; see `Verification`. dtype: the coarsest that they are computed in.
    """
    rounding = ROUNDINGS * torch.finfo(dtype).eps / 2
    return torch.maximum(RELATIVE_TOLERANCE[dtype] * score.abs(), rounding * magnitude)


@dataclass(frozen=True, repr=False)
class Contribution(Brief):
    """The amount that one operation adds to the scores: value (N,), float64.

    module: the name of the innermost module that ran it, '' for the model itself. kind: 'bias' of a piecewise
    affine operation, 'bypass' of a tensor that does not depend on the layer, 'curvature' of any other.
    nowhere: the part of the value that has no place on the layer's maps, (N,); None or NaN if not known.
    """

    module: str
    operation: str
    kind: Kind
    value: Tensor
    nowhere: Tensor | None = None


@dataclass(frozen=True, repr=False)
class Verification(BriefVerification):
    """Both sides of Eq. 5, one number per sample: (N,), float64, on the CPU.

    score = feature + bias + bypass + curvature + residual. The four terms are computed without the score.
    feature_magnitude: Σ|ĝ_A A| over the activation's entries. dtype: the precision that the network ran in.
    feature_nowhere: see `Contribution`.
    """

    score: Tensor
    feature: Tensor
    feature_magnitude: Tensor
    contributions: tuple[Contribution, ...]
    dtype: torch.dtype
    feature_nowhere: Tensor | None = None

    @property
    def bias(self) -> Tensor:
        """The constants of the piecewise affine operations behind the layer."""
        return self._sum("bias")

    @property
    def bypass(self) -> Tensor:
        """The part of the score that goes past the layer: 0 if the layer cuts the network."""
        return self._sum("bypass")

    @property
    def curvature(self) -> Tensor:
        """The constants of operations that are not piecewise affine: 0 in a ReLU-CNN, as in the paper."""
        return self._sum("curvature")

    @property
    def residual(self) -> Tensor:
        """The part of the score that the terms leave unexplained."""
        return self.score - self.feature - self.bias - self.bypass - self.curvature

    @property
    def magnitude(self) -> Tensor:
        """The sum of the absolute terms; many times |score| if the terms cancel.

        The feature term counts entry by entry: entries that cancel in it have rounding errors too.
        """
        return self.feature_magnitude + sum(term.value.abs() for term in self.contributions)

    @property
    def budget(self) -> dict[str, Tensor]:
        """The parts of the score as in `Explanation.budget`, (N,) each.

        NaN where it is not known what is `nowhere`; `verify_layers` knows with `layouts`.
        """
        every: list[tuple[str, Tensor, Tensor | None]] = [("feature", self.feature, self.feature_nowhere)]
        every += [(term.kind, term.value, term.nowhere) for term in self.contributions]
        parts = dict.fromkeys(("feature", *get_args(Kind), "nowhere"), torch.zeros_like(self.score))
        for name, value, known in every:
            nowhere = torch.full_like(value, torch.nan) if known is None else known
            parts[name] = parts[name] + value - nowhere
            parts["nowhere"] = parts["nowhere"] + nowhere
        return {**parts, "cancellation": self.magnitude / self.score.abs()}

    @property
    def tolerance(self) -> Tensor:
        """The rounding error to expect: `RELATIVE_TOLERANCE` of the score or `ROUNDINGS` of the terms."""
        return tolerance_of(self.score, self.magnitude, self.dtype)

    @property
    def closes(self) -> Tensor:
        """True if the terms sum to the score, (N,) bool: Eq. 5 with its curvature, as for any network."""
        return self.residual.abs() <= self.tolerance

    @property
    def holds(self) -> Tensor:
        """True if Eq. 5 holds as in the paper, (N,) bool: it closes, and no operation adds curvature."""
        curved = (term.value.abs() for term in self.contributions if term.kind == "curvature")
        return self.closes & (sum(curved, torch.zeros_like(self.score)) <= self.tolerance)

    def _sum(self, kind: Kind) -> Tensor:
        values = (term.value for term in self.contributions if term.kind == kind)
        return sum(values, torch.zeros_like(self.score))
