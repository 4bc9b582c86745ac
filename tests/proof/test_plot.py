"""The picture's bars against the terms, and its names against how many can be read."""

import re
from itertools import pairwise

import pytest
import torch
from matplotlib.figure import Figure

from tests.support import TinyNet
from xgradcam import Contribution, Verification, verify
from xgradcam.proof.plot import _stack, is_plot, plot_split


def split(score, **terms):
    """A verification with these terms; what is missing is the feature."""
    one = torch.ones(1, dtype=torch.float64)
    contributions = tuple(Contribution("", "op", kind, value * one) for kind, value in terms.items())
    feature = (score - sum(terms.values())) * one
    return Verification(score * one, feature, feature.abs(), contributions, torch.float64)


def bars(splits):
    axes = Figure().add_subplot()
    _stack(axes, splits)
    return axes


def test_at_every_layer_the_bars_sum_to_the_score_and_none_covers_another(batch):
    model = TinyNet().eval()
    splits = {f"features.{i}": verify(model, batch[:1], f"features.{i}", 2) for i in range(6)}
    splits["mixed"] = split(float(splits["features.0"].score), bias=-3.0, bypass=2.0, curvature=-0.5)
    axes = bars(splits)
    score = float(splits["mixed"].score)
    for position in range(len(splits)):
        here = [bar for bar in axes.patches if round(bar.get_x() + bar.get_width() / 2) == position]
        heights = [bar.get_height() for bar in here]
        assert sum(heights) == pytest.approx(score, abs=1e-9)
        ends = sorted((min(b.get_y(), b.get_y() + b.get_height()), abs(b.get_height())) for b in here)
        for (start, height), (following, _) in pairwise(ends):
            assert start + height <= following + 1e-9
    low, high = axes.get_ylim()
    assert low < min(bar.get_y() + bar.get_height() for bar in axes.patches) < high
    assert high > max(bar.get_y() + bar.get_height() for bar in axes.patches)


def test_terms_that_are_nowhere_are_not_in_the_legend():
    def legend(**terms):
        return [text.split(":")[0] for text in bars({"a": split(1, **terms)}).get_legend_handles_labels()[1]]

    assert legend(bias=0.5) == ["feature", "bias"]
    assert legend(bias=0.5, bypass=1.0) == ["feature", "bias", "bypass"]
    assert legend(curvature=-1.0) == ["feature", "bias", "curvature"]


@pytest.mark.parametrize(("layers", "step"), [(1, 1), (32, 1), (60, 2), (150, 4)])
def test_as_many_layers_are_named_as_can_be_read(layers, step):
    splits = {f"deep.block{i:03}": split(5, bias=i / layers) for i in range(layers)}
    drawn = plot_split(splits, "cat", ".svg").decode()
    named = re.findall(r">(deep\.block\d+)</text>", drawn)
    assert named == [f"deep.block{i:03}" for i in range(0, layers, step)]
    assert len(named) <= 42
    assert (f"every {step}" in drawn) == (step > 1)
    assert ">score: 5</text>" in drawn


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_same_numbers_give_the_same_file_in_every_format(suffix, start):
    splits = {name: split(1, bias=0.25, curvature=-0.5) for name in "abc"}
    picture = plot_split(splits, "cat", suffix)
    assert picture.startswith(start)
    assert plot_split(splits, "cat", suffix) == picture
    assert plot_split(splits, "dog", suffix) != picture
    assert is_plot(picture)
    assert not is_plot(picture.replace(b"xgradcam", b"matplotlib"))
    assert b"CreationDate" not in picture
    assert b"dc:date" not in picture
    if suffix == ".pdf":
        assert b"/FontFile2" in picture  # TrueType: text that can be searched


def test_a_score_of_nothing_is_drawn_without_a_warning(recwarn):
    drawn = plot_split({"a": split(0), "b": split(0)}, "nothing", ".svg").decode()
    assert re.findall(r">(a|b)</text>", drawn) == ["a", "b"]
    assert ">score: 0</text>" in drawn
    assert not recwarn.list
