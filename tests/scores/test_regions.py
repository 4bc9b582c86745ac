"""Scores of a segmentation, against plain autograd."""

import pytest
import torch

from tests.scores.support import Segmenter, by_autograd, images, seeded
from xgradcam import PixelScore, PredictedRegion, RegionMean, XGradCamError, explain_score, verify
from xgradcam.errors import NothingFoundError


@pytest.fixture
def model():
    return seeded(Segmenter)


def said(model, inputs):
    with torch.no_grad():
        return model(inputs).argmax(dim=1)


@pytest.mark.parametrize("target", [None, 2])
def test_the_mean_where_the_model_says_the_class(model, inputs, target):
    classes = said(model, inputs)
    targets = [target if target is not None else int(one.flatten().mode().values) for one in classes]

    def score(planes):
        means = []
        for plane, one, chosen in zip(planes, classes, targets, strict=True):
            means.append(plane[chosen][one == chosen].mean())
        return torch.stack(means)

    expected, signed = by_autograd(model, inputs, score)
    found = explain_score(model, inputs, "features", PredictedRegion(target), ["hires-cam"])
    torch.testing.assert_close(found.score, expected)
    torch.testing.assert_close(found.maps["hires-cam"], signed)
    assert found.score_of.targets == tuple(targets)
    assert torch.equal(
        found.score_of.region, torch.stack([one == t for one, t in zip(classes, targets, strict=True)])
    )
    one = found.sample(1)
    assert torch.equal(one.score_of.region, found.score_of.region[1:])
    torch.testing.assert_close(PredictedRegion(target)(model(inputs)), expected)


@pytest.fixture
def inputs():
    return images()


def test_methods_that_ask_again_keep_the_region_of_the_prediction(model, inputs):
    regions = said(model, inputs) == 1
    assert regions.flatten(1).any(dim=1).all()
    for method in ("ablation-cam", "score-cam", "smooth-grad-cam++"):
        found = explain_score(model, inputs, "features", PredictedRegion(1), [method])
        expected = explain_score(model, inputs, "features", RegionMean(1, regions), [method])
        torch.testing.assert_close(found.maps[method], expected.maps[method])
    verified = verify(model, inputs, "features.2", score=PredictedRegion(1))
    torch.testing.assert_close(verified.score, found.score)
    assert verified.holds.all()


def test_the_background_is_not_the_largest_class(model, inputs):
    counts = said(model, inputs[:1]).flatten().bincount(minlength=4)
    first, second = counts.argsort(descending=True)[:2].tolist()
    planes = model(inputs[:1]).detach()
    assert PredictedRegion().settled(planes).targets == (first,)
    assert PredictedRegion(background=first).settled(planes).targets == (second,)
    planes[:, first] = 100
    assert PredictedRegion(background=first).settled(planes).targets == (first,)


def test_an_only_class_is_where_it_is_positive(inputs):
    single = seeded(lambda: Segmenter(1))
    planes = single(inputs).detach()
    planes = planes - planes.median()
    found = PredictedRegion().settled(planes)
    assert torch.equal(found.region, planes[:, 0] > 0)
    expected = torch.stack([one[one > 0].mean() for one in planes[:, 0]])
    torch.testing.assert_close(found(planes), expected)
    with pytest.raises(NothingFoundError, match="says class 0 of no pixel in sample 0: none is of any class"):
        PredictedRegion()(-planes.abs())


def test_the_logit_of_a_pixel(model, inputs):
    found = explain_score(model, inputs, "features", PixelScore(3, (2, 5)), ["hires-cam", "ablation-cam"])
    expected, signed = by_autograd(model, inputs, lambda planes: planes[:, 3, 2, 5])
    torch.testing.assert_close(found.score, expected)
    torch.testing.assert_close(found.maps["hires-cam"], signed)
    places = torch.tensor([[2, 5], [7, 0]])
    each = explain_score(model, inputs, "features", PixelScore(None, places), ["ablation-cam"])
    classes = said(model, inputs)[[0, 1], places[:, 0], places[:, 1]]
    assert each.score_of.targets == tuple(classes.tolist())
    for n in range(2):
        alone = PixelScore(int(classes[n]), places[n])
        one = explain_score(model, inputs[n : n + 1], "features", alone, ["ablation-cam"])
        torch.testing.assert_close(each.maps["ablation-cam"][n : n + 1], one.maps["ablation-cam"])
        assert each.sample(n).score_of(model(inputs[n : n + 1])) == one.score


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (PredictedRegion(4), "no class 4: this model's classes are 0 to 3"),
        (PredictedRegion("cat"), "the class is 'cat'"),
        (PixelScore(0, (8, 0)), r"no pixel \(8, 0\): the model's output has 8 rows and 8 columns"),
        (PixelScore(0, (-1, 0)), r"no pixel \(-1, 0\)"),
        (PixelScore(0, 3), r"the pixel is 3: give \(row, column\)"),
        (PixelScore(9, (0, 0)), "no class 9"),
        (PixelScore(0, (0, 0), "out"), "no output 'out'"),
    ],
)
def test_a_wrong_region_or_pixel_is_told(model, inputs, score, message):
    with pytest.raises(XGradCamError, match=message):
        explain_score(model, inputs, "features", score)


def test_a_class_that_is_nowhere_is_told(model, inputs):
    planes = model(inputs).detach()
    planes[:, 0] = -100
    with pytest.raises(
        NothingFoundError, match=r"says class 0 of no pixel in sample 0: most pixels are of \d"
    ):
        PredictedRegion(0)(planes)
    for score in (PredictedRegion(), PixelScore(0, (0, 0))):
        with pytest.raises(XGradCamError, match=r"needs an output \(N, classes, H, W\), not shape \(2, 4\)"):
            score(torch.rand(2, 4))
