"""Eq. 5 closes at every layer of one small member of every family of networks, with random constants."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import skimage.data
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from tests.support import evenly, features_by_autograd, layers_of, randomised
from xgradcam import explain, list_layers, load_classifier
from xgradcam.proof.verification import Verification
from xgradcam.proof.verify import verify, verify_layers

CLASSES = 10


def with_narrow_head(build: Callable[..., nn.Module]) -> nn.Module:
    """A network whose two layers of 4,096 units, which hold nearly all of its weights, have 64."""
    with torch.device("meta"):  # no time for numbers that are drawn anew
        model = build(num_classes=CLASSES)
        linear = [name for name, module in model.classifier.named_children() if isinstance(module, nn.Linear)]
        sizes = model.classifier[int(linear[0])].in_features, 64, 64, CLASSES
        for name, size, following in zip(linear, sizes, sizes[1:], strict=False):
            model.classifier[int(name)] = nn.Linear(size, following)
    return model.to_empty(device="cpu")


RELU_NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "alexnet": (lambda: with_narrow_head(tv.alexnet), 64),
    "vgg11": (lambda: with_narrow_head(tv.vgg11), 32),
    "vgg11_bn": (lambda: with_narrow_head(tv.vgg11_bn), 32),
    "resnet18": (lambda: tv.resnet18(num_classes=CLASSES), 32),
    "resnext": (lambda: ResNet(Bottleneck, [1, 2, 1, 1], CLASSES, groups=8, width_per_group=4), 32),
    "wide_resnet": (lambda: ResNet(Bottleneck, [1, 1, 2, 1], CLASSES, width_per_group=128), 32),
    "squeezenet1_1": (lambda: tv.squeezenet1_1(num_classes=CLASSES), 32),
    "densenet": (lambda: tv.DenseNet(16, (3, 4, 3), 32, num_classes=CLASSES), 32),
    "googlenet": (lambda: tv.googlenet(num_classes=CLASSES, init_weights=False), 32),
    "inception_v3": (lambda: tv.inception_v3(num_classes=CLASSES, init_weights=False), 75),
    "mobilenet_v2": (lambda: tv.mobilenet_v2(num_classes=CLASSES), 32),
    "mnasnet0_5": (lambda: tv.mnasnet0_5(num_classes=CLASSES), 32),
    "shufflenet_v2_x0_5": (lambda: tv.shufflenet_v2_x0_5(num_classes=CLASSES), 32),
    "regnet_x_400mf": (lambda: tv.regnet_x_400mf(num_classes=CLASSES), 32),
}


CURVED_NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "efficientnet_b0": (lambda: tv.efficientnet_b0(num_classes=CLASSES), 32),
    "mobilenet_v3_small": (lambda: tv.mobilenet_v3_small(num_classes=CLASSES), 32),
    "regnet_y_400mf": (lambda: tv.regnet_y_400mf(num_classes=CLASSES), 32),
    "convnext": (
        lambda: ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], num_classes=CLASSES),
        32,
    ),
    "vit": (lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES), 32),
    "swin": (lambda: SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=CLASSES), 32),
}


SIZES = {name: size for name, (_, size) in (RELU_NETWORKS | CURVED_NETWORKS).items()}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks are faster without threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """The network with random constants, and an image for it."""
    generator = torch.Generator().manual_seed(len(name))
    model = randomised((RELU_NETWORKS | CURVED_NETWORKS)[name][0](), generator)
    image = torch.randn(1, 3, SIZES[name], SIZES[name], generator=generator)
    return model.to(dtype), image.to(dtype)


def closing(
    model: nn.Module, image: Tensor, layers: list[str], target: int | None = None
) -> list[Verification]:
    """The terms at every layer, checked: see `assert_closing`."""
    found = {layer: verify(model, image, layer, target) for layer in layers}
    assert_closing(found, model, image, target)
    return list(found.values())


def assert_closing(
    found: dict[str, Verification], model: nn.Module, image: Tensor, target: int | None
) -> None:
    """The terms sum to the model's score, and the feature term is autograd's."""
    features = features_by_autograd(model, image, list(found), target)
    with torch.no_grad():
        scores = model(image)[0].double()
    score = scores.max() if target is None else scores[target]
    assert score != 0
    for layer, one in found.items():
        assert one.closes.item(), (layer, one.residual / one.tolerance, one.magnitude / one.score)
        assert abs(one.score.item() - score) <= one.tolerance.item(), layer
        assert abs(one.feature.item() - features[layer].item()) <= one.tolerance.item(), layer
    assert any(one.feature.item() for one in found.values())


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "target"), [(torch.float32, 3), (torch.float64, None)])
@pytest.mark.parametrize("name", RELU_NETWORKS)
def test_it_holds_at_every_layer_of_a_relu_network(name: str, dtype: torch.dtype, target: int | None) -> None:
    model, image = built(name, dtype)
    layers = layers_of(model, image)
    assert len(layers) >= 13
    together = dict(verify_layers(model, image, layers, target))
    assert_closing(together, model, image, target)
    # Alone each layer costs a forward: all of the smaller networks, some of the larger ones.
    alone = evenly(layers, min(len(layers), 60 if dtype == torch.float64 else 13))
    for one in (*together.values(), *closing(model, image, alone, target)):
        assert one.holds.item()
        assert one.curvature.item() == 0
    biases = [together[layer].bias.item() for layer in layers]
    assert all(biases[: len(biases) // 2])  # behind the last layers there may be none


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CURVED_NETWORKS)
def test_it_closes_with_curvature_at_ten_layers_of_a_curved_network(name: str, dtype: torch.dtype) -> None:
    model, image = built(name, dtype)
    shown = 0
    for found in closing(model, image, evenly(layers_of(model, image, dims=(3, 4)), 10)):
        shown += (found.curvature.abs() > 1e-3 * found.magnitude).item()
        assert found.holds.item() == (found.curvature == 0).item()
    assert shown >= 5


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "densenet", "shufflenet_v2_x0_5", "swin"])
def test_all_layers_at_once_give_the_terms_of_each(name: str) -> None:
    model, image = built(name, torch.float64)
    layers = evenly(layers_of(model, image, dims=(3, 4)), 13)
    found = dict(verify_layers(model, image, layers, 3))
    assert found.keys() == set(layers)
    for layer in layers:
        together, alone = found[layer], verify(model, image, layer, 3)
        assert isinstance(together, Verification)
        assert together.score == alone.score
        torch.testing.assert_close(together.feature, alone.feature, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(together.feature_magnitude, alone.feature_magnitude)
        # What does not reach the score is a term of 0 of the one, and none of the other.
        terms, expected = (
            [
                (term.module, term.operation, term.kind, term.value.item())
                for term in each.contributions
                if term.value
            ]
            for each in (together, alone)
        )
        assert [term[:3] for term in terms] == [term[:3] for term in expected]
        assert [term[3] for term in terms] == pytest.approx(
            [term[3] for term in expected], rel=1e-8, abs=1e-11
        )


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18", "densenet", "mobilenet_v2"])
def test_no_term_can_be_left_out(name: str) -> None:
    model, image = built(name, torch.float64)
    (found,) = closing(model, image, [evenly(layers_of(model, image), 3)[1]])
    for index, term in enumerate(found.contributions):
        fewer = found.contributions[:index] + found.contributions[index + 1 :]
        without = replace(found, contributions=fewer)
        assert without.closes.item() == (term.value.abs() <= found.tolerance).item()
    assert sum((term.value.abs() > found.tolerance).item() for term in found.contributions) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket"])
def test_it_holds_for_the_bundled_network_on_a_photograph(name: str) -> None:
    classifier = load_classifier("efficientnet-lite0")
    image = classifier.inputs(getattr(skimage.data, name)())
    layers = ["bn2", *evenly(layers_of(classifier.module, image), 10)]
    for found in closing(classifier.module.requires_grad_(), image, layers):
        assert found.holds.item()
        assert found.curvature.item() == 0
        assert found.bias.item() != 0


@pytest.mark.parametrize("name", SIZES)
def test_complete_maps_and_what_is_nowhere_sum_to_the_score_at_ten_layers(name):
    model, image = built(name, torch.float64)
    images = torch.cat([image, image.flip(3)])
    maps = [layer.name for layer in list_layers(model, images) if layer.name and layer.is_map]
    layers = evenly(maps, 10)
    assert len(set(layers)) == 10
    for layer in layers:
        explained = explain(model, images, layer, 1, ["complete-cam"])
        placed = explained.maps["complete-cam"].sum((1, 2))
        torch.testing.assert_close(placed + explained.nowhere, explained.score, rtol=1e-9, atol=1e-10)
        assert (explained.constants != 0).any() or layer != layers[0]


def test_on_the_bundled_network_layers_joined_by_pointwise_operations_have_one_map():
    """1 x 1 convolutions, norms and ReLU6 alone lie between the layers of a pair."""
    classifier = load_classifier("efficientnet-lite0")
    inputs = classifier.inputs(skimage.data.chelsea())
    for early, late in [("blocks.6.0.bn2", "bn2"), ("blocks.4.2.bn2", "blocks.4.2.bn3")]:
        one, other = (
            explain(classifier.module, inputs, layer, 285, ["complete-cam"]) for layer in (early, late)
        )
        one_map, other_map = one.maps["complete-cam"], other.maps["complete-cam"]
        assert (one_map - other_map).abs().max() < 3e-6 * other_map.abs().max()
        # Though the features are very different parts of the score.
        assert (one.budget["feature"] - other.budget["feature"]).abs() > one.score.abs() / 10
