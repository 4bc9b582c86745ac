"""A layer whose output is kept beside the way to the score: by a hook, by the model, by a wrapper.

The reference is the same network written without the detour, and plain autograd.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from tests.support import ANYWHERE
from xgradcam.cam.explain import explain
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.capture.recording import record
from xgradcam.proof.verify import verify


class Keeping(nn.Module):
    """Layer → tanh → head, with a skip from `self.kept`; `keep` says how the layer's output gets there."""

    def __init__(self, keep: str, layer: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.layer = nn.Conv2d(3, 4, 3, padding=1), layer
        self.behind, self.head = nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
        self.keep = keep
        self.kept: list[Tensor] = []
        self.double().eval()

    def forward(self, images: Tensor) -> Tensor:
        self.kept.clear()
        maps = self.layer(self.stem(images))
        if self.keep == "written out":
            self.kept.append(maps)
        behind = torch.tanh(self.behind(maps)).mean((2, 3))
        return self.head(behind + self.kept[0].abs().mean((2, 3)))


class Block(nn.Module):
    """A convolution that may keep its output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.owner: list[Tensor] | None = None

    def forward(self, maps: Tensor) -> Tensor:
        output = self.inner(maps)
        if self.owner is not None:
            self.owner.append(output)
        return output


LAYERS = {
    "convolution": Block,
    "rectifier in place": lambda: nn.ReLU(inplace=True),
    "identity": nn.Identity,
    "dropout": nn.Dropout,
    "view": lambda: nn.Sequential(Block(), nn.Unflatten(1, (2, 2)), nn.Flatten(1, 2)),
}


def keeping(keep: str, layer: str) -> tuple[nn.Module, list]:
    """The network and the handles to remove in the end."""
    net = Keeping(keep, LAYERS[layer]())

    def store(_module, _given, output):
        net.kept.append(output)

    if keep == "hook":
        return net, [net.layer.register_forward_hook(store)]
    if keep == "two hooks":
        return net, [net.layer.register_forward_hook(lambda *_: None), net.layer.register_forward_hook(store)]
    if keep == "hook for all modules":

        def only(module, given, output):
            if module is net.layer:
                store(module, given, output)

        return net, [register_module_forward_hook(only)]
    if keep == "hook in front of the next":
        return net, [net.behind.register_forward_pre_hook(lambda _m, given: net.kept.append(given[0]))]
    if keep == "kept by the layer":
        net.layer.owner = net.kept
    if keep == "hook inside of the layer":
        return net, [net.layer.inner.register_forward_hook(store)]
    return net, []


KEEPS = ["hook", "two hooks", "hook for all modules", "hook in front of the next"]
CASES = [(keep, layer) for keep in KEEPS for layer in LAYERS]
CASES += [("kept by the layer", "convolution"), ("hook inside of the layer", "convolution")]


@pytest.fixture
def images():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize(("keep", "layer"), CASES)
def test_maps_and_proof_are_those_of_the_network_without_the_detour(keep, layer, images):
    plain = Keeping("written out", LAYERS[layer]())
    methods = ANYWHERE
    expected = explain(plain, images, "layer", 1, methods, axioms=True)
    net, handles = keeping(keep, layer)
    try:
        found = explain(net, images, "layer", 1, methods, axioms=True)
        verified = verify(net, images, "layer", 1)
    finally:
        for handle in handles:
            handle.remove()
    for method in methods:
        torch.testing.assert_close(found.maps[method], expected.maps[method])
        torch.testing.assert_close(found.sensitivity[method], expected.sensitivity[method])
    assert verified.closes.all()
    torch.testing.assert_close(verified.feature, verify(plain, images, "layer", 1).feature)


@pytest.mark.parametrize("layer", ["convolution", "view"])
def test_the_reference_is_plain_autograd(layer, images):
    plain = Keeping("written out", LAYERS[layer]())
    output = []
    with plain.layer.register_forward_hook(lambda _m, _i, maps: output.append(maps)):
        score = plain(images)[:, 1].sum()
    (gradient,) = torch.autograd.grad(score, output[0])
    recording = record(keeping("hook", layer)[0], images, "layer")
    torch.testing.assert_close(recording.gradient(recording.output[:, 1]), gradient)


def test_guided_backpropagation_sees_the_skip_too(images):
    net = keeping("hook", "rectifier in place")[0]
    plain = Keeping("written out", nn.ReLU())
    torch.testing.assert_close(
        guided_backpropagation(net, images, 1), guided_backpropagation(plain, images, 1)
    )


class Changed(nn.Module):
    """The layer and what a hook makes of its output, in one module."""

    def __init__(self, layer: nn.Module, change) -> None:
        super().__init__()
        self.layer, self.change = layer, change

    def forward(self, maps: Tensor) -> Tensor:
        return self.change(self.layer(maps))


def doubled(maps: Tensor) -> Tensor:
    return 2 * maps.tanh()


def doubled_in_place(maps: Tensor) -> Tensor:
    return maps.tanh_().mul_(2)


@pytest.mark.parametrize("order", ["change, keep", "keep, change", "change"])
@pytest.mark.parametrize("change", [doubled, doubled_in_place])
def test_the_output_is_that_which_hooks_hand_on(order, change, images):
    net = Keeping("hook", Block())
    hooks = {
        "change": lambda _m, _i, output: None if change(output) is output else change(output),
        "keep": lambda _m, _i, output: net.kept.append(output),
    }
    for name in order.split(", "):
        net.layer.register_forward_hook(hooks[name])
    plain = Keeping("written out", Changed(Block(), doubled))
    if order == "change":
        net.behind.register_forward_pre_hook(lambda _m, given: net.kept.append(given[0]))
    if order == "keep, change":  # then the skip comes from the layer's output before the change
        plain = Before(plain, doubled if change is doubled_in_place else lambda maps: maps)
    methods = ["grad-cam", "xgrad-cam", "hires-cam", "ablation-cam"]
    found = explain(net, images, "layer", 1, methods).maps
    expected = explain(plain, images, "layer", 1, methods).maps
    for method in methods:
        torch.testing.assert_close(found[method], expected[method])


class Before(nn.Module):
    """The network with a skip from the convolution in the layer, past the layer's output."""

    def __init__(self, net: Keeping, change) -> None:
        super().__init__()
        self.net, self.layer, self.change = net, net.layer, change

    def forward(self, images: Tensor) -> Tensor:
        net = self.net
        stem = net.stem(images)
        maps = self.layer(stem)
        behind = torch.tanh(net.behind(maps)).mean((2, 3))
        kept = maps if self.change is doubled else self.layer.layer(stem)
        return net.head(behind + kept.abs().mean((2, 3)))


def test_a_hook_may_make_a_tensor_of_a_tuple(images):
    class Pair(nn.Module):
        def forward(self, maps):
            return maps, maps

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Pair(), nn.Flatten(), nn.Linear(64, 3)).double()
    plain = nn.Sequential(net[0], nn.Identity(), *net[2:])
    net[1].register_forward_hook(lambda _m, _i, output: output[0])
    found, expected = (explain(one, images, "1", 1, ["ablation-cam", "grad-cam"]) for one in (net, plain))
    for method in found.maps:
        torch.testing.assert_close(found.maps[method], expected.maps[method])


def test_what_others_hold_is_not_replaced(images):
    """A layer's input, a buffer or a parameter that it returns stays the caller's own."""

    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.ones(1, 3, 6, 6, dtype=torch.float64))
            self.register_buffer("fixed", torch.ones(1, 3, 6, 6, dtype=torch.float64))

        def forward(self, maps):
            return self.place if self.give == "place" else self.fixed

    for give in ("place", "fixed"):
        held = Held()
        held.give = give
        net = nn.Sequential(held, nn.Flatten(), nn.Linear(108, 3)).double()
        record(net, images[:1], "0")
        assert isinstance(held.place, nn.Parameter)
        assert held.place.is_leaf
        assert not held.fixed.requires_grad
    keys = list(net[0]._forward_hooks), list(net[1]._forward_hooks)
    assert keys == ([], [])
