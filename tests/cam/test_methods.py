"""Laws that every method of the table obeys."""

import pytest
import torch

from tests.cam.support import TARGETS, network
from tests.support import OF_ACTIVATION
from xgradcam import XGradCamError, explain
from xgradcam.cam.evidence import Evidence
from xgradcam.cam.methods import METHODS, title_of


@pytest.fixture
def images():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_wrong_method_is_told_the_right_ones(net, batch):
    with pytest.raises(XGradCamError, match=r"'gradcam'; did you mean 'grad-cam'\? there are: grad-cam, xg"):
        explain(net, batch, "features.4", methods=("gradcam",))
    with pytest.raises(XGradCamError, match="no map of 'cam' here"):
        explain(net, batch, "features.4").heatmap("cam", (8, 8))


def test_without_a_network_there_is_nothing_to_ask():
    alone = Evidence(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3))
    for method in (name for name, method in METHODS.items() if method.asks_again):
        with pytest.raises(XGradCamError, match="asks the network again"):
            METHODS[method](alone)


@pytest.mark.parametrize("method", OF_ACTIVATION)
def test_a_batch_is_its_samples_one_at_a_time(method, images):
    net = network(pooled=True)
    together = explain(net, images, "0", TARGETS, [method]).maps[method]
    assert together.flatten(1).any(dim=1).all()
    for n, target in enumerate(TARGETS):
        alone = explain(net, images[n : n + 1], "0", target, [method]).maps[method]
        torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", OF_ACTIVATION)
def test_the_model_is_left_as_it_was(method, images):
    net = network(pooled=True).train()
    net[0][0].weight.grad = torch.ones_like(net[0][0].weight)
    net[0][0].bias.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    before = images.clone()
    with torch.inference_mode():
        explanation = explain(net, images, "0", 1, [method], axioms=True)
    assert explanation.maps[method].any()
    assert all(module.training and not module._forward_hooks for module in net.modules())
    assert (net[0][0].weight.grad == 1).all()
    assert net[1][3].weight.grad is None
    assert not net[0][0].bias.requires_grad
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(images, before)


def test_titles_are_as_the_field_writes_them_and_unknown_names_stay():
    assert [title_of(name) for name in ("xgrad-cam", "a new method")] == ["XGrad-CAM", "a new method"]
