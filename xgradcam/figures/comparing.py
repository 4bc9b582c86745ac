"""Maps side by side: of methods, layers, classes or models, with one colour bar where scales are shared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xgradcam.errors import XGradCamError, did_you_mean, shown
from xgradcam.figures.drawing import IN_UNITS_OF_THE_SCORE, Drawable

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from numpy.typing import NDArray

    from xgradcam.figures.figure import Look, Shown
    from xgradcam.pictures.framing import Framing

SCALES = ("all", "row", "each")
# Maps beside each other where there is only one row of them, and the height of each in inches.
ACROSS, HEIGHT, WIDEST = 5, 2.5, 4.5
# Space for a colour bar, for the names of rows, and above each map, in inches.
BAR, NAME, TITLE = 0.75, 0.3, 0.35
RESOLUTION = 100
# Points of a title that is made smaller to fit, at least; and its share of the width of a map.
SMALLEST, BESIDE = 7.0, 0.95


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """A grid of maps, which `compare` makes: drawn by `plot`, `show` and `save`, and by a notebook.

    rows: of maps, None where there is none; the photograph has no values. names: of the rows. look: of all
    maps. scale: `all`, `row` or `each`, the maps that share a colour bar.
    """

    rows: "tuple[tuple[Shown | None, ...], ...]"
    names: tuple[str, ...]
    look: "Look"
    scale: str

    def plot(self, figure: "Figure | None" = None) -> "NDArray[Any]":
        """Draw the grid; return matplotlib's axes, (rows, columns).

        figure: to draw into, also a part of one; None for a new one of pyplot's.
        """
        if figure is None:
            from matplotlib import pyplot

            figure = pyplot.figure(figsize=self._size(), layout="constrained")
        elif not hasattr(figure, "subplots"):
            raise XGradCamError(f"the figure is {shown(figure)}: give one of matplotlib's, as plt.figure()")
        axes = figure.subplots(len(self.rows), len(self.rows[0]), squeeze=False)
        every = [(row, column) for row, cells in enumerate(self.rows) for column in range(len(cells))]
        groups: dict[Any, list[tuple[int, int]]] = {}
        for row, column in every:
            cell = self.rows[row][column]
            if cell is None:
                axes[row, column].set_axis_off()
            elif cell.values.size:
                key = {"all": 0, "row": row}.get(self.scale, (row, column))
                groups.setdefault(key, []).append((row, column))
            else:
                _draw_photograph(axes[row, column], cell)
        for places in groups.values():
            self._draw_group(axes, places)
        self._name_rows(axes)
        space = figure.bbox.width - figure.dpi * (BAR * self._bars() + NAME)
        for one in axes.flat:
            _fit(one.title, BESIDE * space / len(self.rows[0]))
        return np.asarray(axes)

    def _draw_group(self, axes: "NDArray[Any]", places: Sequence[tuple[int, int]]) -> None:
        """Draw maps that share a scale, and their colour bar."""
        from xgradcam.figures.figure import add_bar, draw_into, is_blank

        cells = [cell for row, column in places if (cell := self.rows[row][column]) is not None]
        # A map without evidence has no scale of its own, and must not stretch that of the others.
        told = [cell for cell in cells if not is_blank(cell.values)]
        limits = [self.look.limits_of(cell.values) for cell in told or cells]
        look = replace(
            self.look, bar=False, limits=(min(low for low, _ in limits), max(high for _, high in limits))
        )
        drawn = [draw_into(axes[place], cell, look) for place, cell in zip(places, cells, strict=True)]
        if not self.look.bar or not (told or self.look.limits):
            return
        values = np.concatenate([cell.values[np.isfinite(cell.values)] for cell in cells])
        labels = dict.fromkeys(cell.label for cell in cells)
        label = next(iter(labels))
        if len(labels) > 1:
            units = {one.rpartition("\n")[2] for one in labels}
            label = f"evidence for what each map is of\n{units.pop() if len(units) == 1 else 'units differ'}"
        if len(cells) > 1:
            label += f"\none scale for {'all maps' if self.scale == 'all' else 'the row'}"
            where = axes.ravel().tolist() if self.scale == "all" else axes[places[0][0]].tolist()
            add_bar(where, drawn[0], values, label, fraction=0.05, pad=0.02)
        else:
            add_bar(axes[places[0]], drawn[0], values, label)

    def _name_rows(self, axes: "NDArray[Any]") -> None:
        from xgradcam.figures.figure import named, safe

        for name, row in zip(self.names, axes[:, 0], strict=True):
            if name:
                row.axison = True
                row.set_ylabel(named(name))
                safe(row.yaxis.label)

    def show(self) -> None:
        """Draw the grid, and show the figure: in a window, or below the notebook's cell."""
        from matplotlib import pyplot

        self.plot()
        pyplot.show()

    def save(self, path: Any, *, dpi: float | None = None) -> None:
        """Draw the grid into a file, as `Explanation.save` does."""
        from xgradcam.figures.figure import save_figure

        save_figure(self.figure(dpi), path, dpi)

    def figure(self, dpi: float | None = None) -> "Figure":
        """The figure that `save` writes, which pyplot does not know."""
        from xgradcam.figures.figure import new_figure

        figure = new_figure(*self._size(), dpi)
        self.plot(figure)
        return figure

    def _repr_png_(self) -> bytes:
        """The grid as a picture, for notebooks."""
        from xgradcam.figures.figure import content_of_figure

        return content_of_figure(self.figure(), "png", RESOLUTION)

    def __repr__(self) -> str:
        count = sum(cell is not None and cell.values.size > 0 for row in self.rows for cell in row)
        return f"<Comparison of {count} maps in {len(self.rows)} x {len(self.rows[0])}, scale: {self.scale}>"

    def _size(self) -> tuple[float, float]:
        """Width and height in inches."""
        first = next(cell for row in self.rows for cell in row if cell is not None)
        is_signal = first.extent[1] == 1
        aspect = 2.0 if is_signal else first.extent[0] / first.extent[1]
        wide = min(HEIGHT * aspect, WIDEST)
        high = 1.4 if is_signal else wide / aspect
        return wide * len(self.rows[0]) + BAR * self._bars() + NAME, (high + TITLE) * len(self.rows)

    def _bars(self) -> int:
        """Colour bars beside one another."""
        return len(self.rows[0]) if self.scale == "each" else 1


