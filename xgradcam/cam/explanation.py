"""What `explain` returns: signed maps of a batch, the heatmaps made of them, and their axioms' errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from xgradcam.pictures.paint import HeatmapOf

# A spread this much smaller than the values is none.
FLAT = 1e-5


@dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of a batch of N.

    maps: method -> signed, unscaled map (N, h, w), at the layer's size.
    score: what is explained, a number for each sample, (N,).
    notes: for each sample, what one must know to read its maps, a line each.
    sensitivity: method -> sensitivity error (N,), where it was asked for; see `axioms`.
    """

    maps: Mapping[str, Tensor]
    score: Tensor
    notes: tuple[tuple[str, ...], ...]
    sensitivity: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)

    @property
    def conservation(self) -> dict[str, Tensor]:
        """Method -> conservation error (N,); see `axioms`."""
        return {method: conservation_error(signed, self.score) for method, signed in self.maps.items()}

    def heatmap(self, method: str, size: tuple[int, int]) -> Tensor:
        """The method's map as `heatmap` makes it, (N, H, W) in [0, 1]; `size` is (H, W)."""
        if method not in self.maps:
            raise XGradCamError(f"no map of {method!r} here; there are: {', '.join(self.maps)}")
        return heatmap(self.maps[method], size)


@dataclass(frozen=True, eq=False)
class ClassExplanation(Explanation):
    """The maps of a class for each sample of a batch of N; the score is the class's logit.

    logits: (N, classes). targets: the class explained, (N,).
    guided: of guided backpropagation, as the inputs, where someone put it here; `explain` does not.
    """

    logits: Tensor
    targets: Tensor
    guided: Tensor | None = field(default=None, kw_only=True)

    def to(self, device: torch.device | str) -> "ClassExplanation":
        """The same explanation with its tensors on another device."""
        return self._each(lambda tensor: tensor.to(device), self.notes)

    def sample(self, index: int) -> "ClassExplanation":
        """One sample of the batch, as a batch of its own."""
        chosen = slice(index, index + 1)
        return self._each(lambda tensor: tensor[chosen], self.notes[chosen])

    def _each(
        self, change: Callable[[Tensor], Tensor], notes: tuple[tuple[str, ...], ...]
    ) -> "ClassExplanation":
        return ClassExplanation(
            {method: change(signed) for method, signed in self.maps.items()},
            change(self.score),
            notes,
            change(self.logits),
            change(self.targets),
            sensitivity={method: change(errors) for method, errors in self.sensitivity.items()},
            guided=None if self.guided is None else change(self.guided),
        )

    @property
    def probability(self) -> Tensor:
        """The softmax probability of each sample's target, (N,)."""
        return self.logits.softmax(dim=1).gather(1, self.targets[:, None])[:, 0]


def fuse(heatmaps: Sequence[Tensor]) -> Tensor:
    """Heatmaps (N, H, W) of several layers as one: the maximum at each place. As Jiang et al. 2021 fuse."""
    return torch.stack(list(heatmaps)).amax(dim=0)


def weighted_map(weights: Tensor, activation: Tensor) -> Tensor:
    """Σ_k w_k F^k, signed: (N, h, w). `weights` broadcast against the activation (N, C, h, w)."""
    return (weights * activation).sum(dim=1)


def heatmap(signed: Tensor, size: tuple[int, int]) -> Tensor:
    """ReLU, bilinear upsampling to `size` (H, W), minus minimum, over maximum: (N, H, W) in [0, 1].

    The original scripts' order of steps. A map with no positive value, the same value everywhere, or a value
    that is not finite gives 0.
    """
    positive = signed.clamp(min=0)[:, None]
    grown = nn.functional.interpolate(positive, size=size, mode="bilinear", align_corners=False)[:, 0]
    raised = grown - grown.amin(dim=(1, 2), keepdim=True)
    highest = raised.amax(dim=(1, 2), keepdim=True)
    contrast = highest > FLAT * grown.amax(dim=(1, 2), keepdim=True)
    return torch.where(contrast, raised / torch.where(contrast, highest, 1), 0)


def conservation_error(signed: Tensor, score: Tensor) -> Tensor:
    """|S − Σ_xy map(x, y)| / |S|, (N,): the share of the score that the map (N, h, w) does not account for.

    score: the logit, (N,). Infinite where the score is 0 and the map is not. Fu et al. 2020, axiom of
    conservation; of XGrad-CAM it is |bias term of Eq. 5| / |S|.
    """
    return (score - signed.sum(dim=(1, 2))).abs() / score.abs()


def sensitivity_error(channel_sums: Tensor, drops: Tensor) -> Tensor:
    """Σ_k |drop_k − Σ_xy w_k F^k| / Σ_k |drop_k|, (N,): how far the map is from what removing channels does.

    channel_sums: Σ_xy w_k F^k, (N, C). drops: S − S(F^k = 0), (N, C). Infinite where nothing drops and the
    map is not 0. Fu et al. 2020, axiom of sensitivity.
    """
    return (drops - channel_sums).abs().sum(dim=1) / drops.abs().sum(dim=1)


def heatmap_of(explanation: "Explanation", method: str, sample: int = 0) -> "HeatmapOf":
    """The map of one sample of a batch, for `draw`."""
    chosen = slice(sample, sample + 1)
    alone = replace(explanation, maps={method: explanation.maps[method][chosen]})
    return lambda size: alone.heatmap(method, size)[0].cpu().numpy()
