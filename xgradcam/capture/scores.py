"""The scores to explain: find the logits in what a model returned, choose the targets, compute a score.

A score is a function from what a model returned to (N,), one number for each sample, computed from that
sample's row only. Methods also evaluate the model on many variants of one sample. For these, the classes
here have a method `alone(sample)`, which returns the score of one sample for any number of rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from xgradcam.errors import NotFiniteError, XGradCamError

Score: TypeAlias = Callable[[Any], Tensor]
# None for each sample's highest score, one class index for all samples, or an index for each.
Targets: TypeAlias = int | Sequence[int] | Tensor | None


def select_output(returned: Any, output: str | int) -> Any:
    """The part of what a model returned that has this key, attribute name or position."""
    if isinstance(returned, (tuple, list)) and str(output).isdecimal() and int(output) < len(returned):
        return returned[int(output)]
    named = _named_outputs(returned)
    for name, value in named:
        if name == str(output):
            return value
    names = ", ".join(name for name, _ in named) or "nothing by name"
    raise XGradCamError(f"no output {output!r}: the model returns a {type(returned).__name__} with {names}")


def _named_outputs(returned: Any) -> list[tuple[str, Any]]:
    if isinstance(returned, Mapping):
        return [(str(key), value) for key, value in returned.items()]
    if isinstance(returned, (tuple, list)):
        names = getattr(returned, "_fields", map(str, range(len(returned))))
        return list(zip(names, returned, strict=True))
    if isinstance(returned, Tensor) or not hasattr(returned, "__dict__"):
        return []
    return list(vars(returned).items())


def logits_of(returned: Any, output: str | int | None = None) -> Tensor:
    """The class scores (N, classes) in what a model returned; XGradCamError if there are none.

    output: their key in a dictionary, attribute of an object or position in a tuple.
    The values are not checked, since this would wait for a GPU: see `require_finite`.
    """
    logits = returned if output is None else select_output(returned, output)
    if not isinstance(logits, Tensor):
        tensors = [name for name, value in _named_outputs(logits) if isinstance(value, Tensor)]
        hint = f": choose one of its tensors with --output: {', '.join(tensors)}" if tensors else ""
        raise XGradCamError(
            f"the model returns a {type(logits).__name__}, not class scores (N, classes){hint}"
        )
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise XGradCamError(f"the model returns shape {tuple(logits.shape)}, not class scores (N, classes)")
    return logits


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
    chosen: Tensor | None = None
    try:
        chosen = torch.as_tensor(targets)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        pass
    if chosen is not None and chosen.ndim == 1 and len(chosen) != samples:
        raise XGradCamError(f"{len(chosen)} targets for {samples} samples: give one for each, or one for all")
    if chosen is None or chosen.ndim > 1 or not _is_integer(chosen.dtype):
        given = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else repr(targets)
        raise XGradCamError(f"the targets are {given}: give a class index, or one for each sample")
    return chosen.long().expand(samples)


def choose_targets(logits: Tensor, targets: Targets, *, trusted: bool = False) -> Tensor:
    """One class index for each sample, (N,) int64, from `targets`; the highest score's for None.

    trusted: skip the range check of indices on a GPU, which would wait for it.
    Raises XGradCamError as `parse_targets`, and for an index out of range.
    """
    samples, classes = logits.shape
    chosen = parse_targets(targets, samples)
    if chosen is None:
        return logits.argmax(dim=1)
    if chosen.device.type == "cpu" or not trusted:
        outside = chosen[(chosen < 0) | (chosen >= classes)]
        if outside.numel():
            require_class(int(outside[0]), classes)
    return chosen.to(logits.device, non_blocking=True)


def require_class(index: int, classes: int) -> None:
    """Raise XGradCamError unless 0 ≤ index < classes."""
    if not 0 <= index < classes:
        raise XGradCamError(f"no class {index}: this model's classes are 0 to {classes - 1}")


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


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
        for index in (self.target, *self.others):
            require_class(index, logits.shape[1])
        if not self.others:
            raise XGradCamError("a contrast needs at least one other class")
        return logits[:, self.target] - self.share * logits[:, list(self.others)].mean(dim=1)


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
        planes = returned if self.output is None else select_output(returned, self.output)
        if not isinstance(planes, Tensor) or planes.ndim != 4:
            raise XGradCamError("the mean over a region needs an output (N, classes, H, W)")
        require_class(self.target, planes.shape[1])
        regions = self._regions()
        if regions.shape[-2:] != planes.shape[-2:] or len(regions) not in (1, len(planes)):
            raise XGradCamError(
                f"the region is {tuple(self.region.shape)}, the model's output {tuple(planes.shape)}"
            )
        inside = regions.to(planes)
        area = inside.sum(dim=(1, 2))
        if not area.all():
            raise XGradCamError("the region is empty")
        return (planes[:, self.target] * inside).sum(dim=(1, 2)) / area

    def alone(self, sample: int) -> "RegionMean":
        """The score with one sample's region, for any number of rows."""
        regions = self._regions()
        one = regions if len(regions) == 1 else regions[sample : sample + 1]
        return RegionMean(self.target, one, self.output)

    def _regions(self) -> Tensor:
        return self.region if self.region.ndim == 3 else self.region[None]


@dataclass(frozen=True)
class Similarity:
    """The cosine of the model's embedding (N, D) with a given one, (D,) for all samples or (N, D).

    output: see `logits_of`.
    """

    embedding: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        own = returned if self.output is None else select_output(returned, self.output)
        if not isinstance(own, Tensor) or own.ndim != 2 or own.shape[1] != self.embedding.shape[-1]:
            raise XGradCamError(f"a similarity needs an output (N, {self.embedding.shape[-1]})")
        return torch.cosine_similarity(own, self.embedding.to(own), dim=-1)

    def alone(self, sample: int) -> "Similarity":
        """The score with one sample's embedding, for any number of rows."""
        each = self.embedding.ndim == 2 and len(self.embedding) > 1
        return Similarity(self.embedding[sample] if each else self.embedding, self.output)


def of_sample(score: Score, sample: int) -> Score:
    """The score of one sample, for any number of rows; the score itself if it has no `alone`."""
    alone = getattr(score, "alone", None)
    return score if alone is None else alone(sample)
