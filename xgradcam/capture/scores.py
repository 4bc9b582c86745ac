"""The scores to explain: find the logits in what a model returned, choose the targets, compute a score.

A score is a function from what a model returned to (N,), one number for each sample, computed from that
sample's row only. Methods also evaluate the model on many variants of one sample. For these, the classes
here have a method `alone(sample)`, which returns the score of one sample for any number of rows.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from inspect import getattr_static
from math import isfinite
from numbers import Real
from types import MemberDescriptorType
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch
from torch import Tensor

from xgradcam.errors import NotFiniteError, XGradCamError, listed, shortened, shown, users_code

Score: TypeAlias = Callable[[Any], Tensor]
# None for each sample's highest score, one class index for all samples, or an index for each.
Targets: TypeAlias = int | Sequence[int] | Tensor | None
# Attributes that a class gives its objects: properties and slots.
_ATTRIBUTES = (property, cached_property, MemberDescriptorType)


def select_output(returned: Any, output: str | int | None) -> Any:
    """The part of what a model returned at this key, attribute, position or path; all of it for None.

    A path has dots: `head.logits` is `logits` in `head`.
    """
    if output is None:
        return returned
    if isinstance(returned, (tuple, list)) and re.fullmatch(r"-?\d{1,9}", str(output), re.ASCII):
        if -len(returned) <= int(output) < len(returned):
            return returned[int(output)]
    for name, value in _named_outputs(returned):
        if name == str(output):
            return value
    names = [name for name, _ in _named_outputs(returned)]
    first, _, rest = output.partition(".") if isinstance(output, str) else ("", "", "")
    if rest and first in names:
        return select_output(select_output(returned, first), rest)
    there = listed((shortened(name, 20) for name in names), 6) or "nothing by name"
    raise XGradCamError(
        f"no output {shown(output)}: the model returns a {type(returned).__name__} with {there}"
    )


def _named_outputs(returned: Any) -> Iterator[tuple[str, Any]]:
    own = getattr(returned, "__dict__", {})
    if isinstance(returned, Tensor):
        return
    if isinstance(returned, (tuple, list)):
        names = getattr(returned, "_fields", map(str, range(len(returned))))
        yield from zip(names, returned, strict=True)
    else:
        held = returned if isinstance(returned, Mapping) else own
        yield from ((str(key), value) for key, value in held.items())
    for name in dir(type(returned)):
        kind = getattr_static(type(returned), name, None)
        if isinstance(kind, _ATTRIBUTES) and not name.startswith("_") and name not in own:
            # A property may raise anything.
            with suppress(Exception):
                yield name, getattr(returned, name)


def logits_of(returned: Any, output: str | int | None = None) -> Tensor:
    """The class scores (N, classes) in what a model returned; XGradCamError if there are none.

    output: their key in a dictionary, attribute of an object or position in a tuple, or a path of these.
    The values are not checked, since this would wait for a GPU: see `require_finite`.
    """
    logits = select_output(returned, output)
    if _is_scores(logits) and logits.ndim == 2 and logits.shape[1] > 0:
        return logits
    what, hint = _described(logits)
    if not hint and isinstance(logits, Tensor):
        single = logits.ndim > 2 and logits.shape[2:].numel() == 1
        hint = (
            ": each class has one place: return the .flatten(1) of it"
            if single
            else _HINTS.get(logits.ndim, "")
        )
    raise XGradCamError(f"the model returns {what}, not class scores (N, classes){hint}")


# What to do with a tensor that is no class scores, by its number of axes.
_HINTS = {
    1: ": return (N, classes), or (N, 1) for one score a sample; explain_score takes (N,)",
    3: ": explain_score explains any number computed from it for each sample",
    4: ": of a segmentation, explain_score explains RegionMean(class, region)",
}


def _is_scores(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()


def _described(value: Any) -> tuple[str, str]:
    """A returned value in words, and advice if it is not what was needed."""
    if isinstance(value, Tensor):
        what = f"shape {tuple(value.shape)}"
        if _is_scores(value):
            return what, ""
        why = ": integers, such as the classes that argmax gives, have no gradient: return the scores"
        if value.is_complex():
            why = ": complex numbers have no order: return real scores, such as their size by .abs()"
        return f"{what} of {value.dtype}", why
    parts = list(_named_outputs(value))
    deeper = [(f"{name}.{inner}", one) for name, part in parts for inner, one in _named_outputs(part)]
    names = [[name for name, one in level if isinstance(one, Tensor)] for level in (parts, deeper)]
    choice = [shortened(name, 20) for name in names[0] or names[1]]
    hint = f": choose one of its tensors with --output: {listed(choice, 6)} (in Python: output=)"
    return f"a {type(value).__name__}", hint if choice else ""


def require_finite(scores: Tensor) -> None:
    """Raise NotFiniteError if the scores contain an infinity or NaN."""
    if not torch.isfinite(scores).all():
        raise NotFiniteError("the model's scores are not finite: check its weights and the input's range")


def finite_logits_of(returned: Any, output: str | int | None = None) -> Tensor:
    """The class scores as in `logits_of`; NotFiniteError if one of them is not finite."""
    logits = logits_of(returned, output)
    require_finite(logits)
    return logits


def parse_targets(targets: Targets, samples: int) -> Tensor | None:
    """One class index for each sample, (N,) int64, from one index or N of them; None for None.

    The range is not checked: see `choose_targets`. Raises XGradCamError for other types or another number.
    """
    if targets is None:
        return None
    chosen = _class_indices(targets)
    if chosen is not None and chosen.ndim == 1 and len(chosen) != samples:
        raise XGradCamError(f"{len(chosen)} targets for {samples} samples: give one for each, or one for all")
    if chosen is None or chosen.ndim > 1:
        raise XGradCamError(f"the targets are {shown(targets)}: give a class index, or one for each sample")
    return chosen.expand(samples)


def _class_indices(given: Any) -> Tensor | None:
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


@dataclass(frozen=True)
class ClassScore:
    """The logit of a class: `targets` (N,) of N samples. output: see `logits_of`."""

    targets: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        logits = logits_of(returned, self.output)
        return logits.gather(1, self.targets.expand(len(logits))[:, None])[:, 0]

    def alone(self, sample: int) -> "ClassScore":
        """The score of one sample's class, for any number of rows."""
        return ClassScore(self.targets[sample : sample + 1], self.output)


