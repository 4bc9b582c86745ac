"""The report of an evaluation: means over photographs as a Markdown table, a CSV file and plots."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import bootstrap

from xgradcam.cam.methods import METHODS
from xgradcam.errors import XGradCamError
from xgradcam.evaluation.measures import MEASURES
from xgradcam.evaluation.photographs import FolderClass
from xgradcam.files import write_files

RESAMPLES = 2000
COLOURS = "tab20"
ARROWS: Mapping[bool | None, str] = {True: " ↑", False: " ↓", None: ""}
AXIOM_ERRORS = ("conservation", "sensitivity")
CURVES = ("deletion", "insertion")


@dataclass(frozen=True)
class Mean:
    """A mean over photographs with its 95% bootstrap interval; count: of photographs."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Row:
    """Measure -> mean, for one method at one layer."""

    layer: str
    method: str
    means: Mapping[str, Mean]


@dataclass(frozen=True)
class Report:
    """The result of an evaluation.

    lines: the log's, from which the rows come. photographs: how many there were. classes: those of each
    folder. remarks: lines below the tables.
    """

    rows: Sequence[Row]
    lines: Sequence[Mapping[str, Any]]
    layers: Sequence[str]
    photographs: int
    classes: Sequence[FolderClass] = ()
    remarks: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        """Write evaluation.md, evaluation.csv and evaluation.png; CannotWriteError if that fails."""
        write_files(
            {
                folder / "evaluation.md": (self.markdown() + "\n").encode(),
                folder / "evaluation.csv": self.csv().encode(),
                folder / "evaluation.png": self.png(),
            }
        )

    def markdown(self) -> str:
        """A table for each layer, the best mean of each measure in bold, and one of the folders' classes."""
        over = f"{self.photographs} photographs" if self.photographs > 1 else "1 photograph"
        lines = [f"Means over {over}, with 95% bootstrap intervals; ↑ more, ↓ less is better."]
        for layer in self.layers:
            lines += ["", f"**{layer}**", "", *_table(self._rows_at(layer))]
        if self.classes:
            lines += ["", "| folder | class explained | photographs |", "|---|---|---|"]
        for one in self.classes:
            cells = (text.replace("|", "\\|") for text in (one.folder, one.name))
            lines.append(f"| {' | '.join(cells)} | {one.photographs} |")
        for remark in self.remarks:
            lines += ["", remark]
        return "\n".join(lines)

    def csv(self) -> str:
        """The means as CSV, one for each layer, method and measure."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(("layer", "method", "measure", "mean", "low", "high", "photographs"))
        for row in self.rows:
            for name, mean in row.means.items():
                writer.writerow((row.layer, row.method, name, mean.value, mean.low, mean.high, mean.count))
        return text.getvalue()

    def png(self) -> bytes:
        """Plots of the means and of the mean curves, as the bytes of a PNG file; one row for each layer."""
        directed = [name for name, measure in MEASURES.items() if measure.more_is_better is not None]
        shown = [name for name in directed if any(name in row.means for row in self.rows)]
        width, height = len(shown) + len(CURVES), len(self.layers)
        figure = Figure(figsize=(2.3 * width, 3.6 * height), layout="constrained")
        FigureCanvasAgg(figure)
        for layer, axes in zip(self.layers, figure.subplots(height, width, squeeze=False), strict=True):
            rows = self._rows_at(layer)
            for name, axis in zip(shown, axes, strict=False):
                _plot_means(axis, name, rows)
            axes[0].tick_params(labelleft=True)
            axes[0].set_ylabel(layer)
            for name, axis in zip(CURVES, axes[-len(CURVES) :], strict=True):
                _plot_curves(axis, name, rows, self.lines)
            axes[-1].legend(fontsize=5)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        return picture.getvalue()

    def _rows_at(self, layer: str) -> list[Row]:
        return [row for row in self.rows if row.layer == layer]


def report_on(
    lines: Sequence[Mapping[str, Any]],
    layers: Sequence[str],
    methods: Sequence[str],
    photographs: int,
    seed: int = 0,
    classes: Sequence[FolderClass] = (),
    remarks: Sequence[str] = (),
) -> Report:
    """The report on the log's lines; XGradCamError if none of the methods was measured.

    seed: of the bootstrap. classes, remarks: see `Report`.
    """
    rows = []
    for layer in layers:
        for method in methods:
            own = [line for line in lines if (line["layer"], line["method"]) == (layer, method)]
            if means := _means(own, seed):
                rows.append(Row(layer, method, means))
    if not rows:
        raise XGradCamError(f"none of these methods applies at {', '.join(layers)}: {', '.join(methods)}")
    return Report(rows, lines, layers, photographs, classes, remarks)


def _means(lines: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Mean]:
    values = {name: [line[name] for line in lines if name in line] for name in MEASURES}
    return {name: mean_of(measured, seed) for name, measured in values.items() if measured}


def mean_of(values: Iterable[float | None], seed: int = 0) -> Mean:
    """The mean of the finite values and its bootstrap interval, by percentiles. Efron 1979."""
    finite = np.asarray([value for value in values if value is not None and np.isfinite(value)], float)
    if not len(finite):
        return Mean(np.nan, np.nan, np.nan, 0)
    mean = float(finite.mean())
    if len(finite) == 1:
        return Mean(mean, mean, mean, 1)
    interval = bootstrap(
        (finite,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=0.95,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Mean(mean, float(interval.low), float(interval.high), len(finite))


def _table(rows: Sequence[Row]) -> list[str]:
    """The lines of a Markdown table: a row for each method, a column for each measure."""
    names = [name for name in MEASURES if any(name in row.means for row in rows)]
    best = {name: best_of(name, [row.means[name] for row in rows if name in row.means]) for name in names}
    heads = [MEASURES[name].title + ARROWS[MEASURES[name].more_is_better] for name in names]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = [cell(row.means.get(name), best[name]) for name in names]
        lines.append(f"| {row.method} | {' | '.join(cells)} |")
    return lines


def best_of(name: str, means: Iterable[Mean]) -> float | None:
    """The best of a measure's means; None if all are equal, or if neither more nor less is better."""
    values = {mean.value for mean in means if np.isfinite(mean.value)}
    more_is_better = MEASURES[name].more_is_better
    if more_is_better is None or len(values) < 2:
        return None
    return max(values) if more_is_better else min(values)


