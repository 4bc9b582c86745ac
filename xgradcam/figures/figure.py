"""Draw a map into matplotlib's axes, over a photograph, a signal or nothing, with a colour bar."""

import io
import unicodedata
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from xgradcam.errors import UNSEEN, XGradCamError, did_you_mean, first_line, shortened, shown
from xgradcam.files import write_files
from xgradcam.pictures.outlines import Outline
from xgradcam.pictures.paint import COLORMAPS, EVEN, colours_of
from xgradcam.pictures.photograph import Photograph
from xgradcam.pictures.signed import AGAINST, FOR

if TYPE_CHECKING:
    from collections.abc import Iterator

Values: TypeAlias = NDArray[np.float64]

# Longest side of a photograph in a figure of the usual resolution, in pixels; and, in one of more, the pixels
# that it keeps for each of the axes', whose size is not quite known before the figure is laid out.
LONGEST, SPARE = 1000, 1.3
# Lightest the photograph is made, and the share of it that the colours of the most evidence cover.
LIGHTENED, COVER = 0.35, 0.85
# Values beyond this percentile of all sizes have the full colour, where the largest is far above it.
FULL, FAR = 99.5, 1.5
# Letters of a name in a figure at most.
NAME = 44
# Width of a colour bar as a share of the axes', and its distance.
BAR = {"fraction": 0.046, "pad": 0.035}
# Said with each picture, for a user's settings may say otherwise, and turn photographs upside down.
UPRIGHT: Any = {"origin": "upper", "aspect": "equal"}
# Text stays text, so that it can be searched and edited; no date, so that the same map gives the same file.
TEXT_AS_TEXT: Any = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "xgradcam",
}
# Matplotlib's settings are those of the whole process.
_ONE_AT_A_TIME = RLock()
NO_DATE: Mapping[str, dict[str, str | None]] = {
    "svg": {"Creator": "xgradcam", "Date": None},
    "pdf": {"Creator": "xgradcam", "CreationDate": None},
    "png": {"Software": "xgradcam"},
}


@dataclass(frozen=True)
class Look:
    """The look of a map in a figure.

    signed: evidence against in the colours below 0; otherwise it is left out. colormap: a name of OpenCV's or
    of matplotlib's, or a map of matplotlib's; None for viridis, or red for and blue against. alpha: the share
    of the colours everywhere; None for more where there is more evidence. limits: the values of the first and
    the last colour; None for those of this map. bar: draw a colour bar. grey: the photograph in grey.
    """

    signed: bool = False
    colormap: str | Colormap | None = None
    alpha: float | None = None
    limits: tuple[float, float] | None = None
    bar: bool = True
    grey: bool = True

    def __post_init__(self) -> None:
        colour_table(self.colormap, self.signed)
        is_number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if self.alpha is not None and not (is_number and 0 <= self.alpha <= 1):
            raise XGradCamError(f"alpha is {shown(self.alpha)}: give a share of the colours, from 0 to 1")
        if self.limits is not None:
            try:
                low, high = map(float, self.limits)
                right = bool(np.isfinite([low, high]).all()) and low < high
            except (TypeError, ValueError):
                right = False
            if not right:
                raise XGradCamError(f"the limits are {shown(self.limits)}: give two numbers, low and high")

    def colours(self) -> Colormap:
        """256 colours with their opacity: none where there is no evidence, so that the photograph is seen."""
        table = colour_table(self.colormap, self.signed)
        share = np.linspace(0, 1, len(table))
        opacity = COVER * (np.abs(2 * share - 1) if self.signed else np.sqrt(share))
        if self.alpha is not None:
            opacity = np.full(len(table), float(self.alpha))
        colours = ListedColormap(np.column_stack([table, opacity]), "xgradcam")
        return colours.with_extremes(bad=(0, 0, 0, 0))

    def limits_of(self, values: Values) -> tuple[float, float]:
        """The values of the first and the last colour, and of a map without evidence 0 and 1."""
        if self.limits is not None:
            return self.limits
        sizes = np.abs(values[np.isfinite(values)])
        largest = float(sizes.max()) if sizes.size else 0.0
        usual = float(np.percentile(sizes, FULL)) if sizes.size else 0.0
        high = usual if 0 < FAR * usual < largest else largest or 1.0
        return (-high if self.signed else 0.0), high


@dataclass(frozen=True)
class Shown:
    """A map, what lies below it and the words on both.

    values: (H, W) of the map; NaN where the network did not see. below: the photograph (H, W, 3) of any size,
    a signal (C, L) for values (1, L), or None. extent: width and height of what is drawn, in its own pixels.
    label: of the colour bar. title: of the axes. outline: of the part that the score is about.
    """

    values: Values
    extent: tuple[float, float]
    label: str
    title: str = ""
    below: NDArray[Any] | None = None
    outline: Outline | None = field(default=None, kw_only=True)
    window: tuple[float, float, float, float] | None = field(default=None, kw_only=True)


