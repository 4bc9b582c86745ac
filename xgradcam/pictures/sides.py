"""Pictures of heatmaps that are no pictures themselves: slices of a volume or a video, and signals."""

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.errors import XGradCamError, shown
from xgradcam.pictures.paint import DEFAULT_STYLE, RANGE_TOLERANCE, Style, blend, levels_of
from xgradcam.pictures.panel import SMALLEST_HEIGHT, WIDEST_ASPECT, panel
from xgradcam.pictures.photograph import Photograph

if TYPE_CHECKING:
    from torch import Tensor

SLICES = 5
# Of the picture of a signal, in pixels.
HEIGHT, WIDTH, MARGIN = 224, 896, 12
AXES = ("depth", "row", "column")


def draw_volume(
    volume: "NDArray[Any] | Tensor",
    heatmap: "NDArray[Any] | Tensor",
    title: str = "",
    detail: str = "",
    *,
    axis: int = 0,
    slices: int = SLICES,
    style: Style = DEFAULT_STYLE,
) -> Photograph:
    """A row of slices of a volume or a video with its heatmap over them: (height, width, 3) uint8 RGB.

    The slice of the heatmap's highest value is among them and named; the others are at even distances.
    volume: (D, H, W) of any values, or colours (D, H, W, 3) uint8. heatmap: (D, H, W) in [0, 1]. axis: the
    side that is cut across, 0 for depth or time. title, detail: the header's text.
    Raises XGradCamError for arrays of other shapes, and for a wrong axis or number of slices.
    """
    values, heat = _array(volume), _heat(heatmap, 3)
    of_colours = values.ndim == 4 and values.shape[3] == 3 and values.dtype == np.uint8
    if values.shape[:3] != heat.shape or not (values.ndim == 3 or of_colours):
        raise XGradCamError(
            f"a volume {values.shape} with a heatmap {heat.shape}: give (D, H, W) or (D, H, W, 3) uint8, and "
            "a heatmap (D, H, W)"
        )
    if axis not in (0, 1, 2) or slices < 1:
        raise XGradCamError(
            f"axis {shown(axis)} and {shown(slices)} slices: take axis 0, 1 or 2, and 1 or more"
        )
    strongest = int(np.unravel_index(heat.argmax(), heat.shape)[axis])
    pixels = values if of_colours else grey_of(values)
    pictures = {}
    for number in _chosen(heat.shape[axis], strongest, slices):
        size = _size(pixels.take(number, axis).shape[:2])
        cut: list[Any] = [np.ascontiguousarray(one.take(number, axis)) for one in (pixels, heat)]
        picture, hot = (cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in cut)
        painted = blend(picture, levels_of(hot), style.colours, style.alpha) if heat.any() else picture
        mark = " (strongest)" if number == strongest and heat.any() else ""
        pictures[f"{AXES[axis]} {number}{mark}"] = np.asarray(painted, np.uint8)
    return panel(pictures, title, detail)


def draw_signal(
    signal: "NDArray[Any] | Tensor",
    heatmap: "NDArray[Any] | Tensor",
    title: str = "",
    detail: str = "",
    *,
    style: Style = DEFAULT_STYLE,
) -> Photograph:
    """The curve of a signal on the colours of its heatmap: (height, width, 3) uint8 RGB.

    signal: (L,), or several channels (C, L), each with a curve of its own scale. heatmap: (L,) in [0, 1].
    title, detail: the header's text. Raises XGradCamError for arrays of other shapes.
    """
    values, heat = _array(signal), _heat(heatmap, 1)
    curves = values[None] if values.ndim == 1 else values
    if curves.ndim != 2 or curves.shape[1] != len(heat) or not np.isfinite(curves).all():
        raise XGradCamError(
            f"a signal {values.shape} with a heatmap {heat.shape}: give finite numbers (L,) or (C, L), and a "
            "heatmap (L,)"
        )
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    places = np.clip((np.arange(WIDTH) + 0.5) * len(heat) / WIDTH - 0.5, 0, len(heat) - 1)
    hot = np.broadcast_to(np.interp(places, np.arange(len(heat)), heat), (HEIGHT, WIDTH))
    alpha = 0.6 if style.alpha is None else style.alpha
    picture = blend(white, levels_of(np.ascontiguousarray(hot, np.float32)), style.colours, alpha)
    across = (np.arange(len(heat)) + 0.5) * WIDTH / len(heat)
    for curve in curves:
        low, high = float(curve.min()), float(curve.max())
        share = (curve - low) / (high - low) if high > low else np.full(len(curve), 0.5)
        down = HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)
        points = np.rint(np.stack([across, down], axis=1)).astype(np.int32)
        cv2.polylines(picture, [points], isClosed=False, color=(0, 0, 0), thickness=2, lineType=cv2.LINE_AA)
    return panel(
        {f"strongest at {int(heat.argmax())} of {len(heat)}" if heat.any() else "blank": picture},
        title,
        detail,
    )


def _array(values: Any) -> NDArray[Any]:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.dtype.kind not in "uif" or 0 in array.shape:
        raise XGradCamError(f"the values are {shown(values)}: give an array or a tensor of numbers")
    return array


def _heat(heatmap: Any, sides: int) -> NDArray[np.float32]:
    heat = _array(heatmap).astype(np.float32)
    low, high = float(heat.min()), float(heat.max())
    if heat.ndim != sides or not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        shape = {1: "(L,)", 3: "(D, H, W)"}[sides]
        raise XGradCamError(
            f"the heatmap is {heat.shape}, from {low:g} to {high:g}: give {shape} in [0, 1], of a batch one, "
            "as in heatmap[0]"
        )
    return heat.clip(0, 1)


def grey_of(values: NDArray[Any]) -> Photograph:
    """Values of any range as grey pixels (..., 3), the lowest black, the highest white."""
    finite = np.nan_to_num(values.astype(np.float64), posinf=np.nan, neginf=np.nan)
    low, high = np.nanmin(finite), np.nanmax(finite)
    share = (np.nan_to_num(finite, nan=low) - low) / (high - low if high > low else 1)
    return np.repeat((255 * share).astype(np.uint8)[..., None], 3, axis=-1)


def _chosen(count: int, strongest: int, slices: int) -> list[int]:
    """Numbers of slices at even distances, of which the nearest to the strongest is moved there."""
    chosen = np.unique(
        np.rint((np.arange(min(slices, count)) + 0.5) * count / min(slices, count) - 0.5)
    ).astype(int)
    chosen[np.abs(chosen - strongest).argmin()] = strongest
    return sorted({int(one) for one in chosen})


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of a slice (H, W) that is drawn: at least as high as text is readable at."""
    height = max(shape[0], SMALLEST_HEIGHT)
    width = max(1, round(height * shape[1] / shape[0]))
    if width > WIDEST_ASPECT * height:
        height, width = max(1, WIDEST_ASPECT * height * shape[0] // shape[1]), WIDEST_ASPECT * height
    return width, height
