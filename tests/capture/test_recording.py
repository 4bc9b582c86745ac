import pytest
import torch
from torch import nn

from tests.support import full_graph_gradient
from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError


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


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_what_is_no_model_no_layer_and_no_input_is_said(net, batch):
    traced = torch.jit.trace(net, batch)
    for model, inputs, layer, message in (
        (lambda images: images, batch, "features.4", r"the model is a function: give a torch\.nn\.Module"),
        (traced, batch, "features.4", "the model is scripted or traced: give the module that it was made"),
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