def _class(given: Any, classes: int) -> int:
    """One class index as an integer; XGradCamError for anything else, and for one out of range."""
    chosen = _class_indices(given)
    if chosen is None or chosen.ndim:
        raise XGradCamError(f"the class is {shown(given)}: give its index, such as {classes - 1}")
    require_class(int(chosen), classes)
    return int(chosen)


def _given(values: Any, what: str) -> Tensor:
    """The tensor of what a user gave as a region or an embedding; XGradCamError if it is not finite."""
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.array(values), device="cpu")
        if tensor.isfinite().all():
            return tensor.detach()
    except (RuntimeError, TypeError, ValueError):
        pass
    raise XGradCamError(f"the {what} is {shown(values)}: give a tensor or an array of finite numbers")


@dataclass(frozen=True)
class Contrast:
    """The logit of a class in contrast to others: S_target − share · mean of the others' logits.

    Its map shows what speaks for the target and not for the others. output: see `logits_of`.
    """

    target: int
    others: tuple[int, ...]
    share: float = 1.0
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        logits = logits_of(returned, self.output)
        classes = logits.shape[1]
        target = _class(self.target, classes)
        given = self.others if isinstance(self.others, Iterable) else ()
        others = [_class(other, classes) for other in given]
        if not others or target in others:
            raise XGradCamError(
                f"a contrast needs at least one other class than {target}, in a tuple such as (3,), not "
                f"{shown(self.others)}"
            )
        if not isinstance(self.share, Real) or not isfinite(self.share):
            raise XGradCamError(f"the share of a contrast is {shown(self.share)}: give a number, such as 1.0")
        return logits[:, target] - self.share * logits[:, others].mean(dim=1)


