import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from tests.figures.test_drawing import explained, photograph, seeded, values_of
from xgradcam import Classifier, PhotographExplanation, compare
from xgradcam.cam.explanation import ClassExplanation
from xgradcam.errors import XGradCamError

METHODS = ("grad-cam", "xgrad-cam", "layer-cam")


def bars_of(figure):
    return [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]


def drawn(comparison):
    """The axes and the colour bars of a comparison in a figure of its own."""
    figure = Figure(layout="constrained")
    return comparison.plot(figure), bars_of(figure)


def test_methods_of_one_unit_share_a_scale_and_one_bar_that_says_so():
    one = explained(seeded(1, 4, 4), METHODS)
    axes, (bar,) = drawn(compare(one, photograph()))
    assert [ax.get_title() for ax in axes[0]] == ["photograph", "Grad-CAM", "XGrad-CAM", "LayerCAM"]
    largest = max(np.abs(values_of(ax)[0]).max() for ax in axes[0, 1:])
    assert all(values_of(ax)[1] == pytest.approx((0, largest)) for ax in axes[0, 1:])
    assert bar.get_ylabel() == "evidence for class 3\nlogit per cell\none scale for all maps"
    assert np.array_equal(axes[0, 0].images[0].get_array(), photograph())


def test_a_method_without_a_unit_has_a_scale_of_its_own():
    one = explained(seeded(1, 4, 4), ["grad-cam", "score-cam"])
    comparison = compare(one)
    axes, bars = drawn(comparison)
    assert comparison.scale == "each"
    assert [bar.get_ylabel().split("\n")[1] for bar in bars] == ["logit per cell", "no unit"]
    assert values_of(axes[0, 1])[1][1] == pytest.approx(2 * values_of(axes[0, 0])[1][1])


def test_layers_of_other_sizes_share_a_scale_by_row_only():
    early, late = explained(seeded(1, 6, 6), METHODS), explained(10 * seeded(1, 3, 3), METHODS)
    axes, bars = drawn(compare([early, late], photograph(), signed=True))
    assert axes.shape == (2, 4)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["6 x 6 cells", "3 x 3 cells"]
    assert all("one scale for the row" in bar.get_ylabel() for bar in bars)
    for row in axes:
        limits = {values_of(ax)[1] for ax in row[1:]}
        assert len(limits) == 1
        ((low, high),) = limits
        assert low == -high
    assert values_of(axes[0, 1])[1] != values_of(axes[1, 1])[1]


def test_classes_side_by_side_have_their_names_and_one_scale():
    batch = explained(seeded(3, 4, 4))
    comparison = compare([batch.sample(0), batch.sample(2)], photograph())
    axes, (bar,) = drawn(comparison)
    assert [ax.get_title() for ax in axes[0]] == ["photograph", "class 3", "class 5"]
    assert bar.get_ylabel() == "evidence for what each map is of\nlogit per cell\none scale for all maps"
    named = compare({"a $cat": batch.sample(0), "a dog": batch.sample(1)}, photograph())
    assert [ax.get_title() for ax in drawn(named)[0][0]] == ["photograph", "a $cat", "a dog"]


def test_maps_of_other_photographs_stand_beside_their_own():
    batch = explained(seeded(2, 4, 4))
    pixels = [photograph(), 255 - photograph()]
    model = Classifier("tiny", torch.nn.Identity(), (4, 4), (0.5,) * 3, (0.5,) * 3, None)
    about = {"framing": model.framing(), "model_name": "tiny", "layer": "1"}
    each = [
        PhotographExplanation(
            **vars(batch.sample(number)), photographs=(pixels[number],), class_names=(f"{number}",), **about
        )
        for number in range(2)
    ]
    axes, _ = drawn(compare(each))
    assert axes.shape == (2, 2)
    for row, own in zip(axes, pixels, strict=True):
        assert np.array_equal(row[0].images[0].get_array(), own)
        assert row[1].images[-1].get_array().shape == own.shape[:2]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["0", "1"]


@pytest.mark.parametrize(("scale", "bars"), [("all", 1), ("row", 2), ("each", 6)])
def test_the_scale_is_the_one_asked_for(scale, bars):
    every = [explained(seeded(1, 4, 4), METHODS), explained(3 * seeded(1, 4, 4), METHODS)]
    assert len(drawn(compare(every, scale=scale))[1]) == bars
    assert drawn(compare(every, scale=scale, bar=False))[1] == []


