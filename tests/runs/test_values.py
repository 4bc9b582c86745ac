"""Tensors whose numbers are compared with those that they held."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from xgradcam.runs import values
from xgradcam.runs.values import Values


class Tagged(Tensor):
    """A tensor of a class of its own, whose comparisons tell nothing."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was asked of the class")


def made(kind: str) -> Tensor:
    torch.manual_seed(0)
    numbers = torch.randn(4, 6, 3, 3)
    return {
        "floats": lambda: numbers,
        "channels last": lambda: numbers.contiguous(memory_format=torch.channels_last),
        "part": lambda: numbers[1:3],
        "with gaps": lambda: numbers[:, ::2],
        "repeated": lambda: numbers[:, :1].expand(-1, 6, -1, -1),
        "not a number": lambda: numbers.index_fill(0, torch.tensor([1]), torch.nan),
        "integers": lambda: torch.arange(24).reshape(4, 6),
        "a single integer": lambda: torch.tensor(3),
        "flags": lambda: numbers > 0,
        "half": numbers.half,
        "eight bits": lambda: numbers.to(torch.float8_e4m3fn),
        "double": numbers.double,
        "complex": lambda: torch.complex(numbers, numbers),
        "conjugate": lambda: torch.complex(numbers, numbers).conj(),
        "negative": lambda: torch.complex(numbers, numbers).conj().imag,
        "of a class": lambda: numbers.as_subclass(Tagged),
        "of inference": lambda: inference(numbers),
        "a parameter": lambda: torch.nn.Parameter(numbers),
    }[kind]()


def inference(numbers):
    with torch.inference_mode():
        return numbers.clone()


KINDS = (
    *("floats", "channels last", "part", "with gaps", "repeated", "not a number", "integers"),
    *("a single integer", "flags", "half", "eight bits", "double", "complex", "conjugate", "negative"),
    *("of a class", "of inference", "a parameter"),
)


@pytest.fixture(params=["one by one", "in a row"])
def compared(request, monkeypatch):
    monkeypatch.setattr(values, "_ONE_BY_ONE", {"cpu"} if request.param == "one by one" else set())


def change_last(tensor: Tensor) -> None:
    """Change the last number by a bit of its memory, past the version of the tensor."""
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach()
        plain = plain.conj() if plain.is_conj() else plain
        start = plain.storage_offset() + sum(
            (n - 1) * s for n, s in zip(plain.shape, plain.stride(), strict=True)
        )
        memory = torch.empty(0, dtype=torch.uint8).set_(plain.untyped_storage())
        memory[start * plain.itemsize] ^= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_one_bit_of_the_last_number_is_seen(compared, kind):
    before, tensor, after = torch.ones(3), made(kind), torch.zeros(2, 2)
    held = Values([before, tensor, after])
    assert held.are_unchanged()
    assert held.are_unchanged()
    change_last(tensor)
    assert not held.are_unchanged()
    change_last(tensor)
    assert held.are_unchanged()


def test_exchanged_numbers_are_seen(compared):
    first, second = torch.arange(6.0), torch.arange(6.0).flip(0)
    held = Values([first, second])
    kept = first.clone()
    first.data.copy_(second)
    second.data.copy_(kept)
    assert not held.are_unchanged()


def test_nothing_is_unchanged(compared):
    assert Values([]).are_unchanged()
    assert Values([torch.empty(0, 3)]).are_unchanged()


class Counted(TorchDispatchMode):
    """Counts operations that compute."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_row_is_compared_in_a_few_operations(monkeypatch):
    monkeypatch.setattr(values, "_ONE_BY_ONE", set())
    tensors = [torch.randn(3, 2, generator=torch.Generator().manual_seed(n)) for n in range(300)]
    held = Values([*tensors, *(torch.tensor(n) for n in range(50))])
    with Counted() as counted:
        assert held.are_unchanged()
    names = [name for name in counted.names if "view" not in name and "detach" not in name]
    assert len(names) < 15, names
