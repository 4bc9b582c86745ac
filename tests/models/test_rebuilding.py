import itertools
from collections import OrderedDict

import pytest
import torch
from torch import nn

from xgradcam.models.checkpoints import read_state_dicts
from xgradcam.models.rebuilding import BEYOND, Unreadable, tensor_of
from xgradcam.models.unpickling import Inert


class Marked(torch.Tensor):
    pass


def tensor_in(tmp_path, tensor, zipped=True):
    torch.save({"a": tensor, "b": torch.ones(1)}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    (state,) = read_state_dicts(tmp_path / "a.pth").values()
    assert torch.equal(state["b"], torch.ones(1))
    return state["a"]


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.bool, torch.complex64,
]  # fmt: skip


ZIP_ONLY = (torch.uint16, torch.uint32, torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("dtype", "zipped"),
    [(dtype, True) for dtype in DTYPES] + [(dtype, False) for dtype in DTYPES if dtype not in ZIP_ONLY],
    ids=str,
)
def test_tensors_of_every_number_type_are_read(tmp_path, dtype, zipped):
    numbers = torch.arange(12, dtype=torch.uint8).to(dtype)
    for tensor in (numbers, numbers.reshape(3, 4).T, numbers[5:], numbers[:0], numbers[3].reshape(())):
        found = tensor_in(tmp_path, tensor, zipped)
        assert (found.dtype, found.shape, found.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
        assert torch.equal(found.to(torch.complex64), tensor.to(torch.complex64))


@pytest.mark.parametrize("zipped", [True, False])
def test_parameters_and_buffers_are_read_as_tensors(tmp_path, zipped):
    marked = nn.Parameter(torch.arange(3.0))
    marked.note = "kept beside it"
    for tensor in (nn.Parameter(torch.arange(3.0)), marked, torch.arange(3.0).requires_grad_()):
        found = tensor_in(tmp_path, tensor, zipped)
        assert type(found) is torch.Tensor
        assert found.tolist() == [0, 1, 2]
        assert not found.requires_grad


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: torch.eye(3).to_sparse(), "a sparse tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "a sparse tensor"),
        (lambda: torch.empty(3, device="meta"), "a tensor without values, of the meta device"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested tensor"),
        (lambda: torch.ones(3).as_subclass(Marked), f"a tensor of the class {__name__}.Marked"),
        (lambda: torch.ones(3, dtype=torch.complex64).conj(), "a tensor with numbers conjugated or negated"),
    ],
)
def test_unusual_tensors_are_called_what_they_are(tmp_path, make, kind):
    found = tensor_in(tmp_path, make())
    assert isinstance(found, Unreadable)
    assert found.kind.startswith(kind)


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors_are_read(tmp_path):
    values = torch.arange(6.0).reshape(2, 3)
    for tensor in (
        torch.quantize_per_tensor(values, 0.5, 1, torch.qint8),
        torch.quantize_per_channel(values, torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), 0, torch.qint8),
    ):
        found = tensor_in(tmp_path, tensor)
        assert torch.equal(found.int_repr(), tensor.int_repr())
        assert torch.equal(found.dequantize(), tensor.dequantize())


def rebuild(storage, offset, size, stride):
    return Inert("torch._utils._rebuild_tensor_v2", (storage, offset, size, stride, False, OrderedDict()))


def test_a_tensor_is_never_larger_than_its_storage():
    """All small sizes, strides and offsets, against the places that a loop over the indices reaches."""
    numbers = torch.arange(7.0)
    read = 0
    for offset, size, stride in itertools.product(
        range(8), itertools.product(range(4), repeat=2), itertools.product(range(4), repeat=2)
    ):
        places = [
            offset + row * stride[0] + column * stride[1]
            for row in range(size[0])
            for column in range(size[1])
        ]
        found = tensor_of(rebuild(numbers.storage(), offset, size, stride))
        if all(place < len(numbers) for place in places) and offset <= len(numbers):
            assert found.flatten().tolist() == [float(place) for place in places]
            read += 1
        else:
            assert found is BEYOND
    assert 200 < read < 1800
    assert numbers.storage().nbytes() == 28


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-1,), (1,)),
        (0, (2**62, 4), (1, 1)),
        (0, (2**40, 2**40), (0, 0)),
        (0, (2, 2), (2**61, 2**61)),
        (0, (2,), (1, 1)),
        (0, "a", "b"),
        (None, (2,), (1,)),
        (0, (1,) * 65, (1,) * 65),
        (0, ("a",), (1,)),
    ],
)
def test_wrong_sizes_are_refused(offset, size, stride):
    assert tensor_of(rebuild(torch.arange(7.0).storage(), offset, size, stride)) is BEYOND


@pytest.mark.parametrize(
    "record",
    [
        3,
        None,
        Inert("torch._utils._rebuild_tensor_v2"),
        Inert("torch._utils._rebuild_tensor_v2", ()),
        Inert("torch._utils._rebuild_tensor_v2", (1, 0, (1,), (1,))),
        Inert("torch._utils._rebuild_tensor_v2", [1]),
        Inert("torch._utils._rebuild_parameter", ()),
        Inert("torch._utils._rebuild_parameter", (3,)),
        Inert("torch._utils._import_dotted_name", ("os.system",)),
        Inert("torch._tensor._rebuild_from_type_v2", (1, 2, 3)),
        Inert(
            "torch._tensor._rebuild_from_type_v2", (Inert("os.system"), Inert("torch.Tensor"), ("ls",), {})
        ),
        Inert("torch.Tensor", (3,)),
        Inert("builtins.bytearray", (3,)),
    ],
)
def test_what_is_no_tensor_is_none(record):
    assert tensor_of(record) is None


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_malformed_quantisers_are_named():
    storage = torch.empty(3, dtype=torch.int8).storage()
    for quantiser in (None, (), (Inert("os.system"), 1.0, 0), (Inert("torch.per_tensor_affine"), 1.0, 0, 1)):
        arguments = (storage, 0, (3,), (1,), quantiser, False, OrderedDict())
        assert tensor_of(Inert("torch._utils._rebuild_qtensor", arguments)) == Unreadable(
            "a malformed quantised tensor"
        )
