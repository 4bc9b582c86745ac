"""The methods that need only activation and gradient, each with its formula.

F is the activation and g = ∂S/∂F the gradient of the score S, both (N, C, h, w), or of another number of
sides: (N, C, l), (N, C, d, h, w). A method returns weights w that broadcast against them; its map is
Σ_k w_k F^k.
"""

import torch
from torch import Tensor

from xgradcam.cam.evidence import Evidence
from xgradcam.layouts.sides import of_channels, space

# As in the original scripts.
EPSILON = 1e-6


def grad_cam(evidence: Evidence) -> Tensor:
    """Mean gradient per channel: (N, C, 1, 1). Selvaraju et al. 2017, Eq. 1.

    w_k = mean_xy g_k
    """
    return evidence.gradient.mean(dim=space(evidence.gradient), keepdim=True)


def xgrad_cam(evidence: Evidence) -> Tensor:
    """Mean gradient weighted by activation, per channel: (N, C, 1, 1). Fu et al. 2020.

    w_k = Σ_xy F^k g_k / (Σ_xy F^k + ε)
    """
    over = space(evidence.activation)
    mass = evidence.activation.sum(dim=over, keepdim=True)
    return (evidence.gradient * evidence.activation).sum(dim=over, keepdim=True) / (mass + EPSILON)


def grad_cam_plus_plus(evidence: Evidence) -> Tensor:
    """Sum of the positive gradients, each weighted by α: (N, C, 1, 1). Chattopadhay et al. 2018, Eq. 19.

    w_k = Σ_xy α_k relu(g_k),  α_k = g_k² / (2 g_k² + g_k³ Σ_xy F^k)

    The paper explains exp(S), which multiplies the whole map by a positive factor: it is left out.
    """
    return plus_plus(evidence.activation, evidence.gradient, evidence.gradient**2, evidence.gradient**3)


def plus_plus(activation: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Grad-CAM++'s weights (N, C, 1, 1), with these three for g, g² and g³, all (N, C, h, w)."""
    below = 2 * second + activation.sum(dim=space(activation), keepdim=True) * third
    share = torch.where(below == 0, 0, second / torch.where(below == 0, 1, below))
    return (share * first.clamp(min=0)).sum(dim=space(first), keepdim=True)


def hires_cam(evidence: Evidence) -> Tensor:
    """The gradient at each position: (N, C, h, w). Draelos and Carin 2020.

    w_k(x, y) = g_k(x, y)
    """
    return evidence.gradient


def grad_cam_elementwise(evidence: Evidence) -> Tensor:
    """The gradient where gradient times activation is positive: (N, C, h, w). Pillai and Pirsiavash 2021.

    w_k(x, y) F^k(x, y) = relu(g_k(x, y) F^k(x, y))
    """
    return torch.where(evidence.gradient * evidence.activation > 0, evidence.gradient, 0)


def layer_cam(evidence: Evidence) -> Tensor:
    """The positive gradient at each position: (N, C, h, w). Jiang et al. 2021.

    w_k(x, y) = relu(g_k(x, y))
    """
    return evidence.gradient.clamp(min=0)


def eigen_cam(evidence: Evidence) -> Tensor:
    """The first principal component of the activation: (N, C, 1, 1). Muhammad and Yeasin 2020.

    w_k = v_k,  v the first right singular vector of F as (h w, C), signed so that the map's sum is positive

    The same for every class.
    """
    return _principal(evidence.activation)


def eigen_grad_cam(evidence: Evidence) -> Tensor:
    """The first principal component of gradient times activation: (N, C, h, w). Gildenblat 2021.

    w_k(x, y) = v_k g_k(x, y),  v the first right singular vector of g F, signed so that the map's sum has the
    sign of Σ g F

    Source: the package grad-cam (pytorch-grad-cam), which subtracts the mean first.
    """
    weighted = evidence.gradient * evidence.activation
    return _principal(weighted, towards=weighted) * evidence.gradient


def _principal(values: Tensor, towards: Tensor | None = None) -> Tensor:
    """The first right singular vector of values (N, C, h, w) as (h w, C): (N, C, 1, 1).

    Its sign gives the projection's sum the sign of `towards`' sum, or a positive one for None.
    """
    # From the smaller of the two Gram matrices; in double, because squares lose half of the digits.
    rows = values.flatten(2).double()
    if rows.shape[1] <= rows.shape[2]:
        vector = torch.linalg.eigh(rows @ rows.mT)[1][..., -1]
    else:
        vector = (rows @ torch.linalg.eigh(rows.mT @ rows)[1][..., -1:])[..., 0]
        length = vector.norm(dim=1, keepdim=True)
        vector = torch.where(length > 0, vector / torch.where(length > 0, length, 1), 0)
    total = (vector[..., None] * rows).sum(dim=(1, 2))
    wanted = torch.ones_like(total) if towards is None else towards.double().flatten(1).sum(dim=1).sign()
    signed: Tensor = vector * torch.where(total * wanted < 0, -1.0, 1.0)[:, None]
    return of_channels(signed.to(values.dtype), values)


def random_cam(evidence: Evidence) -> Tensor:
    """Random weights, the same each time for a class: (1 or N, C, 1, 1). The baseline.

    w_k ~ U(-1, 1)
    """
    seeds = (evidence.probe.seeds() if evidence.probe else []) or [0]
    channels = evidence.activation.shape[1]
    drawn = [
        torch.rand(
            channels, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float64, device="cpu"
        )
        for seed in seeds
    ]
    return of_channels((2 * torch.stack(drawn) - 1).to(evidence.activation), evidence.activation)
