"""How far a map is from the axioms of XGrad-CAM's paper; on the signed map, before ReLU and rescaling."""

from torch import Tensor


def conservation_error(signed: Tensor, score: Tensor) -> Tensor:
    """|S − Σ_xy map(x, y)| / |S|, (N,): the share of the score that the map (N, h, w) does not account for.

    score: the logit, (N,). Infinite where the score is 0 and the map is not. Fu et al. 2020, axiom of
    conservation; of XGrad-CAM it is |bias term of Eq. 5| / |S|.
    """
    return (score - signed.sum(dim=(1, 2))).abs() / score.abs()


def sensitivity_error(channel_sums: Tensor, drops: Tensor) -> Tensor:
    """Σ_k |drop_k − Σ_xy w_k F^k| / Σ_k |drop_k|, (N,): how far the map is from what removing channels does.

    channel_sums: Σ_xy w_k F^k, (N, C). drops: S − S(F^k = 0), (N, C). Infinite where nothing drops and the
    map is not 0. Fu et al. 2020, axiom of sensitivity.
    """
    return (drops - channel_sums).abs().sum(dim=1) / drops.abs().sum(dim=1)
