"""The methods: how much each channel of the activation counts for the score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

EPSILON = 1e-6


@dataclass(frozen=True)
class Evidence:
    """What a method may look at: activation and gradient of the score at one layer, both (N, C, h, w)."""

    activation: Tensor
    gradient: Tensor


def grad_cam(evidence: Evidence) -> Tensor:
    """Mean gradient per channel: (N, C, 1, 1). Selvaraju et al. 2017, Eq. 1.

    w_k = mean_xy ∂S/∂F^k
    """
    return evidence.gradient.mean(dim=(2, 3), keepdim=True)


def xgrad_cam(evidence: Evidence) -> Tensor:
    """Mean gradient weighted by activation, per channel: (N, C, 1, 1). Fu et al. 2020.

    w_k = Σ_xy F^k ∂S/∂F^k / (Σ_xy F^k + ε)
    """
    mass = evidence.activation.sum(dim=(2, 3), keepdim=True)
    return (evidence.gradient * evidence.activation).sum(dim=(2, 3), keepdim=True) / (mass + EPSILON)


Weighting = Callable[[Evidence], Tensor]
METHODS: Mapping[str, Weighting] = MappingProxyType({"grad-cam": grad_cam, "xgrad-cam": xgrad_cam})
