"""A model that is borrowed for a call, and the order in memory in which it gets its inputs."""

import copy
import gc
import subprocess
import sys
import weakref
from collections import OrderedDict
from functools import partial

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.support import ANYWHERE, TinyNet, assert_same_state, full_graph_gradient, lived_in, state_of
from xgradcam.cam.explain import explain, explain_classes
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.capture.layers import list_layers
from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError
from xgradcam.proof.verify import verify


@pytest.mark.parametrize("layer", ["features.1", "features.5", "classifier.0"])
def test_the_model_is_left_as_found(batch, layer):
    net = lived_in(TinyNet())
    before = state_of(net)
    recording = record(net, batch, layer)
    recording.gradient(recording.output[:, 0])
    assert_same_state(before, state_of(net))


def test_batch_norm_in_training_mode_keeps_its_statistics_and_counts_for_evaluation(batch):
    net = TinyNet().train()
    before = copy.deepcopy(net.state_dict())
    output = record(net, batch, "features.5").output
    torch.testing.assert_close(output.detach(), copy.deepcopy(net).eval()(batch).detach())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert net.training


@pytest.mark.parametrize("broken", ["features.0", "classifier.1"])
def test_the_model_is_left_as_found_when_it_raises(batch, broken):
    net = lived_in(TinyNet())

    def fail(*_):
        raise RuntimeError("inside the model")

    handle = dict(net.named_modules())[broken].register_forward_pre_hook(fail)
    before = state_of(net)
    for grad_mode in (True, False):
        with torch.set_grad_enabled(grad_mode):
            with pytest.raises(RuntimeError, match="inside the model"):
                record(net, batch, "features.3")
            assert torch.is_grad_enabled() == grad_mode
    assert_same_state(before, state_of(net))
    handle.remove()


def test_eval_is_not_called_for_it_may_be_overridden(batch):
    class Owned(TinyNet):
        def train(self, mode=True):
            raise AssertionError("the owner's switch was touched")

    net = Owned()
    recording = record(net, batch, "features.5")
    torch.testing.assert_close(recording.output, TinyNet().eval()(batch))
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_callers_grad_mode_neither_matters_nor_changes(net, batch, mode):
    reference = record(net, batch, "features.3")
    reference = reference.gradient(reference.output[:, 1])
    with mode():
        flags = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        recording = record(net, batch, "features.3")
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == flags
    score = recording.output[:, 1]
    with torch.set_grad_enabled(mode is torch.enable_grad):
        assert torch.equal(recording.gradient(score), reference)
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)


