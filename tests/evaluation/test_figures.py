"""The figures of an evaluation, by their data."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from xgradcam.cam.methods import METHODS
from xgradcam.evaluation.figures import (
    COLOURS,
    GREY,
    QUESTIONS,
    WIDTH,
    figure_files,
    highlighted,
    name_of,
    question_figures,
)
from xgradcam.evaluation.measures import MEASURES
from xgradcam.evaluation.tables import Mean, Row

ALL = [name for name, method in METHODS.items() if not method.of_attention]
LAYERS = ["blocks.2.2.bn3", "blocks.4.0.bn2", "bn2"]


def rows_of(layers, methods=ALL, measures=("conservation", "drop", "insertion")):
    random = np.random.default_rng(0)
    rows = []
    for layer in layers:
        for method in methods:
            values = random.uniform(0.2, 0.8, len(measures))
            means = {
                name: Mean(value, 0.9 * value, 1.2 * value, 9)
                for name, value in zip(measures, values, strict=True)
            }
            rows.append(Row(layer, method, means))
    return rows


def test_every_measure_that_is_better_or_worse_answers_one_question():
    asked = [name for _, names in QUESTIONS.values() for name in names]
    assert len(asked) == len(set(asked))
    assert set(asked) == {name for name in MEASURES if name not in ("blank", "unfocused")}


def test_there_is_a_figure_for_each_question_that_was_measured():
    figures = question_figures(rows_of(["bn2"]), ["bn2"])
    assert list(figures) == ["axioms", "pixels"]
    assert [ax.get_title(loc="right").split(",")[0] for ax in figures["pixels"].axes] == [
        "average drop",
        "insertion",
    ]
    assert figures["pixels"].get_suptitle() == "Do the marked pixels decide the score?"
    assert all(figure.get_size_inches()[0] == WIDTH for figure in figures.values())


def test_at_one_layer_the_methods_stand_in_order_with_their_intervals():
    rows = rows_of(["bn2"])
    for name, more in (("drop", False), ("insertion", True)):
        figure = question_figures(rows, ["bn2"])["pixels"]
        axes = next(ax for ax in figure.axes if MEASURES[name].title in ax.get_title(loc="right"))
        ordered = sorted(rows, key=lambda row: row.means[name].value, reverse=more)
        assert [label.get_text() for label in axes.get_yticklabels()] == [row.method for row in ordered]
        assert axes.get_ylim() == (len(ALL) - 0.5, -0.5)
        for place, row in enumerate(ordered):
            (segment,) = axes.collections[place].get_segments()
            mean = row.means[name]
            np.testing.assert_allclose(segment, [[mean.low, place], [mean.high, place]])


def test_at_most_seven_methods_have_colours_and_the_rest_are_grey():
    rows = rows_of(LAYERS)
    colours = highlighted(rows)
    assert len(colours) == 7
    assert list(colours)[:4] == ["xgrad-cam", "complete-cam", "grad-cam", "random-cam"]
    assert len(set(colours.values())) == 7
    axes = question_figures(rows, LAYERS)["axioms"].axes[0]
    drawn = {line.get_label(): to_hex(line.get_color()).upper() for line in axes.lines}
    assert set(drawn) == set(ALL)
    for method, colour in drawn.items():
        assert colour == (colours[method].upper() if method in colours else to_hex(GREY).upper())
    assert highlighted(rows_of(["bn2"], ["layer-cam", "cam"])).keys() == {"layer-cam", "cam"}


def test_the_best_of_the_measures_are_highlighted():
    rows = rows_of(["bn2"])
    best = min(rows, key=lambda row: row.means["drop"].value).method
    assert best in highlighted(rows)


def test_over_layers_each_curve_has_its_values_and_its_name_at_its_end():
    rows = rows_of(LAYERS)
    axes = question_figures(rows, LAYERS)["axioms"].axes[0]
    for line in axes.lines:
        values = [row.means["conservation"].value for row in rows if row.method == line.get_label()]
        np.testing.assert_allclose(line.get_ydata(), values)
        assert list(line.get_xdata()) == [0, 1, 2]
    texts = {text.get_text(): text.get_position()[1] for text in axes.texts}
    names = {text.get_text(): text.xy[1] for text in axes.texts}
    assert set(texts) == set(highlighted(rows))
    assert min(np.diff(sorted(names.values()))) > 0.07
    assert [label.get_text() for label in axes.get_xticklabels()] == LAYERS
    for text in axes.texts:
        assert to_hex(text.get_color()).upper() == highlighted(rows)[text.get_text()].upper()


@pytest.mark.parametrize("layers", [["bn2"], LAYERS])
def test_nothing_lies_outside_of_the_figure_and_text_is_legible(layers):
    for figure in question_figures(rows_of(layers), layers).values():
        figure.canvas.draw()
        renderer, whole = figure.canvas.get_renderer(), figure.bbox
        for axes in figure.axes:
            low, high = axes.get_xlim()
            ticks = [one for one in axes.get_xticklabels() if low <= one.get_position()[0] <= high]
            texts = [*axes.texts, *axes.get_yticklabels(), *ticks, axes._right_title]
            for text in filter(lambda one: one.get_text() and one.get_visible(), texts):
                box = text.get_window_extent(renderer)
                assert box.x0 >= whole.x0 - 1, text
                assert box.x1 <= whole.x1 + 1, text
                assert text.get_fontsize() >= 7


def test_errors_of_many_powers_of_ten_have_a_scale_of_logarithms():
    rows = [Row("bn2", method, {"conservation": Mean(value, value, value, 3)}) for method, value in
            (("grad-cam", 1e-3), ("xgrad-cam", 2.0))]  # fmt: skip
    assert question_figures(rows, ["bn2"])["axioms"].axes[0].get_xscale() == "log"
    rows = [Row("bn2", method, {"conservation": Mean(value, value, value, 3)}) for method, value in
            (("grad-cam", 0.0), ("xgrad-cam", np.inf))]  # fmt: skip
    (axes,) = question_figures(rows, ["bn2"])["axioms"].axes
    assert axes.get_xscale() == "linear"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["grad-cam"]


def test_the_files_are_pictures_whose_text_stays_text():
    files = figure_files(rows_of(["bn2"]), ["bn2"])
    assert set(files) == {name_of(what, kind) for what in ("axioms", "pixels") for kind in ("pdf", "png")}
    assert b"/FontFile2" in files["evaluation-axioms.pdf"]
    with Image.open(io.BytesIO(files["evaluation-axioms.png"])) as picture:
        assert picture.size[0] == round(300 * WIDTH)
    assert len(COLOURS) == 7
