"""Outputs of a layer that someone keeps: after a call they are what they were."""

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from tests.support import OF_ACTIVATION
from xgradcam import explain, verify
from xgradcam.capture.replacing import replay
from xgradcam.operations.calls import tensors_of

SHAPE = (1, 4, 8, 8)
SHARED = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


class Table(nn.Module):
    """Returns a tensor that is not made in this forward, or only in the first."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
        if kind == "attribute":
            self.table = values
        if kind == "buffer":
            self.register_buffer("table", values)
        if kind == "parameter":
            self.table = nn.Parameter(values)
        self.kept = None

    # On a method, as some networks cache their tables of positions.
    @functools.lru_cache(maxsize=4)  # noqa: B019
    def cached(self, rows: int) -> Tensor:
        return torch.arange(256.0).reshape(SHAPE).sin().expand(rows, -1, -1, -1).clone()

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def cached_view(self, rows: int) -> Tensor:
        return torch.arange(256.0).reshape(1, 8, 8, 4).cos().permute(0, 3, 1, 2).expand(rows, -1, -1, -1)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.kind == "global":
            return SHARED
        if self.kind == "cache":
            return self.cached(len(inputs))
        if self.kind == "cached view":
            return self.cached_view(len(inputs))
        if self.kind == "first forward":
            self.kept = inputs.tanh() if self.kept is None else self.kept
            return self.kept
        return self.table


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.prompt = nn.Parameter(torch.randn(SHAPE))
        self.position = Table(kind)
        if kind == "parent's parameter":
            self.position.forward = lambda _inputs: self.prompt
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.convolution(inputs)
        return self.head((maps + self.position(maps)).relu().mean((2, 3)))


KINDS = ("attribute", "buffer", "parameter", "parent's parameter", "global")
KINDS += ("cache", "cached view", "first forward")


@pytest.fixture(params=KINDS)
def net(request):
    torch.manual_seed(0)
    return Net(request.param).eval()


def objects_of(net):
    return {
        name: (id(value), type(value), value.shape, value.requires_grad, value.detach().clone())
        for module in (net, net.position)
        for name, value in {**vars(module), **module._parameters, **module._buffers}.items()
        if isinstance(value, Tensor)
    } | {"shared": (id(SHARED), type(SHARED), SHARED.shape, SHARED.requires_grad, SHARED.clone())}


@pytest.mark.parametrize("methods", [["grad-cam", "xgrad-cam"], ["ablation-cam"], OF_ACTIVATION], ids=len)
def test_what_the_model_keeps_is_what_it_was(net, methods):
    methods = [method for method in methods if method != "cam"]
    inputs = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = net(inputs)
    held = objects_of(net)
    explain(net, inputs, "position", 1, methods, layout="channels-first")
    verify(net, inputs, "position", 1)
    for name, (identity, kind, shape, graph, values) in objects_of(net).items():
        assert (identity, kind, shape, graph) == held[name][:4], name
        assert torch.equal(values, held[name][4]), name
    with torch.no_grad():
        assert torch.equal(net(inputs), before)
    copy.deepcopy(net)


@pytest.mark.parametrize("kind", ["cache", "cached view", "first forward"])
def test_what_the_model_keeps_from_this_call_is_its_own(kind):
    torch.manual_seed(0)
    inputs = torch.randn(1, 3, 8, 8)
    net = Net(kind).eval()
    other = copy.deepcopy(net)
    explain(net, inputs, "position", 1, ["ablation-cam", "grad-cam"], layout="channels-first")
    with torch.no_grad():
        assert torch.equal(net(inputs), other(inputs))
    for table in (net.position.cached(1), net.position.cached_view(1), net.position.kept):
        assert table is None or not table.requires_grad


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: {"scores": y}, lambda y: (y, 1)])
def test_a_replay_returns_the_variants_if_the_layer_is_the_last(wrap):
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 2)

        def forward(self, inputs: Tensor) -> object:
            return wrap(self.last(inputs))

    variants = torch.arange(8.0).reshape(4, 2)
    returned = replay(Last().eval(), torch.zeros(1, 3), "last", variants)
    (found,) = tensors_of(returned)
    assert torch.equal(found, variants)