def cell(mean: Mean | None, best: float | None) -> str:
    """The mean and its interval as text; in bold if it reads the same as the best one."""
    if mean is None or not mean.count:
        return "–"
    value = f"{mean.value:.3g}"
    if best is not None and value == f"{best:.3g}":
        value = f"**{value}**"
    return f"{value} ({mean.low:.2g} to {mean.high:.2g})" if mean.high > mean.low else value


def _colour(method: str) -> tuple[float, ...]:
    """The same colour for a method in every plot."""
    colour: tuple[float, ...] = colormaps[COLOURS](list(METHODS).index(method))
    return colour


def _plot_means(axis: Axes, name: str, rows: Sequence[Row]) -> None:
    """Draw a measure's means with their intervals, one method below the other."""
    better = "more is better" if MEASURES[name].more_is_better else "less is better"
    axis.set_title(f"{MEASURES[name].title}\n({better})", fontsize=8)
    for place, row in enumerate(rows):
        mean = row.means.get(name)
        if mean is not None and mean.count:
            spread = [[mean.value - mean.low], [mean.high - mean.value]]
            axis.errorbar(mean.value, -place, xerr=spread, fmt="o", ms=4, color=_colour(row.method))
    axis.set_yticks([-place for place in range(len(rows))], [row.method for row in rows])
    axis.tick_params(labelsize=7, labelleft=False)
    if name in AXIOM_ERRORS:
        axis.set_xscale("log")


def _plot_curves(axis: Axes, curve: str, rows: Sequence[Row], lines: Sequence[Mapping[str, Any]]) -> None:
    """Draw each method's mean deletion or insertion curve."""
    axis.set_title(f"{curve} curve:\nprobability by share of pixels", fontsize=8)
    for row in rows:
        points = [
            line["curves"][curve]
            for line in lines
            if (line["layer"], line["method"], line["kind"]) == (row.layer, row.method, "map")
        ]
        mean = np.mean(points, axis=0)
        axis.plot(np.linspace(0, 1, len(mean)), mean, color=_colour(row.method), lw=1.2, label=row.method)
    axis.tick_params(labelsize=7)
