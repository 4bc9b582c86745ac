"""The true class of mistakes and its contrast: of the right photographs, and by plain autograd."""

from dataclasses import replace

import pytest
import torch

from tests.runs.support import LAYERS, run_of
from tests.support import ANYWHERE, full_graph_gradient
from xgradcam import XGradCamError
from xgradcam.cam.explain import explain, explain_score
from xgradcam.cam.explanation import ClassExplanation
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.runs.mistakes import OF_CLASSES, contrast_scoring, telling_method, truth_record
from xgradcam.scores.score import Contrast, of_sample
from xgradcam.scores.versus import Versus

# Right, wrong, not known, wrong.
COUNT = 4


@pytest.fixture
def inputs():
    return torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def truths_of(net, inputs):
    order = net(inputs).argsort(dim=1, descending=True)
    return [int(order[0, 0]), int(order[1, 3]), None, int(order[3, 1])]


def explained_by(net, inputs, truths, **options):
    return replace(run_of(net, explaining=options), mistakes=True).explainer()(inputs, (), truths)


def test_only_mistakes_have_more_than_the_predicted_class(net, inputs):
    truths = truths_of(net, inputs)
    best = net(inputs).argmax(dim=1).tolist()
    explained = explained_by(net, inputs, truths)
    assert len(explained) == len(LAYERS)
    for predicted, true, contrast in explained:
        assert predicted.targets.tolist() == best
        for sample in (0, 2):
            assert true.sample(sample) is None
            assert contrast.sample(sample) is None
        for sample in (1, 3):
            assert true.sample(sample).targets.tolist() == [truths[sample]]
            assert contrast.sample(sample).score_of == Contrast(
                best[sample], (truths[sample],), targets=(best[sample],)
            )


def test_maps_and_scores_are_those_of_plain_autograd(net, inputs):
    truths = truths_of(net, inputs)
    best = net(inputs).argmax(dim=1).tolist()
    explained = explained_by(net, inputs, truths, methods=("hires-cam",))
    for layer, (_, true, contrast) in zip(LAYERS, explained, strict=True):
        for sample in (1, 3):
            row, wanted = inputs[[sample]], truths[sample]
            activation, gradient = full_graph_gradient(net, row, layer, wanted)
            _, preferred = full_graph_gradient(net, row, layer, best[sample])
            scores = net(row)[0]
            for found, by, score in (
                (true, gradient, scores[wanted]),
                (contrast, preferred - gradient, scores[best[sample]] - scores[wanted]),
            ):
                one = found.sample(sample)
                torch.testing.assert_close(one.maps["hires-cam"], (by * activation).sum(dim=1))
                torch.testing.assert_close(one.score, score[None].detach())


@pytest.mark.parametrize("method", ANYWHERE)
def test_every_method_explains_mistakes_as_it_does_alone(net, inputs, method):
    net, inputs = net.float(), inputs.float()
    truths = truths_of(net, inputs)
    explained = explained_by(net, inputs, truths, methods=(method, "hires-cam"))
    for layer, (predicted, true, contrast) in zip(LAYERS, explained, strict=True):
        for sample in (1, 3):
            row, wanted = inputs[[sample]], truths[sample]
            alone = explain(net, row, layer, wanted, [method])
            torch.testing.assert_close(true.sample(sample).maps[method], alone.maps[method])
            if method in OF_CLASSES:
                assert list(contrast.sample(sample).maps) == ["hires-cam"]
                continue
            score = Contrast(int(predicted.targets[sample]), (wanted,))
            alone = explain_score(net, row, layer, score, [method])
            torch.testing.assert_close(contrast.sample(sample).maps[method], alone.maps[method])


def test_a_method_of_classes_alone_has_no_contrast(net, inputs):
    (of_layer, _) = explained_by(net, inputs, truths_of(net, inputs), methods=("finer-cam",))
    assert len(of_layer) == 2


