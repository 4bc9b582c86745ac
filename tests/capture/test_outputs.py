from collections import namedtuple

import pytest
import torch
from torch import nn

from tests.support import TinyNet
from xgradcam import explain
from xgradcam.capture.scores import choose_targets, finite_logits_of, logits_of, require_finite
from xgradcam.errors import NotFiniteError, XGradCamError


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
    for output in (2, "2", -1, "²", "score"):
        with pytest.raises(XGradCamError, match=f"no output {output!r}: .* a Both with logits, features"):
            logits_of(both, output)


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
