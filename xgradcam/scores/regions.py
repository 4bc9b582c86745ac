"""Scores of a segmentation: the mean over a region, and the logit of a pixel."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xgradcam.errors import NothingFoundError, XGradCamError, shown
from xgradcam.scores.outputs import described, is_scores, select_output
from xgradcam.scores.score import class_index, given_tensor
from xgradcam.scores.targets import class_indices


def planes_of(returned: Any, output: str | int | None, what: str) -> Tensor:
    """The class scores of each pixel, (N, classes, H, W); XGradCamError if there are none.

    output: see `ClassScore`. what: needs them.
    """
    planes = select_output(returned, output)
    if is_scores(planes) and planes.ndim == 4:
        return planes
    kind, hint = described(planes)
    raise XGradCamError(f"{what} needs an output (N, classes, H, W), not {kind}{hint}")


def said_classes(planes: Tensor) -> Tensor:
    """The class that the model says each pixel is of, (N, H, W): that of the highest score.

    Of an only class, it is 0 where the score is positive, else -1 for none.
    """
    if planes.shape[1] == 1:
        return (planes[:, 0] > 0).long() - 1
    return planes.argmax(dim=1)


@dataclass(frozen=True)
class RegionMean:
    """The mean logit of a class over a region of a segmentation y (N, classes, H, W).

    S = Σ_xy m y_t / Σ_xy m    m: the region, True inside, (H, W) for all samples or (N, H, W); or weights

    target: the class t; None for the one of the highest mean in each sample. output: see `ClassScore`.
    targets: found, for each sample.
    """

    target: int | None
    region: Tensor
    output: str | int | None = None
    targets: tuple[int, ...] = field(default=(), kw_only=True)

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        planes, regions = self._both(returned)
        targets = self.targets or self._targets(planes.detach(), regions)
        return _means(_of_classes(planes, targets), regions)

    def settled(self, returned: Any) -> "RegionMean":
        """The same score with the classes of what the model returned."""
        planes, regions = self._both(returned)
        return replace(self, targets=self._targets(planes.detach(), regions))

    def alone(self, sample: int) -> "RegionMean":
        """The score with one sample's region, for any number of rows."""
        regions = self._regions()
        one = regions if len(regions) == 1 else regions[sample : sample + 1]
        targets = self.targets if len(self.targets) < 2 else (self.targets[sample],)
        return RegionMean(self.target, one, self.output, targets=targets)

    def _both(self, returned: Any) -> tuple[Tensor, Tensor]:
        """The planes (N, classes, H, W) and the regions, (N, H, W) or (1, H, W)."""
        planes, regions = planes_of(returned, self.output, "the mean over a region"), self._regions()
        if regions.shape[1:] != planes.shape[2:] or len(regions) not in (1, len(planes)):
            raise XGradCamError(
                f"the region is {tuple(np.shape(self.region))}, the model's output {tuple(planes.shape)}: "
                f"give (H, W) as there, {tuple(planes.shape[2:])}, or (N, H, W)"
            )
        return planes, regions

    def _targets(self, planes: Tensor, regions: Tensor) -> tuple[int, ...]:
        if self.target is not None:
            return (class_index(self.target, planes.shape[1]),)
        means = torch.stack([_means(of_class, regions) for of_class in planes.unbind(dim=1)], dim=1)
        return tuple(means.argmax(dim=1).tolist())

    def _regions(self) -> Tensor:
        """The regions, (N, H, W) or (1, H, W)."""
        regions = given_tensor(self.region, "region")
        regions = regions[:, 0] if regions.ndim == 4 and regions.shape[1] == 1 else regions
        return regions[None] if regions.ndim == 2 else regions