def test_complete_maps_and_budgets_of_a_contrast_sum_to_it(net, inputs):
    truths = truths_of(net, inputs)
    for _, true, contrast in explained_by(net, inputs, truths, methods=("complete-cam",), axioms=True):
        for sample in (1, 3):
            for one in (true.sample(sample), contrast.sample(sample)):
                whole = one.maps["complete-cam"].sum() + one.nowhere[0]
                assert float(whole) == pytest.approx(float(one.score), rel=1e-6)
                assert float(one.conservation["complete-cam"]) == pytest.approx(0, abs=1e-6)
                assert list(one.sensitivity) == ["complete-cam"]


def test_augmented_maps_of_a_contrast_are_the_mean_over_the_same_inputs(net, inputs):
    truths = truths_of(net, inputs)
    best = net(inputs).argmax(dim=1).tolist()
    (_, true, contrast), _ = explained_by(net, inputs, truths, methods=("hires-cam",), augment=True)
    expected = [
        explain(net, inputs[[1]], LAYERS[0], one, ["hires-cam"], augment=True) for one in (best[1], truths[1])
    ]
    torch.testing.assert_close(true.sample(1).maps["hires-cam"], expected[1].maps["hires-cam"])
    # Linear in the score.
    difference = expected[0].maps["hires-cam"] - expected[1].maps["hires-cam"]
    torch.testing.assert_close(contrast.sample(1).maps["hires-cam"], difference)


def test_guided_pictures_are_of_classes(net, inputs):
    truths = truths_of(net, inputs)
    (predicted, true, contrast), _ = explained_by(net, inputs, truths, guided=True)
    alone = guided_backpropagation(net, inputs[[3]], truths[3])
    torch.testing.assert_close(true.sample(3).guided, alone)
    assert predicted.guided.shape == inputs.shape
    assert not isinstance(contrast.sample(3), ClassExplanation)


def test_a_true_class_out_of_range_is_refused(net, inputs):
    with pytest.raises(XGradCamError, match="no class 5: this model's classes are 0 to 4"):
        explained_by(net, inputs, [5, None, None, None])


def test_without_a_mistake_there_is_only_the_predicted_class(net, inputs):
    best = net(inputs).argmax(dim=1).tolist()
    assert [len(of_layer) for of_layer in explained_by(net, inputs, best)] == [1, 1]
    assert [len(of_layer) for of_layer in explained_by(net, inputs, [None] * COUNT)] == [1, 1]


def test_a_score_of_two_classes_each_is_a_contrast_of_each():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    versus = Versus(torch.tensor([0, 1, 4]), torch.tensor([2, 3, 0]))
    scores = versus(logits)
    for sample, (target, other) in enumerate([(0, 2), (1, 3), (4, 0)]):
        assert float(scores[sample]) == float(logits[sample, target] - logits[sample, other])
        torch.testing.assert_close(of_sample(versus, sample)(logits), logits[:, target] - logits[:, other])


def test_a_contrast_is_said_and_named_by_its_classes():
    scoring = contrast_scoring(Contrast(1, (0,), targets=(1,)), ["cat", "dog"])
    assert (scoring.name, scoring.what, scoring.file_part) == ("contrast:0", "contrast", "1-less-0")


def test_the_records_know_the_true_and_the_predicted_class(net, inputs):
    one = explain(net, inputs[:1], LAYERS[0], 2)
    scores = net(inputs[:1])[0].detach()
    best = int(scores.argmax())
    record = truth_record(3, one, ["a", "b", "c", "d", "e"])
    assert record["truth"] == {"index": 3, "name": "d"}
    assert record["prediction"] == {
        "index": best, "name": "abcde"[best], "probability": pytest.approx(float(scores.softmax(0)[best])),
    }  # fmt: skip
    assert truth_record(None, one, None) == {}


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (["grad-cam", "xgrad-cam"], "xgrad-cam"),
        (["xgrad-cam", "complete-xgrad-cam", "complete-cam"], "complete-xgrad-cam"),
        (["layer-cam", "grad-cam"], "layer-cam"),
        (["random-cam", "eigen-cam"], "eigen-cam"),
        (["random-cam"], "random-cam"),
    ],
)
def test_the_method_that_tells_most(methods, expected):
    assert telling_method(methods) == expected
