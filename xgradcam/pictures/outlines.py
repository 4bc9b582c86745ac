"""Outlines of the box or the region that a score is about, drawn on a picture."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.pictures.framing import Framing, visible
from xgradcam.pictures.photograph import Photograph

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
# A line's width is this share of the picture's shorter side.
WIDTH = 1 / 200


@dataclass(frozen=True)
class Outline:
    """A box or a region of the network's input.

    box: its corners x0, y0, x1, y1 in shares of the input's width and height. region: True inside, (h, w),
    over the whole input at any size.
    """

    box: tuple[float, float, float, float] | None = None
    region: NDArray[np.bool_] | None = None


def outlined(
    picture: Photograph, outline: Outline | None, framing: Framing, shape: tuple[int, int]
) -> Photograph:
    """A copy of a picture of a whole photograph (H, W) with a thin white line, in black, around the part.

    shape: the photograph's. Without an outline, the picture itself.
    """
    if outline is None:
        return picture
    resolution = picture.shape[0], picture.shape[1]
    window = framing.pixel_window(shape, resolution)
    height, width = window.size
    inside = np.zeros(resolution, np.uint8)
    if outline.region is not None:
        region = np.asarray(outline.region, np.uint8)
        resized = cv2.resize(region, (width, height), interpolation=cv2.INTER_NEAREST)
        rows, columns = visible(window, resolution)
        seen = resized[rows.start - window.top :, columns.start - window.left :]
        inside[rows, columns] = seen[: rows.stop - rows.start, : columns.stop - columns.start]
    if outline.box is not None:
        x0, y0, x1, y1 = outline.box
        left, top = round(window.left + x0 * width), round(window.top + y0 * height)
        right, bottom = round(window.left + x1 * width) - 1, round(window.top + y1 * height) - 1
        cv2.rectangle(inside, (left, top), (max(left, right), max(top, bottom)), 1, cv2.FILLED)
    lines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    drawn, thin = picture.copy(), max(1, round(min(resolution) * WIDTH))
    for colour, thickness in ((BLACK, thin + 2), (WHITE, thin)):
        cv2.drawContours(drawn, lines, -1, colour, thickness)
    return drawn
