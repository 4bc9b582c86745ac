"""Measures of one heatmap: does it show what the network uses, and does it find the object?

Common arguments: `inputs` (1, C, H, W), normalised, so that 0 is the mean colour; `heatmap` (H, W) in [0, 1];
`score`, a function from inputs (M, C, H, W) to scores (M,), such as the probability of the target. All but
ROAD take signals (1, C, L) and volumes (1, C, D, H, W) too, with a heatmap of as many sides.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import TypeAlias

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from xgradcam.errors import XGradCamError
from xgradcam.evaluation.imputation import imputed
from xgradcam.layouts.sides import upsampled

ScoreFunction: TypeAlias = Callable[[Tensor], Tensor]

# Inputs per forward pass.
BATCH = 16
# Blur of the first picture of an insertion, in pixels, as RISE has it.
KERNEL, SIGMA = 11, 5.0
# Shares of pixels that ROAD removes.
REMOVED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def scores_in_batches(score: ScoreFunction, inputs: Iterable[Tensor]) -> Tensor:
    """The scores of inputs (C, H, W), computed in batches without a graph, in their order: (M,)."""
    left = iter(inputs)
    with torch.no_grad():
        return torch.cat([score(torch.stack(batch)) for batch in iter(lambda: [*islice(left, BATCH)], [])])


def fade(inputs: Tensor, heatmap: Tensor) -> Tensor:
    """Inputs times heatmap, (1, C, H, W): unchanged where the heatmap is 1, the mean colour where it is 0."""
    return inputs * heatmap.to(inputs)


def average_drop(whole: Tensor, faded: Tensor) -> Tensor:
    """Relative loss of probability on the faded input, max(0, p − p_faded) / p, in [0, 1]; less is better.

    whole, faded: probabilities of the input and of the faded input, same shape. Chattopadhay et al. 2018.
    """
    return (whole - faded).clamp(min=0) / whole


def increase_in_confidence(whole: Tensor, faded: Tensor) -> Tensor:
    """1 where the faded input has the higher probability, else 0; more is better.

    Arguments and source: see `average_drop`.
    """
    return (faded > whole).to(whole.dtype)


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores (steps + 1,) while pixels change step by step; shares: of pixels changed so far, from 0 to 1."""

    shares: Tensor
    scores: Tensor

    @property
    def area(self) -> float:
        """Area under the curve, by trapezoids."""
        return float(torch.trapezoid(self.scores, self.shares))


def deletion(score: ScoreFunction, inputs: Tensor, heatmap: Tensor, steps: int = 28) -> Curve:
    """Scores while pixels become the mean colour, hottest first; a small area is better.

    Petsiuk et al. 2018.
    """
    changed = changing(inputs, torch.zeros_like(inputs), ranks(heatmap), steps)
    return curve(scores_in_batches(score, changed), heatmap.numel())


def insertion(score: ScoreFunction, inputs: Tensor, heatmap: Tensor, steps: int = 28) -> Curve:
    """Scores while pixels of the blurred input become sharp, hottest first; a large area is better.

    Petsiuk et al. 2018.
    """
    changed = changing(blur(inputs), inputs, ranks(heatmap), steps)
    return curve(scores_in_batches(score, changed), heatmap.numel())


