import csv
import io

import cv2
import numpy as np
import pytest

from xgradcam import XGradCamError
from xgradcam.cli.evaluate import QUESTIONS as IN_THE_COMMAND
from xgradcam.cli.evaluate import WRITTEN
from xgradcam.evaluation.figures import QUESTIONS
from xgradcam.evaluation.photographs import FolderClass
from xgradcam.evaluation.report import mean_of, report_on
from xgradcam.evaluation.tables import Mean, best_of, cell


def line(photo, method, layer="conv", **values):
    curves = {"deletion": [0.9, 0.5, 0.1], "insertion": [0.1, 0.5, 0.9]}
    where = {"kind": "map", "photo": photo, "layer": layer, "method": method}
    return {**where, "drop": 0.5, "seconds": 0.1, "curves": curves, **values}


LINES = [
    line("a.jpg", "grad-cam", drop=0.25, conservation=2.0),
    line("b.jpg", "grad-cam", drop=0.75, conservation=4.0),
    line("a.jpg", "xgrad-cam", drop=0.25, conservation=0.5),
    line("b.jpg", "xgrad-cam", drop=0.25, conservation=float("inf")),
    line("a.jpg", "grad-cam", "relu"),
    {"kind": "randomised", "photo": "a.jpg", "layer": "conv", "method": "grad-cam", "randomised": None},
    {"kind": "randomised", "photo": "a.jpg", "layer": "conv", "method": "xgrad-cam", "randomised": 0.125},
]


@pytest.fixture
def report():
    return report_on(LINES, ["conv", "relu"], ["xgrad-cam", "grad-cam", "cam"], 2)


def test_a_mean_has_the_interval_of_its_resamples():
    values = np.random.default_rng(1).exponential(size=30)
    found = mean_of([*values, float("inf"), float("nan"), None], seed=7)
    assert found.value == pytest.approx(values.mean())
    assert found.count == 30
    generator = np.random.default_rng(7)
    means = sorted(np.mean([values[place] for place in generator.integers(0, 30, 30)]) for _ in range(2000))
    # The percentiles lie between the 50th and the 51st value from either end.
    assert means[49] <= found.low <= means[50]
    assert means[1949] <= found.high <= means[1950]
    assert mean_of(values, seed=7) == found
    assert mean_of(values, seed=8) != found


def test_the_interval_is_that_of_the_normal_distribution_for_many_values():
    values = np.random.default_rng(0).normal(3, 1, 200)
    found = mean_of(values)
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


@pytest.mark.filterwarnings("error")
def test_few_or_equal_values_have_an_interval_of_one_point():
    assert mean_of([2.0]) == Mean(2, 2, 2, 1)
    assert mean_of([2.0, None]) == Mean(2, 2, 2, 1)
    assert mean_of([0.25] * 9) == Mean(0.25, 0.25, 0.25, 9)
    nothing = mean_of([None])
    assert nothing.count == 0
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_the_classes_and_remarks_are_below_the_tables():
    classes = [
        FolderClass("p/2", "class 2 (cup|mug)", 13),
        FolderClass("p/x", "the class of the highest score", 1),
    ]
    remark = "boxes: 1 of 2 photographs have boxes of their class"
    text = report_on(LINES, ["conv"], ["grad-cam"], 2, classes=classes, remarks=[remark]).markdown()
    assert text.splitlines()[-7:] == [
        "",
        "| folder | class explained | photographs |",
        "|---|---|---|",
        r"| p/2 | class 2 (cup\|mug) | 13 |",
        "| p/x | the class of the highest score | 1 |",
        "",
        remark,
    ]


def test_the_table_has_the_means_and_the_best_in_bold(report):
    assert report.markdown().splitlines() == [
        "Means over 2 photographs, with 95% bootstrap intervals; ↑ more, ↓ less is better.",
        "",
        "**conv**",
        "",
        "| method | conservation error ↓ | average drop ↓ | likeness when randomised ↓ | seconds |",
        "|---|---|---|---|---|",
        "| xgrad-cam | **0.5** | **0.25** | 0.125 | 0.1 |",
        "| grad-cam | 3.0 (2 to 4) | 0.50 (0.2 to 0.8) | – | 0.1 |",
        "",
        "**relu**",
        "",
        "| method | average drop ↓ | seconds |",
        "|---|---|---|",
        "| grad-cam | 0.5 | 0.1 |",
    ]
    assert report_on(LINES, ["relu"], ["grad-cam"], 1).markdown().startswith("Means over 1 photograph, ")


