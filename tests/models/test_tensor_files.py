"""Safetensors files, compared with the package that defines them."""

import gc
import io
import json
import struct
import time
import warnings
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load, save

from xgradcam.errors import XGradCamError
from xgradcam.models.checkpoints import read_state_dicts
from xgradcam.models.fitting import fit
from xgradcam.models.tensor_files import DTYPES, MalformedError, is_safetensors, read_safetensors


def read(content):
    return read_safetensors(io.BytesIO(content), len(content))


def content_of(header, data=bytes(64), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_tensors_are_those_of_the_package(dtype):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        str(index): torch.randint(0, 2, shape, generator=generator).to(dtype)
        for index, shape in enumerate([(), (3,), (2, 0, 4), (2, 3, 5), (1,)])
    }
    if dtype not in safetensors.torch._TYPES.values():
        pytest.skip("this version of safetensors has no such numbers")
    content = save(tensors, metadata={"format": "pt"})
    assert is_safetensors(content, len(content))
    found = read(content)
    assert found.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[key].to(torch.complex64), tensor.to(torch.complex64))


def test_the_names_of_number_types_are_the_packages():
    theirs = safetensors.torch._TYPES
    assert len(theirs) >= 10
    assert {name: dtype for name, dtype in DTYPES.items() if name in theirs} == {
        name: dtype for name, dtype in theirs.items() if name in DTYPES
    }


MALFORMED = {
    "length beyond the file": content_of({}, length=10**9),
    "length of 2 ** 63": content_of({}, length=2**63),
    "length of 2 ** 64 - 1": content_of({}, length=2**64 - 1),
    "no JSON": content_of(b"{nothing"),
    "a list": content_of(b"[]{}"),
    "deep": content_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "digits": content_of(b'{"a":' + b"1" * 100_000 + b"}"),
    "no entry": content_of({"a": 3}),
    "no shape": content_of({"a": {"dtype": "F32", "data_offsets": [0, 64]}}),
    "overlap": content_of({"a": entry([8], 0, 32), "b": entry([12], 16, 64)}),
    "a gap": content_of({"a": entry([8], 0, 32), "b": entry([4], 48, 64)}),
    "a rest": content_of({"a": entry([8], 0, 32)}),
    "beyond": content_of({"a": entry([1000], 0, 4000)}),
    "another length": content_of({"a": entry([4], 0, 64)}),
    "negative side": content_of({"a": entry([-16], 0, 64)}),
    "overflow": content_of({"a": entry([2**62, 2**62], 0, 64)}),
    "backwards": content_of({"a": entry([4], 64, 0)}),
    "fraction": content_of({"a": entry([16.0], 0, 64)}),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_the_package_refuses_is_refused(kind, tmp_path):
    with pytest.raises((safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError)):
        load(MALFORMED[kind])
    with pytest.raises(MalformedError):
        read(MALFORMED[kind])
    (tmp_path / "a.bin").write_bytes(MALFORMED[kind])
    with pytest.raises(XGradCamError) as caught:
        read_state_dicts(tmp_path / "a.bin")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_every_cut_is_refused():
    content = save({"a": torch.ones(3), "b": torch.ones(2, 2)})
    for end in range(len(content)):
        with pytest.raises(MalformedError):
            read(content[:end])


def test_a_number_type_that_networks_do_not_have_is_named(tmp_path):
    (tmp_path / "a").write_bytes(content_of({"weight": entry([16], 0, 64, "F4")}))
    (state,) = read_state_dicts(tmp_path / "a").values()
    with pytest.raises(XGradCamError, match=r"^cannot use weights a: weight is of the number type F4, which"):
        fit(torch.nn.Linear(3, 2), state, "a")


EMPTY = json.dumps({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}).encode()


@pytest.mark.parametrize(
    "header",
    [
        b"{" + b",".join(b'"%d":%s' % (index, EMPTY) for index in range(1_500_000)) + b"}",
        b"{" + b",".join(b'"%d":%s' % (index, EMPTY) for index in range(68_000)) + b',"":3}',
        b'{"a":[' + b",".join([b"[]"] * 1_300_000) + b"]}",
    ],
    ids=["90 MB", "4 MB", "nested"],
)  # fmt: skip
def test_a_header_takes_little_time_and_memory(header, tmp_path):
    (tmp_path / "a").write_bytes(content_of(header, b""))
    Path("/proc/self/clear_refs").write_text("5")
    before, took = peak_memory(), []
    # The collector would look through the objects of all tests before this one.
    gc.freeze()
    for _ in range(2):  # another process on the same core slows one of them
        started = time.process_time()
        with pytest.raises(XGradCamError, match=r"safetensors with a (header of|damaged entry)"):
            read_state_dicts(tmp_path / "a")
        took.append(time.process_time() - started)
    gc.unfreeze()
    assert min(took) < 2
    assert peak_memory() - before < 200e6


def peak_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_a_header_of_ten_thousand_tensors_is_read(tmp_path):
    tensors = {f"model.layers.{index}.experts.weight": torch.full((2,), index) for index in range(10_000)}
    (tmp_path / "a").write_bytes(save(tensors))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (state,) = read_state_dicts(tmp_path / "a").values()
    assert len(state) == 10_000
    assert state["model.layers.77.experts.weight"].tolist() == [77, 77]