def colour_table(colormap: str | Colormap | None, signed: bool) -> NDArray[np.float64]:
    """The colours of 256 levels, (256, 3) in [0, 1]; XGradCamError for an unknown name."""
    if colormap is None and signed:
        half = np.repeat([AGAINST, FOR], 128, axis=0)
        return half / 255
    name = EVEN if colormap is None else colormap
    if isinstance(name, str):
        if name in COLORMAPS:
            return colours_of(name) / 255
        if name not in matplotlib.colormaps:
            hint = did_you_mean(name.lower(), [*COLORMAPS, *matplotlib.colormaps])
            raise XGradCamError(f"no colour map {shown(name)}{hint}: give a name of OpenCV's or matplotlib's")
        name = matplotlib.colormaps[name]
    if not isinstance(name, Colormap):
        raise XGradCamError(f"the colour map is {shown(name)}: give a name, such as {EVEN}")
    colours: NDArray[np.float64] = np.asarray(name(np.linspace(0, 1, 256)))[:, :3]
    return colours


def draw_into(axes: Axes, shown_map: Shown, look: Look) -> Any:
    """Draw the map into the axes; return matplotlib's image of it, whose array has the values."""
    values, (width, height) = shown_map.values, shown_map.extent
    frame = (0.0, width, height, 0.0)
    low, high = look.limits_of(values)
    below = shown_map.below
    is_signal = values.shape[0] == 1
    if below is not None and not is_signal:
        axes.imshow(
            _faint(below, look.grey, axes), extent=frame, interpolation="bilinear", zorder=0, **UPRIGHT
        )
    axes.set_facecolor("white" if below is None or is_signal else "0.8")
    drawn = axes.imshow(
        np.ma.masked_invalid(values), cmap=look.colours(), vmin=low, vmax=high, extent=frame,
        interpolation="nearest" if below is None or is_signal else "bilinear",
        zorder=1, **{**UPRIGHT, "aspect": "auto" if is_signal else "equal"},
    )  # fmt: skip
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    if is_signal:
        _draw_signal(axes, below, width)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    if shown_map.outline is not None:
        _draw_outline(axes, shown_map)
    axes.set_title(plain(shown_map.title))
    safe(axes.title)
    if look.bar and not (is_blank(values) and look.limits is None):  # a scale of nothing would be made up
        add_bar(axes, drawn, values, shown_map.label)
    return drawn


def is_blank(values: Values) -> bool:
    """True for a map in which no finite value differs from 0."""
    return not np.nan_to_num(values, posinf=0, neginf=0).any()


def draw_below(axes: Axes, shown_map: Shown) -> None:
    """Draw the photograph below the map, in its own colours, without the map."""
    width, height = shown_map.extent
    if shown_map.below is not None:
        frame = (0.0, width, height, 0.0)
        axes.imshow(_faint(shown_map.below, False, axes), extent=frame, interpolation="bilinear", **UPRIGHT)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(plain(shown_map.title))
    safe(axes.title)


def add_bar(axes: Any, drawn: Any, values: Values, label: str, **where: Any) -> Any:
    """A colour bar beside the axes, one or several, with arrows where values lie beyond it."""
    low, high = drawn.get_clim()
    finite = values[np.isfinite(values)]
    over = bool(finite.size) and float(finite.max()) > high * (1 + 1e-6)
    under = bool(finite.size) and float(finite.min()) < low - 1e-6 * abs(high)
    extend = {(True, True): "both", (True, False): "max", (False, True): "min"}.get((over, under), "neither")
    figure = (axes if isinstance(axes, Axes) else np.ravel(axes)[0]).figure
    bar = figure.colorbar(drawn, ax=axes, extend=extend, **{**BAR, **where})
    if bar.solids is not None:
        bar.solids.set_rasterized(True)  # in vector files lines would show between its translucent parts
    bar.set_label("\n".join(map(plain, label.split("\n"))), size="small")
    safe(bar.ax.yaxis.label)
    safe(bar.ax.xaxis.label)
    return bar


def plain(text: str) -> str:
    """The text in a line without characters that do not print."""
    printed = "".join(" " if unicodedata.category(one) in UNSEEN else one for one in text)
    return " ".join(printed.split())


def named(name: str) -> str:
    """A name that comes from elsewhere, in a line of at most `NAME` letters."""
    return shortened(plain(name[: 4 * NAME]), NAME)


def safe(text: Text) -> None:
    """Have a text drawn as it is: names may hold dollars, which matplotlib takes for formulas."""
    text.set_parse_math(False)
    text.set_usetex(False)


