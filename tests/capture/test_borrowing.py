"""A model that is borrowed for a call, and the order in memory in which it gets its inputs."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.support import TinyNet, assert_same_state, full_graph_gradient, lived_in, state_of
from xgradcam.capture.recording import record


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
