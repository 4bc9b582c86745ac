import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.support import TinyNet
from xgradcam.capture.borrowing import Arrangement
from xgradcam.capture.layers import find_layer
from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError


def full_graph_gradient(net, inputs, layer, target):
    """The slow reference: no operation in place, the graph of the whole network, one sample at a time."""
    plain = copy.deepcopy(net).eval()
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    kept = []
    dict(plain.named_modules())[layer].register_forward_hook(lambda _m, _i, output: kept.append(output))
    pairs = []
    for sample in inputs:
        kept.clear()
        score = plain(sample[None])[0, target]
        pairs.append((kept[0].detach(), torch.autograd.grad(score, kept[0])[0]))
    return tuple(torch.cat(parts) for parts in zip(*pairs, strict=True))


@pytest.mark.parametrize(
    "layer", ["features.0", "features.1", "features.2", "features.3", "features.4", "features.5"]
)
def test_activation_and_gradient_are_the_full_graphs_also_before_an_in_place_relu(net, batch, layer):
    recording = record(net, batch, layer)
    gradient = recording.gradient(recording.output[:, 2])
    activation, reference = full_graph_gradient(net, batch, layer, 2)
    torch.testing.assert_close(recording.activation.detach(), activation)
    torch.testing.assert_close(gradient, reference)
    assert reference.abs().max() > 0


def test_a_module_that_hands_on_its_input_does_not_let_later_writes_into_the_activation():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.Identity()

        def forward(self, inputs):
            handed_on = self.same(inputs)
            inputs.mul_(0)  # the caller of the layer still holds what it gave to it
            return handed_on.sum(dim=(2, 3))

    inputs = torch.rand(1, 2, 3, 3)
    before = inputs.clone()
    recording = record(Net(), inputs, "same")
    assert torch.equal(recording.activation, before)


