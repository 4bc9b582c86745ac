"""The report of an evaluation: means over photographs as a Markdown table, a CSV file and plots."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
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
from xgradcam.evaluation.figures import KINDS, QUESTIONS, figure_files, name_of
from xgradcam.evaluation.measures import MEASURES
from xgradcam.evaluation.photographs import FolderClass
from xgradcam.evaluation.tables import Mean, Row, csv_table, latex_tables, markdown_table
from xgradcam.files import write_files

RESAMPLES = 2000
COLOURS = "tab20"
AXIOM_ERRORS = ("conservation", "sensitivity")
CURVES = ("deletion", "insertion")


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

    def write(self, folder: Path) -> tuple[str, ...]:
        """Write the tables and the figures, and remove those of an earlier report; return the files' names.

        Raises CannotWriteError if that fails.
        """
        over = f"Means over {self._over()} with 95% bootstrap intervals."
        contents = {
            "evaluation.md": (self.markdown() + "\n").encode(),
            "evaluation.csv": self.csv().encode(),
            "evaluation.png": self.png(),
            "evaluation-table.csv": csv_table(self.rows, self.layers).encode(),
            "evaluation-table.tex": latex_tables(self.rows, self.layers, over).encode(),
            **figure_files(self.rows, self.layers),
        }
        write_files({folder / name: content for name, content in contents.items()})
        # An earlier report answered a question that this one leaves out, by boxes for instance.
        for name in {name_of(question, kind) for question in QUESTIONS for kind in KINDS}.difference(
            contents
        ):
            with suppress(FileNotFoundError):
                (folder / name).unlink()
        return tuple(contents)

    def _over(self) -> str:
        return f"{self.photographs} photographs" if self.photographs > 1 else "1 photograph"

    def markdown(self) -> str:
        """A table for each layer, the best mean of each measure in bold, and one of the folders' classes."""
        lines = [f"Means over {self._over()}, with 95% bootstrap intervals; ↑ more, ↓ less is better."]
        for layer in self.layers:
            lines += ["", f"**{layer}**", "", *markdown_table(self._rows_at(layer))]
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
