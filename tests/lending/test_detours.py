"""A layer that makes something of its output inside, and keeps it: the score may depend on that unseen.

The reference for what is not refused is plain autograd, at the layer's output.
"""

import gc
import threading
import time
import weakref
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support import ANYWHERE
from xgradcam import METHODS, default_layer, explain, explain_score, list_layers, verify
from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError
from xgradcam.lending.detours import listing_new

MADE = {
    "flat view": lambda maps: maps.flatten(2),
    "view of some channels": lambda maps: maps[:, :2],
    "transposed view": lambda maps: maps.transpose(1, 3),
    "the same values": lambda maps: maps.view_as(maps),
    "one of two parts": lambda maps: maps.chunk(2, 1)[1],
    "pooled": lambda maps: functional.adaptive_avg_pool2d(maps, 1),
    "mean": lambda maps: maps.mean((2, 3)),
    "square": lambda maps: maps * maps,
    "copy": lambda maps: maps.clone(),
    "rectified": lambda maps: maps.relu(),
    "in a few steps": lambda maps: (maps.flatten(1).tanh() @ torch.ones(maps[0].numel(), 2).to(maps)).exp(),
}
LOCAL = threading.local()
GLOBAL: dict[str, Tensor] = {}


class Slotted:
    __slots__ = ("held",)


class Layer(nn.Module):
    """Convolution and tanh; `make` is applied to their output, and the result is kept at `place`."""

    def __init__(self, make, place: str) -> None:
        super().__init__()
        self.convolution, self.last = nn.Conv2d(3, 4, 3), nn.Tanh()
        self.make, self.place, self.box = make, place, Slotted()
        self.nested = {"list": [SimpleNamespace()]}
        self.register_buffer("buffer", torch.zeros(1))
        if place.startswith("hook"):
            self.last.register_forward_hook(lambda _module, _given, maps: self.keep(maps))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.last(self.convolution(images))
        if not self.place.startswith("hook"):
            self.keep(maps)
        return maps

    def keep(self, maps: Tensor) -> None:
        made = self.make(maps)
        if self.place in ("attribute", "hook to an attribute", "weak reference", "hook to a weak reference"):
            self.kept = made
        if "weak" in self.place:
            self.weak = weakref.ref(made)
        if self.place == "list in a dictionary":
            self.nested["list"][0].kept = made
        if self.place == "slot":
            self.box.held = made
        if self.place in ("global", "hook to a global"):
            GLOBAL["kept"] = made
        if self.place == "thread":
            LOCAL.kept = made
        if self.place == "closure":
            self.get = lambda: made
        if self.place == "output":
            maps.kept = made
        if self.place == "buffer":
            self.buffer = made

    def take(self, maps: Tensor) -> Tensor:
        return {
            "list in a dictionary": lambda: self.nested["list"][0].kept,
            "slot": lambda: self.box.held,
            "global": lambda: GLOBAL["kept"],
            "hook to a global": lambda: GLOBAL["kept"],
            "thread": lambda: LOCAL.kept,
            "closure": lambda: self.get(),
            "weak reference": lambda: self.weak(),
            "hook to a weak reference": lambda: self.weak(),
            "output": lambda: maps.kept,
            "buffer": lambda: self.buffer,
        }.get(self.place, lambda: self.kept)()


PLACES = ("attribute", "hook to an attribute", "list in a dictionary", "slot", "global", "hook to a global")
PLACES += ("thread", "closure", "weak reference", "hook to a weak reference", "output", "buffer")


class Net(nn.Module):
    """Layer → head, and a skip from what the layer keeps; `use` says for which of the returned numbers."""

    def __init__(self, layer: nn.Module, use: str = "scores") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.use = layer, nn.Linear(4, 3), use
        self.double().eval()

    def forward(self, images: Tensor) -> object:
        maps = self.layer(images)
        skip = self.layer.take(maps).flatten(1).mean(1, keepdim=True).abs()
        scores = self.head(maps.mean((2, 3)))
        if self.use == "scores":
            return scores + skip
        return (scores, skip) if self.use == "beside" else scores


@pytest.fixture(autouse=True)
def nothing_kept():
    """What another test has kept has a graph of its own."""
    GLOBAL.clear()
    vars(LOCAL).clear()


@pytest.fixture
def images():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def net_of(make: str, place: str, use: str = "scores") -> Net:
    torch.manual_seed(1)
    return Net(Layer(MADE[make], place), use)