@dataclass(frozen=True)
class PredictedRegion:
    """The mean logit of a class where the model says that class, in a segmentation y (N, classes, H, W).

    S = Σ_xy m y_t / Σ_xy m    m = 1 where argmax_c y_c = t, else 0; of a single class, where y > 0

    The region is that of the model's own prediction: a constant, which methods that ask the network again
    keep. target: the class t; None for the one of most pixels of each sample, but for the `background`.
    output: see `ClassScore`. targets, region: found, for each sample, (N,) and (N, H, W).
    Raises NothingFoundError, an XGradCamError, if no pixel is of the class.
    """

    target: int | None = None
    output: str | int | None = None
    background: int | None = None
    targets: tuple[int, ...] = field(default=(), kw_only=True)
    region: Tensor | None = field(default=None, kw_only=True, repr=False)

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        if self.region is None:
            return self.settled(returned)(returned)
        planes = planes_of(returned, self.output, "a predicted region")
        return _means(_of_classes(planes, self.targets), self.region)

    def settled(self, returned: Any) -> "PredictedRegion":
        """The same score with the region of what the model returned."""
        planes = planes_of(returned, self.output, "a predicted region").detach()
        said = said_classes(planes)
        names = [f" in sample {number}" if len(said) > 1 else "" for number in range(len(said))]
        targets = [self._target(*one, planes.shape[1]) for one in zip(said, names, strict=True)]
        region = said == torch.tensor(targets, device=said.device)[:, None, None]
        return replace(self, targets=tuple(targets), region=region)

    def alone(self, sample: int) -> "PredictedRegion":
        """The score with one sample's region, for any number of rows."""
        if self.region is None or len(self.region) == 1:
            return self
        return replace(self, targets=(self.targets[sample],), region=self.region[sample : sample + 1])

    def _target(self, said: Tensor, sample: str, classes: int) -> int:
        """The class of one sample, whose pixels are said to be of these classes (H, W)."""
        counts = torch.bincount(said[said >= 0], minlength=classes)
        if self.target is not None:
            target = class_index(self.target, classes)
        else:
            others = counts.clone()
            if self.background is not None:
                others[class_index(self.background, classes)] = 0
            target = int((others if others.any() else counts).argmax())
        if not counts[target]:
            there = [index for index in counts.argsort(descending=True)[:4].tolist() if counts[index]]
            most = f"most pixels are of {', '.join(map(str, there))}" if there else "none is of any class"
            raise NothingFoundError(f"the model says class {target} of no pixel{sample}: {most}")
        return target


@dataclass(frozen=True)
class PixelScore:
    """The logit of a class at one pixel of a segmentation y (N, classes, H, W): S = y_t(row, column).

    target: the class t; None for the one that the model says the pixel is of. place: (row, column) in the
    model's output, for all samples, or N of them. output: see `ClassScore`. targets: found, for each sample.
    """

    target: int | None
    place: Sequence[int] | Sequence[Sequence[int]] | Tensor
    output: str | int | None = None
    targets: tuple[int, ...] = field(default=(), kw_only=True)

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        if not self.targets:
            return self.settled(returned)(returned)
        planes = planes_of(returned, self.output, "the score of a pixel")
        return self._at_places(_of_classes(planes, self.targets))

    def settled(self, returned: Any) -> "PixelScore":
        """The same score with the classes of what the model returned."""
        planes = planes_of(returned, self.output, "the score of a pixel").detach()
        if self.target is not None:
            return replace(self, targets=(class_index(self.target, planes.shape[1]),) * len(planes))
        said = self._at_places(said_classes(planes)).clamp(min=0)
        return replace(self, targets=tuple(said.tolist()))

    def alone(self, sample: int) -> "PixelScore":
        """The score with one sample's pixel, for any number of rows."""
        places = class_indices(self.place)
        if places is not None and places.ndim == 2 and len(places) > 1:
            places = places[sample]
        targets = self.targets if len(self.targets) < 2 else (self.targets[sample],)
        return PixelScore(self.target, self.place if places is None else places, self.output, targets=targets)

    def _at_places(self, planes: Tensor) -> Tensor:
        """The values (N,) of planes (N, H, W) at the places."""
        places, (samples, height, width) = class_indices(self.place), planes.shape
        if places is None or places.shape not in ((2,), (1, 2), (samples, 2)):
            raise XGradCamError(f"the pixel is {shown(self.place)}: give (row, column), or {samples} of them")
        rows, columns = places.to(planes.device).expand(samples, 2).unbind(dim=1)
        if not ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)).all():
            raise XGradCamError(
                f"no pixel {shown(self.place)}: the model's output has {height} rows and {width} columns"
            )
        return planes[torch.arange(samples, device=planes.device), rows, columns]


def _of_classes(planes: Tensor, targets: Sequence[int]) -> Tensor:
    """The plane (N, H, W) of each sample's class, or of the only one given."""
    chosen = torch.tensor(targets, device=planes.device).expand(len(planes))
    return planes[torch.arange(len(planes), device=planes.device), chosen]


def _means(planes: Tensor, regions: Tensor) -> Tensor:
    """The means (N,) of planes (N, H, W) over regions (N, H, W) or (1, H, W), True inside, or weights."""
    # Sums over an image are beyond float16.
    planes = planes.to(torch.promote_types(planes.dtype, torch.float32))
    inside = regions.to(planes)
    area = inside.sum(dim=(1, 2))
    size = inside.abs().sum(dim=(1, 2))
    if not size.all():
        raise XGradCamError("the region is empty: no pixel of it is True")
    if (area.abs() <= 1e-6 * size).any():
        raise XGradCamError("the region's weights cancel, and have no mean: give True inside, else False")
    return (planes * inside).sum(dim=(1, 2)) / area
