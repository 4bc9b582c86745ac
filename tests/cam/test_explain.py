import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.cam.support import head
from tests.support import ANYWHERE, TinyNet
from xgradcam import Explainer, XGradCamError
from xgradcam.cam import class_maps
from xgradcam.cam.explain import (
    explain,
    explain_classes,
    explain_score,
    require_compatible,
)
from xgradcam.cam.explanation import heatmap
from xgradcam.cam.gradient_methods import EPSILON
from xgradcam.runs.explainer import explain_layers
from xgradcam.scores.targets import top_classes


def test_maps_are_the_papers_sums(net, batch):
    explanation = explain(net, batch, "features.4", targets=2)
    activation = net.features[:5](batch).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(
        net.classifier(net.features[5](activation).flatten(1))[:, 2].sum(), activation
    )
    mass = activation.sum(dim=(2, 3))
    grad_weights = gradient.mean(dim=(2, 3))
    x_weights = (gradient * activation).sum(dim=(2, 3)) / (mass + EPSILON)
    torch.testing.assert_close(
        explanation.maps["grad-cam"], torch.einsum("nk,nkxy->nxy", grad_weights, activation).detach()
    )
    torch.testing.assert_close(
        explanation.maps["xgrad-cam"], torch.einsum("nk,nkxy->nxy", x_weights, activation).detach()
    )


def test_a_batch_is_its_samples_one_by_one(net, batch):
    together = explain(net, batch, "features.4", targets=[0, 4, 2])
    for sample, target in enumerate((0, 4, 2)):
        alone = explain(net, batch[sample : sample + 1], "features.4", targets=target)
        for method in together.maps:
            torch.testing.assert_close(together.maps[method][sample], alone.maps[method][0])
        torch.testing.assert_close(together.score[sample], alone.score[0])


def test_an_explanation_says_what_it_explains(net, batch):
    explanation = explain(net, batch, net.features[4])
    logits = net(batch).detach()
    torch.testing.assert_close(explanation.logits, logits)
    assert torch.equal(explanation.targets, logits.argmax(dim=1))
    torch.testing.assert_close(explanation.score, logits.amax(dim=1))
    torch.testing.assert_close(explanation.probability, logits.softmax(dim=1).amax(dim=1))
    found = explanation.heatmap("xgrad-cam", (20, 30))
    assert torch.equal(found, heatmap(explanation.maps["xgrad-cam"], (20, 30)))
    assert found.amax(dim=(1, 2)).tolist() == [1, 1, 1]
    assert not explanation.maps["grad-cam"].requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_under_the_callers_grad_mode_also_with_inputs_made_there(net, batch, mode):
    reference = explain(net, batch, "features.0").maps["xgrad-cam"]
    with mode():
        assert torch.equal(explain(net, batch * 1, "features.0").maps["xgrad-cam"], reference)


def test_scaling_the_head_scales_the_map(net, batch):
    before = explain(net, batch, "features.4", 1)
    with torch.no_grad():
        net.classifier[2].weight.mul_(5)
    after = explain(net, batch, "features.4", 1)
    for method in before.maps:
        torch.testing.assert_close(after.maps[method], 5 * before.maps[method])


def test_axioms_of_an_average_are_refused(net, batch):
    with pytest.raises(XGradCamError, match="not about an average over augmentations: leave out augment"):
        explain(net, batch, "features.4", augment=True, axioms=True)
    for augment, axioms in ((True, False), (False, True), (False, False)):
        require_compatible(augment, axioms)


def test_a_layer_without_feature_maps_is_named_with_its_shape(net, batch):
    with pytest.raises(
        XGradCamError, match=r"layer 'classifier\.0': shape \(3, 16\) is neither feature maps"
    ):
        explain(net, batch, net.classifier[0])


def test_several_classes_cost_one_forward_and_are_those_one_by_one(net, batch):
    runs = []
    net.features[0].register_forward_hook(lambda *_: runs.append(1))
    together = explain_classes(net, batch, "features.4", [0, [3, 1, 4], None])
    assert len(runs) == 1
    for explanation, targets in zip(together, (0, [3, 1, 4], None), strict=True):
        alone = explain(net, batch, "features.4", targets)
        assert torch.equal(explanation.targets, alone.targets)
        for method in alone.maps:
            torch.testing.assert_close(explanation.maps[method], alone.maps[method])
        assert explanation.notes == alone.notes