CASES = [(make, "attribute") for make in MADE] + [(make, "hook to an attribute") for make in MADE]
CASES += [(make, place) for make in ("pooled", "flat view") for place in PLACES[2:]]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("make", "place"), CASES)
def test_a_score_that_depends_on_what_the_layer_made_of_its_output_is_refused(make, place, frozen, images):
    net = net_of(make, place).requires_grad_(not frozen)
    with pytest.raises(
        XGradCamError, match=r"^the score also depends on the layer's output by a tensor that"
    ):
        explain(net, images, "layer", 1)
    assert gc.isenabled()
    left = [vars(net.layer).get("kept"), net.layer.buffer, vars(LOCAL).get("kept"), GLOBAL.get("kept")]
    # PyTorch takes nothing out of a graph that is a view and has a weak reference.
    assert ("view" in make and "weak" in place) or all(one is None or one.grad_fn is None for one in left)


@pytest.mark.parametrize(("make", "place"), CASES)
def test_the_module_that_makes_the_output_is_explained(make, place, images):
    net = net_of(make, place)
    held = []
    with net.layer.last.register_forward_hook(lambda _m, _g, maps: held.append(maps)):
        score = net(images)[:, 1].sum()
    recording = record(net, images, "layer.last")
    torch.testing.assert_close(
        recording.gradient(recording.output[:, 1]), torch.autograd.grad(score, held[0])[0]
    )


# What the layer may keep: from the input and the maps of the convolution, the output, and what is used of it.
FINE = {
    "input of the last module": lambda images, inner, maps: inner,
    "pooled before": lambda images, inner, maps: inner.mean((2, 3)),
    "view before": lambda images, inner, maps: inner.flatten(2),
    "input": lambda images, inner, maps: images.mean((2, 3)),
    "the output": lambda images, inner, maps: maps,
    "without a gradient": lambda images, inner, maps: maps.detach().mean((2, 3)),
    "left by no_grad": lambda images, inner, maps: torch.no_grad()(torch.mean)(maps, (2, 3)),
    "from NumPy": lambda images, inner, maps: torch.from_numpy(maps.detach().numpy() + 1),
}


