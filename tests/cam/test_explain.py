import pickle
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from tests.support import TinyNet
from xgradcam import XGradCamError
from xgradcam.cam import explain as cam
from xgradcam.cam.explain import (
    explain,
    explain_classes,
    explain_layers,
    explain_score,
    require_compatible,
    top_classes,
)
from xgradcam.cam.explanation import Explanation, heatmap
from xgradcam.cam.gradient_methods import EPSILON
from xgradcam.cam.methods import METHODS, title_of


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
    assert explanation.heatmap("xgrad-cam", (20, 30)).shape == (3, 20, 30)
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


def test_heatmap_is_the_original_scripts_formula():
    signed = torch.randn(2, 7, 7, generator=torch.Generator().manual_seed(0))
    result = heatmap(signed, (50, 40)).numpy()
    for sample in range(2):
        cam = cv2.resize(np.maximum(signed[sample].numpy(), 0), (40, 50))
        cam = cam - cam.min()
        cam = cam / cam.max()
        np.testing.assert_allclose(result[sample], cam, atol=1e-5)


def test_heatmap_of_a_batch_keeps_samples_apart_and_blank_ones_blank():
    signed = torch.stack([-torch.rand(4, 4) - 0.1, torch.eye(4), torch.full((4, 4), 3.0), torch.zeros(4, 4)])
    result = heatmap(signed, (8, 8))
    assert result.isfinite().all()
    assert [bool(sample.any()) for sample in result] == [False, True, False, False]
    assert result[1].min() == 0
    assert result[1].max() == 1
    torch.testing.assert_close(heatmap(1e-20 * signed[1:2].double(), (8, 8)), result[1:2].double())


@pytest.mark.parametrize("size", [8, (8,), (8, 8, 8), (0, 8), (8, -1), (8.0, 8), None, "88", (None, 8)])
def test_a_size_that_is_not_two_positive_integers_is_refused(size):
    explanation = Explanation({"grad-cam": torch.eye(4)[None]}, torch.ones(1), ((),))
    with pytest.raises(
        XGradCamError, match=r"the heatmap's size is .*: give \(H, W\), two positive integers"
    ):
        explanation.heatmap("grad-cam", size)


def test_a_size_may_be_any_two_integers():
    expected = heatmap(torch.eye(4)[None], (8, 6))
    for size in ([8, 6], np.array([8, 6]), torch.Size([8, 6]), torch.tensor([8, 6])):
        assert torch.equal(heatmap(torch.eye(4)[None], size), expected)


def test_axioms_of_an_average_are_refused(net, batch):
    with pytest.raises(XGradCamError, match="not about an average over augmentations: leave out augment"):
        explain(net, batch, "features.4", augment=True, axioms=True)
    for augment, axioms in ((True, False), (False, True), (False, False)):
        require_compatible(augment, axioms)


def head(*layers):
    return nn.Sequential(nn.Conv2d(3, 2, 1), *layers).double()


