"""Pictures of a photograph with a map on it, at the resolution of the input or of the photograph."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.errors import XGradCamError
from xgradcam.pictures.framing import Framing, visible
from xgradcam.pictures.photograph import Photograph, require_photograph

# OpenCV's, by name: jet, turbo, viridis, inferno, ...
COLORMAPS: Mapping[str, int] = MappingProxyType(
    {name[9:].lower(): getattr(cv2, name) for name in dir(cv2) if name.startswith("COLORMAP_")}
)
BLOCK = 2**20


def overlay_heatmap(
    photograph: Photograph,
    heatmap: NDArray[np.float32],
    colormap: str = "jet",
    alpha: float | None = None,
) -> Photograph:
    """The heatmap's colours and the photograph: (H, W, 3) uint8 RGB.

    photograph: (H, W, 3) uint8 RGB. heatmap: (H, W) in [0, 1]; where it is 0 all over, the result is the
    photograph itself.
    colormap: a key of `COLORMAPS`.
    alpha: None for the original scripts' sum, rescaled by its maximum; or the share of the colours, from 0
    (the photograph) to 1. Raises XGradCamError for a wrong colour map or alpha.
    """
    check_colours(colormap, alpha)
    require_photograph(photograph)
    heatmap = np.asarray(heatmap, np.float32)
    if heatmap.shape != photograph.shape[:2]:
        raise XGradCamError(
            f"a heatmap {heatmap.shape} for a photograph {photograph.shape[:2]}: give both the same size"
        )
    if not heatmap.any():
        return photograph.copy()
    return blend(photograph, levels_of(heatmap), colormap, alpha)


def check_colours(colormap: str, alpha: float | None) -> None:
    """Raise XGradCamError for an unknown colour map or an alpha outside of [0, 1]."""
    if colormap not in COLORMAPS:
        near = difflib.get_close_matches(colormap.lower(), COLORMAPS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise XGradCamError(f"no colour map {colormap!r}{hint} (known: {', '.join(COLORMAPS)})")
    if alpha is not None and not 0 <= alpha <= 1:
        raise XGradCamError(f"alpha {alpha:g} is not between 0 (photograph) and 1 (colours)")


def levels_of(heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A heatmap (H, W) in [0, 1] as entries of a colour map, 0 to 255."""
    return (255 * heatmap).astype(np.uint8)


def blend(
    photograph: Photograph, levels: NDArray[np.uint8], colormap: str, alpha: float | None
) -> Photograph:
    """`overlay_heatmap` of levels (H, W) that need not be all 0.

    Block by block: the floating point numbers of a whole photograph would take 24 bytes a pixel.
    """
    picture = np.empty_like(photograph)
    blocks = list(_blocks(levels.shape))
    if alpha is not None:
        for rows in blocks:
            cv2.addWeighted(
                _colours(levels[rows], colormap), alpha, photograph[rows], 1 - alpha, 0, dst=picture[rows]
            )
        return picture
    if len(blocks) == 1:
        whole = _sum(photograph, levels, colormap)
        picture[:] = 255 * (whole / whole.max())
        return picture
    highest = max(_sum(photograph[rows], levels[rows], colormap).max() for rows in blocks)
    for rows in blocks:
        picture[rows] = 255 * (_sum(photograph[rows], levels[rows], colormap) / highest)
    return picture


def _sum(photograph: Photograph, levels: NDArray[np.uint8], colormap: str) -> NDArray[np.float32]:
    colours = _colours(levels, colormap).astype(np.float32)
    return colours / np.float32(255) + photograph.astype(np.float32) / np.float32(255)


def _colours(levels: NDArray[np.uint8], colormap: str) -> Photograph:
    bgr = cv2.applyColorMap(np.ascontiguousarray(levels), COLORMAPS[colormap])
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    height, width = shape
    step = max(1, BLOCK // width)
    return (slice(start, start + step) for start in range(0, height, step))


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
    window = framing.pixel_window(shape, resolution)
    height, width = window.size
    found = heatmap((min(height, LARGEST), min(width, LARGEST)))
    if not found.any():
        return picture.copy()
    levels = framing.place(levels_of(found), shape, resolution)
    if window == (0, 0, *resolution):
        return blend(picture, levels, style.colormap, style.alpha)
    seen = visible(window, resolution)
    painted = np.asarray(cv2.convertScaleAbs(picture, alpha=DIMMED), np.uint8)
    painted[seen] = blend(picture[seen], levels[seen], style.colormap, style.alpha)
    return painted
