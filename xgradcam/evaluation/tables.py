"""Tables of an evaluation in Markdown, CSV and LaTeX, with as many digits as the intervals allow."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xgradcam.evaluation.measures import MEASURES

ARROWS: Mapping[bool | None, str] = {True: " ↑", False: " ↓", None: ""}
LATEX_ARROWS: Mapping[bool | None, str] = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}
DASH = "–"
# Decimals at most; smaller numbers are written with an exponent.
MOST_DECIMALS = 6
# Characters that mean something to LaTeX.
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class Mean:
    """A mean over photographs with its 95% bootstrap interval; count: of photographs."""

    value: float
    low: float
    high: float
    count: int

    @property
    def decimals(self) -> int | None:
        """Decimals of the interval's ends, by the first digit of its width; None without an interval."""
        width = self.high - self.low
        if not (width > 0 and math.isfinite(width)):
            return None
        # Rounding may have left 0.09999... of 0.1.
        return -math.floor(math.log10(width * (1 + 1e-9)))


@dataclass(frozen=True)
class Row:
    """Measure -> mean, for one method at one layer."""

    layer: str
    method: str
    means: Mapping[str, Mean]


def best_of(name: str, means: Iterable[Mean]) -> float | None:
    """The best of a measure's means; None if all are equal, or if neither more nor less is better."""
    values = {mean.value for mean in means if np.isfinite(mean.value)}
    more_is_better = MEASURES[name].more_is_better
    if more_is_better is None or len(values) < 2:
        return None
    return max(values) if more_is_better else min(values)


def cell(mean: Mean | None, best: float | None, bold: str = "**{}**", dash: str = DASH) -> str:
    """`797 (780 to 810)`: the mean and its interval; in bold if it reads the same as the best one.

    The interval has the digits that its width allows, and the mean one more.
    """
    if mean is None or not mean.count:
        return dash
    decimals = mean.decimals
    value = _mean_text(mean.value, decimals)
    if best is not None and value == _mean_text(best, decimals):
        value = bold.format(value)
    return (
        value
        if decimals is None
        else f"{value} ({_number(mean.low, decimals)} to {_number(mean.high, decimals)})"
    )


def _mean_text(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return _number(value, decimals + 1)
    return f"{value:.0f}" if 1000 <= abs(value) < math.inf else f"{value:.3g}"


def _number(value: float, decimals: int) -> str:
    """The number rounded to so many decimals; negative ones are digits before the point."""
    if decimals > MOST_DECIMALS:
        digits = max(0, decimals + (math.floor(math.log10(abs(value))) if value else 0))
        return f"{value:.{min(digits, MOST_DECIMALS)}e}"
    text = f"{round(value, decimals):.{max(0, decimals)}f}"
    return text.removeprefix("-") if not float(text) else text


def measures_in(rows: Sequence[Row]) -> list[str]:
    """The measures that any of the rows has, in the order of the report."""
    return [name for name in MEASURES if any(name in row.means for row in rows)]


def markdown_table(rows: Sequence[Row]) -> list[str]:
    """The lines of a Markdown table: a row for each method, a column for each measure."""
    names = measures_in(rows)
    best = _best(rows, names)
    heads = [MEASURES[name].title + ARROWS[MEASURES[name].more_is_better] for name in names]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = [cell(row.means.get(name), best[name]) for name in names]
        lines.append(f"| {row.method} | {' | '.join(cells)} |")
    return lines


def csv_table(rows: Sequence[Row], layers: Sequence[str]) -> str:
    """The Markdown tables of all layers as one in CSV, for a spreadsheet; best means are not marked."""
    names, text = measures_in(rows), io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("layer", "method", *(MEASURES[name].title for name in names)))
    for layer in layers:
        for row in (one for one in rows if one.layer == layer):
            cells = [cell(row.means.get(name), None, dash="") for name in names]
            writer.writerow((row.layer, row.method, *cells))
    return text.getvalue()


def latex_tables(rows: Sequence[Row], layers: Sequence[str], about: str) -> str:
    r"""The tables of all layers in LaTeX, to be read by \input; they need the package booktabs."""
    lines = [
        "% " + " ".join(about.split()),
        r"% Needs \usepackage{booktabs}. The best mean of each column is bold.",
    ]
    for layer in layers:
        own = [row for row in rows if row.layer == layer]
        names = measures_in(own)
        best = _best(own, names)
        heads = [
            latex_escaped(MEASURES[name].title) + LATEX_ARROWS[MEASURES[name].more_is_better]
            for name in names
        ]
        lines += [
            f"% layer {' '.join(layer.split())}",
            rf"\begin{{tabular}}{{l{'r' * len(names)}}}",
            r"\toprule",
            f"{' & '.join(['method', *heads])} \\\\",
            r"\midrule",
        ]
        for row in own:
            cells = [cell(row.means.get(name), best[name], r"\textbf{{{}}}", "--") for name in names]
            lines.append(f"{' & '.join([latex_escaped(row.method), *cells])} \\\\")
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def latex_escaped(text: str) -> str:
    """The text as LaTeX prints it."""
    return re.sub(r"[\\~^&%$#_{}]", lambda found: LATEX[found[0]], text)


def _best(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float | None]:
    return {name: best_of(name, [row.means[name] for row in rows if name in row.means]) for name in names}
