"""What a reader of a map must not miss, a line each."""

from collections.abc import Mapping

import torch
from torch import Tensor

from xgradcam.weightings import Evidence

# A spread this much smaller than the values is none.
FLAT = 1e-5


def notes_on(evidence: Evidence, maps: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    """For each sample of the batch, the lines that no reader of its maps should miss."""
    gradient, activation = evidence.gradient, evidence.activation
    spread = (gradient.amax(dim=(2, 3)) - gradient.amin(dim=(2, 3))).amax(dim=1)
    flat = spread <= FLAT * gradient.abs().amax(dim=(1, 2, 3))
    negative = (activation < 0).any(dim=3).any(dim=2).sum(dim=1)
    # Brought to the CPU at once: a device waits at each number that is asked of it.
    coincide = (flat & gradient.flatten(1).any(dim=1)).tolist()
    signed = negative.tolist()
    blanks = _blanks(maps, len(activation))
    notes: list[tuple[str, ...]] = []
    for sample in range(len(activation)):
        lines = []
        if {"grad-cam", "xgrad-cam"} <= maps.keys() and coincide[sample]:
            lines.append(
                "the two maps coincide here: the gradient is constant over space, as where global average "
                "pooling and a linear layer follow; an earlier layer tells the methods apart"
            )
        if "xgrad-cam" in maps and signed[sample]:
            lines.append(
                f"signed activations: {signed[sample]} of {activation.shape[1]} channels have "
                "negative values, where an XGrad-CAM weight is no weighted mean of the gradient and its "
                "denominator can vanish"
            )
        notes.append((*lines, *blanks[sample]))
    return tuple(notes)


def renewed(
    notes: tuple[tuple[str, ...], ...], before: Mapping[str, Tensor], maps: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], ...]:
    """The notes if there were other maps than `before`: those on blank maps are about these."""
    old, new = _blanks(before, len(notes)), _blanks(maps, len(notes))
    return tuple(
        (*(line for line in lines if line not in old[sample]), *new[sample])
        for sample, lines in enumerate(notes)
    )


def _blanks(maps: Mapping[str, Tensor], samples: int) -> list[list[str]]:
    """For each sample, a line for each of its maps that is blank."""
    lines: list[list[str]] = [[] for _ in range(samples)]
    for method, signed in maps.items():
        finite = torch.isfinite(signed).all(dim=2).all(dim=1)
        lows, highs = signed.amin(dim=(1, 2)), signed.amax(dim=(1, 2))
        for sample, found in enumerate(torch.stack([finite, lows, highs], dim=1).tolist()):
            if line := _blank(method, *found):
                lines[sample].append(line)
    return lines


def _blank(method: str, finite: float, low: float, high: float) -> str:
    if not finite:
        return f"not finite: the {method} map holds infinities or no numbers; its picture is the photograph"
    if high <= 0:
        return f"no positive evidence: the {method} map has no positive value; its picture is the photograph"
    if low > 0 and high - low <= FLAT * high:
        return f"no contrast: the {method} map is the same everywhere; its picture is the photograph"
    return ""