def _faint(photograph: Photograph, grey: bool, axes: Axes) -> Photograph:
    """The photograph, smaller if the axes show less of it, in lighter grey, on which all colours show."""
    height, width = photograph.shape[:2]
    share = max(LONGEST, SPARE * axes.bbox.width, SPARE * axes.bbox.height) / max(height, width)
    if share < 1:
        size = max(1, round(width * share)), max(1, round(height * share))
        photograph = np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), np.uint8)
    if not grey:
        return photograph
    levels = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY).astype(np.float32)
    light = 255 * LIGHTENED + (1 - LIGHTENED) * levels
    return np.repeat(np.rint(light).astype(np.uint8)[..., None], 3, axis=2)


def _draw_signal(axes: Axes, signal: NDArray[Any] | None, length: float) -> None:
    """The curves of a signal (C, L), each on a scale of its own, over its map; height 1."""
    axes.set_yticks([])
    axes.set_xlabel("place in the signal")
    for curve in () if signal is None else signal:
        low, high = float(curve.min()), float(curve.max())
        share = (curve - low) / (high - low) if high > low else np.full(len(curve), 0.5)
        across = (np.arange(len(curve)) + 0.5) * length / len(curve)
        axes.plot(across, 0.95 - 0.9 * share, color="black", linewidth=1.2)


def _draw_outline(axes: Axes, shown_map: Shown) -> None:
    """A thin white line, in black, around the box or the region, which lie in the window."""
    assert shown_map.outline is not None
    left, top, wide, high = shown_map.window or (0.0, 0.0, *shown_map.extent)
    effects = [Stroke(linewidth=3.2, foreground="black"), Normal()]
    if shown_map.outline.box is not None:
        x0, y0, x1, y1 = shown_map.outline.box
        corner, size = (left + x0 * wide, top + y0 * high), ((x1 - x0) * wide, (y1 - y0) * high)
        box = Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=1.6, path_effects=effects)
        axes.add_patch(box)
    region = shown_map.outline.region
    if region is not None and region.any() and not region.all():
        rows, columns = region.shape
        across = left + (np.arange(columns) + 0.5) * wide / columns
        down = top + (np.arange(rows) + 0.5) * high / rows
        axes.contour(across, down, region.astype(float), levels=[0.5], colors="white", linewidths=1.2)


def new_figure(width: float, height: float, dpi: float | None = None) -> Figure:
    """A figure of this size in inches, and of so many dots per inch, that pyplot does not know."""
    _require_resolution(dpi)
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@contextmanager
def _missing_letters_allowed() -> "Iterator[None]":
    """A font that lacks a letter of a name shows a box; a vector file holds the letter all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing.*")
        yield


def content_of_figure(figure: Figure, kind: str, dpi: float | None = None) -> bytes:
    """The content of a picture file of a figure; kind: `png`, `pdf`, `svg`, `jpg`, ...

    Raises XGradCamError for another kind, with those that there are, for a wrong resolution, and where
    matplotlib cannot draw by its settings.
    """
    kinds = figure.canvas.get_supported_filetypes()
    if kind not in kinds:
        raise XGradCamError(f"no picture of the kind {shown(kind)}: take {', '.join(sorted(kinds))}")
    _require_resolution(dpi)
    picture = io.BytesIO()
    try:
        with _ONE_AT_A_TIME, matplotlib.rc_context(TEXT_AS_TEXT), _missing_letters_allowed():
            figure.savefig(picture, format=kind, dpi=dpi or "figure", metadata=NO_DATE.get(kind))
    except RuntimeError as error:  # such as text.usetex without LaTeX
        why = f"{first_line(error)} (its settings: {matplotlib.matplotlib_fname()})"
        raise XGradCamError(f"matplotlib cannot draw the figure: {why}") from None
    return picture.getvalue()


def _require_resolution(dpi: Any) -> None:
    is_number = isinstance(dpi, int | float) and not isinstance(dpi, bool)
    if dpi is not None and not (is_number and 1 <= dpi <= 2400):
        raise XGradCamError(f"the resolution is {shown(dpi)}: give dots per inch, from 1 to 2400")


def pixels_of_figure(figure: Figure, dpi: float) -> Photograph:
    """The pixels (H, W, 3) of a figure at a resolution in dots per inch."""
    with Image.open(io.BytesIO(content_of_figure(figure, "png", dpi))) as picture:
        return np.array(picture.convert("RGB"))


def figure_of_picture(picture: Photograph, dpi: float) -> Figure:
    """A figure of a picture (H, W, 3) as it is, which fills it."""
    height, width = picture.shape[:2]
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    FigureCanvasAgg(figure)
    figure.figimage(picture, resize=False, origin="upper")
    return figure


def save_figure(figure: Figure, path: Any, dpi: float | None = None) -> None:
    """Write a figure to a file, whole or not at all; the ending of its name says the kind."""
    try:
        place = Path(path)
    except TypeError:
        raise XGradCamError(f"the file is {shown(path)}: give a path, such as figure.pdf") from None
    kind = place.suffix.lower().removeprefix(".")
    if not kind:
        raise XGradCamError(f"{place} has no ending: give one, such as {place}.pdf, .svg or .png")
    content = content_of_figure(figure, kind, dpi)
    write_files({place: content})
