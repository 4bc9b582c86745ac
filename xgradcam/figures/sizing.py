"""Signed maps at any size: of one layer, or of several with the strongest value at each pixel."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from xgradcam.layouts.padding import Share, over_padding
from xgradcam.layouts.sides import upsampled
from xgradcam.pictures.signed import signed_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xgradcam.pictures.paint import HeatmapOf


class HasMaps(Protocol):
    """An explanation, as far as its maps are drawn."""

    @property
    def maps(self) -> Mapping[str, Tensor]:
        """Method -> signed map (N, h, w)."""

    @property
    def share(self) -> Share:
        """The share of the maps that lies over the inputs."""


def at_size(signed: Tensor, size: tuple[int, int], share: Share) -> "NDArray[np.float64]":
    """A signed map (h, w) at a picture's size (H, W), in its own unit; 0 where it is not finite."""
    height, width = size
    finite = signed.detach().double().cpu().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    whole = upsampled(finite[None, None], over_padding((height, width), share))
    return np.asarray(whole[0, 0, :height, :width])


def signed_heatmap_of(samples: Sequence[HasMaps], method: str) -> "HeatmapOf":
    """The signed map of one sample at any size, as shares of its largest value, from -1 to 1.

    samples: batches of one, of several layers: of their values the largest in size at each pixel.
    """

    def at(size: tuple[int, int]) -> "NDArray[np.float32]":
        each = [signed_shares(at_size(one.maps[method][0], size, one.share)) for one in samples]
        stacked = np.stack(each)
        strongest = np.abs(stacked).argmax(axis=0)[None]
        chosen: NDArray[np.float32] = np.take_along_axis(stacked, strongest, axis=0)[0]
        return chosen

    return at