class Fine(nn.Module):
    """A layer that keeps what is on the way to its output, or what gives no gradient."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.convolution, self.last, self.name = nn.Conv2d(3, 4, 3), nn.Tanh(), name

    def forward(self, images: Tensor) -> Tensor:
        inner = self.convolution(images)
        maps = self.last(inner)
        self.kept = FINE[self.name](images, inner, maps)
        return maps

    def take(self, _maps: Tensor) -> Tensor:
        return self.kept


def gradient_of(net, images, score_of):
    """By plain autograd, at the object that the layer returns."""
    held = []
    with net.layer.register_forward_hook(lambda _m, _g, maps: held.append(maps)):
        score = score_of(net(images)).sum()
    return torch.autograd.grad(score, held[0])[0]


@pytest.mark.parametrize("name", FINE)
def test_what_is_made_on_the_way_to_the_output_is_a_skip_as_any_other(name, images):
    torch.manual_seed(1)
    net = Net(Fine(name))
    recording = record(net, images, "layer")
    gradient = recording.gradient(recording.output[:, 1])
    torch.testing.assert_close(gradient, gradient_of(net, images, lambda scores: scores[:, 1]))
    methods = ANYWHERE
    maps = explain(net, images, "layer", 1, methods).maps
    torch.testing.assert_close(maps["grad-cam"], (gradient.mean((2, 3), True) * recording.activation).sum(1))
    assert verify(net, images, "layer", 1).closes.all()


@pytest.mark.parametrize("use", ["nothing", "beside"])
@pytest.mark.parametrize(("make", "place"), CASES)
def test_what_is_kept_and_is_not_in_the_score_changes_nothing(make, place, use, images):
    net = net_of(make, place, use)
    output = 0 if use == "beside" else None
    found = explain(net, images, "layer", 1, ["grad-cam", "ablation-cam"], output).maps
    expected = gradient_of(net, images, lambda out: (out[0] if use == "beside" else out)[:, 1])
    torch.testing.assert_close(
        found["grad-cam"], (expected.mean((2, 3), True) * net.layer(images)).sum(1).detach()
    )


def test_a_score_of_another_output_that_comes_from_what_is_kept_is_refused(images):
    net = net_of("pooled", "attribute", "beside")
    explain_score(net, images, "layer", lambda out: out[0][:, 1])
    with pytest.raises(XGradCamError, match="the score also depends on the layer's output by a tensor"):
        explain_score(net, images, "layer", lambda out: out[0][:, 1] + out[1][:, 0])


@pytest.mark.parametrize("methods", [[method] for method in ANYWHERE], ids=str)
def test_no_method_shows_a_map_past_which_the_score_depends_on_the_layer(methods, images):
    net = net_of("mean", "attribute")
    replays = METHODS[methods[0]].needs_gradient or methods == ["ablation-cam"]
    if not replays:
        assert explain(net, images, "layer", 1, methods).maps
        return
    with pytest.raises(XGradCamError, match="the score also depends on"):
        explain(net, images, "layer", 1, methods)


def test_proof_and_sensitivity_are_refused_too(images):
    net = net_of("mean", "attribute")
    for call in (
        lambda: verify(net, images, "layer", 1),
        lambda: explain(net, images, "layer", 1, ["random-cam"], axioms=True),
    ):
        with pytest.raises(XGradCamError, match="the score also depends on"):
            call()
    assert verify(net, images, "layer.last", 1).closes.all()


class Own(nn.Module):
    """A layer with a forward of its own: from the layer and the images to the output."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.convolution, self.own = nn.Conv2d(3, 4, 3), forward
        self.register_buffer("bank", torch.zeros(2, 4))
        self.place = torch.zeros(2, 4, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        return self.own(self, self.convolution(images))

    def take(self, _maps: Tensor) -> Tensor:
        return self.kept


def keeping(layer, made, output):
    layer.kept = made
    return output


def with_weak_reference(layer, maps):
    layer.weak = weakref.ref(maps)
    return keeping(layer, maps, maps)


# Each: forward, and True if what is kept comes from the output, and not from what was before it.
FORWARDS = {
    "mean, then in place": (lambda layer, maps: keeping(layer, maps.mean((2, 3)), maps).relu_(), False),
    "in place, then mean": (lambda layer, maps: keeping(layer, maps.relu_().mean((2, 3)), maps), True),
    "view, then in place": (lambda layer, maps: keeping(layer, maps.flatten(2), maps).relu_(), True),
    "into a buffer": (lambda layer, maps: keeping(layer, layer.bank.copy_(maps.mean((2, 3))), maps), True),
    "into an attribute": (
        lambda layer, maps: keeping(layer, layer.place.copy_(maps.mean((2, 3))), maps),
        True,
    ),
    "buffer, before": (lambda layer, maps: keeping(layer, layer.bank.copy_(maps.mean((2, 3))), -maps), False),
    "a view of what is kept": (
        lambda layer, maps: keeping(layer, maps, maps.flatten(2).unflatten(2, (4, 4))),
        True,
    ),
    "two parts": (
        lambda layer, maps: keeping(layer, maps.chunk(2, 1)[1], maps.chunk(2, 1)[0].repeat(1, 2, 1, 1)),
        False,
    ),
    "the output, with a weak reference": (with_weak_reference, True),
    "a sum": (lambda layer, maps: keeping(layer, (maps + 1).sum((2, 3)), maps), True),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_what_is_kept_counts_if_it_comes_from_the_output_as_it_is_returned(name, images):
    forward, counts = FORWARDS[name]
    torch.manual_seed(1)
    net = Net(Own(forward))
    if counts:
        with pytest.raises(XGradCamError, match="the score also depends on"):
            explain(net, images, "layer", 1)
        assert net.layer.bank.grad_fn is None
        assert net.layer.place.grad_fn is None
    else:
        recording = record(net, images, "layer")
        gradient = recording.gradient(recording.output[:, 1])
        assert net.layer.bank.grad_fn is None
        expected = gradient_of(net, images, lambda scores: scores[:, 1])
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("kept", ["before", "made", "of the made"])
def test_a_hook_that_makes_another_output_and_keeps_something_of_it(kept, images):
    class Plain(Fine):
        def forward(self, images):
            return self.last(self.convolution(images))

    def change(module, _given, maps):
        changed = 2 * maps.tanh()
        module.kept = {"before": maps, "made": changed, "of the made": changed.mean((2, 3))}[kept]
        return changed

    torch.manual_seed(1)
    net = Net(Plain("")).requires_grad_(False)
    net.layer.register_forward_hook(change)
    if kept != "before":
        with pytest.raises(XGradCamError, match="the score also depends on"):
            explain(net, images, "layer", 1)
    else:
        recording = record(net, images, "layer")
        gradient = recording.gradient(recording.output[:, 1])
        torch.testing.assert_close(
            gradient, (net.head.weight[1] / 16)[None, :, None, None].expand_as(gradient)
        )


def test_the_default_layer_is_one_that_can_be_explained(images):
    net = net_of("pooled", "attribute")
    layers = list_layers(net, images)
    assert default_layer(layers) == "layer.last"
    assert explain(net, images, default_layer(layers), 1).maps


@pytest.mark.parametrize("enabled", [False, True])
def test_the_garbage_collector_is_left_as_it_was(enabled, images):
    class Broken(nn.Module):
        def forward(self, images):
            raise ValueError("broken")

    (gc.enable if enabled else gc.disable)()
    try:
        explain(net_of("mean", "attribute", "nothing"), images, "layer", 1)
        assert gc.isenabled() == enabled
        with pytest.raises(ValueError, match="broken"):
            record(nn.Sequential(Broken()), images, "0")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_new_tensors_are_those_made_in_the_module_that_someone_holds(images):
    layer = Layer(MADE["pooled"], "attribute").double()
    older = images * 2
    with listing_new(layer) as new, torch.no_grad():
        output = layer(older)
        found = new()
    assert sorted(map(id, found)) == sorted(map(id, (output, layer.kept)))


def test_what_other_threads_make_meanwhile_keeps_its_graph():
    trained, made = nn.Parameter(torch.ones(3)), []

    class Keeping(nn.Module):
        """Keeps what nobody uses, while another thread trains."""

        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 1)

        def forward(self, inputs):
            output = self.convolution(inputs)
            self.kept = output.mean()
            thread = threading.Thread(target=lambda: made.append(trained * 2))
            thread.start()
            thread.join()
            return output

    model = nn.Sequential(Keeping(), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2)).eval()
    explain(model, torch.randn(1, 3, 4, 4), "0", 1)
    assert len(made) > 1
    for tensor in made:
        (gradient,) = torch.autograd.grad(tensor.sum(), trained)
        assert gradient.tolist() == [2, 2, 2]