def state_of(model):
    return {
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "tensors": [tensor.clone() for tensor in model.state_dict().values()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    }


def assert_same_state(left, right):
    assert left["training"] == right["training"]
    assert left["requires_grad"] == right["requires_grad"]
    assert left["hooks"] == right["hooks"]
    for one, other in zip(left["grad"], right["grad"], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    assert all(torch.equal(one, other) for one, other in zip(left["tensors"], right["tensors"], strict=True))


def lived_in(net):
    """A model in the middle of its owner's work: mixed flags, a frozen layer, gradients in place."""
    net.train()
    net.features[1].eval()
    net.features[0].weight.requires_grad_(False)
    net.classifier[0].weight.grad = torch.full_like(net.classifier[0].weight, 7.0)
    net.features[3].register_forward_hook(lambda *_: None)
    return net


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

    record(Owned(), batch, "features.5")


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


def test_a_frozen_model_has_gradients_too(net, batch):
    reference = record(net, batch, "features.3")
    net.requires_grad_(False)
    recording = record(net, batch, "features.3")
    assert torch.equal(recording.gradient(recording.output[:, 1]), reference.gradient(reference.output[:, 1]))


def test_no_graph_of_the_trunk_and_no_gradient_of_parameters(net, batch):
    tracked = {}
    for name, module in net.named_modules():
        module.register_forward_hook(
            lambda _m, _i, output, name=name: tracked.__setitem__(name, output.requires_grad)
        )
    recording = record(net, batch, "features.3")
    recording.gradient(recording.output[:, 0])
    assert not tracked["features.0"]
    assert not tracked["features.2"]
    assert tracked["features.4"]
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d, nn.BatchNorm3d])
def test_norms_in_front_of_tokens_have_the_gradient_of_finite_differences(norm, samples):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.same, self.norm = nn.Identity(), norm(6).double()

        def forward(self, maps):
            shape = (4, 3) if norm is not nn.BatchNorm3d else (2, 2, 3)
            maps = self.norm(self.same(maps).reshape(len(maps), 6, *shape))
            return (maps.flatten(2).transpose(1, 2) * weights).sum(dim=(1, 2))[:, None]

    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(samples, 6, 4, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    net = Tokens().eval()
    recording = record(net, maps, "same")
    gradient = recording.gradient(recording.output[:, 0])
    for place in ((0, 1, 2, 1), (samples - 1, 5, 0, 2)):
        step = torch.zeros_like(maps)
        step[place] = 1e-6
        with torch.no_grad():
            slope = (net(maps + step) - net(maps - step)).sum() / 2e-6
        assert gradient[place].item() == pytest.approx(slope.item(), abs=1e-6)


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


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("tokens", ["behind", "before", "around"])
def test_a_batch_norm_beside_tokens_has_the_right_gradient(samples, tokens):
    """PyTorch's own gradient is wrong here for one sample: the layout of the tokens deceives it."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.same, self.norm = nn.Identity(), nn.BatchNorm2d(8).double()
            self.norm.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))

        def forward(self, sequence):
            sequence = self.same(sequence)
            maps = sequence.transpose(1, 2).unflatten(2, (5, 5))
            maps = self.norm(maps if tokens != "behind" else maps.contiguous())
            if tokens == "before":
                return torch.stack(
                    [(maps * weights.transpose(1, 2).unflatten(2, (5, 5))).sum(dim=(1, 2, 3))], 1
                )
            return torch.stack([(maps.flatten(2).transpose(1, 2) * weights).sum(dim=(1, 2))], 1)

    generator = torch.Generator().manual_seed(1)
    inputs, weights = torch.randn(2, samples, 25, 8, generator=generator, dtype=torch.float64)
    weights = weights.transpose(1, 2).contiguous().transpose(1, 2) if tokens == "before" else weights
    net = Tokens().eval()
    recording = record(net, inputs, "same")
    slope = (net.norm.running_var + net.norm.eps).rsqrt()
    torch.testing.assert_close(recording.gradient(recording.output[:, 0]), (weights * slope).detach())


def test_a_layer_that_runs_twice_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, inputs):
            return self.relu(self.relu(inputs))

    with pytest.raises(XGradCamError, match="'relu' runs more than once"):
        record(Net(), torch.ones(1, 2), "relu")


def test_a_layer_that_does_not_run_is_named(net, batch):
    net.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(XGradCamError, match="'spare' did not run"):
        record(net, batch, "spare")


def test_a_layer_without_one_float_tensor_is_named():
    class Pair(nn.Module):
        def forward(self, inputs):
            return inputs, inputs

    class Count(nn.Module):
        def forward(self, inputs):
            return inputs.long()

    for module, what in ((Pair(), "a tuple"), (Count(), "int64")):
        with pytest.raises(XGradCamError, match=f"layer '0' returns .*{what}"):
            record(nn.Sequential(module), torch.ones(1, 2), "0")


def test_a_score_beside_the_layer_is_an_error(net, batch):
    recording = record(net, batch, "features.3")
    with pytest.raises(XGradCamError, match="does not depend on the layer"):
        recording.gradient(torch.ones(3))
    with pytest.raises(XGradCamError, match="does not depend on the layer"):
        recording.gradient(torch.ones(3, requires_grad=True))


def test_layers_by_name_and_by_module(net):
    assert find_layer(net, "features.3") == ("features.3", net.features[3])
    assert find_layer(net, net.features[3]) == ("features.3", net.features[3])


def test_a_wrong_name_gets_the_nearest_and_a_strange_module_is_refused(net):
    with pytest.raises(
        XGradCamError, match=r"no layer 'feature\.3' in this TinyNet; did you mean 'features\.3'"
    ):
        find_layer(net, "feature.3")
    with pytest.raises(XGradCamError, match="a ReLU, is not a module of this TinyNet"):
        find_layer(net, nn.ReLU())


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_what_is_no_model_no_layer_and_no_input_is_said(net, batch):
    traced = torch.jit.trace(net, batch)
    for model, inputs, layer, message in (
        (lambda images: images, batch, "features.4", r"the model is a function: give a torch\.nn\.Module"),
        (traced, batch, "features.4", "the model is scripted: give the module that it was made from"),
        (torch.compile(net), batch, "features.4", "the model is compiled: give the one that it was made"),
        (net, batch.numpy(), "features.4", r"the inputs are a ndarray: give a tensor \(N, \.\.\.\)"),
        (net, [batch], "features.4", "the inputs are a list: give a tensor"),
        (net, batch, 4, "the layer is 4: give a module of the model, or its name"),
    ):
        with pytest.raises(XGradCamError, match=message):
            record(model, inputs, layer)


def test_gradients_of_several_scores_are_those_one_by_one(net, batch, monkeypatch):
    recording = record(net, batch, "features.4")
    scores = list(recording.output.unbind(dim=1))
    expected = [recording.gradient(score) for score in scores]
    for largest in (2**24, 2 * recording.activation.numel(), 1):
        monkeypatch.setattr("xgradcam.capture.recording.MAX_ENTRIES", largest)
        for found, alone in zip(recording.gradient_each(scores), expected, strict=True):
            torch.testing.assert_close(found, alone)


def test_several_scores_are_one_backward_where_the_operations_take_to_it(net, batch, monkeypatch):
    runs = []
    grad = torch.autograd.grad

    def counted(*arguments, **options):
        runs.append(options.get("is_grads_batched", False))
        return grad(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    recording = record(net, batch, "features.4")
    list(recording.gradient_each(list(recording.output.unbind(dim=1))))
    assert runs == [True]


def test_an_operation_that_cannot_be_batched_goes_one_by_one(net, batch):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(context, values):
            return 2 * values

        @staticmethod
        def backward(context, gradient):
            return 2 * torch.from_numpy(gradient.detach().numpy())

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, images):
            return Doubled.apply(self.net(images))

    recording = record(Custom(), batch, "net.features.4")
    scores = list(recording.output.unbind(dim=1))
    for found, score in zip(recording.gradient_each(scores), scores, strict=True):
        torch.testing.assert_close(found, recording.gradient(score))


def test_second_derivatives_are_zero_where_there_are_none(net, batch):
    recording = record(net, batch, "features.4")
    direction = torch.ones_like(recording.activation)
    assert not recording.hessian_product(recording.output[:, 1], direction).any()
    squares = (recording.output[:, 1] ** 2) / 2
    gradient = recording.gradient(recording.output[:, 1])
    expected = gradient * (gradient * direction).sum(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(recording.hessian_product(squares, direction), expected)


# ------------------------------------------------------------------ channels last


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
    assert seen == [samples < 4]
    assert recording.activation.is_contiguous()
    activation, reference = full_graph_gradient(model, inputs, "layer3", 3)
    torch.testing.assert_close(recording.activation.detach(), activation)
    torch.testing.assert_close(gradient, reference)


def test_a_model_that_does_not_take_to_channels_last_is_run_as_it_is_and_from_then_on_at_once():
    model, inputs = Viewing(), torch.randn(5, 3, 8, 8)
    expected = model(inputs)
    model.runs = 0
    arrangement = Arrangement()
    torch.testing.assert_close(record(model, inputs, "layer", arrangement=arrangement).output, expected)
    assert model.runs == 2
    torch.testing.assert_close(record(model, inputs, "layer", arrangement=arrangement).output, expected)
    assert model.runs == 3


def test_a_model_that_fails_behind_the_layer_is_run_again_without_a_graph_in_front_of_it():
    class Beside(Viewing):
        def forward(self, inputs):
            first = self.first(inputs)
            return self.layer(first[:, :2]).mean((2, 3)) + first.view(len(inputs), -1)[:, :5]

    model, inputs = Beside(), torch.randn(5, 3, 8, 8)
    modes = []
    model.first.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    recording = record(model, inputs, "layer")
    assert modes == [False, False]
    assert recording.gradient(recording.output[:, 1]).shape == recording.activation.shape
    assert torch.is_grad_enabled()


def test_an_error_of_the_model_is_its_own_and_memory_is_not_asked_for_twice():
    model = Viewing()
    with pytest.raises(RuntimeError, match="expected input"):
        record(model, torch.randn(5, 2, 8, 8), "layer")
    assert model.runs == 2
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