@dataclass(frozen=True)
class RegionMean:
    """The mean logit of a class over a region of a segmentation (N, classes, H, W).

    region: True inside, (H, W) for all samples or (N, H, W). output: see `logits_of`.
    """

    target: int
    region: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        planes, regions = select_output(returned, self.output), self._regions()
        if not _is_scores(planes) or planes.ndim != 4:
            what, hint = _described(planes)
            raise XGradCamError(
                f"the mean over a region needs an output (N, classes, H, W), not {what}{hint}"
            )
        if regions.shape[1:] != planes.shape[2:] or len(regions) not in (1, len(planes)):
            raise XGradCamError(
                f"the region is {tuple(np.shape(self.region))}, the model's output {tuple(planes.shape)}: "
                f"give (H, W) as there, {tuple(planes.shape[2:])}, or (N, H, W)"
            )
        target = _class(self.target, planes.shape[1])
        # Sums over an image are beyond float16.
        of_class = planes[:, target].to(torch.promote_types(planes.dtype, torch.float32))
        inside = regions.to(of_class)
        area = inside.sum(dim=(1, 2))
        size = inside.abs().sum(dim=(1, 2))
        if not size.all():
            raise XGradCamError("the region is empty: no pixel of it is True")
        if (area.abs() <= 1e-6 * size).any():
            raise XGradCamError("the region's weights cancel, and have no mean: give True inside, else False")
        return (of_class * inside).sum(dim=(1, 2)) / area

    def alone(self, sample: int) -> "RegionMean":
        """The score with one sample's region, for any number of rows."""
        regions = self._regions()
        one = regions if len(regions) == 1 else regions[sample : sample + 1]
        return RegionMean(self.target, one, self.output)

    def _regions(self) -> Tensor:
        """The regions, (N, H, W) or (1, H, W)."""
        regions = _given(self.region, "region")
        regions = regions[:, 0] if regions.ndim == 4 and regions.shape[1] == 1 else regions
        return regions[None] if regions.ndim == 2 else regions


@dataclass(frozen=True)
class Similarity:
    """The cosine of the model's embedding (N, D) with a given one, (D,) for all samples or (N, D).

    output: see `logits_of`.
    """

    embedding: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        own, goal = select_output(returned, self.output), _given(self.embedding, "embedding")
        if goal.ndim not in (1, 2) or not goal.any(dim=-1).all():
            raise XGradCamError(f"the embedding is {tuple(goal.shape)}: give (D,) or (N, D), not all of it 0")
        fits = _is_scores(own) and own.ndim == 2 and own.shape[1] == goal.shape[-1]
        if not fits or (goal.ndim == 2 and len(goal) not in (1, len(own))):
            what, hint = _described(own)
            raise XGradCamError(
                f"a similarity needs an output (N, {goal.shape[-1]}) for the embedding {tuple(goal.shape)}, "
                f"not {what}{hint}"
            )
        return torch.cosine_similarity(own, goal.to(own), dim=-1)

    def alone(self, sample: int) -> "Similarity":
        """The score with one sample's embedding, for any number of rows."""
        goal = _given(self.embedding, "embedding")
        return Similarity(goal[sample] if goal.ndim == 2 and len(goal) > 1 else goal, self.output)


def values_of(score_of: Score, returned: Any, samples: int) -> Tensor:
    """The scores of a model's output, (N,) for N samples; XGradCamError if they are none."""
    if not callable(score_of):
        raise XGradCamError(
            f"the score is {shown(score_of)}: give a function of the model's output; explain takes a class"
        )
    with nullcontext() if isinstance(score_of, ClassScore) else users_code("the score failed on the output"):
        score = score_of(returned)
    if _is_scores(score) and score.shape == (samples,):
        return score
    what = _described(score)[0].removeprefix("shape ").removeprefix("a ")
    raise XGradCamError(
        f"the score is {what}: it must be a number for each sample, a tensor ({samples},) of floats, such as "
        "output[:, 0]"
    )


def of_sample(score: Score, sample: int) -> Score:
    """The score of one sample, for any number of rows; the score itself if it has no `alone`."""
    alone = getattr(score, "alone", None)
    return score if alone is None else alone(sample)
