"""Safetensors files, read into memory of their own: a file that changes later changes no tensor."""

import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from xgradcam.errors import short
from xgradcam.models.formats import CUT
from xgradcam.models.rebuilding import Unreadable

# Number types by their names in the format.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
# Bytes of the header's length, and most bytes of the header; that of 10,000 tensors has 1 MB.
LENGTH, LONGEST_HEADER = 8, 4_000_000
METADATA = "__metadata__"


class MalformedError(Exception):
    """A file that is not as the format has it; the message says why."""


def is_safetensors(head: bytes, size: int) -> bool:
    """True for a file of this size that begins as one of safetensors: a length, then an object of JSON."""
    return head[LENGTH : LENGTH + 1] == b"{" and LENGTH < size


def read_safetensors(file: BinaryIO, size: int) -> dict[str, Tensor | Unreadable]:
    """The tensors of an open file of `size` bytes, by name. Raises MalformedError."""
    length = int.from_bytes(file.read(LENGTH), "little")
    if length > size - LENGTH:
        raise MalformedError(f"a header of {length} bytes in a file of {size}: {CUT}")
    if length > LONGEST_HEADER:
        raise MalformedError(f"a header of {length} bytes, more than {LONGEST_HEADER}")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise MalformedError("a damaged header") from None
    if not isinstance(header, dict):
        raise MalformedError("a damaged header")
    header.pop(METADATA, None)
    end = 0
    spans = {name: _span(name, entry) for name, entry in header.items()}
    tensors: dict[str, Tensor | Unreadable] = {}
    for name in sorted(spans, key=spans.__getitem__):
        begin, stop = spans[name]
        if stop > size - LENGTH - length:
            raise MalformedError(f"data that end before the tensor {short(name)} does: {CUT}")
        if begin != end:
            raise MalformedError(f"the tensor {short(name)} is not where the header says")
        end = stop
        tensors[name] = _read(file, name, header[name], stop - begin)
    if end != size - LENGTH - length:
        raise MalformedError("more data than tensors")
    return {name: tensors[name] for name in header}


def _span(name: str, entry: Any) -> tuple[int, int]:
    """The begin and the end of the tensor's bytes; its entry is checked."""
    match entry:
        case {"dtype": str(), "shape": [*shape], "data_offsets": [int(begin), int(stop)]}:
            if all(type(side) is int and 0 <= side < 2**62 for side in shape) and 0 <= begin <= stop:
                return begin, stop
    raise MalformedError(f"a damaged entry of the tensor {short(name)}")


def _read(file: BinaryIO, name: str, entry: Mapping[str, Any], length: int) -> Tensor | Unreadable:
    dtype, shape = DTYPES.get(entry["dtype"]), entry["shape"]
    if dtype is None:
        file.seek(length, 1)
        return Unreadable(f"of the number type {short(entry['dtype'])}, which PyTorch's networks do not have")
    if math.prod(shape) * dtype.itemsize != length or math.prod(map(bool, shape)) >= 2**62:
        raise MalformedError(f"the tensor {short(name)} has another length than its shape")
    memory = torch.empty(length, dtype=torch.uint8, device="cpu")
    if length and file.readinto(memory.numpy()) != length:  # type: ignore[attr-defined]
        raise MalformedError("it was cut short while it was read")
    return memory.view(dtype).reshape(shape)