@pytest.mark.parametrize("letters", [8, 60, 100, 400])
def test_names_above_maps_do_not_run_into_one_another(letters):
    batch = explained(seeded(3, 4, 4))
    names = [(f"{number}_" + "layer" * letters)[:letters] for number in range(4)]
    named = compare({name: batch.sample(number % 3) for number, name in enumerate(names)}, photograph())
    figure = named.figure()
    figure.draw_without_rendering()
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    assert [title.get_text()[0] for title in titles] == ["p", "0", "1", "2", "3"]
    extents = [title.get_window_extent() for title in titles]
    assert all(one.x1 < other.x0 for one, other in pairwise(extents[1:]))
    sizes = [title.get_fontsize() for title in titles]
    assert min(sizes) >= 7
    assert (min(sizes) == max(sizes)) == (letters == 8)
    whole = [title.get_text() == name for title, name in zip(titles[1:], names, strict=True)]
    assert all(whole) if letters <= 60 else not any(whole)


def test_many_maps_fill_rows_of_five_and_a_missing_map_leaves_a_gap():
    names = ["grad-cam", "xgrad-cam", "layer-cam", "hires-cam", "grad-cam++", "complete-cam", "shapley-cam"]
    axes, _ = drawn(compare(explained(seeded(1, 4, 4), names), photograph()))
    assert axes.shape == (2, 4)
    assert sum(bool(ax.images) for ax in axes.flat) == 8
    axes, _ = drawn(compare([explained(seeded(1, 4, 4), METHODS), explained(seeded(1, 4, 4), ["xgrad-cam"])]))
    assert [[bool(ax.images) for ax in row] for row in axes] == [[True] * 3, [False, True, False]]


def test_a_comparison_is_written_shown_and_drawn_by_notebooks(tmp_path, monkeypatch):
    comparison = compare(explained(seeded(1, 4, 4), METHODS), photograph())
    assert repr(comparison) == "<Comparison of 3 maps in 1 x 4, scale: all>"
    before = pyplot.get_fignums()
    comparison.save(tmp_path / "grid.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "grid.svg").read_text())
    assert {"photograph", "Grad-CAM", "evidence for class 3"} <= set(texts)
    comparison.save(tmp_path / "grid.png", dpi=50)
    (tmp_path / "notebook.png").write_bytes(comparison._repr_png_())
    with Image.open(tmp_path / "grid.png") as small, Image.open(tmp_path / "notebook.png") as large:
        assert np.allclose(np.array(large.size), 2 * np.array(small.size), atol=1)
    assert pyplot.get_fignums() == before
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(len(pyplot.gcf().axes)))
    comparison.show()
    assert shown == [5]
    pyplot.close("all")


@pytest.mark.parametrize(
    ("given", "how", "says"),
    [
        ([], {}, "nothing to compare: give explanations"),
        (7, {}, "to compare is 7: give explanations"),
        ([torch.ones(3)], {}, "to compare is a Tensor .*: give explanations"),
        (None, {"methods": "layer-cam"}, "no map of 'layer-cam' here; there are: grad-cam"),
        (None, {"methods": []}, "no methods to compare"),
        (None, {"scale": "rows"}, "no scale 'rows'; did you mean 'row'.: give all, row, each"),
        (None, {"colormap": "no"}, "no colour map 'no'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(given, how, says):
    one = explained(seeded(1, 4, 4), ["grad-cam"]) if given is None else given
    with pytest.raises(XGradCamError, match=says):
        compare(one, photograph(), **how)


@pytest.mark.parametrize("scale", ["all", "row"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_map_without_evidence_does_not_stretch_the_scale_of_the_others(scale, signed):
    some = 0.01 * seeded(1, 3, 4).abs()
    one = ClassExplanation(
        {"grad-cam": torch.zeros(1, 3, 4), "xgrad-cam": some},
        torch.ones(1), ((),), torch.zeros(1, 9), torch.tensor([3]),
    )  # fmt: skip
    axes, _bars = drawn(compare([one, one], photograph(), scale=scale, signed=signed))
    alone, _bars = drawn(compare(one, photograph(), methods="xgrad-cam", signed=signed))
    expected = values_of(alone[0, 1])[1]
    assert 0 < expected[1] < 0.1
    assert [values_of(ax)[1] for ax in axes[:, 1:].flat] == [pytest.approx(expected)] * 4


@pytest.mark.parametrize("scale", ["all", "row", "each"])
def test_maps_without_evidence_have_no_bar_of_a_scale_made_up(scale):
    _axes, bars = drawn(compare([explained(-torch.ones(1, 3, 4))] * 2, photograph(), scale=scale))
    assert bars == []
