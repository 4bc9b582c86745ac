"""The pictures of a run in the format that it writes: pixels, or figures with a colour bar."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from threading import Lock
from typing import Any

import numpy as np

from xgradcam.cam.explanation import Explanation
from xgradcam.cam.methods import title_of
from xgradcam.errors import shortened
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.marks import ENCODERS, marked
from xgradcam.pictures.outlines import Outline, outlined
from xgradcam.pictures.paint import HeatmapOf, draw
from xgradcam.pictures.panel import draw_panel
from xgradcam.pictures.photograph import Photograph, encode_jpeg
from xgradcam.runs.run import Writing

# Methods whose pictures the original scripts write, in their colours.
OF_THE_ORIGINALS = ("grad-cam", "xgrad-cam")
# Dots per inch of a figure, and of a picture that becomes one as it is.
DPI, PIXELS = 150, 100
# Letters of a figure's title and detail at most.
TITLE = 60
# The side of the longest map in a figure, in pixels.
LONGEST = 1000
# matplotlib's settings are those of the whole process, and photographs are written by several threads.
ONE_AT_A_TIME = Lock()


def in_format(name: str, writing: Writing) -> str:
    """The name of a picture, such as `panel.jpg`, in the format of the run."""
    return PurePath(name).with_suffix(f".{writing.format}").name if writing.format != "jpg" else name


def overlay_file(
    writing: Writing,
    framing: Framing,
    canvas: Photograph,
    samples: Sequence[Explanation],
    method: str,
    heatmap: HeatmapOf,
    outline: Outline | None,
    name: str,
) -> bytes:
    """The content of the file of a method's map over the photograph.

    samples: of one photograph, at one layer or several. heatmap: of them, for pixels. name: of what is
    explained, for the colour bar.
    """
    style = writing.style.as_in_the_original() if method in OF_THE_ORIGINALS else writing.style
    if not writing.is_figure:
        seen = canvas.shape[0], canvas.shape[1]
        return picture_file(writing, outlined(draw(canvas, heatmap, framing, style), outline, framing, seen))
    if len(samples) > 1:
        return panel_file(writing, framing, canvas, {title_of(method): heatmap}, (name, ""), outline)
    from xgradcam.figures.figure import Look

    look = Look(writing.style.signed, writing.style.named, writing.style.alpha)
    content = samples[0].shown(canvas, method, writing.style.signed, name=name, framing=framing)
    return _figure_file(writing, [[content]], look, "each")


def panel_file(
    writing: Writing,
    framing: Framing,
    canvas: Photograph,
    heatmaps: Mapping[str, HeatmapOf],
    header: tuple[str, str],
    outline: Outline | None,
) -> bytes:
    """The content of the file of photograph and maps side by side; header: the title and the detail."""
    if not writing.is_figure:
        return picture_file(writing, draw_panel(canvas, heatmaps, framing, *header, writing.style, outline))
    from xgradcam.figures.comparing import in_rows
    from xgradcam.figures.figure import Look, Shown

    shape = canvas.shape[0], canvas.shape[1]
    share = min(1.0, LONGEST / max(shape))
    resolution = max(1, round(shape[0] * share)), max(1, round(shape[1] * share))
    window, place = framing.pixel_window(shape, resolution), framing.window(shape)
    seen = framing.put_back(np.ones(window.size, np.uint8), shape, resolution).astype(bool)
    at = place.left, place.top, place.right - place.left, place.bottom - place.top
    label = "evidence, as a share\nof each map's largest"
    cells = []
    for caption, heatmap in heatmaps.items():
        values = framing.put_back(np.asarray(heatmap(window.size), np.float32), shape, resolution)
        shown = np.where(seen, values.astype(np.float64), np.nan)
        extent = float(shape[1]), float(shape[0])
        cells.append(Shown(shown, extent, label, caption, canvas, outline=outline, window=at))
    low = -1.0 if writing.style.signed else 0.0
    look = Look(writing.style.signed, writing.style.named, writing.style.alpha, (low, 1.0))
    title = ": ".join(shortened(one, TITLE) for one in header if one)
    return _figure_file(writing, in_rows(cells), look, "all", title)


def picture_file(writing: Writing, picture: Photograph) -> bytes:
    """The content of a file of a picture as it is, (H, W, 3)."""
    if writing.format in ENCODERS:
        return ENCODERS[writing.format](picture)
    from xgradcam.figures.figure import content_of_figure, figure_of_picture

    with ONE_AT_A_TIME:
        figure = figure_of_picture(picture, PIXELS)
        return marked(content_of_figure(figure, writing.format, PIXELS), writing.format)


def _figure_file(writing: Writing, rows: Any, look: Any, scale: str, title: str = "") -> bytes:
    """The content of the file of a figure of maps; a JPEG is encoded and marked as all others of a run."""
    from xgradcam.figures.comparing import Comparison
    from xgradcam.figures.figure import content_of_figure, pixels_of_figure, plain, safe

    comparison = Comparison(tuple(map(tuple, rows)), ("",) * len(rows), look, scale)
    dpi = writing.dpi or DPI
    with ONE_AT_A_TIME:
        figure = comparison.figure(dpi)
        if title:
            width, height = figure.get_size_inches()
            figure.set_size_inches(width, height + 0.4)
            safe(figure.suptitle(plain(title), fontsize="medium"))
        if writing.format == "jpg":
            return encode_jpeg(pixels_of_figure(figure, dpi))
        return marked(content_of_figure(figure, writing.format, dpi), writing.format)
