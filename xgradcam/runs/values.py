"""Tell whether tensors still hold the numbers that they held."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, nn

# Tensors in sparse ones.
_BY_ROWS = Tensor.crow_indices, Tensor.col_indices, Tensor.values
_BY_COLUMNS = Tensor.ccol_indices, Tensor.row_indices, Tensor.values
_PARTS: Mapping[torch.layout, tuple[Callable[[Any], Tensor], ...]] = {
    torch.sparse_coo: (methodcaller("_indices"), methodcaller("_values")),
    torch.sparse_csr: _BY_ROWS,
    torch.sparse_bsr: _BY_ROWS,
    torch.sparse_csc: _BY_COLUMNS,
    torch.sparse_bsc: _BY_COLUMNS,
}
# By the bytes of a number, a type to compare its bits as: so not-a-number is what it was, too.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
# Devices whose tensors are compared one by one: on others, launching operations takes longer than comparing.
_ONE_BY_ONE = {"cpu"}


class Values:
    """The numbers that tensors of any devices hold, to be compared with what they hold later.

    The tensors must keep their memory, shape and strides until then. Those that have no memory of their own,
    as on the meta device, are passed over.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._copied: list[Tensor] = []
        self._alone: list[Tensor] = []
        rows: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        with torch._C.DisableTorchFunctionSubclass():
            for tensor in map(Tensor.detach, filter(_has_memory, tensors)):
                bits = _bits(tensor)
                if bits.data_ptr() != tensor.data_ptr():  # there are gaps in its memory
                    self._copied.append(tensor)
                elif tensor.device.type in _ONE_BY_ONE:
                    self._alone.append(bits)
                else:
                    rows[tensor.device, bits.dtype].append(bits)
            self._rows = list(rows.values())
            self._before = [bits.clone() for bits in self._compared_alone()]
            self._rows_before = list(map(torch.cat, self._rows))

    def are_unchanged(self) -> bool:
        """True if all tensors hold what they held; waits for a device once."""
        with torch._C.DisableTorchFunctionSubclass():
            rows = zip(map(torch.cat, self._rows), self._rows_before, strict=True)
            differ = [(now != before).any() for now, before in rows]
            pairs = zip(self._compared_alone(), self._before, strict=True)
            if not all(torch.equal(now, before) for now, before in pairs):
                return False
            return not differ or not torch.stack([one.to(differ[0].device) for one in differ]).any()

    def _compared_alone(self) -> list[Tensor]:
        return [*self._alone, *map(_bits, self._copied)]


def parts_of(tensor: Tensor) -> Iterator[Any]:
    """Yield what holds a tensor's numbers, if it does not: of a sparse one, or of a class of its own."""
    if hasattr(tensor, "__tensor_flatten__"):
        yield from (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
    elif type(tensor) not in (Tensor, nn.Parameter):
        yield vars(tensor)
    for part in _PARTS.get(tensor.layout, ()):
        yield part(tensor.detach())


def is_dense(tensor: Tensor) -> bool:
    """True for a tensor of a shape and strides."""
    return tensor.layout is torch.strided and not tensor.is_nested


def _has_memory(tensor: Tensor) -> bool:
    return bool(tensor.data_ptr()) and not tensor.is_meta


def _bits(tensor: Tensor) -> Tensor:
    """The bits of all numbers (M,): a view, in the order of the memory, unless there are gaps in it."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    order = sorted(range(tensor.ndim), key=tensor.stride().__getitem__, reverse=True)
    row = tensor.resolve_conj().resolve_neg().permute(order).reshape(-1)
    return row.view(_BITS.get(row.itemsize, torch.int64))
