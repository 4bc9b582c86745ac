"""Draw a photograph and its overlays side by side, with captions and a header."""

import math
from collections.abc import Mapping

import cv2
import numpy as np

from xgradcam.errors import XGradCamError
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.lettering import WHITE, line
from xgradcam.pictures.outlines import Outline, outlined
from xgradcam.pictures.paint import DEFAULT_STYLE, HeatmapOf, Style, checked_heatmap, paint
from xgradcam.pictures.photograph import Photograph, require_photograph

# Heights of the pictures in pixels: the least that text is readable at, the most by default, and the most at
# full resolution.
SMALLEST_HEIGHT, USUAL_HEIGHT, LARGEST_HEIGHT = 224, 336, 2048
# The most that a picture is wider than high, so that a panorama does not make the panel a ribbon.
WIDEST_ASPECT = 3
PICTURES_IN_A_ROW = 5
BLACK, GREY = (0, 0, 0), (96, 96, 96)


def draw_panel(
    photograph: Photograph,
    heatmaps: Mapping[str, HeatmapOf],
    framing: Framing,
    title: str,
    detail: str = "",
    style: Style = DEFAULT_STYLE,
    outline: Outline | None = None,
) -> Photograph:
    """The photograph and an overlay for each heatmap, in rows with captions: (height, width, 3) uint8 RGB.

    photograph: (H, W, 3); all pictures have its aspect. heatmaps: caption -> heatmap, see `draw`.
    title, detail: the header's text, such as the class's name and `score_line`.
    style: with `full_resolution` the pictures are as high as the photograph, up to 2048 pixels.
    outline: drawn on all pictures.
    """
    require_photograph(photograph)
    shape = photograph.shape[0], photograph.shape[1]
    height, width = _panel_size(shape, LARGEST_HEIGHT if style.full_resolution else USUAL_HEIGHT)
    smaller = height * width < shape[0] * shape[1]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    shown = np.asarray(cv2.resize(photograph, (width, height), interpolation=interpolation), np.uint8)
    pictures = {"photograph": shown}
    for caption, heatmap in heatmaps.items():
        values = heatmap(framing.size)
        blank = "" if (values if style.signed else checked_heatmap(values)).any() else " (blank)"
        pictures[caption + blank] = paint(shown, heatmap, framing, shape, style)
    drawn = {caption: outlined(picture, outline, framing, shape) for caption, picture in pictures.items()}
    return panel(drawn, title, detail)


def panel(pictures: Mapping[str, Photograph], title: str, detail: str = "") -> Photograph:
    """Pictures in rows on white, each below its caption, and a header: a title left, a detail right.

    pictures: caption -> (H, W, 3) uint8; at most five in a row. Text that is too long is shortened.
    Raises XGradCamError for no picture, and for a wrong one.
    """
    if not pictures:
        raise XGradCamError("no pictures for a panel: give at least one")
    for picture in pictures.values():
        require_photograph(picture)
    height = max(picture.shape[0] for picture in pictures.values())
    legible = max(SMALLEST_HEIGHT, height)
    large, small, gap = legible // 11, legible // 14, legible // 28
    width = max(legible * 3 // 4, *(picture.shape[1] for picture in pictures.values()))
    columns = [_column(caption, picture, (height, width), small) for caption, picture in pictures.items()]
    across = math.ceil(len(columns) / math.ceil(len(columns) / PICTURES_IN_A_ROW))
    columns += [np.full_like(columns[0], WHITE)] * (-len(columns) % across)
    space = np.full((columns[0].shape[0], gap, 3), WHITE, np.uint8)
    rows = [columns[start : start + across] for start in range(0, len(columns), across)]
    body = np.vstack([np.hstack([space, *(part for one in row for part in (one, space))]) for row in rows])
    header = _header(title, detail, body.shape[1], (large, small, gap))
    return np.vstack([header, body, np.full((gap, body.shape[1], 3), WHITE, np.uint8)])


def score_line(score: float, probability: float | None = None) -> str:
    """The detail of a class: `score 7.44, probability 11.1%`; without a probability only the score."""
    return f"score {score:.2f}" + ("" if probability is None else f", probability {probability:.1%}")


def _panel_size(shape: tuple[int, int], largest: int) -> tuple[int, int]:
    """Height and width of the pictures in the panel of a photograph (H, W)."""
    height = min(max(shape[0], SMALLEST_HEIGHT), largest)
    height = min(height, max(1, WIDEST_ASPECT * height * shape[0] // shape[1]))
    return height, min(max(1, round(height * shape[1] / shape[0])), WIDEST_ASPECT * largest)


def _column(caption: str, picture: Photograph, size: tuple[int, int], text: int) -> Photograph:
    """The picture in the middle of `size` (height, width), below its caption; text: the font's size."""
    height, width = size
    band = 2 * text
    column = np.full((band + height, width, 3), WHITE, np.uint8)
    words = line(caption, text, BLACK, width, band)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    indent = min(left, width - words.shape[1])
    column[top : top + band, indent : indent + words.shape[1]] = words
    column[band + top : band + top + picture.shape[0], left : left + picture.shape[1]] = picture
    return column


def _header(title: str, detail: str, width: int, sizes: tuple[int, int, int]) -> Photograph:
    """The title on the left, the detail on the right, or below it where that has no room.

    sizes: of the two fonts, and of the margin.
    """
    large, small, margin = sizes
    whole = width - 2 * margin
    left = line(title, large, BLACK, whole, 2 * large)
    right = line(detail, small, GREY, whole, 2 * large)
    is_beside = left.shape[1] + margin + right.shape[1] <= whole
    header = np.full((2 * large if is_beside else 2 * large + 2 * small, width, 3), WHITE, np.uint8)
    header[: 2 * large, margin : margin + left.shape[1]] = left
    if is_beside:
        header[:, width - margin - right.shape[1] : width - margin] = right
    else:
        header[2 * large :, margin : margin + right.shape[1]] = line(detail, small, GREY, whole, 2 * small)
    return header
