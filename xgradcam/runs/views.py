"""One explanation of a photograph that files are made of: of a class or a score, at a layer or several."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xgradcam.cam.explanation import FLAT, ClassExplanation, Explanation, heatmap_of
from xgradcam.figures.sizing import signed_heatmap_of
from xgradcam.layouts.padding import WHOLE
from xgradcam.layouts.sides import upsampled
from xgradcam.models.labels import label_of, name_only
from xgradcam.pictures.paint import HeatmapOf, fused
from xgradcam.runs.mistakes import (
    CONTRAST,
    PREDICTED,
    TRUE,
    contrast_scoring,
    telling_method,
    truth_record,
)
from xgradcam.runs.run import Explained, Run
from xgradcam.runs.scoring import Scoring, Shape
from xgradcam.runs.sources import Source
from xgradcam.scores.score import Contrast

FUSED = "fused"


@dataclass(frozen=True)
class View:
    """The maps of one photograph and class, or score, at a layer, or those of several layers, to be fused.

    shape: the photograph's. scoring: of what is explained, if it is no class. about: a part of its record.
    beside: caption -> heatmap, for the panel of a contrast, which shows its classes beside it. finer: the
    complete map of another layer, drawn beside the others.
    """

    layer: str
    samples: tuple[Explanation, ...]
    shape: Shape
    scoring: Scoring | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, HeatmapOf] = field(default_factory=dict)
    finer: Explanation | None = None

    @property
    def first(self) -> Explanation:
        """The explanation at the first of the layers."""
        return self.samples[0]

    @property
    def of_class(self) -> ClassExplanation:
        """The first explanation, if it is one of a class."""
        return cast(ClassExplanation, self.first)

    @cached_property
    def target(self) -> int:
        """The class that is explained."""
        return int(self.of_class.targets[0])

    @cached_property
    def probability(self) -> float:
        """The probability of the class that is explained."""
        return float(self.of_class.probability)

    @property
    def is_fused(self) -> bool:
        """True for the maps of several layers."""
        return len(self.samples) > 1

    @property
    def file_part(self) -> str:
        """The layer as a part of a file's name."""
        return FUSED if self.is_fused else layer_part(self.layer)

    def heatmaps(self) -> dict[str, HeatmapOf]:
        """Method -> heatmap."""
        finer = () if self.finer is None else (self.finer,)
        samples = dict.fromkeys(self.first.maps, self.samples)
        samples |= {name: (one,) for one in finer for name in one.maps}
        each = {name: [_heatmap_of(one, name) for one in of] for name, of in samples.items()}
        return {name: fused(of) if len(of) > 1 else of[0] for name, of in each.items()}


def views_of(run: Run, source: Source, explained: Explained, index: int, shape: Shape) -> list[View]:
    """Each class's maps at each layer, and those of several layers fused."""
    by_class: dict[int | None, list[Explanation]] = {}
    for of_class in zip(*explained, strict=True):
        samples = [sample for one in of_class if (sample := one.sample(index)) is not None]
        if samples:
            by_class[_target_of(samples[0])] = samples
    views = []
    for samples in by_class.values():
        finer = samples.pop() if run.finer is not None else None
        views += [
            View(layer, (sample,), shape, finer=finer)
            for layer, sample in zip(run.layers, samples, strict=True)
        ]
        if len(samples) > 1:
            views.append(View(" + ".join(run.layers), tuple(samples), shape))
    if run.scoring is not None:
        return [replace(view, scoring=run.scoring) for view in views]
    return views if source.truth is None else _with_truth(run, source.truth, views)


def _with_truth(run: Run, truth: int, views: Sequence[View]) -> list[View]:
    """The views with what is known of the true class, and the role that each has in a mistake."""
    labels = run.classifier.labels
    about = truth_record(truth, views[0].of_class, labels)
    if not run.mistakes:
        return [replace(view, about=about) for view in views]
    each = []
    for view in views:
        if isinstance(view.first.score_of, Contrast):
            scoring = contrast_scoring(view.first.score_of, labels)
            of_layer = [one for one in views if one.layer == view.layer]
            beside = _beside(of_layer, labels, run.writing.style.signed)
            view, role = replace(view, scoring=scoring, beside=beside), CONTRAST
        else:
            role = PREDICTED if view.target == about["prediction"]["index"] else TRUE
        each.append(replace(view, about={**about, "role": role}))
    return each


def _beside(views: Sequence[View], labels: Sequence[str] | None, signed: bool) -> dict[str, HeatmapOf]:
    """Captions and heatmaps, by one method, of the predicted and the true class, and of their contrast.

    signed: the heatmaps show evidence against, too, as shares from -1 to 1.
    """
    method = telling_method(list(views[-1].first.maps))
    predicted, true, contrast = (
        signed_heatmap_of(view.samples, method) if signed else view.heatmaps()[method] for view in views
    )
    names = [name_only(label_of(labels, view.target)) for view in views[:2]]
    return {f"predicted: {names[0]}": predicted, f"true: {names[1]}": true, "predicted less true": contrast}


def _heatmap_of(sample: Explanation, method: str) -> HeatmapOf:
    """The heatmap of one sample, as `heatmap_of` makes it.

    Of a usual map by NumPy, which holds the interpreter's lock half as long: other threads read and write.
    """
    signed = sample.maps[method]
    if sample.share != WHOLE or signed.ndim != 3 or signed.dtype != torch.float32:
        return heatmap_of(sample, method)

    return partial(_heatmap, signed)


def _heatmap(signed: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """The heatmap at `size` (H, W) of a map (1, h, w) on the CPU, as the function `heatmap` makes it."""
    values: NDArray[np.float32] = upsampled(signed.clamp(min=0)[:, None], size)[0, 0].numpy()
    highest = values.max()
    with np.errstate(invalid="ignore"):  # infinity less infinity
        values -= values.min()
    contrast = values.max()
    # Not the other way round: NaN is not larger than anything.
    if contrast > np.float32(FLAT) * highest:
        values /= contrast
    else:
        values[:] = 0
    return values


def _target_of(explanation: Explanation) -> int | None:
    """The class that is explained in one sample; None for another score."""
    return int(explanation.targets[0]) if isinstance(explanation, ClassExplanation) else None


def layer_part(layer: str) -> str:
    """A layer's name as a part of a file's name."""
    return re.sub(r"[^\w.-]", "-", layer)
