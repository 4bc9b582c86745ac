"""Place a sample's map over its photograph, signal or volume: plain arrays, for a figure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xgradcam.errors import XGradCamError, shown
from xgradcam.figures.figure import Shown
from xgradcam.figures.given import COLOURS, array_of, photograph_given
from xgradcam.figures.sizing import at_size
from xgradcam.layouts.padding import Share
from xgradcam.layouts.sides import upsampled
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.outlines import Outline
from xgradcam.pictures.photograph import Photograph
from xgradcam.pictures.sides import grey_of
from xgradcam.scores.outlining import detections_of, outline_of

# Longest side of a map in a figure, in pixels.
LONGEST = 1000


def placed(
    values: Tensor,
    below: Any,
    sample: int,
    count: int,
    label: str,
    title: str,
    *,
    framing: Framing | None,
    share: Share,
    depth: int | None,
    score_of: Any,
) -> Shown:
    """A map (h, w), (l,) or (d, h, w) over what the network saw; `Drawable.plot` has the arguments."""
    if values.ndim == 1:
        return _signal(values, _one(below, sample, count, (1, 2)), label, title)
    if values.ndim == 3:
        number, values, below = _slice(values, _volume(below, sample, count), depth)
        title = f"{title}, slice {number[0]} of 0 to {number[1] - 1}"
    elif below is not None:
        below = photograph_given(_one(below, sample, count, (2, 3)))
    if below is None:
        height, width = values.shape
        return Shown(values.numpy(), (width, height), label, title)
    shape = below.shape[0], below.shape[1]
    framing = Framing(shape) if framing is None else framing
    outline = None if score_of is None else _outline(score_of, framing, shape)
    large, window = _over(values, shape, framing, share)
    return Shown(large, (shape[1], shape[0]), label, title, below, outline=outline, window=window)


def _over(
    values: Tensor, shape: tuple[int, int], framing: Framing, share: Share
) -> tuple[NDArray[np.float64], tuple[float, float, float, float]]:
    """The map over a photograph (H, W), NaN where the network did not see; and left, top, width, height."""
    shrink = min(1.0, LONGEST / max(shape))
    resolution = max(1, round(shape[0] * shrink)), max(1, round(shape[1] * shrink))
    pixels = framing.pixel_window(shape, resolution)
    finite = at_size(values, pixels.size, share).astype(np.float32)
    large = framing.put_back(finite, shape, resolution).astype(np.float64)
    seen = framing.put_back(np.ones(pixels.size, np.uint8), shape, resolution).astype(bool)
    window = framing.window(shape)
    place = window.left, window.top, window.right - window.left, window.bottom - window.top
    return np.where(seen, large, np.nan), place


def _outline(score_of: Any, framing: Framing, shape: tuple[int, int]) -> Outline | None:
    """The outline of what a score is about; XGradCamError for a box that lies outside of the input."""
    for detection in detections_of(score_of):
        height, width = framing.size
        beyond = not detection.relative and (
            detection.box[2] > 1.02 * width or detection.box[3] > 1.02 * height
        )
        if beyond:
            raise XGradCamError(
                f"the box ends at {detection.box[2]:.0f}, {detection.box[3]:.0f}, outside of a photograph of "
                f"{shape[1]} x {shape[0]}: say how it became the input by framing="
            )
    return outline_of(score_of, framing)


def _signal(values: Tensor, below: Any, label: str, title: str) -> Shown:
    length, curves = len(values), None
    if below is not None:
        curves = array_of(below)
        curves = curves[None] if curves.ndim == 1 else curves
        if curves.dtype.kind not in "uif" or curves.ndim != 2 or not np.isfinite(curves).all():
            raise XGradCamError(f"the signal is {shown(below)}: give finite numbers (L,) or (C, L)")
        length = curves.shape[1]
    large = upsampled(values[None, None], (length,))[0, 0].numpy()
    return Shown(large[None], (length, 1), label, title, curves)


def _slice(values: Tensor, below: Any, depth: int | None) -> tuple[tuple[int, int], Tensor, Any]:
    """The number of a slice and how many there are, its map (h, w), and the pixels (H, W, 3) below it."""
    volume = None if below is None else array_of(below)
    if volume is not None:
        of_colours = volume.ndim == 4 and volume.shape[3] == COLOURS and volume.dtype == np.uint8
        if volume.dtype.kind not in "uif" or not (volume.ndim == 3 or of_colours):
            raise XGradCamError(
                f"the volume is {shown(below)}: give (D, H, W), or colours (D, H, W, 3) uint8"
            )
        whole = upsampled(values[None, None], volume.shape[:3])[0, 0]
        volume = volume if of_colours else grey_of(volume)
    else:
        whole = values
    count = len(whole)
    if depth is None:
        depth = count // 2
    if isinstance(depth, bool) or not hasattr(depth, "__index__") or not -count <= int(depth) < count:
        raise XGradCamError(f"the depth is {shown(depth)}: there are {count} slices, give 0 to {count - 1}")
    number = int(depth) % count
    pixels: Photograph | None = None if volume is None else np.ascontiguousarray(volume[number])
    return (number, count), whole[number], pixels


def _volume(given: Any, sample: int, count: int) -> Any:
    """The sample's own volume; an only channel, as in the network's inputs (N, 1, D, H, W), is left out."""
    is_array = hasattr(given, "ndim") and hasattr(given, "shape")
    # A last axis of three may be colours, of which there is one volume.
    if is_array and given.ndim == 4 and given.shape[3] != COLOURS:
        return given[0] if len(given) == 1 else _one(given, sample, count, (2, 3))
    found = _one(given, sample, count, (3, 4))
    return (
        found[0] if is_array and given.ndim == 5 and len(found) == 1 and found.shape[3] != COLOURS else found
    )


def _one(given: Any, sample: int, count: int, sides: tuple[int, int]) -> Any:
    """The sample's own of N photographs, signals or volumes; sides: the numbers of those that one has."""
    if isinstance(given, list | tuple):
        several = given
    elif hasattr(given, "ndim") and given.ndim == sides[1] + 1:
        several = given
    else:
        return given
    if len(several) != count:
        raise XGradCamError(f"{len(several)} photographs for a batch of {count}: give one, or {count}")
    return several[sample]