def test_no_samples_and_no_classes_have_no_explanation(net, batch):
    assert explain_classes(net, batch, "features.4", []) == ()
    assert explain_classes(net, batch, "features.4", [], methods=["ablation-cam"]) == ()
    assert explain(net, batch[:0], "features.4").maps["xgrad-cam"].shape == (0, 8, 8)
    of_all = explain(net, batch[:0], "features.4", methods=ANYWHERE)
    assert {signed.shape for signed in of_all.maps.values()} == {(0, 8, 8)}


@pytest.mark.parametrize("methods", [["grad-cam"], ["score-cam"]])
def test_scores_that_are_not_finite_are_refused_before_the_network_is_asked_again(net, batch, methods):
    asked = []
    batch[1] = float("nan")
    with pytest.raises(XGradCamError, match="the model's scores are not finite"):
        explain(net, batch, "features.4", methods=methods, progress=lambda *counts: asked.append(counts))
    assert not asked


def test_a_score_that_is_not_finite_is_refused(net, batch):
    with pytest.raises(XGradCamError, match="the model's scores are not finite"):
        explain_score(net, batch, "features.4", lambda output: output[:, 0] / 0)


def test_the_top_classes_are_those_of_the_highest_scores(net, batch):
    explanations = explain_classes(net, batch, "features.4", top_classes(3))
    order = net(batch).detach().argsort(dim=1, descending=True)
    assert torch.equal(
        torch.stack([explanation.targets for explanation in explanations], dim=1), order[:, :3]
    )
    assert len(explain_classes(net, batch, "features.4", top_classes(99))) == 5


def test_scores_in_a_dictionary_a_tuple_or_an_object(net, batch):
    class Wrapped(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.net, self.wrap = net, wrap

        def forward(self, inputs):
            return self.wrap(self.net(inputs))

    expected = explain(net, batch, net.features[4], 2).maps["xgrad-cam"]
    for wrap, output in (
        (lambda scores: {"hidden": scores[:, :1], "logits": scores}, "logits"),
        (lambda scores: (scores.sum(), scores), "1"),
        (lambda scores: SimpleNamespace(logits=scores), "logits"),
    ):
        model = Wrapped(wrap)
        assert torch.equal(
            explain(model, batch, net.features[4], 2, output=output).maps["xgrad-cam"], expected
        )
        with pytest.raises(XGradCamError, match=r"not class scores \(N, classes\): choose .* --output"):
            explain(model, batch, net.features[4], 2)
        with pytest.raises(XGradCamError, match="no output 'score': the model returns a"):
            explain(model, batch, net.features[4], 2, output="score")


WITHOUT_NUMBERS = ["grad-cam", "xgrad-cam", "grad-cam++", "hires-cam", "grad-cam-elementwise", "layer-cam"]


@pytest.mark.parametrize(
    "classes", [[None], [2, None, 0], [[0, 4, 2]], [torch.tensor([1, 2, 3])], top_classes(3)]
)
def test_a_device_is_waited_for_only_when_all_of_a_batch_is_under_way(monkeypatch, classes):
    # Where a number is read a GPU is waited for; tensors of this device have none.
    model, inputs = TinyNet().eval().to("meta"), torch.empty(3, 3, 8, 8, device="meta", dtype=torch.float64)
    explainers = [Explainer(model, layer, WITHOUT_NUMBERS) for layer in ("features.2", "features.4")]
    task = partial(explain_layers, explainers, inputs, classes)
    with pytest.raises(RuntimeError, match="meta"):
        task()
    read = []
    monkeypatch.setattr(class_maps, "_read", lambda given: read.append(len(given)) or [1.0] * len(given))
    explained = task()
    assert read == [1 + len(explained[0]) * 3 * (3 + 3 * len(WITHOUT_NUMBERS))] * 2
    assert all(of_class.maps["xgrad-cam"].is_meta for of_layer in explained for of_class in of_layer)
    explain_classes(model, inputs, "features.4", classes, WITHOUT_NUMBERS)
    assert read[2:] == read[1:2]


def test_one_method_may_be_a_word_and_explanations_can_be_stored(net, batch):
    explanation = explain(net, batch, "features.4", methods="grad-cam")
    assert list(explanation.maps) == ["grad-cam"]
    again = pickle.loads(pickle.dumps(explanation))
    assert torch.equal(again.maps["grad-cam"], explanation.maps["grad-cam"])


def test_a_model_made_in_inference_mode_is_refused_with_the_reason(batch):
    with torch.inference_mode():
        model = head(nn.Flatten(), nn.Linear(128, 3))
    with pytest.raises(XGradCamError, match=r"made under torch\.inference_mode"):
        explain(model, batch, "0")
