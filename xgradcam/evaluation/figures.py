"""Figures of an evaluation, one for each question, that are legible at the width of a paper's column."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from xgradcam.evaluation.measures import MEASURES
from xgradcam.evaluation.tables import Row, best_of
from xgradcam.figures.figure import content_of_figure, new_figure, plain, safe

# Question -> its title, and the measures that answer it.
QUESTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "axioms": ("Does the map account for the score?", ("conservation", "sensitivity")),
        "pixels": (
            "Do the marked pixels decide the score?",
            ("drop", "increase", "deletion", "insertion", "road"),
        ),
        "objects": ("Does the map lie on what it explains?", ("focus", "pointing", "energy")),
        "weights": ("Does the map depend on the weights?", ("randomised",)),
        "cost": ("What does the map cost?", ("seconds", "evaluations")),
    }
)
# A paper's column in inches, and its text in points.
WIDTH, TEXT, SMALL = 3.4, 8.0, 7.0
# Heights in inches: of a method's line, of a panel over layers, and around each.
LINE, OVER_LAYERS, AROUND = 0.155, 1.9, 0.5
LAYERS = 30
# Okabe and Ito's colours, which colour-blind readers tell apart, for the methods that are highlighted.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "0.68"
# Highlighted where they are measured; the best of each measure fill the rest.
FIRST = ("xgrad-cam", "complete-cam", "grad-cam", "random-cam")
# Measures that span powers of ten.
ON_LOGARITHMS = ("conservation", "sensitivity", "seconds", "evaluations")
RESOLUTION = 300
KINDS = ("pdf", "png")
# The least distance of two labels, as a share of the height of axes.
APART = 0.075


def question_figures(rows: Sequence[Row], layers: Sequence[str]) -> dict[str, Figure]:
    """Question -> figure, for the questions that the rows answer."""
    colours = highlighted(rows)
    figures = {}
    for question, (title, measures) in QUESTIONS.items():
        names = [name for name in measures if any(_finite(row, name) for row in rows)]
        if names:
            figures[question] = _figure(title, names, rows, layers, colours)
    return figures


def figure_files(rows: Sequence[Row], layers: Sequence[str]) -> dict[str, bytes]:
    """The names and the contents of the figures' files, as PDF and as PNG."""
    return {
        name_of(question, kind): content_of_figure(figure, kind, RESOLUTION)
        for question, figure in question_figures(rows, layers).items()
        for kind in KINDS
    }


def name_of(question: str, kind: str) -> str:
    """The name of a figure's file."""
    return f"evaluation-{question}.{kind}"


def highlighted(rows: Sequence[Row]) -> dict[str, str]:
    """Method -> colour, the same in all figures, for at most seven; the others are grey."""
    there = list(dict.fromkeys(row.method for row in rows))
    wins = dict.fromkeys(there, 0)
    for layer in dict.fromkeys(row.layer for row in rows):
        own = [row for row in rows if row.layer == layer]
        for name in MEASURES:
            best = best_of(name, [row.means[name] for row in own if name in row.means])
            for row in own:
                wins[row.method] += best is not None and name in row.means and row.means[name].value == best
    by_wins = sorted(there, key=lambda method: (-wins[method], there.index(method)))
    chosen = list(dict.fromkeys([*(method for method in FIRST if method in there), *by_wins]))
    return dict(zip(chosen, COLOURS, strict=False))


def _finite(row: Row, name: str) -> bool:
    mean = row.means.get(name)
    return mean is not None and bool(np.isfinite(mean.value))


def _figure(
    title: str, names: Sequence[str], rows: Sequence[Row], layers: Sequence[str], colours: Mapping[str, str]
) -> Figure:
    """A panel for each measure, one above the other: over the layers, or of the methods at the only one."""
    several = len(layers) > 1
    count = len({row.method for row in rows})
    height = OVER_LAYERS if several else LINE * count
    figure = new_figure(WIDTH, len(names) * (height + AROUND) + 0.25)
    safe(figure.suptitle(title, fontsize=TEXT + 1, fontweight="bold"))
    panels = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for number, (axes, name) in enumerate(zip(panels, names, strict=True)):
        better = {True: ", more is better", False: ", less is better", None: ""}
        axes.set_title(
            MEASURES[name].title + better[MEASURES[name].more_is_better], fontsize=TEXT, loc="right"
        )
        axes.tick_params(labelsize=SMALL, length=2)
        axes.spines[["top", "right"]].set_visible(False)
        if several:
            _over_layers(axes, name, rows, layers, colours, named=number == len(names) - 1)
        else:
            _of_methods(axes, name, rows, colours)
    return figure


