import csv
import io
import re

import numpy as np
import pytest

from xgradcam.evaluation.tables import Mean, Row, cell, csv_table, latex_escaped, latex_tables, markdown_table


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (796.6, 781.3, 812.2, "797 (780 to 810)"),
        (0.52, 0.25, 0.76, "0.52 (0.2 to 0.8)"),
        (3.0, 2.0, 4.0, "3.0 (2 to 4)"),
        (0.987652, 0.98761, 0.98769, "0.987652 (0.98761 to 0.98769)"),
        (12345.6, 11900, 12950, "12300 (12000 to 13000)"),
        (0.186, 0.1, 0.2, "0.19 (0.1 to 0.2)"),
        (-0.004, -0.03, 0.02, "-0.004 (-0.03 to 0.02)"),
        (0.0004, -0.04, 0.04, "0.000 (-0.04 to 0.04)"),
        (1.53e-9, 1.2e-9, 1.9e-9, "1.53e-09 (1.2e-09 to 1.9e-09)"),
        (0.5, 0.5, 0.5, "0.5"),
        (1234.56, 1234.56, 1234.56, "1235"),
        (np.nan, np.nan, np.nan, "nan"),
        (2.0, 1.0, np.inf, "2"),
    ],
)
def test_the_interval_says_how_many_digits_there_are(value, low, high, text):
    assert cell(Mean(value, low, high, 9), None) == text


def test_the_digits_are_enough_to_tell_the_interval_and_no_more():
    random = np.random.default_rng(0)
    for _ in range(300):
        width = 10 ** random.uniform(-4, 4)
        value = random.normal() * 10 ** random.uniform(-2, 4)
        low, high = value - width * random.uniform(0.2, 0.8), 0.0
        high = low + width
        mean, first, last = map(
            float, re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", cell(Mean(value, low, high, 9), None)).groups()
        )
        unit = 10.0 ** np.floor(np.log10(width * (1 + 1e-9)))
        for found, exact, digit in ((first, low, unit), (last, high, unit), (mean, value, unit / 10)):
            assert abs(found - exact) <= 0.5 * digit * (1 + 1e-6)
            assert abs(found / digit - round(found / digit)) < 1e-6


ROWS = [
    Row("conv_1", "grad-cam", {"drop": Mean(0.52, 0.3, 0.7, 9), "seconds": Mean(0.1, 0.1, 0.1, 9)}),
    Row("conv_1", "xgrad-cam", {"drop": Mean(0.31, 0.2, 0.4, 9)}),
    Row("bn&2", "xgrad-cam", {"drop": Mean(0.31, 0.2, 0.4, 9)}),
]


def test_latex_has_a_table_for_each_layer_that_booktabs_sets():
    text = latex_tables(ROWS, ["conv_1", "bn&2"], "9 photographs")
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 2
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"method & average drop $\downarrow$ & seconds \\" in text
    assert r"grad-cam & 0.52 (0.3 to 0.7) & 0.1 \\" in text
    assert r"xgrad-cam & \textbf{0.31} (0.2 to 0.4) & -- \\" in text
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert not any("conv_1" in line for line in lines)
    for line in lines:
        assert line.count("&") in (0, 1, 2)


def test_latex_prints_what_it_would_obey():
    assert latex_escaped(r"a_b & 5% $x$ #1 {y} ~ ^ \z") == (
        r"a\_b \& 5\% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )


def test_the_csv_table_has_the_cells_of_the_markdown_table():
    rows = list(csv.reader(io.StringIO(csv_table(ROWS, ["conv_1", "bn&2"]))))
    assert rows == [
        ["layer", "method", "average drop", "seconds"],
        ["conv_1", "grad-cam", "0.52 (0.3 to 0.7)", "0.1"],
        ["conv_1", "xgrad-cam", "0.31 (0.2 to 0.4)", ""],
        ["bn&2", "xgrad-cam", "0.31 (0.2 to 0.4)", ""],
    ]
    assert markdown_table(ROWS[:2])[3] == "| xgrad-cam | **0.31** (0.2 to 0.4) | – |"
