"""Operations that mix the places of the image, kept from mixing the changed ones with the others."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xgradcam.lending.dispatching import DispatchMode

# Share of the largest change below which an entry counts as unchanged.
UNCHANGED = 1e-3
# The axis of an argument that an operation sums over and the one that it keeps, by the argument's position.
_AXES = {
    "mm": {0: (-1, -2)},
    "addmm": {1: (-1, -2)},
    "bmm": {0: (-1, -2), 1: (-2, -1)},
    "baddbmm": {1: (-1, -2), 2: (-2, -1)},
}
# The position of the axes that an operation sums over.
_SUMS = {"mean": 1, "sum": 1, "linalg_vector_norm": 2, "_softmax": 1}

# Random numbers, which would change everything.
_RANDOM = {
    *("rand", "rand_like", "uniform_", "randn", "randn_like", "normal", "normal_"),
    *("bernoulli", "bernoulli_", "exponential_"),
}
# PyTorch's own in one operation.
_ATTENTION = {"_native_multi_head_attention"}
# The softmax of a fused attention that is computed in parts; an axis may stand in front of its samples then.
_SOFTMAX_OF_ATTENTION = "_safe_softmax"


class Noting(DispatchMode):
    """Keeps the arguments of operations that may mix places, in order: `noted`."""

    def __init__(self) -> None:
        # PyTorch gives its modes no types.
        super().__init__()  # type: ignore[no-untyped-call]
        self.noted: list[list[Any]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operation."""
        if _may_mix(function.overloadpacket.__name__):
            self.noted.append([one.clone() if isinstance(one, Tensor) else one for one in args])
        return function(*args, **(kwargs or {}))


def _may_mix(name: str) -> bool:
    alone = name in _ATTENTION or name == _SOFTMAX_OF_ATTENTION or name.startswith("_scaled_dot_product")
    return alone or name in _AXES or name in _SUMS


class Unmixed(DispatchMode):
    """Operations on batches of `count` samples in which a change of a few places stays at these places.

    The first sample is the unchanged one. A product that sums over places, such as that of an attention's
    weights and values, gets these without the change: its rows are changed where those of the queries are.
    noted: if the first sample ran alone, as does the second, the arguments that it gave to the operations.
    """

    def __init__(self, count: int, noted: list[list[Any]] | None = None) -> None:
        # PyTorch gives its modes no types.
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self._noted = count, noted

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operation, with unchanged arguments where it would mix places."""
        name, given = function.overloadpacket.__name__, list(args)
        if _may_mix(name) and self._noted is None:
            self._keep_apart(name, given)
        elif _may_mix(name) and self._noted is not None:
            pairs = {
                id(two): torch.cat([one, two])
                for one, two in zip(self._noted.pop(0), given, strict=True)
                if isinstance(two, Tensor) and two.ndim
            }
            given = [pairs.get(id(one), one) for one in given]
            self._keep_apart(name, given)
            second = {id(one): one.chunk(2)[1] for one in given if isinstance(one, Tensor) and one.ndim}
            given = [second.get(id(one), one) for one in given]
        made = function(*given, **(kwargs or {}))
        if name in _RANDOM and isinstance(made, Tensor) and made.ndim and len(made) == self.count:
            made[1:] = made[:1]
        return made

    def _keep_apart(self, name: str, given: list[Any]) -> None:
        """Replace those of an operation's arguments by unchanged ones that it would mix."""
        if axes := _AXES.get(name):
            few = {one: self._are_few_changed(given[one], axes[one]) for one in axes}
            for position, (summed, kept) in few.items():
                if summed and not kept:
                    given[position] = self._unchanged(given[position])
            # The weights of an attention: rows are those of the queries, columns those of the keys.
            if len(few) == 2 and all(kept for _, kept in few.values()):
                given[max(few)] = self._unchanged(given[max(few)])
        elif name in _SUMS and len(given) > _SUMS[name]:
            given[0] = self._unless_mixed(given[0], given[_SUMS[name]])
            given[0] = self._strong(given[0]) if name == "_softmax" else given[0]
        elif name == _SOFTMAX_OF_ATTENTION:
            folded = given[0].reshape(-1, *given[0].shape[-2:])
            given[0] = self._strong(self._unless_mixed(folded, -1)).reshape(given[0].shape)
        elif name.startswith("_scaled_dot_product"):
            # The samples are along the first axis, or along the second where that was added.
            folded = [one.flatten(0, 1) for one in given[:3]]
            # An attention between channels sums over the places in its queries and keys.
            between_channels = self._are_few_changed(folded[0], (-1,))[0]
            for position in (0, 1) if between_channels else (1, 2):
                given[position] = self._unchanged(folded[position]).reshape(given[position].shape)
        elif name in _ATTENTION:
            # Keys and values that are one tensor must stay one.
            given[1:3] = (
                [self._unchanged(given[1])] * 2 if given[1] is given[2] else map(self._unchanged, given[1:3])
            )

    def _unless_mixed(self, tensor: Tensor, summed: Any) -> Tensor:
        """A tensor to be summed over axes, unchanged if that would mix its places."""
        sums = {axis % tensor.ndim for axis in ([summed] if isinstance(summed, int) else summed or ())}
        axes = range(1, tensor.ndim)
        few = dict(zip(axes, self._are_few_changed(tensor, axes), strict=True))
        mixed = any(few[axis] for axis in sums - {0}) and not any(few[axis] for axis in few.keys() - sums)
        return self._unchanged(tensor) if mixed else tensor

    def _strong(self, tensor: Tensor) -> Tensor:
        """A tensor whose change is at least 1: a softmax of random weights would lose it in rounding."""
        if (samples := self._samples(tensor)) is None:
            return tensor
        changes = samples - samples[:1]
        largest = changes.abs().amax()
        if not 0 < largest < 1 or largest < UNCHANGED * samples[0].abs().amax():
            return tensor
        return (samples[:1] + changes / largest).reshape(tensor.shape)

    def _samples(self, tensor: Tensor) -> Tensor | None:
        """The tensor with an axis of samples in front; None where its first axis holds none."""
        holds = tensor.is_floating_point() and tensor.numel() and len(tensor) % self.count == 0
        return tensor.reshape(self.count, -1, *tensor.shape[1:]) if holds else None

    def _are_few_changed(self, tensor: Tensor, axes: Sequence[int]) -> list[bool]:
        """True for each axis along which no more than half of the entries are changed."""
        samples = self._samples(tensor)
        if samples is None or torch.equal(samples[0], samples[1]):
            return [False] * len(axes)
        changes = (samples[1] - samples[0]).abs_()
        least, few = UNCHANGED * changes.amax(), []
        for axis in axes:
            others = [one for one in range(changes.ndim) if one != axis % changes.ndim]
            few.append(int((changes.amax(dim=others) > least).sum()) <= changes.shape[axis] // 2)
        return few

    def _unchanged(self, tensor: Tensor) -> Tensor:
        samples = self._samples(tensor)
        return tensor if samples is None else samples[:1].expand_as(samples).reshape(tensor.shape)
