"""What a map explains: a number for each sample, computed from what the model returns.

A score is any function of the model's output that gives (N,), each sample's number from its own row. Those
here also say what they are for one sample alone, `alone(sample)`: methods ask a network about many variants
of one sample at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from xgradcam.errors import NotFiniteError, XGradCamError

Score: TypeAlias = Callable[[Any], Tensor]


@dataclass(frozen=True)
class ClassScore:
    """The logit of a class: `targets` (N,) of N samples. output: see `logits_of`."""

    targets: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,), in what a model returned; XGradCamError where they are not in it."""
        logits = logits_of(returned, self.output)
        return logits.gather(1, self.targets.expand(len(logits))[:, None])[:, 0]

    def alone(self, sample: int) -> "ClassScore":
        """The score of one sample's class, for any number of rows."""
        return ClassScore(self.targets[sample : sample + 1], self.output)


@dataclass(frozen=True)
class Contrast:
    """How much more the model says one class than others: S_target − share · mean of the others' logits.

    What a map of it shows speaks for the one and not for the others.
    """

    target: int
    others: tuple[int, ...]
    share: float = 1.0
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,), in what a model returned; XGradCamError where they are not in it."""
        logits = logits_of(returned, self.output)
        for index in (self.target, *self.others):
            _require_class(index, logits)
        if not self.others:
            raise XGradCamError("a contrast needs at least one other class")
        return logits[:, self.target] - self.share * logits[:, list(self.others)].mean(dim=1)


@dataclass(frozen=True)
class RegionMean:
    """The mean logit of a class over a region of a segmentation (N, classes, H, W).

    region: True inside, (H, W) for all samples or (N, H, W).
    """

    target: int
    region: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,), in what a model returned; XGradCamError where they are not in it."""
        planes = returned if self.output is None else select_output(returned, self.output)
        if not isinstance(planes, Tensor) or planes.ndim != 4:
            raise XGradCamError("the mean over a region needs an output (N, classes, H, W)")
        if not 0 <= self.target < planes.shape[1]:
            raise XGradCamError(
                f"no class {self.target}: this model's classes are 0 to {planes.shape[1] - 1}"
            )
        if self.region.shape[-2:] != planes.shape[-2:] or len(self._each()) not in (1, len(planes)):
            raise XGradCamError(
                f"the region is {tuple(self.region.shape)}, the model's output {tuple(planes.shape)}"
            )
        inside = self._each().to(planes)
        area = inside.sum(dim=(1, 2))
        if not area.all():
            raise XGradCamError("the region is empty")
        return (planes[:, self.target] * inside).sum(dim=(1, 2)) / area

    def alone(self, sample: int) -> "RegionMean":
        """The score with one sample's region, for any number of rows."""
        regions = self._each()
        chosen = regions if len(regions) == 1 else regions[sample : sample + 1]
        return RegionMean(self.target, chosen, self.output)

    def _each(self) -> Tensor:
        return self.region if self.region.ndim == 3 else self.region[None]


@dataclass(frozen=True)
class Similarity:
    """The cosine of the model's embedding (N, D) with a given one, (D,) for all samples or (N, D)."""

    embedding: Tensor
    output: str | int | None = None

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,), in what a model returned; XGradCamError where they are not in it."""
        found = returned if self.output is None else select_output(returned, self.output)
        if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[1] != self.embedding.shape[-1]:
            raise XGradCamError(f"a similarity needs an output (N, {self.embedding.shape[-1]})")
        return torch.cosine_similarity(found, self.embedding.to(found), dim=-1)

    def alone(self, sample: int) -> "Similarity":
        """The score with one sample's embedding, for any number of rows."""
        one = (
            self.embedding[sample] if self.embedding.ndim == 2 and len(self.embedding) > 1 else self.embedding
        )
        return Similarity(one, self.output)


def of_sample(score: Score, sample: int) -> Score:
    """The score of one sample of a batch, for any number of rows that are variants of it."""
    alone = getattr(score, "alone", None)
    return score if alone is None else alone(sample)


