"""Scores of networks without classes: numbers, and a yes or no."""

import pytest
import torch
from torch import nn

from tests.scores.support import Trunk, by_autograd, images, seeded
from xgradcam import Binary, ClassScore, Regression, XGradCamError, explain, explain_score, verify


class Pooled(Trunk):
    """Means (N, outputs) of the planes, or (N,) if `flat`; `last` behind them."""

    def __init__(self, outputs=3, flat=False, last=None):
        super().__init__(outputs)
        self.flat, self.last = flat, last or nn.Identity()

    def forward(self, inputs):
        values = self.last(self.planes(inputs).mean(dim=(2, 3)))
        return values[:, 0] if self.flat else values


@pytest.mark.parametrize(
    ("build", "score", "by_hand"),
    [
        (Pooled, Regression(2), lambda values: values[:, 2]),
        (lambda: Pooled(1), Regression(), lambda values: values[:, 0]),
        (lambda: Pooled(1, flat=True), Regression(), lambda values: values),
        (lambda: Pooled(1), Binary(), lambda values: values[:, 0]),
        (lambda: Pooled(1, flat=True), Binary(), lambda values: values),
        (lambda: Pooled(1), Binary(positive=False), lambda values: -values[:, 0]),
        (Pooled, ClassScore(1), lambda values: values[:, 1]),
        (Pooled, ClassScore([2, 0]), lambda values: torch.stack([values[0, 2], values[1, 0]])),
        (Pooled, ClassScore(), lambda values: values.amax(dim=1)),
    ],
)
def test_one_output_is_explained(build, score, by_hand):
    model, inputs = seeded(build), images()
    expected, signed = by_autograd(model, inputs, by_hand)
    found = explain_score(model, inputs, "features", score, ["hires-cam", "ablation-cam"])
    torch.testing.assert_close(found.score, expected)
    torch.testing.assert_close(found.maps["hires-cam"], signed)
    alone = explain_score(model, inputs[1:], "features", found.sample(1).score_of, ["ablation-cam"])
    torch.testing.assert_close(alone.maps["ablation-cam"], found.maps["ablation-cam"][1:])
    verified = verify(model, inputs, "features.2", score=score)
    torch.testing.assert_close(verified.score, expected)
    assert verified.holds.all()


def test_a_class_score_is_what_explain_explains():
    model, inputs = seeded(Pooled), images()
    one = explain(model, inputs, "features", [2, 0], ["finer-cam", "xgrad-cam"])
    other = explain_score(model, inputs, "features", ClassScore([2, 0]), ["finer-cam", "xgrad-cam"])
    for method, signed in one.maps.items():
        torch.testing.assert_close(other.maps[method], signed)


def test_the_sensitivity_error_of_any_score():
    model, inputs = seeded(Pooled), images()
    one = explain(model, inputs, "features", 1, ["xgrad-cam"], axioms=True)
    other = explain_score(model, inputs, "features", Regression(1), ["xgrad-cam"], axioms=True)
    torch.testing.assert_close(other.sensitivity["xgrad-cam"], one.sensitivity["xgrad-cam"])


def test_the_probability_of_yes():
    logits = torch.tensor([[-1.0], [2.0]], requires_grad=True)
    expected = torch.tensor([-1.0, 2.0]).sigmoid()
    torch.testing.assert_close(Binary().probability(logits), expected)
    torch.testing.assert_close(Binary(positive=False).probability(logits[:, 0]), 1 - expected)
    # A model that ends in the sigmoid has done it already.
    torch.testing.assert_close(Binary().probability(logits.sigmoid()), expected)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (Regression(3), "no output 3: this model has 0 to 2"),
        (Regression(-1), "no output -1"),
        (Regression("price"), "no output 'price'"),
        (Regression(0, "price"), "no output 'price'"),
        (Binary(), r"returns \(2, 3\), more than one output: explain takes a class, and Regression"),
        (ClassScore(3), "no class 3: this model's classes are 0 to 2"),
        (ClassScore([0, 1, 2]), "3 targets for 2 samples"),
        (ClassScore(torch.tensor([0, 7])), "no class 7"),
    ],
)
def test_a_wrong_output_is_told(score, message):
    with pytest.raises(XGradCamError, match=message):
        explain_score(seeded(Pooled), images(), "features", score)


def test_what_holds_no_numbers_is_told():
    with pytest.raises(XGradCamError, match=r"returns shape \(2, 3, 4, 4\), not numbers \(N, outputs\) or"):
        Regression()(torch.rand(2, 3, 4, 4))
    with pytest.raises(XGradCamError, match="choose one of its tensors with --output: price"):
        Binary()({"price": torch.rand(2, 1)})
