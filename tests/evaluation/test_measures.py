from dataclasses import replace

import pytest
import torch

from tests.support import ANYWHERE
from xgradcam import XGradCamError, explain
from xgradcam.cam.methods import METHODS
from xgradcam.evaluation import metrics
from xgradcam.evaluation.measures import (
    MEASURES,
    Question,
    likeness_when_randomised,
    measure,
    measure_focus,
)
from xgradcam.evaluation.randomisation import randomised, rank_correlation, with_parameters


@pytest.fixture
def question(net, batch):
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:4] = True
    return Question(net, batch[:1], 2, region=region, steps=4, removed=(0.5,))


def test_the_measures_are_those_of_their_functions(net, question):
    found = measure(question, "features.4", list(METHODS))
    assert list(found) == ANYWHERE

    def probability(inputs):
        return net(inputs).softmax(1)[:, 2]

    for method, measures in found.items():
        explanation = explain(net, question.inputs, "features.4", 2, [method], axioms=True)
        hot = explanation.heatmap(method, (8, 8))[0]
        assert measures["conservation"] == pytest.approx(float(explanation.conservation[method]))
        assert measures["sensitivity"] == pytest.approx(float(explanation.sensitivity[method]))
        deletion = metrics.deletion(probability, question.inputs, hot, 4)
        insertion = metrics.insertion(probability, question.inputs, hot, 4)
        for name, curve in (("deletion", deletion), ("insertion", insertion)):
            assert measures[name] == pytest.approx(curve.area)
            assert measures["curves"][name] == pytest.approx(curve.scores.tolist())
        assert measures["road"] == pytest.approx(metrics.road(probability, question.inputs, hot, (0.5,)))
        whole, faded = (probability(x).item() for x in (question.inputs, metrics.fade(question.inputs, hot)))
        assert measures["drop"] == pytest.approx(max(0, whole - faded) / whole)
        assert measures["increase"] == (faded > whole)
        assert measures["energy"] == pytest.approx(metrics.energy_inside(hot, question.region))
        assert measures["pointing"] == metrics.pointing_game(hot, question.region)
        assert measures["blank"] == (not hot.any())
        assert measures["seconds"] > 0
        assert set(measures) - {"curves"} == set(MEASURES) - {"randomised", "focus", "unfocused"}


def test_without_a_region_nothing_is_said_of_the_object(net, batch):
    found = measure(Question(net, batch[:1], 2, steps=2, removed=(0.5,)), "features.4", ["grad-cam"])
    others = {"randomised", "focus", "unfocused"}
    assert set(MEASURES) - set(found["grad-cam"]) == {"pointing", "energy", *others}
    with pytest.raises(XGradCamError, match="measured in a region"):
        measure_focus(Question(net, batch[:1], 2), "features.4", ["grad-cam"])


def test_the_focus_is_that_of_the_map_and_none_for_a_blank_one(net, question):
    found = measure_focus(question, "features.4", ["xgrad-cam", "cam", "layer-cam"])
    explanation = explain(net, question.inputs, "features.4", 2, ["xgrad-cam", "layer-cam"])
    for method, signed in explanation.maps.items():
        expected = metrics.focus(signed, question.region)
        assert found[method] == {"focus": pytest.approx(expected), "unfocused": 0}
        assert 0 < expected < 1
    assert "cam" not in found
    with torch.no_grad():
        net.classifier[2].weight.zero_()
    assert measure_focus(question, "features.4", ["xgrad-cam"]) == {
        "xgrad-cam": {"focus": None, "unfocused": 1}
    }


def test_the_measures_of_a_second_layer_know_those_of_the_first(net, question):
    counted = []
    asked = torch.nn.Sequential(net)
    asked.register_forward_hook(lambda _module, given, _output: counted.append(len(given[0])))
    question = replace(question, asked=asked)
    first = measure(question, "features.4", ["grad-cam", "hires-cam"])
    assert sum(counted) == 3 + 2 * question.changed_pixels.evaluations
    again = measure(question, "features.4", ["grad-cam", "layer-cam"])
    assert sum(counted) == 2 * 3 + 3 * question.changed_pixels.evaluations
    assert {**again["grad-cam"], "seconds": 0} == {**first["grad-cam"], "seconds": 0}


def test_evaluations_are_counted_method_by_method(question):
    found = measure(question, "features.4", ["grad-cam", "ablation-cam", "score-cam", "smooth-grad-cam++"])
    assert [found[method]["evaluations"] for method in found] == [1, 1 + 4, 1 + 4, 1 + 8]


def test_likeness_is_the_mean_rank_correlation_over_stages(net, question, batch):
    other = Question(net, batch[1:2], 0)
    methods = ["xgrad-cam", "eigen-cam"]
    found = likeness_when_randomised([question, other], "features.4", methods, (0.0, 0.6), seed=3)
    assert len(with_parameters(net)) == 5

    def hot(model, one, method):
        explanation = explain(model, one.inputs, "features.4", one.target, [method])
        return explanation.heatmap(method, (8, 8))[0]

    for method in methods:
        for index, one in enumerate((question, other)):
            expected = []
            for count, (_, changed) in enumerate(randomised(net, batch[:2], seed=3), 1):
                if count in (1, 3):
                    expected.append(abs(rank_correlation(hot(net, one, method), hot(changed, one, method))))
            assert found[method][index] == pytest.approx(sum(expected) / 2)
    assert all(0 <= value <= 1 for values in found.values() for value in values)
    assert len({value for values in found.values() for value in values}) >= 3


def test_likeness_is_1_for_a_map_that_the_random_modules_do_not_decide(question):
    found = likeness_when_randomised([question], "features.4", ["xgrad-cam", "eigen-cam"], (0.0,))
    assert found["eigen-cam"] == [pytest.approx(1)]  # made of activations alone; the head is random
    assert found["xgrad-cam"][0] < 0.99


def test_a_blank_map_is_not_called_unlike(question):
    layers = [torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 3)]
    torch.manual_seed(0)
    for layer in (layers[0], layers[3]):
        layer.reset_parameters()
    net = torch.nn.Sequential(*layers)
    with torch.no_grad():
        net[3].weight.fill_(-1)
    blank = Question(net.double(), question.inputs, 1)
    found = likeness_when_randomised([blank], "1", ["grad-cam", "eigen-cam"], (1.0,))
    assert found["grad-cam"] == [None]
    assert found["eigen-cam"][0] > 0