def test_a_checkpointed_block_runs_again_as_it_ran_before():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.block = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))

        def forward(self, images):
            maps = checkpoint(self.block, self.first(images), use_reentrant=False)
            return maps.square().sum(dim=(2, 3))

    torch.manual_seed(0)
    model, images = Checkpointed().train(), torch.randn(2, 3, 4, 4)
    before = copy.deepcopy(model.state_dict())
    expected = record(copy.deepcopy(model).eval(), images, "first")
    recording = record(model, images, "first")
    torch.testing.assert_close(
        recording.gradient(recording.output[:, 1]), expected.gradient(expected.output[:, 1])
    )
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Viewing(nn.Module):
    """Channels grouped by `view`, in front of the layer, which channels last in memory does not allow."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.layer = nn.Conv2d(2, 5, 3)
        self.runs = 0

    def forward(self, inputs):
        self.runs += 1
        grouped = self.first(inputs).view(len(inputs), 2, 12, 6)
        return self.layer(grouped).view(len(inputs), -1)[:, :7]


@pytest.mark.parametrize("samples", [1, 3, 4, 9])
def test_maps_are_those_of_the_plain_order_in_memory(samples):
    # In float64: in float32 a rounding here and there moves a value over the kink of a ReLU.
    model = torchvision.models.resnet18(num_classes=10).double().eval()
    inputs = torch.randn(samples, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    seen = []
    model.conv1.register_forward_pre_hook(lambda _m, given: seen.append(given[0].is_contiguous()))
    recording = record(model, inputs, "layer3")
    gradient = recording.gradient(recording.output[:, 3])
    # Two samples are tried in both orders first.
    assert seen == ([True] if samples < 4 else [True, False, False])
    assert recording.activation.is_contiguous()
    activation, reference = full_graph_gradient(model, inputs, "layer3", 3)
    torch.testing.assert_close(recording.activation.detach(), activation)
    torch.testing.assert_close(gradient, reference)


def test_a_model_that_does_not_take_to_channels_last_is_run_as_it_is_and_from_then_on_at_once():
    torch.manual_seed(0)
    model, inputs = Viewing(), torch.randn(5, 3, 8, 8)
    expected = model(inputs)
    model.runs = 0
    torch.testing.assert_close(record(model, inputs, "layer").output, expected)
    assert model.runs == 3
    torch.testing.assert_close(record(model, inputs, "layer").output, expected)
    assert model.runs == 4


def test_a_model_that_fails_behind_the_layer_is_run_again_without_a_graph_in_front_of_it():
    class Beside(Viewing):
        def forward(self, inputs):
            first = self.first(inputs)
            return self.layer(first[:, :2]).mean((2, 3)) + first.view(len(inputs), -1)[:, :5]

    torch.manual_seed(0)
    model, inputs = Beside().double(), torch.randn(5, 3, 8, 8).double()
    modes = []
    model.first.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    recording = record(model, inputs, "layer")
    assert not any(modes)
    activation, gradient = full_graph_gradient(model, inputs, "layer", 1)
    torch.testing.assert_close(recording.activation.detach(), activation)
    torch.testing.assert_close(recording.gradient(recording.output[:, 1]), gradient)
    assert gradient.abs().max() > 0
    assert torch.is_grad_enabled()


class Strided(nn.Module):
    """Squares of 2 x 2 pixels as channels, by strides of which a contiguous input is assumed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.last = nn.Conv2d(12, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, inputs):
        count, channels, height, width = inputs.shape
        size = count, channels, 2, 2, height // 2, width // 2
        squares = inputs.as_strided(size, (channels * height * width, height * width, width, 1, 2 * width, 2))
        return self.last(self.layer(squares.reshape(count, -1, *size[-2:])).tanh().mean((2, 3)))


@pytest.mark.parametrize("samples", [1, 3, 4, 8])
def test_a_model_that_counts_on_the_plain_order_in_memory_gets_it(samples):
    model, inputs = Strided().double(), torch.randn(samples, 3, 8, 8).double()
    for _ in range(2):
        recording = record(model, inputs, "layer")
        activation, gradient = full_graph_gradient(model, inputs, "layer", 1)
        torch.testing.assert_close(recording.output, model(inputs))
        torch.testing.assert_close(recording.activation.detach(), activation)
        torch.testing.assert_close(recording.gradient(recording.output[:, 1]), gradient)
    held = weakref.ref(model)
    del model, recording
    gc.collect()
    assert held() is None


WRAPPERS = {
    "DataParallel": ("module.", nn.DataParallel),
    "compiled": ("_orig_mod.", partial(torch.compile, backend="eager")),
    "compiled in place": ("", lambda net: net.compile(backend="eager") or net),
    "compiled, in parallel": (
        "module._orig_mod.",
        lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    ),
}


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_step_aside(net, batch, name):
    prefix, wrap = WRAPPERS[name]
    expected = {key: explain(net, batch, "features.3", 1, [key]).maps[key] for key in ANYWHERE}
    guided, proof = guided_backpropagation(net, batch, 1), verify(net, batch, "features.3", 1)
    wrapper = wrap(copy.deepcopy(net))
    inner = wrapper.get_submodule(f"{prefix}features.3")
    with torch.no_grad():
        wrapper(batch)  # compiled ones compile when they first run
    before, attributes = state_of(wrapper), [set(vars(module)) for module in wrapper.modules()]
    for layer in {f"{prefix}features.3", "features.3", inner}:
        for key, maps in explain(wrapper, batch, layer, 1, list(expected)).maps.items():
            torch.testing.assert_close(maps, expected[key])
        torch.testing.assert_close(verify(wrapper, batch, layer, 1).bias, proof.bias)
    torch.testing.assert_close(guided_backpropagation(wrapper, batch, 1), guided)
    assert {one.name for one in list_layers(wrapper, batch)} >= {f"{prefix}features.3"}
    assert_same_state(before, state_of(wrapper))
    assert attributes == [set(vars(module)) for module in wrapper.modules()]
    with torch.no_grad():
        torch.testing.assert_close(wrapper(batch), net(batch))


