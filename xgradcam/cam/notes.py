"""Notes: one line each on what a reader of a map must know."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from xgradcam.cam.evidence import Evidence
from xgradcam.cam.explanation import FLAT

# The two methods whose maps may coincide, and the share of the largest value that they may differ by.
TWO_MAPS, CLOSE = ("grad-cam", "xgrad-cam"), 1e-3
# Methods whose weights are means weighted by the activation.
_WEIGHTED_BY_ACTIVATION = {"xgrad-cam", "complete-xgrad-cam"}


def evidence_facts(evidence: Evidence, methods: Collection[str]) -> Tensor:
    """Facts that the notes on maps of these methods need beside the maps, for each sample: (N, 3).

    First 1 if the gradient is constant over space, else 0; then the number of channels with negative values,
    both 0 if no note needs them; then 1 if the gradient is not 0 everywhere, else 0.
    """
    flat, negative = evidence.gradient.new_zeros(2, len(evidence.gradient))
    if set(TWO_MAPS) <= set(methods):
        flat = _is_flat(evidence.gradient).to(flat)
    if _WEIGHTED_BY_ACTIVATION & set(methods):
        negative = (evidence.activation < 0).flatten(2).any(dim=2).sum(dim=1).to(negative)
    some = evidence.gradient.flatten(1).any(dim=1)
    return torch.stack([flat, negative, some.to(flat)], dim=1)


def _is_flat(gradient: Tensor) -> Tensor:
    """True for each sample whose gradient is constant over space, and not 0: (N,)."""
    places, every = gradient.flatten(2), gradient.flatten(1)
    spread = (places.amax(dim=2) - places.amin(dim=2)).amax(dim=1)
    return (spread <= FLAT * every.abs().amax(dim=1)) & every.any(dim=1)


def note_numbers(facts: Sequence[Tensor], maps: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """All numbers that `notes_on` needs, (scores * N * (3 + 3 methods),), still on the device.

    facts, maps: `evidence_facts` and method -> map (N, h, w), for each score.
    """
    rows = [_row_each(*of_score).flatten() for of_score in zip(facts, maps, strict=True)]
    return torch.cat(rows) if rows else torch.zeros(0)


def notes_on(
    table: Sequence[float], scores: int, methods: Sequence[str], channels: int
) -> list[tuple[tuple[str, ...], ...]]:
    """The notes for each of so many scores and each of its samples.

    table: the numbers of `note_numbers`, read all at once, so that a device is waited for once. channels: the
    layer's.
    """
    width = 3 + 3 * len(methods)
    rows = [table[start : start + width] for start in range(0, len(table), width)]
    samples = len(rows) // max(scores, 1)
    lines = [_lines(row, methods, channels) for row in rows]
    return [tuple(lines[score * samples : (score + 1) * samples]) for score in range(scores)]


def _row_each(facts: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
    """All numbers that the notes on a score need, a row for each sample: (N, 3 + 3 methods)."""
    return torch.cat([_coincide(facts, maps), facts[:, 1:], *map(_range_of, maps.values())], dim=1)


def _coincide(facts: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
    """1 for each sample with a constant gradient whose two maps are the same, else 0: (N, 1).

    They differ if a channel's activations are so small that XGrad-CAM's ε counts.
    """
    flat = facts[:, :1]
    if not set(TWO_MAPS) <= set(maps):
        return torch.zeros_like(flat)
    one, other = (maps[method].flatten(1) for method in TWO_MAPS)
    close = (one - other).abs().amax(dim=1) <= CLOSE * one.abs().amax(dim=1)
    return flat * close[:, None]


def _range_of(signed: Tensor) -> Tensor:
    """For each map (h, w): 1 if all of it is finite, else 0; its smallest and its largest value: (N, 3)."""
    each = signed.flatten(1)
    finite = torch.isfinite(each).all(dim=1)
    return torch.stack([finite.to(signed), each.amin(dim=1), each.amax(dim=1)], dim=1)


def _lines(row: Sequence[float], methods: Sequence[str], channels: int) -> tuple[str, ...]:
    coincide, negative, reached, *ranges = row
    lines = []
    if not reached:
        lines.append(
            "no gradient: the score does not depend on any place of this layer, to first order; maps by the "
            "gradient are blank here; take an earlier layer"
        )
    if coincide:
        lines.append(
            "the two maps coincide here: the gradient is constant over space, as where global average "
            "pooling and a linear layer follow; an earlier layer tells the methods apart"
        )
    if _WEIGHTED_BY_ACTIVATION & set(methods) and negative:
        lines.append(
            f"signed activations: {negative:.0f} of {channels} channels have negative values, where an "
            "XGrad-CAM weight is no weighted mean of the gradient and its denominator can vanish"
        )
    for index, method in enumerate(methods):
        finite, low, high = ranges[3 * index : 3 * index + 3]
        # A map of zeros where there is no gradient has its note already.
        if reached or low or high:
            lines.append(_blank(method, finite, low, high))
    return tuple(filter(None, lines))


def _blank(method: str, finite: float, low: float, high: float) -> str:
    """The note on a map without a heatmap; empty for any other map."""
    if not finite:
        return f"not finite: the {method} map holds infinities or NaNs; its picture is the photograph"
    if high <= 0:
        return f"no positive evidence: the {method} map has no positive value; its picture is the photograph"
    if low > 0 and high - low <= FLAT * high:
        return f"no contrast: the {method} map is the same everywhere; its picture is the photograph"
    return ""
