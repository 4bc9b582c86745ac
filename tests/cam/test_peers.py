"""The same maps as the packages grad-cam and torchcam, of a photograph, and where not, why.

Their signed maps, before rescaling, are compared with ours; in float64, so that only the methods differ.
"""

import functools
import sys
import warnings

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.models import VisionTransformer

from tests.support import EXAMPLES
from xgradcam import explain, explain_score, load_classifier, read_image
from xgradcam.cam import network_methods as perturbations
from xgradcam.cam.explain import evidence_of
from xgradcam.cam.methods import METHODS, weighted_map

package = pytest.importorskip("pytorch_grad_cam")
needs_torchcam = pytest.mark.skipif(sys.version_info < (3, 11), reason="torchcam 0.5 needs Python 3.11")
if sys.version_info >= (3, 11):
    from torchcam import methods as torchcam

CLASS = 285
# In front of no in-place operation; at the second of each the gradient varies in space.
LAYERS = {"resnet18": ("layer4.1", "layer3.0"), "vgg11": ("features.20", "features.15")}
SAME = {
    "grad-cam": "GradCAM",
    "xgrad-cam": "XGradCAM",
    "hires-cam": "HiResCAM",
    "grad-cam-elementwise": "GradCAMElementWise",
    "layer-cam": "LayerCAM",
}


@functools.lru_cache(maxsize=1)  # VGG's takes a second and a gigabyte
def network_of(name):
    classifier = load_classifier(name, "none", size=(64, 64))
    inputs = classifier.inputs(read_image(EXAMPLES / "cat-and-coffee.jpg")).double()
    return classifier.module.double(), inputs


@pytest.fixture(scope="module", params=[(name, layer) for name in LAYERS for layer in LAYERS[name]])
def case(request):
    """A network for 64 x 64 pixels with random weights, a photograph, and a layer."""
    name, layer = request.param
    return *network_of(name), layer


def of_package(name, model, inputs, layer, target=None):
    """The signed map by the package grad-cam."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module, targets = model.get_submodule(layer), [target or ClassifierOutputTarget(CLASS)]
    first = next(model.parameters()).requires_grad_()  # it cannot do without
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cam = getattr(package, name)(model, [module])
            cam(inputs, targets)
            found = cam.activations_and_grads
            kept = [
                tensors[0].numpy() if tensors else None for tensors in (found.activations, found.gradients)
            ]
            signed = cam.get_cam_image(inputs, module, targets, *kept, False)
            found.release()
            return np.asarray(signed)
    finally:
        first.requires_grad_(False)


def of_torchcam(name, model, inputs, layer):
    """The map by torchcam, after its ReLU."""
    first = next(model.parameters()).requires_grad_()
    try:
        with getattr(torchcam, name)(model, layer) as cam:
            scores = model(inputs.clone().requires_grad_())
            return cam(CLASS, scores, normalized=False)[0].detach().numpy()
    finally:
        first.requires_grad_(False)


def own(method, model, inputs, layer):
    return explain(model, inputs, layer, CLASS, [method]).maps[method].numpy()


def assert_same(found, expected, tolerance=1e-9):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(params=LAYERS["resnet18"])
def narrow(request):
    """The case of ResNet-18 with an eighth of its channels: the packages run it once for each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("resnet18", channels=(8, 16, 32, 64)).double().eval().requires_grad_(False)
    return model, network_of("resnet18")[1], request.param


