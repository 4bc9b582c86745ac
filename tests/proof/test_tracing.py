"""The operations behind the layer, each noted once, however it is written."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.proof.support import IMAGES, Branched, closing, kinds, net, redrawn, sequential
from xgradcam.errors import XGradCamError
from xgradcam.proof.verify import verify


def test_a_shared_module_counts_every_time_it_runs() -> None:
    model = net(lambda x, conv: conv(conv(x).relu()), nn.Conv2d(4, 4, 1))
    assert kinds(closing(model)) == [("parts.0", "conv2d", "bias")] * 2


def test_functions_and_modules_are_the_same() -> None:
    def by_functions(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
        x = functional.conv2d(x, conv.weight, conv.bias)
        x = functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps
        )
        return functional.max_pool2d(functional.relu6(x), 2)

    parts = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    modular = closing(net(lambda x, conv, norm: functional.max_pool2d(nn.ReLU6()(norm(conv(x))), 2), *parts))
    by_function = closing(net(by_functions, *parts))
    for ours, theirs in zip(modular.contributions, by_function.contributions, strict=True):
        assert torch.equal(ours.value, theirs.value)
    assert kinds(by_function) == [("", op, "bias") for op in ("conv2d", "batch_norm", "relu6")]


def test_operations_in_place_leave_the_terms_before_them_alone() -> None:
    def written(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
        x = norm(conv(x).relu_())
        functional.hardtanh_(x, -1, 1)
        x += 2
        x[:, 1:3] -= 1.5
        x.view(-1)[3:9].clamp_(max=0.25)
        x[:, 0, 1:] = 0.75
        return x.mul_(3)

    def anew(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
        x = functional.hardtanh(norm(conv(x).relu()), -1, 1) + 2
        x = torch.cat([x[:, :1], x[:, 1:3] - 1.5, x[:, 3:]], 1)
        flat = x.flatten(1)
        x = torch.cat([flat[:, :3], flat[:, 3:9].clamp(max=0.25), flat[:, 9:]], 1).view_as(x)
        mask = torch.zeros_like(x)
        mask[:, 0, 1:] = 1
        return x.where(mask == 0, 0.75) * 3

    parts = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    in_place, out_of_place = (
        closing(net(written, *parts), images=IMAGES[:1]),
        closing(net(anew, *parts), images=IMAGES[:1]),
    )
    torch.testing.assert_close(in_place.bias, out_of_place.bias)
    torch.testing.assert_close(in_place.feature, out_of_place.feature)
    assert kinds(in_place).count(("", "add", "bias")) == 1


def test_writing_to_a_constant_makes_it_dependent() -> None:
    def filled(x: Tensor) -> Tensor:
        canvas = torch.full((len(x), 6, 8, 8), 0.5, dtype=x.dtype)
        canvas[:, 1:5] = x
        canvas[:, :2] += x[:, :2]
        return canvas * 2

    model = net(filled)
    found = closing(model)
    assert kinds(found) == [("", "setitem", "bypass")]
    outside = model.head.weight[1].reshape(6, 64)[[0, 5]].sum().detach()
    torch.testing.assert_close(found.bypass, (2 * 0.5 * outside).expand(2))


def test_a_view_taken_before_a_write_sees_it() -> None:
    def late(x: Tensor) -> Tensor:
        x = x * 1
        view = x[:, :2]
        x += 3
        return view * 2

    model = net(late)
    found = closing(model)
    assert kinds(found) == [("", "add", "bias")]
    expected = 2 * 3 * model.head.weight[1].sum() + model.head.bias[1]
    torch.testing.assert_close(found.bias, expected.detach().expand(2))


def test_a_transformer_layer_does_not_take_the_fused_path() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=True)
    found = closing(net(lambda x, encode: encode(x.flatten(2).transpose(1, 2)), layer))
    assert ("parts.0.norm1", "layer_norm", "curvature") in kinds(found)


def test_a_side_input_that_is_written_to_later_is_remembered_as_it_was() -> None:
    class Written(Branched):
        def forward(self, inputs: Tensor) -> Tensor:
            stem = self.stem(inputs).relu()
            side = self.right(stem)
            summed = self.left(stem) + side
            side.mul_(0)
            return self.head(torch.cat([summed, side], 1).mean((2, 3)))

    model = redrawn(Written())
    found = closing(model, "left")
    with torch.no_grad():
        side = model.right(model.stem(IMAGES).relu())
    torch.testing.assert_close(found.bypass, side.mean((2, 3)) @ model.head.weight[1, :4].detach())


def test_a_custom_function_is_refused() -> None:
    class Squash(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.tanh()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    model = net(lambda x: x)
    model.between = lambda x: Squash.apply(x)
    with pytest.raises(XGradCamError, match=r"autograd\.Function, Squash"):
        verify(model, IMAGES, "stem")


def test_what_cannot_be_intercepted_is_refused_and_leaves_autograd_on() -> None:
    with pytest.raises(XGradCamError, match="the model is scripted or traced: give the module that it was"):
        verify(torch.jit.trace(sequential(), IMAGES), IMAGES, "0")
    with pytest.raises(XGradCamError, match=r"inside of torch\.func or torch\.vmap"):
        verify(net(lambda x: x + torch.vmap(torch.sigmoid)(x)), IMAGES, "stem")
    assert (torch.ones(2, requires_grad=True) * 2).requires_grad


def test_what_passes_a_layer_by_is_bypass_and_not_counted_twice() -> None:
    model = redrawn(Branched())
    at_left = closing(model, "left")
    assert kinds(at_left) == [("", "add", "bypass"), ("", "cat", "bypass"), ("norm", "batch_norm", "bias")]
    assert (at_left.bypass != 0).all()
    at_stem = closing(model, "stem")
    assert kinds(at_stem) == [(name, "conv2d", "bias") for name in ("left", "right")] + [
        ("norm", "batch_norm", "bias")
    ]
    assert (at_stem.bypass == 0).all()
