from collections import namedtuple
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import nn

from tests.support import TinyNet
from xgradcam import Contrast, RegionMean, Similarity, XGradCamError, explain, explain_score
from xgradcam.errors import NotFiniteError
from xgradcam.scores.outputs import finite_logits_of, logits_of, require_finite
from xgradcam.scores.score import ClassScore, of_sample
from xgradcam.scores.targets import choose_targets


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1)).double()


@pytest.fixture
def half():
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:, :3] = True
    return region


def test_a_contrast_is_the_difference_of_logits(net, batch):
    logits = net(batch)
    expected = logits[:, 2] - 0.5 * (logits[:, 0] + logits[:, 4]) / 2
    torch.testing.assert_close(Contrast(2, (0, 4), 0.5)(logits), expected)
    found = explain_score(net, batch, "features.4", Contrast(2, (0,)), ["xgrad-cam"])
    one, other = (explain(net, batch, "features.4", target, ["xgrad-cam"]) for target in (2, 0))
    torch.testing.assert_close(found.maps["xgrad-cam"], one.maps["xgrad-cam"] - other.maps["xgrad-cam"])
    torch.testing.assert_close(found.score, one.score - other.score)


def test_the_mean_over_a_region_looks_there_and_nowhere_else(segmenter, batch, half):
    score = RegionMean(1, half)
    torch.testing.assert_close(score(segmenter(batch)), segmenter(batch)[:, 1, :, :3].mean(dim=(1, 2)))
    found = explain_score(segmenter, batch, "1", score, ["hires-cam", "ablation-cam"])
    assert (found.maps["hires-cam"][:, :, 3:] == 0).all()
    assert found.maps["hires-cam"][:, :, :3].any()
    each = torch.stack([half, ~half, half])
    separate = explain_score(segmenter, batch, "1", RegionMean(1, each), ["ablation-cam"])
    for n, region in enumerate(each):
        alone = explain_score(segmenter, batch[n : n + 1], "1", RegionMean(1, region), ["ablation-cam"])
        torch.testing.assert_close(separate.maps["ablation-cam"][n : n + 1], alone.maps["ablation-cam"])


def test_the_similarity_of_embeddings_is_their_cosine(net, batch):
    goal = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = nn.functional.cosine_similarity(net(batch), goal)
    torch.testing.assert_close(Similarity(goal)(net(batch)), expected)
    together = explain_score(net, batch, "features.4", Similarity(goal), ["score-cam", "shapley-cam"])
    for n in range(3):
        alone = explain_score(
            net, batch[n : n + 1], "features.4", Similarity(goal[n]), ["score-cam", "shapley-cam"]
        )
        for method, maps in alone.maps.items():
            torch.testing.assert_close(together.maps[method][n : n + 1], maps)


def test_any_function_of_the_output_is_a_score(net, batch):
    found = explain_score(net, batch, "features.4", lambda logits: logits[:, 1] ** 2, ["grad-cam"])
    one = explain(net, batch, "features.4", 1, ["grad-cam"])
    expected = 2 * one.score[:, None, None] * one.maps["grad-cam"]
    torch.testing.assert_close(found.maps["grad-cam"], expected)


def test_an_output_is_found_by_name(net, batch, half, segmenter):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.segmenter = net, segmenter

        def forward(self, images):
            return {"logits": self.net(images), "planes": self.segmenter(images)}

    model = Several()
    found = explain_score(model, batch, "segmenter.1", RegionMean(0, half, "planes"), ["grad-cam"])
    expected = explain_score(segmenter, batch, "1", RegionMean(0, half), ["grad-cam"])
    torch.testing.assert_close(found.maps["grad-cam"], expected.maps["grad-cam"])
    contrast = explain_score(model, batch, "net.features.4", Contrast(0, (1,), output="logits"), ["grad-cam"])
    logits = net(batch)
    torch.testing.assert_close(contrast.score, logits[:, 0] - logits[:, 1])
    similar = explain_score(model, batch, "net.features.4", Similarity(torch.ones(5), "logits"), ["grad-cam"])
    torch.testing.assert_close(similar.score, logits.sum(dim=1) / (5**0.5 * logits.norm(dim=1)))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda logits: logits, r"the score is \(3, 5\): it must be a number for each sample"),
        (lambda logits: 3.0, "the score is float"),
        (lambda logits: logits[:, 0].detach(), "does not depend on the layer"),
        (Contrast(7, (0,)), "no class 7"),
        (Contrast(0, (9,)), "no class 9"),
        (Contrast(0, ()), "at least one other class"),
        (RegionMean(0, torch.ones(8, 8)), r"needs an output \(N, classes, H, W\)"),
        (Similarity(torch.ones(4)), r"needs an output \(N, 4\)"),
    ],
)
def test_a_wrong_score_is_told(net, batch, score, message):
    with pytest.raises(XGradCamError, match=message):
        explain_score(net, batch, "features.4", score)


