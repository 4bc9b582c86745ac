"""What a reader of a map must not miss, a line each."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xgradcam.cam.evidence import Evidence
from xgradcam.cam.explanation import FLAT

# The methods that may coincide, and the share of the largest value that they may differ by.
BOTH, CLOSE = ("grad-cam", "xgrad-cam"), 1e-3


def signs_of(evidence: Evidence) -> Tensor:
    """What notes are about beside the maps, (N, 2): see `notes_on`.

    1 where the gradient is constant over space, else 0; how many channels have negative activations.
    """
    gradient, activation = evidence.gradient, evidence.activation
    spread = (gradient.amax(dim=(2, 3)) - gradient.amin(dim=(2, 3))).amax(dim=1)
    flat = spread <= FLAT * gradient.abs().amax(dim=(1, 2, 3))
    negative = (activation < 0).any(dim=3).any(dim=2).sum(dim=1)
    return torch.stack([(flat & gradient.flatten(1).any(dim=1)).to(gradient), negative.to(gradient)], dim=1)


def notes_on(
    signs: Sequence[Tensor], maps: Sequence[Mapping[str, Tensor]], channels: int
) -> list[tuple[tuple[str, ...], ...]]:
    """For each of several scores and each sample, the lines that no reader of its maps should miss.

    signs, maps: of each score, `signs_of` its evidence, and method -> map (N, h, w). Their numbers are read
    here, together: a device is waited for once.
    """
    facts = [
        torch.cat([_coincide(found, of_score), found[:, 1:], *map(_range_of, of_score.values())], dim=1)
        for found, of_score in zip(signs, maps, strict=True)
    ]
    return [
        tuple(_lines(row, list(of_score), channels) for row in rows)
        for rows, of_score in zip(torch.stack(facts).tolist(), maps, strict=True)
    ]


def _coincide(signs: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
    """Of each sample: 1 where the gradient is constant and the two maps are the same, else 0; (N, 1).

    They are not where a channel's activations all but vanish against XGrad-CAM's ε.
    """
    flat = signs[:, :1]
    if not set(BOTH) <= set(maps):
        return torch.zeros_like(flat)
    one, other = (maps[method].flatten(1) for method in BOTH)
    close = (one - other).abs().amax(dim=1) <= CLOSE * one.abs().amax(dim=1)
    return flat * close[:, None]


def _range_of(signed: Tensor) -> Tensor:
    """Of each map: 1 where all of it is finite, else 0; its smallest and its largest value. (N, 3)."""
    finite = torch.isfinite(signed).all(dim=2).all(dim=1)
    return torch.stack([finite.to(signed), signed.amin(dim=(1, 2)), signed.amax(dim=(1, 2))], dim=1)


def _lines(row: Sequence[float], methods: Sequence[str], channels: int) -> tuple[str, ...]:
    coincide, negative, *ranges = row
    lines = []
    if coincide:
        lines.append(
            "the two maps coincide here: the gradient is constant over space, as where global average "
            "pooling and a linear layer follow; an earlier layer tells the methods apart"
        )
    if "xgrad-cam" in methods and negative:
        lines.append(
            f"signed activations: {negative:.0f} of {channels} channels have negative values, where an "
            "XGrad-CAM weight is no weighted mean of the gradient and its denominator can vanish"
        )
    blanks = [_blank(method, *ranges[3 * place : 3 * place + 3]) for place, method in enumerate(methods)]
    return (*lines, *filter(None, blanks))


def _blank(method: str, finite: float, low: float, high: float) -> str:
    if not finite:
        return f"not finite: the {method} map holds infinities or no numbers; its picture is the photograph"
    if high <= 0:
        return f"no positive evidence: the {method} map has no positive value; its picture is the photograph"
    if low > 0 and high - low <= FLAT * high:
        return f"no contrast: the {method} map is the same everywhere; its picture is the photograph"
    return ""
