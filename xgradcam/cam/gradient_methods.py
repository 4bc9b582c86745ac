"""The methods that need no more than activation and gradient: how much each of a layer's values counts.

Each returns weights that broadcast against the activation; the map is Σ_k w_k F^k.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xgradcam.cam.evidence import Evidence

if TYPE_CHECKING:
    pass

EPSILON = 1e-6


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


def grad_cam_plus_plus(evidence: Evidence) -> Tensor:
    """Sum of the positive gradients, each weighted by α: (N, C, 1, 1). Chattopadhay et al. 2018, Eq. 19.

    w_k = Σ_xy α relu(g),  α = g² / (2 g² + g³ Σ_xy F^k),  g = ∂S/∂F^k

    Of the paper's score exp(S) only a positive factor of the whole map is left out.
    """
    return plus_plus(evidence.activation, evidence.gradient, evidence.gradient**2, evidence.gradient**3)


def plus_plus(activation: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Grad-CAM++'s weights from a score's derivatives of three orders, all (N, C, h, w): (N, C, 1, 1)."""
    below = 2 * second + activation.sum(dim=(2, 3), keepdim=True) * third
    share = torch.where(below == 0, 0, second / torch.where(below == 0, 1, below))
    return (share * first.clamp(min=0)).sum(dim=(2, 3), keepdim=True)


def hires_cam(evidence: Evidence) -> Tensor:
    """The gradient itself, place by place: (N, C, h, w). Draelos and Carin 2020.

    w_k(x, y) = ∂S/∂F^k(x, y)
    """
    return evidence.gradient


def grad_cam_elementwise(evidence: Evidence) -> Tensor:
    """The gradient where gradient times activation is positive: (N, C, h, w). Pillai and Pirsiavash 2021.

    w_k(x, y) F^k(x, y) = relu(∂S/∂F^k(x, y) F^k(x, y))
    """
    return torch.where(evidence.gradient * evidence.activation > 0, evidence.gradient, 0)


def layer_cam(evidence: Evidence) -> Tensor:
    """The positive gradient, place by place: (N, C, h, w). Jiang et al. 2021.

    w_k(x, y) = relu(∂S/∂F^k(x, y))
    """
    return evidence.gradient.clamp(min=0)


def eigen_cam(evidence: Evidence) -> Tensor:
    """The activation's first right singular vector, over channels: (N, C, 1, 1). Muhammad and Yeasin 2020.

    The map is the projection on it; it is the same for every class. Its sign makes the map's sum positive.
    """
    return _principal(evidence.activation)


def eigen_grad_cam(evidence: Evidence) -> Tensor:
    """As Eigen-CAM, of gradient times activation, so that the class counts: (N, C, h, w). Gildenblat 2021.

    w_k(x, y) = v_k ∂S/∂F^k(x, y),  v the first right singular vector of ∂S/∂F F, signed by the map's sum

    Source: the package grad-cam (pytorch-grad-cam), there with the mean taken off first.
    """
    weighted = evidence.gradient * evidence.activation
    return _principal(weighted, towards=weighted) * evidence.gradient


def _principal(values: Tensor, towards: Tensor | None = None) -> Tensor:
    """First right singular vector of (h w, C), (N, C, 1, 1): the projection's sum is signed as `towards`'."""
    samples, channels = values.shape[:2]
    # The eigenvectors of the smaller square are enough; in double, as squares halve the digits.
    rows = values.flatten(2).double()
    if channels <= rows.shape[2]:
        vector = torch.linalg.eigh(rows @ rows.mT)[1][..., -1]
    else:
        vector = (rows @ torch.linalg.eigh(rows.mT @ rows)[1][..., -1:])[..., 0]
        length = vector.norm(dim=1, keepdim=True)
        vector = torch.where(length > 0, vector / torch.where(length > 0, length, 1), 0)
    total = (vector[..., None] * rows).sum(dim=(1, 2))
    wanted = torch.ones_like(total) if towards is None else towards.double().sum(dim=(1, 2, 3)).sign()
    signed: Tensor = vector * torch.where(total * wanted < 0, -1.0, 1.0)[:, None]
    return signed.to(values.dtype).reshape(samples, channels, 1, 1)


def random_cam(evidence: Evidence) -> Tensor:
    """Weights drawn evenly from [-1, 1], always the same for a class: (1 or N, C, 1, 1). The baseline."""
    seeds = (evidence.probe.seeds() if evidence.probe else []) or [0]
    channels = evidence.activation.shape[1]
    drawn = [
        torch.rand(channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in seeds
    ]
    return (2 * torch.stack(drawn) - 1).to(evidence.activation)[:, :, None, None]
