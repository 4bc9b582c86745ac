"""A photograph and all its maps side by side, with the methods' names above and the class in a header."""

import math
from collections.abc import Mapping

import cv2
import numpy as np

from xgradcam.cam.methods import title_of
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.lettering import WHITE, line
from xgradcam.pictures.paint import DEFAULT_STYLE, HeatmapOf, Style, paint
from xgradcam.pictures.photograph import Photograph

# Heights of the pictures: text is unreadable beside smaller ones; larger ones are no overview.
SMALLEST, USUAL, LARGEST = 224, 336, 2048
# Of a picture's width to its height, so that a panorama does not make a ribbon of the panel.
WIDEST = 3
IN_A_ROW = 5
BLACK, GREY = (0, 0, 0), (96, 96, 96)


def draw_panel(
    photograph: Photograph,
    heatmaps: Mapping[str, HeatmapOf],
    framing: Framing,
    title: str,
    detail: str = "",
    style: Style = DEFAULT_STYLE,
) -> Photograph:
    """The photograph and a picture for each method, in rows with captions: (height, width, 3) uint8 RGB.

    photograph: (H, W, 3); all pictures have its aspect. heatmaps: method -> map, see `draw`.
    title, detail: of the header, such as the class's name and `score_line`.
    style: with `full_resolution` the pictures are as high as the photograph, up to 2048 pixels.
    """
    shape = photograph.shape[0], photograph.shape[1]
    height, width = _panel_size(shape, LARGEST if style.full_resolution else USUAL)
    smaller = height * width < shape[0] * shape[1]
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    shown = np.asarray(cv2.resize(photograph, (width, height), interpolation=interpolation), np.uint8)
    pictures = {"photograph": shown}
    for method, heatmap in heatmaps.items():
        blank = "" if heatmap(framing.size).any() else " (blank)"
        pictures[title_of(method) + blank] = paint(shown, heatmap, framing, shape, style)
    return panel(pictures, title, detail)


def panel(pictures: Mapping[str, Photograph], title: str, detail: str = "") -> Photograph:
    """Pictures in rows on white, their captions above, and above all a title on the left, a detail right.

    pictures: caption -> (H, W, 3); up to five in a row. What is too long for its place is shortened.
    """
    height = max(picture.shape[0] for picture in pictures.values())
    legible = max(SMALLEST, height)
    large, small, gap = legible // 11, legible // 14, legible // 28
    width = max(legible * 3 // 4, *(picture.shape[1] for picture in pictures.values()))
    columns = [_column(caption, picture, (height, width), small) for caption, picture in pictures.items()]
    across = math.ceil(len(columns) / math.ceil(len(columns) / IN_A_ROW))
    columns += [np.full_like(columns[0], WHITE)] * (-len(columns) % across)
    space = np.full((columns[0].shape[0], gap, 3), WHITE, np.uint8)
    rows = [columns[start : start + across] for start in range(0, len(columns), across)]
    body = np.vstack([np.hstack([space, *(part for one in row for part in (one, space))]) for row in rows])
    header = np.full((2 * large, body.shape[1], 3), WHITE, np.uint8)
    right = line(detail, small, GREY, body.shape[1] // 2, 2 * large)
    left = line(title, large, BLACK, body.shape[1] - right.shape[1] - 3 * gap, 2 * large)
    header[:, gap : gap + left.shape[1]] = left
    header[:, body.shape[1] - gap - right.shape[1] : body.shape[1] - gap] = right
    return np.vstack([header, body, np.full((gap, body.shape[1], 3), WHITE, np.uint8)])


def score_line(score: float, probability: float) -> str:
    """The detail of a class, `score 7.44, probability 11.1%`."""
    return f"score {score:.2f}, probability {probability:.1%}"


def _panel_size(shape: tuple[int, int], largest: int) -> tuple[int, int]:
    """Height and width of the pictures of a photograph (H, W)."""
    height = min(max(shape[0], SMALLEST), largest)
    height = min(height, max(1, WIDEST * height * shape[0] // shape[1]))
    return height, min(max(1, round(height * shape[1] / shape[0])), WIDEST * largest)


def _column(caption: str, picture: Photograph, size: tuple[int, int], text: int) -> Photograph:
    """The picture in the middle of `size` below its caption."""
    height, width = size
    band = 2 * text
    column = np.full((band + height, width, 3), WHITE, np.uint8)
    words = line(caption, text, BLACK, width, band)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    indent = min(left, width - words.shape[1])
    column[top : top + band, indent : indent + words.shape[1]] = words
    column[band + top : band + top + picture.shape[0], left : left + picture.shape[1]] = picture
    return column
