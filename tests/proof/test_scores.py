"""Eq. 5 for any score, at the network's input, and the parts that have a place."""

import pytest
import torch
from torch import Tensor, nn

from tests.proof.support import IMAGES, Branched, random, redrawn, sequential
from xgradcam import Contrast, RegionMean, Similarity, explain_score, list_layers
from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError
from xgradcam.lending.finding import is_input
from xgradcam.proof.verify import verify, verify_layers


def shifted(logits: Tensor) -> Tensor:
    return (2 * logits[:, 1] + 5).relu()


SCORES = {
    "contrast": Contrast(1, (0, 3), 0.5),
    "similarity": Similarity(random(2, 4, seed=3)),
    "its own constants": shifted,
    "probability": lambda logits: logits.softmax(1)[:, 2],
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("layer", ["input", "2"])
def test_any_score_is_the_sum_of_its_terms(name: str, layer: str) -> None:
    model, score = sequential(), SCORES[name]
    found = verify(model, IMAGES, layer, score=score)
    assert found.closes.all(), (found.residual, found.tolerance)
    with torch.no_grad():
        expected = score(model(IMAGES))
    torch.testing.assert_close(found.score, expected)
    assert (found.score != 0).all()
    for sample in range(2):
        recording = record(model, IMAGES[[sample]], layer)
        of_one = score.alone(sample) if hasattr(score, "alone") else score
        gradient = recording.gradient(of_one(recording.output))
        feature = (gradient * recording.activation).sum().detach()
        torch.testing.assert_close(found.feature[sample], feature)
    complete = explain_score(model, IMAGES, layer, score, ["complete-cam"])
    total = complete.maps["complete-cam"].sum((1, 2)) + complete.nowhere
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-10)


def test_a_region_is_that_of_each_sample() -> None:
    model = redrawn(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    regions = random(2, 8, 8, seed=4) > 0
    found = verify(model, IMAGES, "0", score=RegionMean(1, regions))
    with torch.no_grad():
        planes = model(IMAGES)[:, 1]
    expected = torch.stack([plane[region].mean() for plane, region in zip(planes, regions, strict=True)])
    torch.testing.assert_close(found.score, expected)
    assert found.closes.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": 1, "score": shifted}, "targets and score: give one of them"),
        ({"output": 0, "score": shifted}, "output and score: give one of them"),
        ({"score": 3}, "the score is 3: give a function"),
        ({"score": lambda logits: logits}, r"the score is \(1, 4\): it must be a number for each sample"),
        ({"score": lambda logits: logits[:, 0] / 0}, "not finite"),
    ],
)
def test_a_wrong_score_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(XGradCamError, match=message):
        verify(sequential(), IMAGES, "2", **arguments)


def test_the_input_comes_first_and_is_as_by_itself() -> None:
    model = redrawn(Branched())
    found = dict(verify_layers(model, IMAGES, ["norm", "stem", "input"], 1))
    assert list(found) == ["input", "norm", "stem"]
    alone = verify(model, IMAGES, "input", 1)
    for name in ("score", "feature", "bias", "bypass", "curvature"):
        torch.testing.assert_close(getattr(found["input"], name), getattr(alone, name))
    assert alone.closes.all()
    inputs = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs)[:, 1].sum(), inputs)
    torch.testing.assert_close(alone.feature, (gradient * IMAGES).sum((1, 2, 3)))


def test_a_module_called_input_wins_under_a_second_name_and_in_a_wrapper() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.input = self.stem

        def forward(self, images: Tensor) -> Tensor:
            return self.input(images).mean((2, 3))

    model = redrawn(Named())
    assert not is_input(model, "input")
    assert not is_input(nn.DataParallel(model), "input")
    assert is_input(nn.DataParallel(sequential()), "input")
    assert record(model, IMAGES, "input").activation.shape == (2, 4, 8, 8)


def test_the_budget_is_that_of_the_complete_map() -> None:
    model = redrawn(Branched())
    layouts = {layer.name: layer.layout for layer in list_layers(model, IMAGES)}
    names = ["input", "stem", "left", "right", "norm"]
    found = dict(verify_layers(model, IMAGES, names, 1, layouts=layouts))
    for layer in names:
        explained = explain_score(model, IMAGES, layer, lambda logits: logits[:, 1], ["complete-cam"])
        for part, value in explained.budget.items():
            torch.testing.assert_close(found[layer].budget[part], value, rtol=1e-9, atol=1e-11)
    assert found["norm"].budget["nowhere"].all()
    alone = verify(model, IMAGES, "norm", 1, layouts=layouts)
    torch.testing.assert_close(alone.budget["nowhere"], found["norm"].budget["nowhere"])
    assert verify(model, IMAGES, "norm", 1).budget["nowhere"].isnan().all()