def compare(
    explanations: Drawable | Sequence[Drawable] | Mapping[str, Drawable],
    photograph: Any = None,
    *,
    methods: Sequence[str] | str | None = None,
    signed: bool = False,
    scale: str | None = None,
    sample: int = 0,
    framing: "Framing | None" = None,
    colormap: "str | Colormap | None" = None,
    alpha: float | None = None,
    bar: bool = True,
    grey: bool = True,
) -> Comparison:
    """The maps of one explanation or several side by side: a row for each, a column for each method.

    explanations: of classes, layers or models, in a list, or in a dictionary by the names of their rows. Of
    one method they stand in one row. photograph: see `Explanation.plot`; drawn first, in its own colours.
    methods: keys of `maps`; None for all. scale: the maps that share a scale and a colour bar: `all`, the
    `row`'s, or `each` its own; None for the most whose values can be compared, which are of one unit and of
    as many cells. The others: see `Explanation.plot`.
    Raises XGradCamError for no explanation, and for a wrong method or scale.
    """
    from xgradcam.figures.figure import Look

    if scale not in (None, *SCALES):
        hint = did_you_mean(scale, SCALES) if isinstance(scale, str) else ""
        raise XGradCamError(f"no scale {shown(scale)}{hint}: give {', '.join(SCALES)}")
    look = Look(bool(signed), colormap, alpha, None, bar, grey)
    names, every = _named(explanations)
    chosen = _methods(methods, every)
    how: Any = {"signed": signed, "sample": sample, "framing": framing}
    rows = [
        [one.shown(photograph, method, **how) if method in one.maps else None for method in chosen]
        for one in every
    ]
    kept, labels = _laid_out(rows, names)
    return Comparison(kept, labels, look, scale or _scale_of(every, chosen))


def _laid_out(
    rows: "list[list[Shown | None]]", names: tuple[str, ...]
) -> "tuple[tuple[tuple[Shown | None, ...], ...], tuple[str, ...]]":
    """The grid with photographs, and the names of its rows; one row or one column of maps fills several."""
    if len(rows) == 1:
        laid = in_rows([cell for cell in rows[0] if cell])
        names = names if len(laid) == 1 else ()
    elif len(rows[0]) == 1 and _of_one_photograph([cell for (cell,) in rows if cell]):
        each = zip(rows, names, strict=True)
        laid = in_rows([replace(cell, title=name or cell.title) for (cell,), name in each if cell])
        names = ()
    else:
        laid = [[first, *row] if (first := _photograph(row)) else row for row in rows]
    return tuple(map(tuple, laid)), names or ("",) * len(laid)


