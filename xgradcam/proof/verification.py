"""The terms of Eq. 5 and the verdict on them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xgradcam.proof.constants import Kind

RELATIVE_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


ROUNDINGS = 16


@dataclass(frozen=True)
class Contribution:
    """What one operation adds to the scores: `value` is (N,), float64.

    module: the name of the innermost module that ran it, '' for the model itself. kind: 'bias' of a piecewise
    affine operation, 'bypass' of a tensor that does not depend on the layer, 'curvature' of any other.
    """

    module: str
    operation: str
    kind: Kind
    value: Tensor


@dataclass(frozen=True)
class Verification:
    """Both sides of Eq. 5, one entry per sample: (N,), float64, on the CPU.

    score = feature + bias + bypass + curvature + residual, the four being found independently of the score.
    feature_magnitude: Σ|ĝ_A A|, entry by entry. dtype: the precision that the network ran in.
    """

    score: Tensor
    feature: Tensor
    feature_magnitude: Tensor
    contributions: tuple[Contribution, ...]
    dtype: torch.dtype

    @property
    def bias(self) -> Tensor:
        """The constants of the piecewise affine operations behind the layer."""
        return self._sum("bias")

    @property
    def bypass(self) -> Tensor:
        """What reaches the score past the layer: 0 where the layer cuts the network."""
        return self._sum("bypass")

    @property
    def curvature(self) -> Tensor:
        """What operations that are not piecewise affine add: 0 in a ReLU-CNN, the premise of the paper."""
        return self._sum("curvature")

    @property
    def residual(self) -> Tensor:
        """What the identity leaves unexplained."""
        return self.score - self.feature - self.bias - self.bypass - self.curvature

    @property
    def magnitude(self) -> Tensor:
        """The sum of the absolute terms; many times |score| where the score is a cancellation.

        The feature term counts entry by entry: what cancels within it is rounded too.
        """
        return self.feature_magnitude + sum(term.value.abs() for term in self.contributions)

    @property
    def tolerance(self) -> Tensor:
        """The rounding to expect: a share of the score, or 16 roundings of the terms."""
        rounding = ROUNDINGS * torch.finfo(self.dtype).eps / 2
        return torch.maximum(RELATIVE_TOLERANCE[self.dtype] * self.score.abs(), rounding * self.magnitude)

    @property
    def closes(self) -> Tensor:
        """Whether the terms sum to the score, (N,) bool: Eq. 5 with its curvature, true of any network."""
        return self.residual.abs() <= self.tolerance

    @property
    def holds(self) -> Tensor:
        """Whether Eq. 5 holds as the paper states it: it closes, and nothing behind the layer is curved."""
        curved = (term.value.abs() for term in self.contributions if term.kind == "curvature")
        return self.closes & (sum(curved, torch.zeros_like(self.score)) <= self.tolerance)

    def _sum(self, kind: Kind) -> Tensor:
        values = (term.value for term in self.contributions if term.kind == kind)
        return sum(values, torch.zeros_like(self.score))