def test_what_other_threads_keep_is_no_detour():
    """It would cost another forward of the network."""
    kept, runs = [], []

    class Working(nn.Module):
        def forward(self, inputs):
            thread = threading.Thread(target=lambda: kept.append(torch.ones(4).exp()))
            thread.start()
            thread.join()
            return inputs.exp()

    model = nn.Sequential(Working(), nn.Flatten(), nn.Linear(48, 2)).eval()
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    explain(model, torch.randn(1, 3, 4, 4), "0", 1, layout="channels-first")
    assert len(kept) == len(runs) == 1


def test_a_tuple_that_another_thread_is_making_is_left_alone(images):
    """OpenCV makes one for its planes, and cannot go on if anybody else holds it."""
    layer, pixels, done, errors = Layer(MADE["pooled"], "attribute"), np.zeros((64, 64, 3), np.uint8), [], []

    def split():
        while not done:
            try:
                cv2.split(pixels)
            except SystemError as error:
                errors.append(error)

    threads = [threading.Thread(target=split) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end and not errors:
            with listing_new(layer) as new:
                layer(images.float())
                assert any(one is layer.kept for one in new())
    finally:
        done.append(True)
        for thread in threads:
            thread.join()
    assert not errors


def test_listings_in_two_threads_leave_the_collector_on_and_see_what_is_made():
    module, other = Layer(MADE["pooled"], "attribute"), Layer(MADE["pooled"], "attribute")
    images, entered, ended, seen = torch.randn(1, 3, 6, 6), threading.Event(), threading.Event(), []

    def work():
        with listing_new(other) as new:
            entered.set()
            assert ended.wait(30)
            other(images)
            seen.append(any(one is other.kept for one in new()))

    thread = threading.Thread(target=work)
    with listing_new(module) as new:
        module(images)
        thread.start()
        assert entered.wait(30)
        seen.append(any(one is module.kept for one in new()))
    ended.set()
    thread.join()
    assert gc.isenabled()
    assert seen == [True, True]


def test_a_listing_that_begins_in_another_one_hides_nothing():
    module, inner = Layer(MADE["pooled"], "attribute"), nn.ReLU()
    images = torch.randn(1, 3, 6, 6)
    with listing_new(module) as new:
        module(images)
        with listing_new(inner) as other:
            inner(images)
            other()
        assert not gc.isenabled()
        assert any(one is module.kept for one in new())
    assert gc.isenabled()
