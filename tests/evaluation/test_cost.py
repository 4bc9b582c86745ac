from dataclasses import replace

import pytest
import torch

from xgradcam.evaluation import cost as module
from xgradcam.evaluation.cost import Cost, cost_of
from xgradcam.evaluation.measures import Question, measure


@pytest.fixture
def question(net, batch):
    return Question(net, batch[:1], 2, steps=4, removed=(0.5,))


def test_the_evaluations_are_those_that_the_measures_take(net, question):
    methods = ["grad-cam", "cam", "ablation-cam", "score-cam", "smooth-grad-cam++"]
    found = measure(question, "features.4", methods)
    drawing = sum(measures["evaluations"] for measures in found.values()) - (len(found) - 1)
    pixels = len(found) * question.changed_pixels.evaluations
    once = cost_of(question, ["features.4"], methods, measured=1, drawn_only=0)
    assert once.evaluations == drawing + pixels
    assert set(once.by_method) == set(found)
    many = cost_of(question, ["features.4", "features.1"], methods, measured=3, drawn_only=7)
    channels = {"features.4": 4, "features.1": 6}
    assert many.evaluations == sum(10 * (1 + 2 * live + 8) + 3 * pixels for live in channels.values())
    assert many.seconds > sum(many.by_method.values()) > 0


def test_the_sensitivity_error_costs_its_evaluations_without_ablation_cam_too(question):
    methods = ["grad-cam", "xgrad-cam"]
    found = cost_of(question, ["features.4"], methods, measured=2, drawn_only=5)
    assert found.evaluations == 7 + 2 * (4 + 2 * question.changed_pixels.evaluations)


def test_the_first_batch_stands_for_all(question, monkeypatch):
    """A method that asks in batches is stopped after the first."""
    monkeypatch.setattr("xgradcam.cam.evidence.INPUTS_AT_ONCE", 1)
    asked = []
    hooked = torch.nn.Sequential(question.model)
    hooked.register_forward_hook(lambda *_: asked.append(1))
    one = replace(question, model=hooked)
    at = one.at("0.features.4")
    asked.clear()
    evaluations, seconds = module._of_method("score-cam", at)
    # One channel, beside what shows that the batch is not mixed.
    assert (evaluations, len(asked)) == (4, 1)
    assert seconds > 0


def test_the_line_names_the_method_that_takes_most():
    cost = Cost()
    cost.add("", 10, 20.0)
    assert cost.line() == "about 10 evaluations of the network, 20 seconds"
    cost.add("grad-cam", 1000, 60.0)
    cost.add("score-cam", 20_000, 120.0)
    assert cost.line() == (
        "about 21,010 evaluations of the network, 3.3 minutes; score-cam takes 60% of it "
        "(--without score-cam leaves it out)"
    )
    cost.add("grad-cam", 0, 7200.0)
    assert "2.1 hours; grad-cam takes 98% of it" in cost.line()


def test_a_short_evaluation_is_not_worth_a_line():
    cost = Cost()
    cost.add("grad-cam", 10, 9.9)
    assert cost.line() == ""