def changing(start: Tensor, end: Tensor, rank: Tensor, steps: int) -> Iterator[Tensor]:
    """The inputs (C, H, W) on the way from one to the other, both included: steps + 1, by rising rank."""
    rank = rank.to(start.device)
    for step in range(steps + 1):
        yield torch.where(rank < step * rank.numel() // steps, end[0], start[0])


def curve(scores: Tensor, pixels: int) -> Curve:
    """The curve of the scores of all that `changing` yields, for inputs of so many pixels."""
    steps = len(scores) - 1
    counts = torch.arange(steps + 1, device="cpu") * pixels // steps
    return Curve(counts.double() / pixels, scores.double().cpu())


def ranks(heatmap: Tensor) -> Tensor:
    """The rank of each pixel, (H, W) int64, 0 for the hottest; ties are in a fixed random order.

    In reading order, ties would rank a flat heatmap from its upper left corner, which no method means.
    """
    draw = torch.randperm(heatmap.numel(), generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    order = draw[heatmap.flatten().cpu()[draw].argsort(descending=True, stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device="cpu")
    return rank.reshape(heatmap.shape)


def blur(inputs: Tensor) -> Tensor:
    """Inputs (M, C, H, W) under a Gaussian blur of 11 x 11 pixels, σ = 5, with reflected edges.

    Signals (M, C, L) and volumes (M, C, D, H, W) are blurred along each of their sides.
    """
    blurred: Tensor = inputs
    if inputs.ndim == 4:
        blurred = gaussian_blur(inputs, [KERNEL, KERNEL], [SIGMA, SIGMA])
    else:
        for axis in range(2, inputs.ndim):
            blurred = _blurred_along(blurred, axis)
    return blurred


def _blurred_along(inputs: Tensor, axis: int) -> Tensor:
    side, reach = inputs.shape[axis], KERNEL // 2
    weights = torch.exp(-((torch.arange(KERNEL, device="cpu") - reach) ** 2) / (2 * SIGMA**2))
    # A side may be shorter than the kernel: it is reflected as often as needed.
    period = max(1, 2 * side - 2)
    places = torch.arange(-reach, side + reach, device="cpu") % period
    places = torch.where(places < side, places, period - places).to(inputs.device)
    shifted = [inputs.index_select(axis, places[first : first + side]) for first in range(KERNEL)]
    return torch.einsum("k,k...->...", (weights / weights.sum()).to(inputs), torch.stack(shifted))


def road(score: ScoreFunction, inputs: Tensor, heatmap: Tensor, removed: Sequence[float] = REMOVED) -> float:
    """Mean over shares of (score without the coldest pixels − score without the hottest) / 2; more is better.

    Removed pixels are imputed from their neighbours, so that the shape of the mask gives nothing away.
    Rong et al. 2022; the two curves become one number as in ROADCombined of the package grad-cam.
    """
    return road_of(scores_in_batches(score, removing(inputs, ranks(heatmap), removed)))


def removing(inputs: Tensor, rank: Tensor, removed: Sequence[float]) -> Iterator[Tensor]:
    """The inputs (C, H, W) that ROAD asks for: without the coldest pixels, then without the hottest."""
    rank = rank.to(inputs.device)
    for order in (rank.numel() - 1 - rank, rank):
        for share in removed:
            yield imputed(inputs, order < round(share * rank.numel()))[0]


def road_of(scores: Tensor) -> float:
    """ROAD from the scores of all that `removing` yields."""
    coldest, hottest = scores.reshape(2, -1)
    return float((coldest - hottest).mean() / 2)


def pointing_game(heatmap: Tensor, region: Tensor, tolerance: int = 15) -> bool:
    """True if the hottest pixel is in the region or at most `tolerance` pixels away. Zhang et al. 2018.

    region: True where the object is, (H, W) bool. False for a blank heatmap or an empty region.
    """
    _require_region(region, heatmap)
    if not heatmap.any() or not region.any():
        return False
    row, column = divmod(int(heatmap.argmax()), heatmap.shape[1])
    rows, columns = region.nonzero().unbind(dim=1)
    return bool(((rows - row) ** 2 + (columns - column) ** 2).min() <= tolerance**2)


def energy_inside(heatmap: Tensor, region: Tensor) -> float:
    """The share of the heatmap's sum that is in the region, 0 to 1; 0 for a blank one. Wang et al. 2020."""
    _require_region(region, heatmap)
    total = float(heatmap.sum())
    return float(heatmap[region].sum()) / total if total else 0.0


def focus(signed: Tensor, region: Tensor) -> float | None:
    """The share of a map's positive evidence that is in the region; None for a map without any.

    signed: (1, h, w), of any size; its positive part is enlarged to the region's (H, W), as for a heatmap.
    For one tile of a mosaic of four it is 1/4 by chance. Arias-Duart et al. 2022, where two tiles of four
    are of the class.
    """
    positive = signed.clamp(min=0)[:, None]
    large = upsampled(positive, region.shape)[0, 0]
    _require_region(region, large)
    total = float(large.sum())
    return float(large[region.to(large.device)].sum()) / total if 0 < total < inf else None


def _require_region(region: Tensor, heatmap: Tensor) -> None:
    """Raise XGradCamError unless the region is a bool for each pixel of the heatmap."""
    if heatmap.shape != region.shape or region.dtype != torch.bool:
        raise XGradCamError(
            f"the region is {region.dtype} {tuple(region.shape)}, not a bool for each pixel of "
            f"{tuple(heatmap.shape)}"
        )
