"""Pictures of a photograph with a map on it, at the resolution of the input or of the photograph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.pictures.framing import Framing, visible
from xgradcam.pictures.overlay import blend, check_colours, levels_of
from xgradcam.pictures.photograph import Photograph

if TYPE_CHECKING:
    from xgradcam.cam.explain import Explanation

# A map of the input at any size (H, W): (H, W) in [0, 1]. It is upsampled once, where the picture needs it.
HeatmapOf: TypeAlias = Callable[[tuple[int, int]], NDArray[np.float32]]

# What the network did not see keeps this share of its light.
DIMMED = 0.35
# A heatmap larger than this is interpolated from its 8 bits: at 100 megapixels, float32 takes gigabytes.
LARGEST = 4096


@dataclass(frozen=True)
class Style:
    """How a map is painted. Raises XGradCamError for a wrong colour map or alpha.

    full_resolution: at the photograph's resolution instead of the input's.
    colormap, alpha: see `overlay_heatmap`.
    """

    full_resolution: bool = False
    colormap: str = "jet"
    alpha: float | None = None

    def __post_init__(self) -> None:
        check_colours(self.colormap, self.alpha)


PLAIN = Style()


def heatmap_of(explanation: "Explanation", method: str, sample: int = 0) -> HeatmapOf:
    """The map of one sample of a batch, for `draw`."""
    chosen = slice(sample, sample + 1)
    alone = replace(explanation, maps={method: explanation.maps[method][chosen]})
    return lambda size: alone.heatmap(method, size)[0].cpu().numpy()


def fused(heatmaps: Sequence[HeatmapOf]) -> HeatmapOf:
    """Maps of several layers as one, the maximum at each place, as `fuse` does."""
    return lambda size: np.maximum.reduce([heatmap(size) for heatmap in heatmaps])


def draw(photograph: Photograph, heatmap: HeatmapOf, framing: Framing, style: Style = PLAIN) -> Photograph:
    """The photograph (H, W, 3) with a map on it, (H, W, 3) or at the input's scale, uint8 RGB.

    Where the input was cropped the picture shows the whole photograph, and dims what the network did not see.
    A blank map gives the photograph itself.
    """
    whole = photograph if style.full_resolution else framing.scene(photograph)
    return paint(whole, heatmap, framing, photograph.shape[:2], style)


def paint(
    picture: Photograph, heatmap: HeatmapOf, framing: Framing, shape: tuple[int, int], style: Style
) -> Photograph:
    """The map on a picture of a whole photograph of `shape` (H, W), at any resolution; a new picture."""
    resolution = picture.shape[:2]
    region = framing.region(shape, resolution)
    height, width = region.size
    found = heatmap((min(height, LARGEST), min(width, LARGEST)))
    if not found.any():
        return picture.copy()
    levels = framing.place(levels_of(found), shape, resolution)
    if region == (0, 0, *resolution):
        return blend(picture, levels, style.colormap, style.alpha)
    seen = visible(region, resolution)
    painted = np.asarray(cv2.convertScaleAbs(picture, alpha=DIMMED), np.uint8)
    painted[seen] = blend(picture[seen], levels[seen], style.colormap, style.alpha)
    return painted