def _require_class(index: int, scores: Tensor) -> None:
    if not 0 <= index < scores.shape[1]:
        raise XGradCamError(f"no class {index}: this model's classes are 0 to {scores.shape[1] - 1}")


def logits_of(returned: Any, output: str | int | None = None) -> Tensor:
    """The class scores (N, classes) in what a model returned; XGradCamError where there are none.

    output: the key, attribute or position that they have in a dictionary, an object or a tuple.
    Their values are not looked at, as a device would have to be waited for: see `require_finite`.
    """
    if output is not None:
        returned = select_output(returned, output)
    if not isinstance(returned, Tensor):
        tensors = [name for name, value in _named(returned) if isinstance(value, Tensor)]
        hint = f": choose one of its tensors with --output: {', '.join(tensors)}" if tensors else ""
        raise XGradCamError(
            f"the model returns a {type(returned).__name__}, not class scores (N, classes){hint}"
        )
    if returned.ndim != 2 or returned.shape[1] == 0:
        raise XGradCamError(f"the model returns shape {tuple(returned.shape)}, not class scores (N, classes)")
    return returned


def require_finite(scores: Tensor) -> None:
    """Raise NotFiniteError if the model's scores hold infinities or no numbers."""
    if not torch.isfinite(scores).all():
        raise NotFiniteError("the model's scores are not finite: check its weights and the input's range")


def finite_logits_of(returned: Any, output: str | int | None = None) -> Tensor:
    """As `logits_of`, and looked at: XGradCamError where one of them is not finite, too."""
    logits = logits_of(returned, output)
    require_finite(logits)
    return logits


def select_output(returned: Any, output: str | int) -> Any:
    """What a model returned under this key, attribute or position."""
    if isinstance(returned, (tuple, list)) and str(output).isdecimal() and int(output) < len(returned):
        return returned[int(output)]
    for name, value in _named(returned):
        if name == str(output):
            return value
    names = ", ".join(name for name, _ in _named(returned)) or "nothing by name"
    raise XGradCamError(f"no output {output!r}: the model returns a {type(returned).__name__} with {names}")


def _named(returned: Any) -> list[tuple[str, Any]]:
    if isinstance(returned, Mapping):
        return [(str(key), value) for key, value in returned.items()]
    if isinstance(returned, (tuple, list)):
        names = getattr(returned, "_fields", map(str, range(len(returned))))
        return list(zip(names, returned, strict=True))
    return (
        list(vars(returned).items())
        if hasattr(returned, "__dict__") and not isinstance(returned, Tensor)
        else []
    )


def choose_targets(
    logits: Tensor, targets: int | Sequence[int] | Tensor | None, *, trusted: bool = False
) -> Tensor:
    """One class index a sample, (N,) int64: the highest score's for None, the same for all for an int.

    trusted: indices that are on a device are not looked at, as it would have to be waited for.
    Raises XGradCamError for an index out of range or a number of indices other than N.
    """
    samples, classes = logits.shape
    if targets is None:
        return logits.argmax(dim=1)
    try:
        chosen = torch.as_tensor(targets)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        raise XGradCamError(
            f"targets are {targets!r}: give an int or N ints; classes are 0 to {classes - 1}"
        ) from None
    if chosen.dtype.is_floating_point or chosen.dtype == torch.bool or chosen.ndim > 1:
        raise XGradCamError(f"targets are {chosen.dtype} {tuple(chosen.shape)}; give an int or N ints")
    if chosen.ndim == 1 and len(chosen) != samples:
        raise XGradCamError(f"{len(chosen)} targets for {samples} samples: give one for each, or one for all")
    chosen = chosen.long()
    if chosen.device.type == "cpu" or not trusted:
        outside = chosen[(chosen < 0) | (chosen >= classes)]
        if outside.numel():
            raise XGradCamError(
                f"no class {int(outside.flatten()[0])}: this model's classes are 0 to {classes - 1}"
            )
    return chosen.to(logits.device, non_blocking=True).expand(samples)