TRAINING = """
import copy, sys
import torch, torch.distributed
from tests.support import TinyNet
from xgradcam.cam.explain import explain
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.proof.verify import verify

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
batch = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
weights = []
for look in (False, True):
    model = torch.nn.parallel.DistributedDataParallel(TinyNet())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(3):
        def peek():
            if look:
                found = explain(model, batch, "module.features.3", 1, ["xgrad-cam", "ablation-cam"]).maps
                plain = explain(copy.deepcopy(model.module), batch, "features.3", 1).maps
                torch.testing.assert_close(found["xgrad-cam"], plain["xgrad-cam"])
                guided_backpropagation(model, batch, 1)
                assert verify(model, batch[:1], "features.3", 1).closes.all()
        peek()
        optimizer.zero_grad()
        loss = model(batch).logsumexp(1).sum()
        peek()
        loss.backward()
        peek()
        optimizer.step()
    weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
assert torch.equal(*weights)
torch.distributed.destroy_process_group()
print("the same")
"""


def test_training_on_several_devices_goes_on_as_if_nobody_had_looked(tmp_path):
    command = [sys.executable, "-c", TRAINING, str(tmp_path / "meeting")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout == "the same\n", done.stderr


class Reentrant(nn.Module):
    """A checkpointed block, as old training code has it."""

    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.reentrant = reentrant

    def forward(self, images):
        maps = checkpoint(self.block, self.first(images).tanh(), use_reentrant=self.reentrant)
        return self.last(maps.mean(dim=(2, 3)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("layer", ["first", "block.0", "block"])
def test_reentrant_checkpoints_are_named(layer):
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = explain(Reentrant(False), images, layer, 1, ["hires-cam"])
    assert (expected.maps["hires-cam"] != 0).any()
    calls = [
        lambda: explain(Reentrant(True), images, layer, 1, ["hires-cam"]),
        lambda: explain(Reentrant(True), images, layer, 1, ["shapley-cam"]),
        lambda: explain_classes(Reentrant(True), images, layer, [0, 1]),
        lambda: verify(Reentrant(True), images, layer, 1),
    ]
    for call in calls:
        with pytest.raises(
            XGradCamError, match="use_reentrant=True, which gives no gradient of a layer"
        ) as e:
            call()
        assert "\n" not in str(e.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_models_whose_layers_do_not_run_are_named(net, batch):
    outer = nn.Sequential(OrderedDict(inner=torch.jit.trace(net, batch), last=nn.Flatten()))
    exported = torch.export.export(net, (batch,))
    cases = [
        (torch.jit.trace(net, batch), "features.3", "the model is scripted or traced: give the module that"),
        (outer, "inner.features.3", "'inner' is scripted or traced: give the module that it was made from"),
        (exported, "features.3", "the model is exported, which merges its layers: give the module that"),
        (exported.module(), "features.3", "the model is exported, which merges its layers"),
    ]
    for model, layer, message in cases:
        with pytest.raises(XGradCamError, match=message):
            explain(model, batch, layer)
    for model in (exported, exported.module()):
        with pytest.raises(XGradCamError, match="the model is exported"):
            list_layers(model, batch)
    torch.testing.assert_close(record(outer, batch, "last").output, net(batch))
    # The remedy that the messages name.
    for state in (torch.jit.trace(net, batch).state_dict(), exported.state_dict):
        TinyNet(seed=1).load_state_dict(state)
    traced = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(
        explain(traced, batch, "features.3", 1).maps, explain(net, batch, "features.3", 1).maps
    )


def test_an_error_of_the_model_is_its_own_and_memory_is_not_asked_for_twice():
    model = Viewing()
    with pytest.raises(RuntimeError, match="expected input"):
        record(model, torch.randn(5, 2, 8, 8), "layer")
    record(model, torch.randn(5, 3, 8, 8), "layer")

    def exhausted(*_):
        raise torch.OutOfMemoryError

    model.runs = 0
    model.first.register_forward_hook(exhausted)
    fresh = copy.deepcopy(model)
    with pytest.raises(torch.OutOfMemoryError):
        record(fresh, torch.randn(5, 3, 8, 8), "layer")
    assert fresh.runs == 1


def test_a_model_whose_weights_are_channels_last_gives_the_same(batch):
    net = TinyNet()
    plain = record(net, batch, "features.4")
    net.to(memory_format=torch.channels_last)
    found = record(net, batch, "features.4")
    torch.testing.assert_close(found.output, plain.output)
    torch.testing.assert_close(found.gradient(found.output[:, 1]), plain.gradient(plain.output[:, 1]))