def likeness(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


@pytest.mark.parametrize("method", SAME)
def test_methods_by_the_gradient_agree(case, method):
    # XGrad-CAM: they add 1e-7 to its denominator, we the paper's scripts' 1e-6.
    assert_same(own(method, *case), of_package(SAME[method], *case), 1e-5 if method == "xgrad-cam" else 1e-9)


@needs_torchcam
@pytest.mark.parametrize("method", ["grad-cam", "xgrad-cam", "layer-cam"])
def test_methods_by_the_gradient_agree_with_torchcam(case, method):
    name = {"grad-cam": "GradCAM", "xgrad-cam": "XGradCAM", "layer-cam": "LayerCAM"}[method]
    tolerance = 1e-5 if method == "xgrad-cam" else 1e-9
    assert_same(own(method, *case).clip(min=0), of_torchcam(name, *case), tolerance)


def test_grad_cam_plus_plus_agrees_but_for_an_epsilon(case):
    # The package adds 1e-6 to a sum of squared gradients, which need not be larger than that.
    model, inputs, layer = case
    evidence = evidence_of(model, inputs, layer, CLASS)
    f, g = evidence.activation, evidence.gradient
    below = 2 * g**2 + f.sum(dim=(2, 3), keepdim=True) * g**3 + 1e-6
    weights = (torch.where(g != 0, g**2 / below, 0) * g.clamp(min=0)).sum(dim=(2, 3), keepdim=True)
    expected = of_package("GradCAMPlusPlus", *case)
    assert_same(weighted_map(weights, f).numpy(), expected)
    assert likeness(own("grad-cam++", *case), expected) > 0.999


@needs_torchcam
def test_torchcams_grad_cam_plus_plus_does_not_divide(case):
    # It divides a copy of α's numerator in place: its weights are Σ g² relu(g).
    model, inputs, layer = case
    evidence = evidence_of(model, inputs, layer, CLASS)
    cubes = evidence.gradient.clamp(min=0) ** 3
    undivided = weighted_map(cubes.sum(dim=(2, 3), keepdim=True), evidence.activation)
    assert_same(undivided.clamp(min=0).numpy(), of_torchcam("GradCAMpp", *case))


@needs_torchcam
def test_torchcams_smooth_grad_cam_plus_plus_agrees_but_for_where_it_averages(case):
    # It keeps the gradient, and weighs the maps, of the last noisy input, and sums g³ F over the map, not F.
    model, inputs, layer = case
    evidence = evidence_of(model, inputs, layer, CLASS)
    noisy = list(perturbations._noisy(inputs))
    seen = [evidence_of(model, one, layer, CLASS) for one in noisy]
    gradients = torch.stack([one.gradient for one in seen])
    second, third = (gradients**2).mean(dim=0), (gradients**3).mean(dim=0)
    below = 2 * second + (third * evidence.activation).sum(dim=(2, 3), keepdim=True) + 1e-8
    weights = (second / below * gradients[-1].clamp(min=0)).sum(dim=(2, 3), keepdim=True)
    expected = weighted_map(weights, seen[-1].activation).clamp(min=0).numpy()

    first = next(model.parameters()).requires_grad_()
    try:
        with torchcam.SmoothGradCAMpp(model, layer, num_samples=len(noisy)) as cam:
            draws = iter(one - inputs for one in noisy)
            cam._distrib.sample = lambda size: next(draws)
            scores = model(inputs.clone().requires_grad_())
            found = cam(CLASS, scores, normalized=False)[0].detach().numpy()
    finally:
        first.requires_grad_(False)
    assert_same(expected, found)


def test_ablation_cam_agrees_but_for_the_sign_of_a_negative_score(narrow):
    model, inputs, _layer = narrow
    sign = np.sign(float(model(inputs)[0, CLASS]))
    # They compute in float32 what is subtracted.
    assert_same(own("ablation-cam", *narrow), sign * of_package("AblationCAM", *narrow), 1e-3)


@needs_torchcam
def test_score_cam_agrees_but_for_how_maps_are_upsampled(narrow):
    # They align the corners of masks of 2 to 4 pixels with those of the photograph.
    found = own("score-cam", *narrow)
    assert likeness(found, of_package("ScoreCAM", *narrow)) > 0.999
    assert likeness(found.clip(min=0), of_torchcam("ScoreCAM", *narrow)) > 0.999


@pytest.mark.parametrize("method", ["eigen-cam", "eigen-grad-cam"])
def test_eigen_methods_agree_but_for_the_mean_that_they_take_off(case, method):
    # With the mean taken off, half of the map is negative, whichever way its sign falls.
    model, inputs, layer = case
    evidence = evidence_of(model, inputs, layer, CLASS)
    values = evidence.activation if method == "eigen-cam" else evidence.activation * evidence.gradient
    rows = values[0].flatten(1).T.numpy()
    rows = rows - rows.mean(axis=0)
    centred = rows @ np.linalg.svd(rows, full_matrices=False)[2][0]
    expected = of_package("EigenCAM" if method == "eigen-cam" else "EigenGradCAM", *case).ravel()
    assert_same(centred * np.sign(centred @ expected), expected, 1e-5)
    if method == "eigen-cam" and layer != "layer3.0":
        assert (own(method, *case) >= 0).all()
    assert expected.min() < 0 < expected.max()


def test_finer_cam_agrees_on_the_score_with_constant_probabilities(case):
    # They let the gradient run through the probabilities that weigh the references, too.
    model, inputs, _layer = case
    logits = model(inputs)[0]
    nearest = (logits - logits[CLASS]).abs().argsort()[1:4].tolist()

    class Constant:
        def __call__(self, output):
            shares = torch.softmax(output.detach()[nearest], dim=0)
            return output[CLASS] - (shares * output[nearest]).sum()

    assert_same(own("finer-cam", *case), of_package("GradCAM", *case, target=Constant()))


def test_shapley_cam_agrees_where_there_is_curvature():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.Tanh(),
        nn.Conv2d(6, 4, 3),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(100, 300),
    ).double()
    inputs = torch.randn(1, 3, 15, 15, dtype=torch.float64)
    module = model[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        cam = package.ShapleyCAM(model, [module])
        cam.activations_and_grads(inputs)
        targets = [ClassifierOutputTarget(CLASS)]
        cam(inputs, targets)
        found = cam.activations_and_grads
        # Its gradients' graph is freed by its call: the weights, from what it read.
        maps = found.activations[0].detach().requires_grad_()
        gradient = torch.autograd.grad(model[2:](maps)[0, CLASS], maps, create_graph=True)[0]
        weights = cam.get_cam_weights(inputs, module, targets, maps, gradient)
    expected = METHODS["shapley-cam"](evidence_of(model, inputs, "1", CLASS))[..., 0, 0].detach().numpy()
    assert_same(expected, weights)


@needs_torchcam
def test_cam_agrees_with_torchcam():
    classifier = load_classifier("resnet18", "none", size=(64, 64))
    inputs = classifier.inputs(read_image(EXAMPLES / "cat-and-coffee.jpg")).double()
    model = classifier.module.double()
    assert_same(own("cam", model, inputs, "layer4.1"), of_torchcam("CAM", model, inputs, "layer4.1"))


def test_the_package_gives_the_rectifiers_map_in_front_of_an_in_place_one():
    # The rectifier writes to the output that the package has kept.
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(294, 300)]
    model = nn.Sequential(*layers).double()
    inputs = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    maps = model[0](inputs).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[3](maps.relu().flatten(1))[0, CLASS], maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    assert_same(own("grad-cam", model, inputs, "0"), (weights * maps).sum(dim=1).detach().numpy())
    theirs = of_package("GradCAM", model, inputs, "0")
    assert_same(theirs, (weights * maps.relu()).sum(dim=1).detach().numpy())


def test_a_contrast_agrees_with_a_target_of_the_package(case):
    model, inputs, layer = case
    found = explain_score(model, inputs, layer, lambda logits: logits[:, CLASS] - logits[:, 7], ["grad-cam"])
    expected = of_package("GradCAM", *case, target=lambda output: output[CLASS] - output[7])
    assert_same(found.maps["grad-cam"].numpy(), expected)


@needs_torchcam
def test_legrad_agrees_with_torchcam():
    """Theirs is for torchvision's vision transformers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).double().eval()
        nn.init.normal_(model.heads.head.weight)
        inputs = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torchcam.LeGrad(model, list(model.encoder.layers)) as cam:
        model(inputs)
        expected = cam([1, 4], normalized=False)[0].detach()
    found = explain(model, inputs, "encoder.layers.encoder_layer_2.ln_1", [1, 4], ["legrad"])
    assert_same(found.maps["legrad"].numpy(), expected.numpy())
