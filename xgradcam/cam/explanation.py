"""The result of `explain`: the maps of a batch, the heatmaps made from them, and the two axioms' errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from xgradcam.cam.methods import METHODS, title_of
from xgradcam.errors import XGradCamError, checked_size, shown
from xgradcam.figures.drawing import Drawable
from xgradcam.layouts.padding import WHOLE, Share, over_padding
from xgradcam.layouts.sides import upsampled
from xgradcam.operations.constants import Kind
from xgradcam.scores.probability import PROBABILITY_RULES, probability_rule
from xgradcam.scores.score import Score, of_sample

if TYPE_CHECKING:
    from xgradcam.pictures.paint import HeatmapOf
    from xgradcam.scores.boxes import Detection

# Values are the same everywhere if their spread is at most this share of the largest.
FLAT = 1e-5
AnyExplanation = TypeVar("AnyExplanation", bound="Explanation")


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Drawable):
    """The maps of a batch of N.

    maps: method -> signed, unscaled map (N, h, w), at the layer's size; of signals (N, l), of volumes and
    videos (N, d, h, w).
    score: the numbers explained, (N,).
    notes: for each sample the lines that a reader of its maps must know.
    sensitivity: method -> sensitivity error (N,), if asked for; see `sensitivity_error`.
    budget: parts of the score, (N,) each: `feature`, the sum of HiResCAM's map; with a complete method also
    `bias`, `bypass` and `curvature`, the sums of the constants' maps, and `nowhere`, so that these five sum
    to the score; and `cancellation`, Σ|terms| / |score|. Empty if no method needs a gradient.
    constants_by_kind: with a complete method the signed maps (N, h, w) of the constants of each kind.
    depth: with a method of attention: method -> block -> its share of the map, (N,).
    share: of the maps' rows and columns that lie over the inputs, for detectors that pad them.
    score_of: of `explain_score`, the score with what it took from the model's prediction, such as the
    detections of `BoxScore` and the region of `PredictedRegion`.
    """

    maps: Mapping[str, Tensor]
    score: Tensor
    notes: tuple[tuple[str, ...], ...]
    sensitivity: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    budget: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    constants_by_kind: Mapping[Kind, Tensor] = field(default_factory=dict, kw_only=True)
    depth: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict, kw_only=True)
    share: Share = field(default=WHOLE, kw_only=True)
    score_of: Score | None = field(default=None, kw_only=True)
    titled = staticmethod(title_of)

    def to(self: AnyExplanation, device: torch.device | str) -> AnyExplanation:
        """The same explanation with its tensors on another device."""
        return self._with_each(lambda tensor: tensor.to(device))

    def sample(self: AnyExplanation, index: int) -> AnyExplanation:
        """One sample of the batch, as a batch of its own."""
        chosen = slice(index, index + 1)
        score_of = None if self.score_of is None else of_sample(self.score_of, index)
        return self._with_each(lambda tensor: tensor[chosen], notes=self.notes[chosen], score_of=score_of)

    def _with_each(self: AnyExplanation, change: Callable[[Tensor], Tensor], **others: Any) -> AnyExplanation:
        return replace(self, **{name: _changed(value, change) for name, value in vars(self).items()} | others)

    @property
    def detections(self) -> "tuple[Detection, ...]":
        """The detections that `BoxScore` found, one for each sample; empty for other scores."""
        return getattr(self.score_of, "detections", ())

    @property
    def conservation(self) -> dict[str, Tensor]:
        """Method -> conservation error (N,); see `conservation_error`. What is nowhere counts as shown."""
        nowhere = self.budget.get("nowhere")
        return {
            method: conservation_error(
                signed, self.score, nowhere if method in METHODS and METHODS[method].complete else None
            )
            for method, signed in self.maps.items()
        }

    @property
    def constants(self) -> Tensor:
        """The map of all constants behind the layer, signed, (N, h, w), to be added to any map."""
        self._require_complete("constants")
        return torch.stack(list(self.constants_by_kind.values())).sum(dim=0)

    @property
    def nowhere(self) -> Tensor:
        """The part of the score that has no place, (N,): `maps` of a complete method and it sum to it."""
        self._require_complete("nowhere")
        return self.budget["nowhere"]

    def _require_complete(self, what: str) -> None:
        if "nowhere" not in self.budget:
            names = ", ".join(name for name, method in METHODS.items() if method.complete)
            raise XGradCamError(f"{what} is known where a complete method was asked for: {names}")

    def heatmap(self, method: str, size: Sequence[int]) -> Tensor:
        """The method's heatmap at `size` (H, W): (N, H, W) in [0, 1]; see the function `heatmap`."""
        if not isinstance(method, str) or method not in self.maps:
            raise XGradCamError(f"no map of {shown(method)} here; there are: {', '.join(self.maps)}")
        whole = heatmap(self.maps[method], over_padding(size, self.share))
        return whole if self.share == WHOLE else heatmap(whole[:, : size[0], : size[1]], size)