def test_the_csv_has_a_row_for_each_mean(report):
    rows = list(csv.DictReader(io.StringIO(report.csv())))
    assert len(rows) == 4 + 4 + 2
    assert rows[0] == {
        "layer": "conv",
        "method": "xgrad-cam",
        "measure": "conservation",
        "mean": "0.5",
        "low": "0.5",
        "high": "0.5",
        "photographs": "1",
    }
    assert [row["mean"] for row in rows if row["measure"] == "drop"] == ["0.25", "0.5", "0.5"]
    assert [row["photographs"] for row in rows if row["measure"] == "randomised"] == ["1", "0"]


def test_the_plots_are_a_row_for_each_layer_and_the_same_every_time(report):
    picture = cv2.imdecode(np.frombuffer(report.png(), np.uint8), cv2.IMREAD_COLOR)
    # Three measures and two curves, 2.3 x 3.6 inches each, 110 pixels an inch.
    assert picture.shape == (2 * 396, 1265, 3)
    coloured = picture.max(axis=2).astype(int) - picture.min(axis=2) > 60
    assert coloured[:396].sum() > 500
    assert coloured[396:].sum() > 200
    assert report.png() == report.png()


def test_the_files_are_those_texts(report, tmp_path):
    (tmp_path / "evaluation-objects.pdf").write_bytes(b"of an earlier report with boxes")
    written = report.write(tmp_path)
    assert sorted(written) == sorted(path.name for path in tmp_path.iterdir())
    assert b"% Means over 2 photographs with" in (tmp_path / "evaluation-table.tex").read_bytes()
    figures = {
        f"evaluation-{what}.{end}"
        for what in ("axioms", "pixels", "weights", "cost")
        for end in ("pdf", "png")
    }
    tables = {"evaluation-table.csv", "evaluation-table.tex"}
    own = {f"evaluation.{end}" for end in ("md", "csv", "png")}
    assert {path.name for path in tmp_path.iterdir()} == own | tables | figures
    assert own | tables | figures <= set(WRITTEN)
    assert set(QUESTIONS) == set(IN_THE_COMMAND)
    assert (tmp_path / "evaluation.md").read_text(encoding="utf-8") == report.markdown() + "\n"
    assert (tmp_path / "evaluation.csv").read_bytes() == report.csv().encode()
    assert (tmp_path / "evaluation.png").read_bytes() == report.png()


def test_there_is_no_report_on_nothing():
    with pytest.raises(XGradCamError, match="none of these methods applies at conv, fc: cam, score-cam"):
        report_on(LINES, ["conv", "fc"], ["cam", "score-cam"], 2)


def test_means_that_read_the_same_are_best_together():
    means = [Mean(value, 0.18, 0.19, 9) for value in (0.18604, 0.18598, 0.19)]
    best = best_of("drop", means)
    assert best == 0.18598
    assert [cell(mean, best) for mean in means] == [
        "**0.186** (0.18 to 0.19)",
        "**0.186** (0.18 to 0.19)",
        "0.190 (0.18 to 0.19)",
    ]


def test_the_best_is_the_largest_or_the_smallest_or_none():
    means = [Mean(value, 0, 1, 2) for value in (0.5, 0.25, np.inf)]
    assert best_of("insertion", means) == 0.5
    assert best_of("deletion", means) == 0.25
    assert best_of("seconds", means) is None
    assert best_of("deletion", means[:1] * 2) is None
    assert best_of("deletion", []) is None


def test_a_cell_without_a_mean_is_a_dash():
    assert cell(None, 0.5) == "–"
    assert cell(mean_of([None]), 0.5) == "–"
    assert cell(Mean(0.19, 0.19, 0.19, 1), None) == "0.19"
