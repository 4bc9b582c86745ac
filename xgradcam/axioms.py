"""How far a map is from the axioms of XGrad-CAM's paper; on the signed map, before ReLU and rescaling."""

from torch import Tensor


def conservation_error(signed: Tensor, score: Tensor) -> Tensor:
    """|S − Σ_xy map(x, y)| / |S|, (N,): the share of the score that the map (N, h, w) does not account for.

    score: the logit, (N,). Infinite where the score is 0 and the map is not. Fu et al. 2020, axiom of
    conservation; of XGrad-CAM it is |bias term of Eq. 5| / |S|.
    """
    return (score - signed.sum(dim=(1, 2))).abs() / score.abs()