def test_note_that_the_maps_coincide(batch):
    pooled = head(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    with torch.no_grad():
        pooled[0].bias.fill_(5)
        pooled[4].weight.copy_(pooled[4].weight.abs())
    explanation = explain(pooled, batch, "1")
    torch.testing.assert_close(explanation.maps["grad-cam"], explanation.maps["xgrad-cam"])
    assert all(
        len(lines) == 1 and lines[0].startswith("the two maps coincide here") for lines in explanation.notes
    )
    assert explain(pooled, batch, "1", methods=("xgrad-cam",)).notes == ((), (), ())
    with torch.no_grad():
        pooled[0].weight.mul_(1e-7)
        pooled[0].bias.fill_(1e-8)
    vanishing = explain(pooled, batch, "1")
    assert not torch.allclose(vanishing.maps["grad-cam"], vanishing.maps["xgrad-cam"], rtol=0.01, atol=0)
    assert vanishing.notes == ((), (), ())
    assert explain(pooled, batch, "1", methods=()).notes == ((), (), ())


def test_no_note_where_the_maps_differ_and_have_evidence(net, batch):
    explanation = explain(net, batch, "features.4", 2)
    with_evidence = [bool((signed > 0).any()) for signed in explanation.maps["xgrad-cam"]]
    assert any(with_evidence)
    assert not any("coincide" in line or "signed" in line for lines in explanation.notes for line in lines)


def test_note_that_there_is_no_positive_evidence(batch):
    against = head(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    with torch.no_grad():
        against[0].bias.fill_(5)
        against[4].weight.copy_(-against[4].weight.abs())
    explanation = explain(against, batch, "1", 0)
    assert all((signed <= 0).all() for signed in explanation.maps["xgrad-cam"])
    for lines in explanation.notes:
        assert [line.split(":")[0] for line in lines] == ["no positive evidence", "no positive evidence"]
    assert not explanation.heatmap("grad-cam", (8, 8)).any()


def test_note_of_a_map_that_is_the_same_everywhere(batch):
    constant = head(
        nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(4, 4)), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 1)
    )
    with torch.no_grad():
        constant[0].bias.fill_(5)
        constant[5].weight.fill_(1)
    notes = explain(constant, batch, "2").notes[0]
    assert any(line.startswith("no contrast") for line in notes)


def test_note_that_activations_are_signed(batch):
    signed = head(nn.Flatten(), nn.Linear(128, 3))
    with torch.no_grad():
        signed[0].bias.copy_(torch.tensor([100.0, 0.0]))
    explanation = explain(signed, batch, "0")
    for lines in explanation.notes:
        assert any(line.startswith("signed activations: 1 of 2 channels") for line in lines)
    assert not any("signed" in line for line in explain(signed, batch, "0", methods=("grad-cam",)).notes[0])


def test_a_layer_without_feature_maps_is_named_with_its_shape(net, batch):
    with pytest.raises(
        XGradCamError, match=r"layer 'classifier\.0': shape \(3, 16\) is neither feature maps"
    ):
        explain(net, batch, net.classifier[0])


def test_a_wrong_method_is_told_the_right_ones(net, batch):
    with pytest.raises(XGradCamError, match=r"'gradcam'; did you mean 'grad-cam'\? there are: grad-cam, xg"):
        explain(net, batch, "features.4", methods=("gradcam",))
    with pytest.raises(XGradCamError, match="no map of 'cam' here"):
        explain(net, batch, "features.4").heatmap("cam", (8, 8))


def test_titles_are_as_the_field_writes_them_and_unknown_names_stay():
    assert [title_of(name) for name in ("xgrad-cam", "a new method")] == ["XGrad-CAM", "a new method"]


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
    of_all = explain(net, batch[:0], "features.4", methods=[method for method in METHODS if method != "cam"])
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
    task = partial(
        explain_layers, model, inputs, ["features.2", "features.4"], classes, methods=WITHOUT_NUMBERS
    )
    with pytest.raises(RuntimeError, match="meta"):
        task()
    read = []
    monkeypatch.setattr(cam, "require_finite", lambda scores: read.append("scores"))
    monkeypatch.setattr(cam, "notes_on", lambda signs, *_: [read.append("notes") or ((),) * 3] * len(signs))
    explained = task()
    assert read == ["scores", "notes"] * 2
    assert all(of_class.maps["xgrad-cam"].is_meta for of_layer in explained for of_class in of_layer)


def test_a_map_that_is_not_finite_is_blank_and_noted(batch):
    class Rooted(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps, self.head = head(nn.ReLU()), nn.Linear(2, 3).double()

        def forward(self, images):
            return self.head(self.maps(images).mean(dim=(2, 3)).sqrt())  # of a dead channel: no slope

    model = Rooted()
    with torch.no_grad():
        model.maps[0].bias.copy_(torch.tensor([100.0, -100.0]))
    explanation = explain(model, batch, "maps.1", 1)
    assert explanation.logits.isfinite().all()
    assert all(
        any(line.startswith("not finite: the xgrad-cam map") for line in lines) for lines in explanation.notes
    )
    assert not explanation.heatmap("xgrad-cam", (8, 8)).any()


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
