import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from xgradcam import XGradCamError
from xgradcam.guided import gradient_picture, guided_backpropagation, guided_map


class Forms(nn.Module):
    """The same network with its rectifiers as modules, functions or methods, in place or not."""

    def __init__(self, form):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 5, 3)
            self.second = nn.Conv2d(5, 4, 3)
            self.last = nn.Linear(4, 3)
        self.form = form
        self.module = {"module": nn.ReLU(), "in place": nn.ReLU(inplace=True)}.get(form)
        self.double().eval()

    def rectify(self, values):
        if self.module is not None:
            return self.module(values)
        return {
            "function": functional.relu,
            "function in place": lambda v: functional.relu(v, inplace=True),
            "torch": torch.relu,
            "torch in place": torch.relu_,
            "method": torch.Tensor.relu,
            "method in place": torch.Tensor.relu_,
        }[self.form](values)

    def forward(self, images):
        hidden = self.rectify(self.second(self.rectify(self.first(images))))
        return self.last(hidden.mean(dim=(2, 3)))


FORMS = "module|in place|function|function in place|torch|torch in place|method|method in place".split("|")


@pytest.fixture
def images():
    return torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def by_hand(net, images, target):
    """Layer by layer backwards, each rectifier's mask and the sign of what arrives by indexing."""
    a = functional.conv2d(images, net.first.weight, net.first.bias)
    b = functional.conv2d(a.clamp(min=0), net.second.weight, net.second.bias)
    back = net.last.weight[target][None, :, None, None].expand_as(b) / b[0, 0].numel()
    back = back.clone()
    back[(back < 0) | (b <= 0)] = 0
    back = functional.conv_transpose2d(back, net.second.weight)
    back[(back < 0) | (a <= 0)] = 0
    return functional.conv_transpose2d(back, net.first.weight)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rectifier_is_guided(form, images):
    net = Forms(form)
    expected = by_hand(net, images, 1).detach()
    torch.testing.assert_close(guided_backpropagation(net, images, 1), expected)
    plain = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(plain)[:, 1].sum(), plain)
    assert (gradient - expected).abs().max() > 0.1 * expected.abs().max()


def test_relu6_is_a_rectifier_and_leaky_ones_are_not(images):
    def net(activation):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), activation, nn.Flatten(), nn.Linear(100, 2)]
        return nn.Sequential(*layers).double()

    six = net(nn.ReLU6())
    assert not torch.equal(guided_backpropagation(six, images, 0), guided_backpropagation(six, images, 1))
    hidden = six[0](images)
    back = six[3].weight[1].reshape(4, 5, 5).clamp(min=0) * ((hidden > 0) & (hidden < 6))
    expected = functional.conv_transpose2d(back, six[0].weight)
    torch.testing.assert_close(guided_backpropagation(six, images, 1), expected)
    for other in (nn.LeakyReLU(), nn.GELU(), nn.Hardtanh(-1, 1)):
        with pytest.raises(XGradCamError, match="needs a network with ReLUs"):
            guided_backpropagation(net(other), images)


def test_the_model_is_left_as_it_was(images):
    net = Forms("in place").train()
    net.first.weight.requires_grad_(False)
    net.second.weight.grad = torch.ones_like(net.second.weight)
    before = images.clone()
    with torch.no_grad():
        guided_backpropagation(net, images)
        assert not torch.is_grad_enabled()
    assert net.training
    assert not net.first.weight.requires_grad
    assert (net.second.weight.grad == 1).all()
    assert net.second.bias.grad is None
    assert not net._forward_hooks
    assert torch.equal(images, before)
    assert not images.requires_grad
    with torch.inference_mode():
        frozen = guided_backpropagation(net.requires_grad_(False), images, 1)
    torch.testing.assert_close(frozen, by_hand(net, images, 1))


def test_a_batch_is_its_samples(images):
    net = Forms("function")
    both = guided_backpropagation(net, images, [0, 2])
    for index, target in enumerate((0, 2)):
        alone = guided_backpropagation(net, images[index : index + 1], target)
        torch.testing.assert_close(both[index : index + 1], alone)


def test_as_the_package_grad_cam_on_networks_whose_rectifiers_are_modules():
    peer = pytest.importorskip("pytorch_grad_cam")
    models = pytest.importorskip("torchvision.models")
    for build in (models.vgg11, models.resnet18):
        torch.manual_seed(0)
        model = build().eval()
        inputs = torch.randn(1, 3, 64, 64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = peer.GuidedBackpropReLUModel(model, "cpu")(inputs, target_category=7)
        ours = guided_backpropagation(model, inputs, 7)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * np.abs(theirs).max())


def test_a_functional_rectifier_that_the_package_passes_over_is_guided(images):
    peer = pytest.importorskip("pytorch_grad_cam")
    net = Forms("function")
    theirs = peer.GuidedBackpropReLUModel(net, "cpu")(images[:1].float().double(), target_category=1)
    ours = by_hand(net, images[:1], 1).detach()[0].permute(1, 2, 0).numpy()
    assert np.abs(theirs - ours).max() > 0.1 * np.abs(ours).max()


def test_the_guided_map_is_the_product():
    guided, heatmap = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5)
    found = guided_map(guided, heatmap)
    assert found[1, 2, 3, 4] == guided[1, 2, 3, 4] * heatmap[1, 3, 4]


def test_the_picture_is_the_formula_and_grey_where_nothing_is():
    gradient = torch.randn(3, 4, 5, dtype=torch.float64)
    values = gradient.numpy()
    picture = gradient_picture(gradient)
    for c, y, x in np.ndindex(3, 4, 5):
        light = 0.1 * (values[c, y, x] - values.mean()) / (values.std() + 1e-5) + 0.5
        assert picture[y, x, c] == int(255 * min(max(light, 0), 1))
    assert (gradient_picture(torch.zeros(3, 2, 2)) == 127).all()
    assert gradient_picture(torch.zeros(1, 2, 2)).shape == (2, 2, 3)
    with pytest.raises(XGradCamError, match="picture is of a gradient"):
        gradient_picture(torch.zeros(4, 2, 2))
