"""How faithful a heatmap is to the network, and how well it finds what is in a box.

Each measure is of one photograph: `inputs` (1, C, H, W) as the network sees it, normalised, so that 0 is the
mean colour; `heatmap` (H, W) in [0, 1]. `score` maps inputs (M, C, H, W) to a number for each, (M,): the
probability, or the logit, of the class explained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError

ScoreOf: TypeAlias = Callable[[Tensor], Tensor]

# Inputs that the network is given at once.
BATCH = 16
# RISE's blur of what insertion begins with, in pixels.
KERNEL, SIGMA = 11, 5.0
# ROAD: the shares of pixels that are removed, and the noise on those filled in.
REMOVED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ROAD_NOISE = 0.01


def scores_in_batches(score: ScoreOf, inputs: Tensor) -> Tensor:
    """The scores of inputs (M, C, H, W), (M,), without a graph."""
    with torch.no_grad():
        return torch.cat([score(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)])


def fade(inputs: Tensor, heatmap: Tensor) -> Tensor:
    """The explanation map: the input where the heatmap is 1, the mean colour where it is 0, (1, C, H, W)."""
    return inputs * heatmap.to(inputs)


def average_drop(whole: Tensor, faded: Tensor) -> Tensor:
    """max(0, p − p_faded) / p, in [0, 1]: what the score loses if only what is hot is left; less is better.

    whole, faded: the probabilities of the input and of `fade`'s, of one shape. Chattopadhay et al. 2018.
    """
    return (whole - faded).clamp(min=0) / whole


def increase_in_confidence(whole: Tensor, faded: Tensor) -> Tensor:
    """1 where the score rises if only what is hot is left, else 0; more is better. Source as above."""
    return (faded > whole).to(whole.dtype)


@dataclass(frozen=True, eq=False)
class Curve:
    """The score as more and more of the pixels change. shares: of the pixels, (steps + 1,), from 0 to 1."""

    shares: Tensor
    scores: Tensor

    @property
    def area(self) -> float:
        """Under the curve, by trapezoids."""
        return float(torch.trapezoid(self.scores, self.shares))


def deletion(score: ScoreOf, inputs: Tensor, heatmap: Tensor, steps: int = 28) -> Curve:
    """The score as the hottest pixels become the mean colour first; a small area is better.

    Petsiuk et al. 2018.
    """
    return _curve(score, inputs, torch.zeros_like(inputs), heatmap, steps)


def insertion(score: ScoreOf, inputs: Tensor, heatmap: Tensor, steps: int = 28) -> Curve:
    """The score as the hottest pixels of a blurred photograph become sharp first; a large area is better.

    Petsiuk et al. 2018.
    """
    return _curve(score, blur(inputs), inputs, heatmap, steps)


def _curve(score: ScoreOf, start: Tensor, end: Tensor, heatmap: Tensor, steps: int) -> Curve:
    rank = ranks(heatmap).to(start.device)
    counts = torch.arange(steps + 1) * rank.numel() // steps
    scores = []
    with torch.no_grad():
        for first in range(0, steps + 1, BATCH):
            changed = rank < counts[first : first + BATCH, None, None].to(rank)
            scores.append(score(torch.where(changed[:, None], end, start)))
    shares = counts.double() / rank.numel()
    return Curve(shares, torch.cat(scores).double().cpu())


def ranks(heatmap: Tensor) -> Tensor:
    """The place of each pixel in the order of heat, hottest 0, (H, W) int64; ties in an order drawn once.

    Without the draw a flat heatmap would be ranked from the upper left, as no method means it.
    """
    draw = torch.randperm(heatmap.numel(), generator=torch.Generator().manual_seed(0))
    order = draw[heatmap.flatten().cpu()[draw].argsort(descending=True, stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return place.reshape(heatmap.shape)


def blur(inputs: Tensor) -> Tensor:
    """The inputs under a Gaussian of 11 x 11 pixels, σ = 5, its edges reflected."""
    distance = torch.arange(KERNEL, device=inputs.device, dtype=inputs.dtype) - KERNEL // 2
    line = (-(distance**2) / (2 * SIGMA**2)).exp()
    weight = (line[:, None] * line / line.sum() ** 2).expand(inputs.shape[1], 1, KERNEL, KERNEL)
    padded = nn.functional.pad(inputs, [KERNEL // 2] * 4, mode="reflect")
    return nn.functional.conv2d(padded, weight, groups=inputs.shape[1])


def road(score: ScoreOf, inputs: Tensor, heatmap: Tensor, removed: Sequence[float] = REMOVED) -> float:
    """Mean over shares of (score without the coldest pixels − score without the hottest) / 2; more is better.

    What is removed is filled in from its neighbours, so that the mask's shape tells nothing. Rong et al.
    2022; their two curves in one number as the package grad-cam's ROADCombined has it.
    """
    rank = ranks(heatmap).to(inputs.device)
    last = rank.numel() - 1
    filled = [
        imputed(inputs, order < round(share * rank.numel()))
        for order in (last - rank, rank)
        for share in removed
    ]
    coldest, hottest = scores_in_batches(score, torch.cat(filled)).reshape(2, len(removed))
    return float((coldest - hottest).mean() / 2)


def imputed(inputs: Tensor, missing: Tensor, steps: int = 2000, tolerance: float = 1e-3) -> Tensor:
    """The inputs (1, C, H, W) with the missing pixels (H, W) as means of their neighbours, and some noise.

    Each is the mean of its eight neighbours, the direct weighing 1/6 and the diagonal 1/12, of those that
    there are: a linear system for all at once, solved by conjugate gradients. Rong et al. 2022.
    """
    known = torch.where(missing, 0, inputs)
    mask = missing.to(inputs)
    total = _neighbours(torch.ones_like(inputs[:, :1]))

    def apply(values: Tensor) -> Tensor:
        return mask * (total * values - _neighbours(values))

    residual = mask * _neighbours(known)
    solution, direction = torch.zeros_like(inputs), residual
    size = first = (residual**2).sum(dim=(2, 3), keepdim=True)
    for _ in range(steps):
        if (size <= tolerance**2 * first).all():
            break
        applied = apply(direction)
        curve = (direction * applied).sum(dim=(2, 3), keepdim=True)
        length = torch.where(curve > 0, size / torch.where(curve > 0, curve, 1), 0)
        solution = solution + length * direction
        residual = residual - length * applied
        before, size = size, (residual**2).sum(dim=(2, 3), keepdim=True)
        direction = (
            residual + torch.where(before > 0, size / torch.where(before > 0, before, 1), 0) * direction
        )
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.where(missing, solution + ROAD_NOISE * noise.to(inputs), inputs)


def _neighbours(values: Tensor) -> Tensor:
    """The weighted sum of each pixel's neighbours; beyond the edges there are none.

    The weights are those of (1, 2, 1) down times (1, 2, 1) across, less the pixel's own, over 12: sums of
    slices, which take a tenth of a convolution's time.
    """
    return (_one_two_one(_one_two_one(values, 2), 3) - 4 * values) / 12


def _one_two_one(values: Tensor, dimension: int) -> Tensor:
    total, last = 2 * values, values.shape[dimension] - 1
    total.narrow(dimension, 1, last).add_(values.narrow(dimension, 0, last))
    total.narrow(dimension, 0, last).add_(values.narrow(dimension, 1, last))
    return total


def pointing_game(heatmap: Tensor, inside: Tensor, tolerance: int = 15) -> bool:
    """Whether the hottest pixel lies in the region, or within `tolerance` pixels of it. Zhang et al. 2018.

    inside: True in the region, (H, W). A blank heatmap points nowhere.
    """
    _require_same(heatmap, inside)
    if not heatmap.any() or not inside.any():
        return False
    row, column = divmod(int(heatmap.argmax()), heatmap.shape[1])
    rows, columns = inside.nonzero().unbind(dim=1)
    return bool(((rows - row) ** 2 + (columns - column) ** 2).min() <= tolerance**2)


def energy_inside(heatmap: Tensor, inside: Tensor) -> float:
    """The share of the heatmap's sum that lies in the region, 0 to 1; 0 of a blank one. Wang et al. 2020."""
    _require_same(heatmap, inside)
    total = float(heatmap.sum())
    return float(heatmap[inside].sum()) / total if total else 0.0


def _require_same(heatmap: Tensor, inside: Tensor) -> None:
    if heatmap.shape != inside.shape or inside.dtype != torch.bool:
        raise XGradCamError(
            f"the region is {inside.dtype} {tuple(inside.shape)}, not a bool for each pixel of "
            f"{tuple(heatmap.shape)}"
        )
