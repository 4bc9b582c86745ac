"""Paint a heatmap over a photograph, at the resolution of the input or of the photograph."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.errors import XGradCamError, did_you_mean, shown
from xgradcam.pictures.framing import Framing, visible
from xgradcam.pictures.photograph import Photograph, require_photograph
from xgradcam.pictures.signed import signed_blend

if TYPE_CHECKING:
    from torch import Tensor

# A heatmap at any size (H, W), in [0, 1]. It is upsampled once, to the size that the picture needs.
HeatmapOf: TypeAlias = Callable[[tuple[int, int]], NDArray[np.float32]]

# OpenCV's colour maps by name: jet, turbo, viridis, inferno, ...
COLORMAPS: Mapping[str, int] = MappingProxyType(
    {name[9:].lower(): getattr(cv2, name) for name in dir(cv2) if name.startswith("COLORMAP_")}
)
# Even in lightness, and its levels differ for colour-blind readers too: scripts/measure_colours.py.
EVEN = "viridis"
# The original scripts'; and the name of those that a style has if none is named.
ORIGINAL, DEFAULT = "jet", "default"
# The part of their brightness that pixels keep which the network did not see.
DIMMED = 0.35
# Longest side of a heatmap in float32, which takes gigabytes at 100 megapixels; 8 bits are enlarged beyond.
EXACT_SIDE = 4096
# Values of a heatmap may lie this far outside [0, 1].
RANGE_TOLERANCE = 1e-3
# Pixels that are blended at once.
BLOCK_PIXELS = 2**20


def check_colours(colormap: str, alpha: float | None) -> None:
    """Raise XGradCamError for an unknown colour map or an alpha outside [0, 1]."""
    if not isinstance(colormap, str) or colormap not in COLORMAPS:
        hint = did_you_mean(colormap.lower(), COLORMAPS) if isinstance(colormap, str) else ""
        raise XGradCamError(f"no colour map {shown(colormap)}{hint} (known: {', '.join(COLORMAPS)})")
    if alpha is not None and not (isinstance(alpha, Real) and 0 <= alpha <= 1):
        given = f"{alpha:g}" if isinstance(alpha, Real) else shown(alpha)
        raise XGradCamError(f"alpha {given} is not between 0 (photograph) and 1 (colours)")


@dataclass(frozen=True)
class Style:
    """The look of an overlay. Raises XGradCamError for a wrong colour map or alpha.

    full_resolution: draw at the photograph's resolution instead of the input's.
    colormap, alpha: see `overlay_heatmap`; `default` for colours that are even in lightness.
    signed: heatmaps go from -1 to 1; evidence against is in blue, or in the first half of the colours.
    """

    full_resolution: bool = False
    colormap: str = DEFAULT
    alpha: float | None = None
    signed: bool = False

    def __post_init__(self) -> None:
        check_colours(EVEN if self.colormap == DEFAULT else self.colormap, self.alpha)

    @property
    def named(self) -> str | None:
        """The colour map that was named; None for the default colours."""
        return None if self.colormap == DEFAULT else self.colormap

    @property
    def colours(self) -> str:
        """The colour map of heatmaps without a sign."""
        return EVEN if self.named is None else self.named

    def as_in_the_original(self) -> "Style":
        """The same with the original scripts' colours, if none are named; they show no evidence against."""
        return self if self.signed or self.named is not None else self._original

    @cached_property
    def _original(self) -> "Style":
        return replace(self, colormap=ORIGINAL)


DEFAULT_STYLE = Style()
ORIGINAL_STYLE = Style(colormap=ORIGINAL)


def fused(heatmaps: Sequence[HeatmapOf]) -> HeatmapOf:
    """Heatmaps of several layers as one: the maximum at each pixel, as in `fuse`."""
    if not heatmaps:
        raise XGradCamError("no heatmaps to fuse: give at least one")
    return lambda size: np.maximum.reduce([heatmap(size) for heatmap in heatmaps])


def draw(
    photograph: Photograph, heatmap: HeatmapOf, framing: Framing, style: Style = ORIGINAL_STYLE
) -> Photograph:
    """The overlay of a photograph (H, W, 3): (H, W, 3), or at the input's scale; uint8 RGB.

    It shows the whole photograph also if the input was cropped; the part that the network did not see is
    dimmed. A blank heatmap gives the photograph itself.
    Raises XGradCamError for a wrong photograph or heatmap.
    """
    require_photograph(photograph)
    whole = photograph if style.full_resolution else framing.scene(photograph)
    return paint(whole, heatmap, framing, photograph.shape[:2], style)


def paint(
    picture: Photograph, heatmap: HeatmapOf, framing: Framing, shape: tuple[int, int], style: Style
) -> Photograph:
    """The heatmap over a picture, of any resolution, that shows a whole photograph (H, W): a new picture.

    shape: the photograph's, (H, W).
    """
    resolution = picture.shape[:2]
    window = framing.pixel_window(shape, resolution)
    height, width = window.size
    values = heatmap((min(height, EXACT_SIDE), min(width, EXACT_SIDE)))
    values = values if style.signed else checked_heatmap(values)
    if not values.any():
        return picture.copy()
    seen = visible(window, resolution)
    if style.signed:
        table = None if style.named is None else colours_of(style.named)
        shares = framing.put_back(values, shape, resolution)
        part = signed_blend(picture[seen], shares[seen], table, style.alpha)
    else:
        levels = framing.put_back(levels_of(values), shape, resolution)
        part = blend(picture[seen], levels[seen], style.colours, style.alpha)
    if window == (0, 0, *resolution):
        return part
    painted = np.asarray(cv2.convertScaleAbs(picture, alpha=DIMMED), np.uint8)
    painted[seen] = part
    return painted