@dataclass(frozen=True, eq=False, repr=False)
class ClassExplanation(Explanation):
    """The maps of a class for each sample of a batch of N; the score is the class's logit.

    logits: (N, classes), as the model returned them. targets: the class explained, (N,).
    probability_rule: from the logits to probabilities: `softmax`, `sigmoid`, `exp` of logarithms of
    probabilities, or `none`, if the model returns probabilities; None: as their values tell.
    guided: the gradient of guided backpropagation, of the inputs' shape, if asked for.
    """

    logits: Tensor
    targets: Tensor
    guided: Tensor | None = field(default=None, kw_only=True)
    probability_rule: str | None = field(default=None, kw_only=True)

    @property
    def probability(self) -> Tensor:
        """The probability of each sample's target, (N,), by the `probability_rule`."""
        rule = self.probability_rule or probability_rule(self.logits)[0]
        probabilities = PROBABILITY_RULES[rule](self.logits)
        return probabilities.gather(1, self.targets[:, None])[:, 0]


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The value with its tensors changed, as deep as they lie in mappings."""
    if isinstance(value, Tensor):
        return change(value)
    is_mapping = isinstance(value, (dict, Mapping))  # a dict is known in a tenth of the time
    return {name: _changed(one, change) for name, one in value.items()} if is_mapping else value


def heatmap(signed: Tensor, size: Sequence[int]) -> Tensor:
    """ReLU, bilinear upsampling to `size` (H, W), minus minimum, over maximum: (N, H, W) in [0, 1].

    signed: maps (N, h, w); of signals (N, l) for a size (L,), of volumes and videos (N, d, h, w) for
    (D, H, W). The steps are in the original scripts' order. A map with no positive value, with the same value
    everywhere or with a value that is not finite gives 0.
    Raises XGradCamError if `size` is not a positive integer for each side of the maps, or these are no maps.
    """
    is_maps = isinstance(signed, Tensor) and signed.is_floating_point() and 2 <= signed.ndim <= 4
    # A map without the axis of the samples is no batch of signals.
    if not is_maps or not signed.numel() or (signed.ndim == 2 and np.size(size) == 2):
        raise XGradCamError(f"the maps are {shown(signed)}: give a tensor of floats, (N, h, w)")
    size, sides = checked_size(size, "the heatmap's size", signed.ndim - 1), tuple(range(1, signed.ndim))
    large = upsampled(signed.clamp(min=0)[:, None], size)[:, 0]
    raised = large - large.amin(dim=sides, keepdim=True)
    highest = raised.amax(dim=sides, keepdim=True)
    contrast = highest > FLAT * large.amax(dim=sides, keepdim=True)
    return torch.where(contrast, raised / torch.where(contrast, highest, 1), 0)


def heatmap_of(explanation: Explanation, method: str, sample: int = 0) -> "HeatmapOf":
    """The heatmap of one sample of a batch at any size, for `draw`."""
    chosen = slice(sample, sample + 1)
    alone = replace(explanation, maps={method: explanation.maps[method][chosen]})
    return lambda size: alone.heatmap(method, size)[0].cpu().numpy()


def fuse(heatmaps: Sequence[Tensor]) -> Tensor:
    """Heatmaps (N, H, W) of several layers as one: the maximum at each pixel. Jiang et al. 2021."""
    try:
        return torch.stack(list(heatmaps)).amax(dim=0)
    except (RuntimeError, TypeError):
        given = shown(heatmaps)
        raise XGradCamError(f"the heatmaps are {given}: give tensors (N, H, W) of one size") from None


def conservation_error(signed: Tensor, score: Tensor, nowhere: Tensor | None = None) -> Tensor:
    """|S − Σ_xy map(x, y)| / |S|, (N,): the share of the score that the map does not account for.

    signed: the map (N, h, w). score: the logit S, (N,). nowhere: a part of S that is known to have no place,
    (N,). Infinite if the score is 0 and the map is not.
    Fu et al. 2020, axiom of conservation. XGrad-CAM's error is |bias term of Eq. 5| / |S|.
    """
    left = score - signed.sum(dim=tuple(range(1, signed.ndim)))
    return (left if nowhere is None else left - nowhere).abs() / score.abs()


def sensitivity_error(channel_sums: Tensor, drops: Tensor) -> Tensor:
    """Σ_k |drop_k − Σ_xy w_k F^k| / Σ_k |drop_k|, (N,): the map's distance from the effect of each channel.

    channel_sums: Σ_xy w_k F^k, (N, C). drops: S − S(F^k = 0), (N, C). Infinite if all drops are 0 and the map
    is not. Fu et al. 2020, axiom of sensitivity.
    """
    return (drops - channel_sums).abs().sum(dim=1) / drops.abs().sum(dim=1)