def _named(explanations: Any) -> tuple[tuple[str, ...], list[Drawable]]:
    """The names of the rows, and the explanations."""
    given: Any = [explanations] if isinstance(explanations, Drawable) else explanations
    is_named = isinstance(given, Mapping)
    try:
        every = list(given.values() if is_named else given)
    except TypeError:
        every = [given]
    if not every:
        raise XGradCamError("nothing to compare: give explanations, in a list or by their names")
    for one in every:
        if not isinstance(one, Drawable):
            raise XGradCamError(f"to compare is {shown(one)}: give explanations, in a list or by their names")
    return (tuple(map(str, given)) if is_named else _differences(every)), every


def _differences(every: Sequence[Drawable]) -> tuple[str, ...]:
    """The names that tell explanations apart: of the model, the layer, the class, or the number of cells."""
    if len(every) == 1:
        return ("",)
    columns = []
    for told in (
        [str(getattr(one, "model_name", "")) for one in every],
        [str(getattr(one, "layer", "")) for one in every],
        [one.explained() for one in every],
        [" x ".join(map(str, next(iter(one.maps.values())).shape[1:])) + " cells" for one in every],
    ):
        if len(set(told)) > 1 and all(told):
            columns.append(told)
    apart = [", ".join(words) for words in zip(*columns, strict=True)] if columns else []
    # The number of cells follows from the layer.
    if len(columns) > 1 and len({*zip(*columns[:-1], strict=True)}) == len(every):
        apart = [", ".join(words[:-1]) for words in zip(*columns, strict=True)]
    return tuple(apart or [str(number) for number in range(1, len(every) + 1)])


def _methods(methods: Any, every: Sequence[Drawable]) -> list[str]:
    there = list(dict.fromkeys(method for one in every for method in one.maps))
    chosen = there if methods is None else [methods] if isinstance(methods, str) else list(methods)
    for method in chosen:
        if method not in there:
            raise XGradCamError(f"no map of {shown(method)} here; there are: {', '.join(there)}")
    if not chosen:
        raise XGradCamError("no methods to compare: give at least one")
    return chosen


def _scale_of(every: Sequence[Drawable], methods: Sequence[str]) -> str:
    """The most maps whose values can be compared: those of one unit and of as many cells."""
    units = {one.unit for one in every}
    cells = {tuple(one.maps[method].shape[1:]) for one in every for method in methods if method in one.maps}
    if len(methods) > 1 and not IN_UNITS_OF_THE_SCORE.issuperset(methods):
        return "each"
    return "all" if len(units) == 1 and len(cells) == 1 else "each" if len(methods) == 1 else "row"


def _photograph(cells: "Sequence[Shown | None]") -> "Shown | None":
    """The photograph below the maps, as a cell without values."""
    below = next((cell for cell in cells if cell is not None and cell.below is not None), None)
    if below is None or below.extent[1] == 1:
        return None
    return replace(below, values=np.zeros((0, 0)), title="photograph")


def _of_one_photograph(cells: "Sequence[Shown]") -> bool:
    """True for maps over the same photograph, which need it once."""
    first, *others = [cell.below for cell in cells]
    return all(
        one is first or (one is not None and first is not None and np.array_equal(one, first))
        for one in others
    )


def in_rows(cells: "Sequence[Shown]") -> "list[list[Shown | None]]":
    """The photograph and the maps in rows of at most `ACROSS`."""
    first = _photograph(cells)
    together: list[Shown | None] = [*([first] if first else []), *cells]
    across = -(-len(together) // -(-len(together) // ACROSS))
    together += [None] * (-len(together) % across)
    return [together[start : start + across] for start in range(0, len(together), across)]


def _fit(text: "Text", most: float) -> None:
    """Draw a text smaller that is wider than so many pixels, and shorten it where it would be too small."""
    said = text.get_text()
    while said and (wide := text.get_window_extent().width) > most:
        size = float(text.get_fontsize())
        if size > SMALLEST:
            text.set_fontsize(max(SMALLEST, size * min(most / wide, 0.95)))
        else:
            said = said[:-1]
            text.set_text(f"{said}…")


def _draw_photograph(axes: Any, cell: "Shown") -> None:
    from xgradcam.figures.figure import draw_below

    draw_below(axes, cell)