def overlay_heatmap(
    photograph: Photograph,
    heatmap: "NDArray[Any] | Tensor",
    colormap: str = "jet",
    alpha: float | None = None,
) -> Photograph:
    """The heatmap's colours over the photograph: (H, W, 3) uint8 RGB.

    photograph: (H, W, 3) uint8 RGB. heatmap: (H, W) in [0, 1], an array or a tensor; if all of it is 0, the
    result is the photograph itself.
    colormap: a key of `COLORMAPS`.
    alpha: None adds colours and photograph and rescales the sum by its maximum, as the original scripts do. A
    number is the share of the colours, from 0 (the photograph) to 1.
    Raises XGradCamError for a wrong photograph, heatmap, colour map or alpha.
    """
    check_colours(colormap, alpha)
    require_photograph(photograph)
    heatmap = checked_heatmap(heatmap)
    if heatmap.shape != photograph.shape[:2]:
        raise XGradCamError(
            f"a heatmap {heatmap.shape} for a photograph {photograph.shape[:2]}: give both the same size"
        )
    if not heatmap.any():
        return photograph.copy()
    return blend(photograph, levels_of(heatmap), colormap, alpha)


def checked_heatmap(heatmap: "NDArray[Any] | Tensor") -> NDArray[np.float32]:
    """The heatmap, an array or a tensor, as float32; XGradCamError unless it is (H, W) in [0, 1]."""
    values: Any = heatmap
    if hasattr(values, "detach"):
        values = values.detach().float().cpu()
    try:
        levels: NDArray[np.float32] = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise XGradCamError(f"the heatmap is {shown(heatmap)}: give (H, W) numbers in [0, 1]") from None
    if levels.ndim != 2 or 0 in levels.shape:
        raise XGradCamError(f"a heatmap is (H, W), not {levels.shape}: of a batch take one, as in heatmap[0]")
    low, high = levels.min(), levels.max()
    # Rounding may leave the range a little. A level of 256 would be one of 0 again.
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise XGradCamError(
            f"a heatmap is in [0, 1], and this one goes from {low:g} to {high:g}: xgradcam.heatmap scales a "
            "map; levels from 0 to 255 are to be divided by 255"
        )
    return levels


def levels_of(heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A heatmap (H, W) in [0, 1] as levels of a colour map, 0 to 255."""
    return (255 * heatmap).astype(np.uint8)


def blend(
    photograph: Photograph, levels: NDArray[np.uint8], colormap: str, alpha: float | None
) -> Photograph:
    """Photograph (H, W, 3) and the colours of levels (H, W), as `overlay_heatmap` combines them.

    Block by block: a whole photograph in float32 would take 24 bytes a pixel.
    """
    picture = np.empty(photograph.shape, np.uint8)
    blocks = list(_blocks(levels.shape))
    if alpha is not None:
        for rows in blocks:
            cv2.addWeighted(
                _colours(levels[rows], colormap), alpha, photograph[rows], 1 - alpha, 0, dst=picture[rows]
            )
        return picture
    if len(blocks) == 1:
        whole = _sum(photograph, levels, colormap)
        whole /= whole.max()
        picture[:] = np.multiply(whole, 255, out=whole)
        return picture
    highest = max(_sum(photograph[rows], levels[rows], colormap).max() for rows in blocks)
    for rows in blocks:
        picture[rows] = 255 * (_sum(photograph[rows], levels[rows], colormap) / highest)
    return picture


def _sum(photograph: Photograph, levels: NDArray[np.uint8], colormap: str) -> NDArray[np.float32]:
    colours, grey = _shares(colormap)
    whole = _looked_up(levels, colours)
    whole += cv2.LUT(photograph, grey)
    return whole


@cache
def _shares(colormap: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The colours of all levels (1, 256, 3), and those of the pixels of a channel (256,), from 0 to 1."""
    grey = np.arange(256, dtype=np.float32) / np.float32(255)
    return _table(colormap).astype(np.float32) / np.float32(255), grey


def _colours(levels: NDArray[np.uint8], colormap: str) -> Photograph:
    return _looked_up(levels, _table(colormap))


def _looked_up(levels: NDArray[np.uint8], table: NDArray[Any]) -> NDArray[Any]:
    """The row (3,) of a table (1, 256, 3) for each level (H, W): (H, W, 3)."""
    return np.asarray(cv2.LUT(cv2.cvtColor(np.ascontiguousarray(levels), cv2.COLOR_GRAY2RGB), table))


def colours_of(colormap: str) -> NDArray[np.uint8]:
    """The colours of a colour map, from the lowest level to the highest: (256, 3) RGB."""
    return np.asarray(_table(colormap)[0], np.uint8)


@cache
def _table(colormap: str) -> Photograph:
    """The colours of all levels, (1, 256, 3). OpenCV would compute them anew for each picture."""
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], COLORMAPS[colormap])
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    height, width = shape
    step = max(1, BLOCK_PIXELS // width)
    return (slice(start, start + step) for start in range(0, height, step))
