"""Networks with low-rank adapters (LoRA, Hu et al. 2021): our own, and peft's where it is installed."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.support import TinyNet, assert_same_state, full_graph_gradient, state_of
from xgradcam import explain, verify

ADAPTED = ("features.3", "classifier.0", "classifier.2")
METHODS = ("grad-cam", "xgrad-cam", "layer-cam", "complete-cam", "ablation-cam", "score-cam")


class Adapter(nn.Module):
    """A frozen layer beside a product of two small ones: layer(x) + up(down(x))."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        if isinstance(layer, nn.Conv2d):
            sizes, padding = layer.kernel_size, layer.padding
            self.lora_down = nn.Conv2d(layer.in_channels, 2, sizes, padding=padding, bias=False)
            self.lora_up = nn.Conv2d(2, layer.out_channels, 1, bias=False)
        else:
            self.lora_down = nn.Linear(layer.in_features, 2, bias=False)
            self.lora_up = nn.Linear(2, layer.out_features, bias=False)
        self.merged = False

    def change(self) -> Tensor:
        """What the two layers add to the frozen one's weight."""
        up, down = self.lora_up.weight.flatten(1), self.lora_down.weight.flatten(1)
        return (up @ down).reshape(self.base_layer.weight.shape)

    def merge(self) -> None:
        self.base_layer.weight.data += self.change().detach()
        self.merged = True

    def forward(self, given: Tensor) -> Tensor:
        made = self.base_layer(given)
        return made if self.merged else made + self.lora_up(self.lora_down(given))


def own(net):
    """The network with adapters, its prefix, the call that merges them, and their changes of weights."""
    torch.manual_seed(0)
    adapted = copy.deepcopy(net)
    for name in ADAPTED:
        adapted.set_submodule(name, Adapter(adapted.get_submodule(name)).double())
    layers = {name: adapted.get_submodule(name) for name in ADAPTED}
    changes = {name: layer.change().detach() for name, layer in layers.items()}
    return adapted, "", lambda: [layer.merge() for layer in layers.values()], changes


def of_peft(net):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=list(ADAPTED), init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(net), settings).double().eval()
    layers = {name: adapted.base_model.model.get_submodule(name) for name in ADAPTED}
    changes = {name: layer.get_delta_weight("default").detach().clone() for name, layer in layers.items()}
    return adapted, "base_model.model.", adapted.merge_adapter, changes


@pytest.mark.parametrize("made", [own, of_peft])
def test_maps_of_adapters_are_those_of_the_merged_weights(made):
    net = TinyNet().eval()
    inputs = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    adapted, prefix, merge, changes = made(net)
    plain = copy.deepcopy(net)
    for name, change in changes.items():
        assert change.abs().max() > 0.01
        plain.get_submodule(name).weight.data += change
    activation, gradient = full_graph_gradient(plain, inputs, "features.3", 1)
    by_hand = (gradient.mean(dim=(2, 3), keepdim=True) * activation).sum(dim=1)
    expected, proof = explain(plain, inputs, "features.3", 1, METHODS), verify(plain, inputs, "features.3", 1)
    for merged in (False, True):
        if merged:
            merge()
        before = state_of(adapted)
        found = explain(adapted, inputs, f"{prefix}features.3", 1, METHODS)
        torch.testing.assert_close(found.maps["grad-cam"], by_hand)
        for method in METHODS:
            torch.testing.assert_close(found.maps[method], expected.maps[method])
        proved = verify(adapted, inputs, f"{prefix}features.3", 1)
        torch.testing.assert_close(proved.bias, proof.bias)
        assert (proved.residual.abs() <= proved.tolerance).all()
        assert_same_state(before, state_of(adapted))
