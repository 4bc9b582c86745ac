"""The class that is explained for each sample, or several."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from xgradcam.errors import XGradCamError, shown

# None for each sample's highest score, one class index for all samples, or an index for each.
Targets: TypeAlias = int | Sequence[int] | Tensor | None
# Several targets, or a function from the class scores (N, classes) to them.
Classes: TypeAlias = Sequence[Targets] | Callable[[Tensor], Sequence[Targets]]


def parse_targets(targets: Targets, samples: int) -> Tensor | None:
    """One class index for each sample, (N,) int64, from one index or N of them; None for None.

    The range is not checked: see `choose_targets`. Raises XGradCamError for other types or another number.
    """
    if targets is None:
        return None
    chosen = class_indices(targets)
    if chosen is not None and chosen.ndim == 1 and len(chosen) != samples:
        raise XGradCamError(f"{len(chosen)} targets for {samples} samples: give one for each, or one for all")
    if chosen is None or chosen.ndim > 1:
        raise XGradCamError(f"the targets are {shown(targets)}: give a class index, or one for each sample")
    return chosen.expand(samples)


def class_indices(given: Any) -> Tensor | None:
    """The int64 tensor of what a user gave as one or several class indices; None if they are no integers."""
    try:
        chosen = torch.as_tensor(given, device=getattr(given, "device", "cpu"))
    except (OverflowError, RuntimeError, TypeError, ValueError):
        return None
    is_integer = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    return chosen.long() if is_integer or chosen.numel() == 0 else None


def choose_targets(logits: Tensor, targets: Targets) -> Tensor:
    """One class index for each sample, (N,) int64, from `targets`; the highest score's for None.

    Raises XGradCamError as `parse_targets`, and for an index out of range.
    """
    samples, classes = logits.shape
    chosen = parse_targets(targets, samples)
    if chosen is None:
        return logits.argmax(dim=1)
    outside = chosen[(chosen < 0) | (chosen >= classes)]
    if outside.numel():
        require_class(int(outside[0]), classes)
    return chosen.to(logits.device, non_blocking=True)


def require_class(index: int, classes: int) -> None:
    """Raise XGradCamError unless 0 ≤ index < classes."""
    if not 0 <= index < classes:
        there = f"classes are 0 to {classes - 1}" if classes > 1 else "only output is 0, the positive class"
        raise XGradCamError(f"no class {shown(index)}: this model's {there}")


def require_list(classes: object) -> None:
    """Raise XGradCamError for classes that are no list of targets."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise XGradCamError(f"the classes are {shown(classes)}: give a list of targets, such as [0, 4]")


def top_classes(count: int) -> Callable[[Tensor], Sequence[Tensor]]:
    """The `count` classes with the highest scores, best first, for `explain_classes`."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise XGradCamError(f"the top {shown(count)} classes: give an integer, 1 or more")
    return _TopClasses(count)


@dataclass(frozen=True)
class _TopClasses:
    """Two of the same count are equal, so that an `Explainer` knows them again."""

    count: int

    def __call__(self, logits: Tensor) -> Sequence[Tensor]:
        return logits.topk(min(self.count, logits.shape[1]), dim=1).indices.unbind(dim=1)
