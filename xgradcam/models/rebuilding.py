"""Tensors, from the records that the inert unpickler makes of them."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xgradcam.models.unpickling import Inert

# What torch calls to make a tensor: `_rebuild_tensor_v2(storage, offset, size, stride, ...)`.
STRIDED = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
QUANTISED = "_rebuild_qtensor"
UNUSUAL = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values, of the meta device",
}
# Those whose first argument is the tensor.
WRAPPERS = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch.nn.parameter.Parameter",
)
MOST_REBUILDS = 8
PLAIN_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
# More dimensions than torch has.
TOO_MANY = 65
# Seven and eight arguments: the last says that the numbers are conjugated or negated when they are read.
FLAGS = {"_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7}


@dataclass(frozen=True)
class Unreadable:
    """A tensor of a checkpoint that cannot be given to a network; kind: what it is, as `a sparse tensor`."""

    kind: str


BEYOND = Unreadable("a tensor that reaches beyond the data there is for it")


def tensor_of(record: Any) -> Tensor | Unreadable | None:
    """The tensor that a record stands for; a tensor itself is returned as it is. None for anything else."""
    for _ in range(MOST_REBUILDS):
        if not isinstance(record, Inert) or not isinstance(record.arguments, tuple):
            break
        name, arguments = record.name, record.arguments
        if name in WRAPPERS and arguments:
            record = arguments[0]
        elif name.endswith(("_tensor._rebuild_from_type", "tensor._rebuild_from_type_v2")):
            match arguments:
                case (Inert() as function, Inert(name=kind), rebuilt, *_):
                    if kind not in PLAIN_CLASSES:
                        return Unreadable(f"a tensor of the class {kind}")
                    record = Inert(function.name, rebuilt)
                case _:
                    return None
        else:
            return _rebuilt(name, arguments) if name.startswith("torch._utils._rebuild_") else None
    return record if isinstance(record, (Tensor, Unreadable)) else None


def _rebuilt(name: str, arguments: tuple[Any, ...]) -> Tensor | Unreadable | None:
    function = name.removeprefix("torch._utils.")
    if function in UNUSUAL:
        return Unreadable(UNUSUAL[function])
    if function == "_rebuild_wrapper_subclass" and arguments and isinstance(arguments[0], Inert):
        return Unreadable(f"a tensor of the class {arguments[0].name}")
    if function not in (*STRIDED, QUANTISED) or len(arguments) < 4:
        return None
    storage, offset, (size, stride) = arguments[0], arguments[1], map(_numbers, arguments[2:4])
    if not isinstance(storage, torch.storage.TypedStorage):
        return None
    if any(arguments[FLAGS.get(function, len(arguments)) :][:1]):
        return Unreadable("a tensor with numbers conjugated or negated when they are read")
    dtype = _dtype_of(arguments[6]) if function == "_rebuild_tensor_v3" and len(arguments) > 6 else None
    dtype = dtype or storage.dtype
    if not _lies_within(storage._untyped_storage.nbytes() // dtype.itemsize, offset, size, stride):
        return BEYOND
    if function == QUANTISED:
        return _quantised(storage, offset, size, stride, arguments[4] if len(arguments) > 4 else None)
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage._untyped_storage, offset, size, stride)


def _numbers(size: Any) -> Any:
    """A size, which may be written as a call of torch.Size."""
    if isinstance(size, Inert) and size.name == "torch.Size" and isinstance(size.arguments, tuple):
        return size.arguments[0] if size.arguments else ()
    return size


def _dtype_of(record: Any) -> torch.dtype | None:
    name = record.name if isinstance(record, Inert) else ""
    dtype = getattr(torch, name.removeprefix("torch."), None)
    return dtype if isinstance(dtype, torch.dtype) else None


def _lies_within(length: int, offset: Any, size: Any, stride: Any) -> bool:
    """True for a tensor whose numbers are all among the first `length` of its storage."""
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) < TOO_MANY):
        return False
    if not all(isinstance(number, int) and 0 <= number < 2**62 for number in (offset, *size, *stride)):
        return False
    if math.prod(size) >= 2**62:
        return False
    last: int = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    return last < length if all(size) else offset <= length


def _quantised(storage: Any, offset: int, size: Any, stride: Any, quantiser: Any) -> Tensor | Unreadable:
    match quantiser:
        case (Inert(name=scheme), float() | int() as scale, int(zero)):
            parameters: tuple[Any, ...] = (scale, zero)
        case (Inert(name=scheme), scales, zeros, int(axis)):
            parameters = (tensor_of(scales), tensor_of(zeros), axis)
        case _:
            scheme, parameters = "", ()
    kind = getattr(torch, scheme.removeprefix("torch."), None)
    try:
        if isinstance(kind, torch.qscheme):
            made: Tensor = torch._utils._rebuild_qtensor(  # type: ignore[no-untyped-call]
                storage, offset, size, stride, (kind, *parameters), False, OrderedDict()
            )
            return made
    except (AttributeError, RuntimeError, TypeError, ValueError):
        pass
    return Unreadable("a malformed quantised tensor")