def _of_methods(axes: Axes, name: str, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    """A line for each method with its mean and interval, the best at the top."""
    known = [row for row in rows if _finite(row, name)]
    best_first = sorted(
        known, key=lambda row: row.means[name].value, reverse=bool(MEASURES[name].more_is_better)
    )
    for place, row in enumerate(best_first):
        mean, colour = row.means[name], colours.get(row.method, GREY)
        spread = [[mean.value - mean.low], [mean.high - mean.value]]
        axes.errorbar(mean.value, place, xerr=spread, fmt="o", ms=3.5, lw=1.1, color=colour)
    axes.set_yticks(range(len(best_first)), [row.method for row in best_first])
    for label, row in zip(axes.get_yticklabels(), best_first, strict=True):
        label.set_color(colours.get(row.method, "0.35"))
        safe(label)
    axes.set_ylim(len(best_first) - 0.5, -0.5)
    axes.grid(axis="x", lw=0.4, color="0.9")
    axes.set_axisbelow(True)
    _scale(axes, "x", name, [row.means[name].value for row in known])


def _over_layers(
    axes: Axes,
    name: str,
    rows: Sequence[Row],
    layers: Sequence[str],
    colours: Mapping[str, str],
    named: bool,
) -> None:
    """A curve for each method over the layers, with its name at its end."""
    places = {layer: place for place, layer in enumerate(layers)}
    ends: list[tuple[float, float, str]] = []
    for method in sorted({row.method for row in rows}, key=lambda method: method in colours):
        own = sorted(
            (row for row in rows if row.method == method and _finite(row, name)),
            key=lambda row: places[row.layer],
        )
        if not own:
            continue
        across, values = [places[row.layer] for row in own], [row.means[name].value for row in own]
        colour, is_first = colours.get(method, GREY), method in colours
        axes.plot(across, values, "o-", ms=2.5, lw=1.4 if is_first else 0.7, color=colour, label=method)
        if is_first:
            low, high = ([getattr(row.means[name], end) for row in own] for end in ("low", "high"))
            axes.fill_between(across, low, high, color=colour, alpha=0.12, lw=0)
            ends.append((across[-1], values[-1], method))
    axes.set_xlim(-0.15, len(layers) - 1 + 0.15)
    axes.grid(axis="y", lw=0.4, color="0.9")
    axes.set_axisbelow(True)
    _scale(axes, "y", name, [row.means[name].value for row in rows if _finite(row, name)])
    axes.set_xticks(range(len(layers)), [plain(layer)[:LAYERS] for layer in layers] if named else [])
    axes.tick_params(axis="x", rotation=30 if max(map(len, layers)) > 8 else 0)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right" if max(map(len, layers)) > 8 else "center")
        safe(label)
    _label_ends(axes, ends, colours)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str]], colours: Mapping[str, str]) -> None:
    """Names at the ends of curves, moved apart where they would lie over one another."""
    heights = [
        (float(axes.transAxes.inverted().transform(axes.transData.transform((across, value)))[1]), method)
        for across, value, method in ends
    ]
    free = -np.inf
    moved: list[tuple[float, str]] = []
    for height, method in sorted(heights):
        free = max(height, free + APART)
        moved.append((free, method))
    # The whole column back down, as far as it has grown beyond the axes.
    beyond = max(0.0, moved[-1][0] - 1) if moved else 0.0
    for height, method in moved:
        text = axes.annotate(
            method, (1, height - beyond), xycoords="axes fraction", xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=SMALL, color=colours[method],
        )  # fmt: skip
        safe(text)


def _scale(axes: Axes, side: str, name: str, values: Sequence[float]) -> None:
    """Powers of ten for errors and costs that span them."""
    if name in ON_LOGARITHMS and min(values) > 0 and max(values) > 20 * min(values):
        (axes.set_xscale if side == "x" else axes.set_yscale)("log")
        (axes.xaxis if side == "x" else axes.yaxis).set_minor_formatter(NullFormatter())
