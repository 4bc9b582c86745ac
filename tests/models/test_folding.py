"""A network with its batch norms folded computes what it computed before."""

import pytest
import skimage.data
import torch
import torchvision.models as tv
from torch import Tensor, nn

from tests.support import randomised
from xgradcam import explain, load_classifier
from xgradcam.models.folding import fold_batch_norms

NOISE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def random_constants(model: nn.Module) -> nn.Module:
    return randomised(model, torch.Generator().manual_seed(0))


def norms_of(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("build", "layer", "left"),
    [
        (lambda: tv.resnet18(num_classes=10), "layer4.1", 0),
        (lambda: tv.vgg11_bn(num_classes=10), "features.28", 0),
        (lambda: tv.mobilenet_v2(num_classes=10), "features.18", 0),
        (lambda: tv.googlenet(num_classes=10, init_weights=False), "inception5b", 2),  # of the unused heads
        (lambda: tv.shufflenet_v2_x0_5(num_classes=10), "conv5", 0),
        (lambda: tv.DenseNet(16, (3, 4, 3), 32, num_classes=10), "features.norm5", 13),  # norms come first
    ],
)
def test_maps_and_scores_are_the_same_and_norms_are_gone(build, layer, left):
    model, inputs = random_constants(build()).double(), NOISE.double()
    expected = explain(model, inputs, layer, 3)
    count = len(norms_of(model))
    assert fold_batch_norms(model, inputs[:1], [layer]) == count - left > 0
    assert len(norms_of(model)) == left
    found = explain(model, inputs, layer, 3)
    torch.testing.assert_close(found.logits, expected.logits)
    for method in ("grad-cam", "xgrad-cam"):
        torch.testing.assert_close(found.maps[method], expected.maps[method])


def test_the_bundled_network_keeps_its_maps_to_rounding_and_the_names_of_its_layers():
    classifier = load_classifier("efficientnet-lite0")
    inputs = classifier.inputs(skimage.data.chelsea())
    before = explain(classifier.module, inputs, "blocks.6.0.bn2")
    names = dict(classifier.module.named_modules()).keys()
    assert fold_batch_norms(classifier.module, inputs, ["blocks.6.0.bn2"]) == 49
    assert dict(classifier.module.named_modules()).keys() == names
    after = explain(classifier.module, inputs, "blocks.6.0.bn2")
    for method in ("grad-cam", "xgrad-cam"):
        found, expected = (each.heatmap(method, (224, 224)) for each in (after, before))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class Between(nn.Module):
    """A convolution and a norm, with something between them."""

    def __init__(self, act=None, convolution=None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.conv = convolution or nn.Conv2d(4, 4, 3)
        self.act = act or nn.Identity()
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.act(self.conv(self.first(inputs)))).mean((2, 3)))


class UsedBeside(Between):
    def forward(self, inputs: Tensor) -> Tensor:
        before = self.conv(self.first(inputs))
        return self.head((self.norm(before) + before).mean((2, 3)))


class TwiceNormed(Between):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.norm(self.conv(self.first(inputs)))).mean((2, 3)))


class LooksAtTheNorm(Between):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * self.norm.weight.sum()


class Branching(Between):
    """Its second half is not the norm's convolution: the sum is."""

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.first(inputs)
        return self.head(self.norm(self.conv(first) + first[:, :, 1:-1, 1:-1]).mean((2, 3)))


@pytest.mark.parametrize(
    "model",
    [
        Between(nn.ReLU()),
        Between(nn.ReLU(inplace=True)),
        UsedBeside(),
        TwiceNormed(),
        LooksAtTheNorm(),
        Branching(),
        Between(convolution=nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))),
    ],
    ids=["relu", "relu in place", "used beside", "twice", "looked at", "sum", "parametrised"],
)
def test_where_folding_would_change_something_nothing_is(model):
    model = random_constants(model)
    before, modules = model(NOISE), dict(model.named_modules())
    assert fold_batch_norms(model, NOISE) == 0
    assert dict(model.named_modules()) == modules
    assert torch.equal(model(NOISE), before)


def test_hooked_norms_batch_statistics_and_convolutions_that_are_explained_are_left_alone():
    hooked = random_constants(Between())
    hooked.norm.register_forward_hook(lambda _m, _i, output: 2 * output)
    assert fold_batch_norms(hooked, NOISE) == 0
    batch = Between()
    batch.norm = nn.BatchNorm2d(4, track_running_stats=False)
    assert fold_batch_norms(batch.eval(), NOISE) == 0
    model = random_constants(Between())
    assert fold_batch_norms(model, NOISE, ["conv"]) == 0
    wrapped = random_constants(Between(convolution=nn.Sequential(nn.Conv2d(4, 4, 3))))
    assert fold_batch_norms(wrapped, NOISE, ["conv"]) == 0  # its output is the convolution's
    assert fold_batch_norms(wrapped, NOISE, ["norm"]) == 1
    assert fold_batch_norms(model, NOISE) == 1


def test_training_mode_gradients_and_the_caller_s_grad_mode_stay():
    model = random_constants(Between()).train()
    model.conv.requires_grad_(False)
    assert fold_batch_norms(model, NOISE) == 1
    assert model.training
    assert not model.conv.weight.requires_grad
    assert torch.is_grad_enabled()
    assert model.first.weight.requires_grad