def test_a_wrong_region_is_told(segmenter, batch, half):
    planes = segmenter(batch)
    with pytest.raises(XGradCamError, match="the region is empty"):
        RegionMean(0, torch.zeros(8, 8, dtype=torch.bool))(planes)
    with pytest.raises(XGradCamError, match=r"the region is \(4, 8\)"):
        RegionMean(0, half[:4])(planes)
    with pytest.raises(XGradCamError, match="no class 4"):
        RegionMean(4, half)(planes)


def test_the_score_of_one_sample_takes_any_number_of_rows():
    logits = torch.arange(12.0).reshape(3, 4)
    score = ClassScore(torch.tensor([3, 0, 2]))
    assert score(logits).tolist() == [3, 4, 10]
    assert of_sample(score, 2)(logits[:2]).tolist() == [2, 6]
    assert of_sample(len, 2) is len


def test_the_output_may_be_a_number(batch):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = TinyNet()

        def forward(self, images):
            return images.sum(), self.net(images)

    model = Both()
    found = explain(model, batch, "net.features.4", output=1)
    assert torch.equal(found.logits, explain(model, batch, "net.features.4", output="1").logits)


def test_an_output_of_a_named_tuple_has_a_name_and_a_position():
    both = namedtuple("Both", ("logits", "features"))(torch.zeros(2, 3), torch.ones(2, 5))
    for output in (0, "0", "logits"):
        assert logits_of(both, output) is both.logits
    assert logits_of(both, 1) is both.features
    assert logits_of(both, -1) is logits_of(both, "-1") is both.features
    for output in (2, "2", -3, "²", "score"):
        with pytest.raises(XGradCamError, match=f"no output {output!r}: .* a Both with logits, features"):
            logits_of(both, output)


class Lazy:
    """Scores that are computed when they are asked for, and another output that cannot be."""

    def __init__(self, logits):
        self.hidden = logits

    @property
    def logits(self):
        return self.hidden

    @cached_property
    def kept(self):
        return self.hidden

    @property
    def loss(self):
        raise ValueError("no labels")


@dataclass(slots=True)
class Slotted:
    logits: torch.Tensor


def test_an_output_may_be_any_attribute_and_lie_deeper():
    scores = torch.ones(2, 3)
    lazy, slotted = Lazy(scores), Slotted(scores)
    for returned, output in (
        (lazy, "logits"),
        (lazy, "kept"),
        (slotted, "logits"),
        ({"head": {"logits": scores}}, "head.logits"),
        ({"head.logits": scores, "head": 1}, "head.logits"),
        ({"a": [1, lazy]}, "a.1.logits"),
        ([slotted, (1, scores)], "1.1"),
        ({"a": {"b.c": scores}}, "a.b.c"),
    ):
        assert logits_of(returned, output) is scores
    # In an order that does not depend on what was asked before.
    for _ in range(2):
        with pytest.raises(XGradCamError, match=r"returns a Lazy with hidden, kept, logits$"):
            logits_of(lazy, "loss")
        with pytest.raises(XGradCamError, match=r"with --output: hidden, kept, logits \(in"):
            logits_of(lazy)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (2, 0)])
def test_what_is_no_score_for_each_class_is_refused(shape):
    with pytest.raises(XGradCamError, match=r"returns shape \(.*\), not class scores \(N, classes\)"):
        logits_of(torch.zeros(shape))


def test_targets():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]])
    assert choose_targets(logits, None).tolist() == [1, 2]
    assert choose_targets(logits, 0).tolist() == [0, 0]
    assert choose_targets(logits, [2, 1]).tolist() == [2, 1]
    assert choose_targets(logits, torch.tensor([2, 1], dtype=torch.int32)).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (3, "no class 3: this model's classes are 0 to 2"),
        (-1, "no class -1"),
        ([0, 7], "no class 7"),
        ([0, 1, 2], "3 targets for 2 samples"),
        ([], "0 targets for 2 samples"),
        (1.0, "give a class index, or one for each sample"),
        (True, "give a class index, or one for each sample"),
        (10**30, "the targets are 10+: give a class index"),
        ("2", "the targets are '2': give a class index"),
        ([[0], [1]], "give a class index, or one for each sample"),
    ],
)
def test_wrong_targets_are_refused(targets, message):
    with pytest.raises(XGradCamError, match=message):
        choose_targets(torch.zeros(2, 3), targets)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"out": torch.zeros(1, 2)}, "a dict"),
        (torch.zeros(1, 2, 3, 3), r"\(1, 2, 3, 3\)"),
    ],
)
def test_an_output_without_class_scores_is_refused(output, message):
    with pytest.raises(XGradCamError, match=message):
        logits_of(output)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value):
    good, bad = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, value]])
    require_finite(good)
    assert finite_logits_of({"scores": good}, "scores") is good
    assert logits_of(bad) is bad
    for look in (require_finite, finite_logits_of):
        with pytest.raises(NotFiniteError, match="not finite"):
            look(bad)
