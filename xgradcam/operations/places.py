"""Places of operations' results on a layer's grid, followed through the network behind the layer.

The constant c of an operation adds Σ ĝ c to the score, at the places of its result. Maps (N, C, h', w') lie
over the whole image, so a cell of theirs covers cells of the layer. Anything else, such as tokens, is
followed entry by entry: codes name the cells that an entry comes from, and the operation moves them as it
moves entries. What no rule here can place, such as a pooled value or a class token, is nowhere.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from xgradcam.operations.calls import Call, depends, float_tensors_of
from xgradcam.operations.codes import NOWHERE, Codes, broadcasts, without_repeats
from xgradcam.operations.grids import Grid as Grid
from xgradcam.operations.grids import covered
from xgradcam.operations.movements import (
    CASTS,
    CONTRACTIONS,
    COPIES,
    ELEMENT_WISE,
    JOINS,
    MOVES,
    REDUCTIONS,
    SPATIAL,
)

# Codes are integers of the result's shape: a cell's number, or `NOWHERE`. None: the result has no places.
Places: TypeAlias = Grid | Tensor | None


class Follower:
    """Follows places from the layer's maps (N, C, *sides) to all results that depend on them.

    bases: the first code of each grid that was met.
    """

    def __init__(self, *sides: int) -> None:
        self.grid = Grid(*sides)
        self.bases = {self.grid: 0}
        self.codes = Codes(self.grid.cells)
        self._places: Any = WeakIdKeyDictionary()
        # The grids that padded maps were, before.
        self._padded: Any = WeakIdKeyDictionary()

    def put(self, tensor: Tensor, places: Places) -> None:
        """Set the places of a tensor."""
        self._places[tensor] = places

    def places_of(self, tensor: Tensor) -> Places:
        """The places of a tensor; None for one that has none."""
        return self._places.get(tensor)  # type: ignore[no-any-return]

    def follow(self, call: Call, result: Any) -> None:
        """Find the places of an operation's results."""
        known = [
            (tensor, places) for tensor in call.dependents if (places := self.places_of(tensor)) is not None
        ]
        results = [tensor for tensor in float_tensors_of(result) if tensor.requires_grad]
        if known and results:
            found = self._after(call, known, results)
            if call.destination is not None and len(results) == 1:
                self._write(call.destination, found[0])
            for tensor, places in zip(results, found, strict=True):
                # None too: an operation in place may have made a placed tensor one without places.
                self._places[tensor] = places
        else:
            for tensor in results:
                if self.places_of(tensor) is not None:
                    self._places[tensor] = None

    def _write(self, destination: Tensor, places: Places) -> None:
        """Note in the tensors that share memory with one that other entries have been written to it."""
        if self._same(self.places_of(destination), places, destination):
            return
        base = destination if destination._base is None else destination._base
        memory = base.untyped_storage().data_ptr()
        others = {id(one): one for one in self._places if one.untyped_storage().data_ptr() == memory}
        others[id(base)] = base
        others.pop(id(destination), None)
        if any(one.dtype != destination.dtype for one in others.values()):
            for tensor in others.values():
                self._places[tensor] = None
            return
        if not others:
            return
        codes = torch.empty_strided(base.shape, base.stride(), dtype=torch.long, device=base.device)

        def part(tensor: Tensor) -> Tensor:
            start = tensor.storage_offset() - base.storage_offset()
            return codes.as_strided(tensor.shape, tensor.stride(), start)

        codes.copy_(self.codes_in(self.places_of(base), base))
        part(destination).copy_(self.codes_in(places, destination))
        for tensor in others.values():
            self._places[tensor] = self._plain(part(tensor))

    def _same(self, one: Places, other: Places, tensor: Tensor) -> bool:
        """True if both are the same places of a tensor's entries."""
        if one is other:
            return True
        if not isinstance(one, Tensor) and not isinstance(other, Tensor):
            return one == other
        codes = [self.codes_in(places, tensor) for places in (one, other)]
        small = [without_repeats(each) for each in codes]
        return torch.equal(*(small if small[0].shape == small[1].shape else codes))

    def _after(
        self, call: Call, known: Sequence[tuple[Tensor, Places]], results: Sequence[Tensor]
    ) -> Sequence[Places]:
        """The places of the results of a call, one for each."""
        operation = call.operation if call.is_of_torch() else ""
        first = known[0][1]
        if operation == "pad" and isinstance(first, Grid) and results[0].ndim == 2 + len(first):
            return [self._around(call, first, results[0])]
        if operation == "grid_sample" and results[0].ndim in (4, 5):
            return [self._sampled(call, results[0])]
        if operation in SPATIAL and all(result.ndim in (3, 4, 5) for result in results):
            return [self._over_maps(*known[0], result) for result in results]
        if operation == "index_put" and call.argument(3, "accumulate"):
            return [None] * len(results)
        if operation == "setitem" and not isinstance(call.args[2], Tensor):
            return [self.places_of(call.args[0])]
        if operation in CASTS and results[0].shape == known[0][0].shape:
            places = known[0][1]
            return [places.to(results[0].device) if isinstance(places, Tensor) else places]
        if operation in MOVES or (operation == "where" and len(known) > 1):
            kept = self._kept(call, known, results)
            return self._moved(call, results) if kept is None else [kept] * len(results)
        if operation in CONTRACTIONS:
            # Of attention, the weights that follow are those of pairs of tokens.
            return [self._contracted(call, results[0])] + [None] * (len(results) - 1)
        if operation == "einsum":
            return [self._summed(call, results[0])]
        if operation in REDUCTIONS and results[0].shape != known[0][0].shape:
            return [self._reduced(call, result) for result in results]
        if operation in ELEMENT_WISE:
            return [self._beside(known, result) for result in results]
        return [None] * len(results)

    def _over_maps(self, maps: Tensor, places: Places, result: Tensor) -> Places:
        """Maps lie over all that the maps lay over that they are made of."""
        grid = Grid(*result.shape[2:])
        places = self._padded.get(maps, places)
        # What has no axis of samples, or another number of sides than its maps, is followed no further.
        if maps.ndim != result.ndim:
            return None
        if isinstance(places, Grid):
            # One cell of a larger grid is all of it: no place.
            return None if grid.cells == 1 < self.grid.cells else grid
        if places is None or places.ndim != result.ndim:
            return None
        codes = self.codes.mixed(places, 1)
        codes = codes[:1] if codes.stride(0) == 0 else codes
        # Of a smaller result each entry is mixed from those that it lies over; a larger one repeats them.
        for axis, (before, after) in enumerate(zip(codes.shape[2:], grid, strict=True), 2):
            over = covered(before, after, codes.device)
            codes = codes.index_select(axis, over.flatten())
            codes = codes.reshape(*codes.shape[:axis], *over.shape, *codes.shape[axis + 1 :]).movedim(
                axis + 1, -1
            )
        codes = self.codes.mixed(codes.flatten(result.ndim), result.ndim)[..., 0]
        return self._plain(codes.expand(result.shape)) if broadcasts(codes.shape, result.shape) else None

    def _around(self, call: Call, grid: Grid, result: Tensor) -> Places:
        """Places of padded maps; what is made of them lies over all that the maps lay over."""
        around, mode = list(call.argument(1, "pad"))[: 2 * len(grid)], call.argument(2, "mode", "constant")
        # From the last side on, before and after each.
        sizes = zip(reversed(self.grid), reversed(grid), strict=False)
        pairs = zip(around, [whole / side for whole, side in sizes for _ in range(2)], strict=False)
        # Shifted by no more than a cell, as by the padding of a convolution.
        if len(grid) == len(self.grid) and all(0 <= side * cells <= 1 for side, cells in pairs):
            return Grid(*result.shape[2:])
        codes = self._of_grid(grid, result.device).double()[None, None]
        value = NOWHERE if mode == "constant" else None
        codes = nn.functional.pad(codes, around, mode, value).long()
        if min(around) >= 0:
            self._padded[result] = grid
        return self._plain(codes.expand(result.shape)) if broadcasts(codes.shape, result.shape) else None

    def _sampled(self, call: Call, result: Tensor) -> Places:
        """Places of sampled maps: that of the nearest entry."""
        maps, at = call.argument(0, "input"), call.argument(1, "grid")
        places = self.places_of(maps) if depends(maps) else None
        if places is None:
            return None
        codes = self.codes.mixed(self.codes_in(places, maps), 1).double() - NOWHERE
        kept = {
            name: value for name, value in call.kwargs.items() if name in ("padding_mode", "align_corners")
        }
        kept |= dict(zip(("padding_mode", "align_corners"), call.args[3:], strict=False))
        sampled = nn.functional.grid_sample(codes, at.detach().double(), mode="nearest", **kept)
        return self._plain((sampled.long() + NOWHERE).expand(result.shape))

    def _kept(
        self, call: Call, known: Sequence[tuple[Tensor, Places]], results: Sequence[Tensor]
    ) -> Grid | None:
        """The grid of joined or copied maps: the common moves, at no cost."""
        grid = known[0][1]
        if not isinstance(grid, Grid) or any(isinstance(at, Grid) and at != grid for _, at in known):
            return None
        joins = call.operation in JOINS and call.argument(1, "dim", 0) in (1, -1 - len(grid))
        same = all(tuple(result.shape[2:]) == grid for result in results)
        whole = all(isinstance(places, Grid) for _, places in known)
        return grid if same and whole and (joins or call.operation in COPIES) else None

    def _beside(self, known: Sequence[tuple[Tensor, Places]], result: Tensor) -> Places:
        """Places of element-wise operations: those of the operands that are not repeated for it."""
        same = [places for tensor, places in known if tensor.shape == result.shape]
        if same:
            if all(self._same(places, same[0], result) for places in same[1:]):
                return same[0]
            each = torch.stack([self.codes_in(places, result) for places in same])
            return self._plain(self.codes.mixed(each, 0)[0])
        for tensor, places in known:
            if (
                isinstance(places, Grid)
                and result.ndim == 2 + len(places)
                and tensor.shape[2:] == result.shape[2:]
            ):
                return places
            if isinstance(places, Tensor) and broadcasts(places.shape, result.shape):
                return self._plain(places.expand(result.shape))
        return None

    def _moved(self, call: Call, results: Sequence[Tensor]) -> Sequence[Places]:
        """Places of moved entries: the operation itself moves the codes."""

        def codes_of(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            return self.codes_in(self.places_of(tensor) if depends(tensor) else None, tensor)

        kept = {key: value for key, value in call.kwargs.items() if key not in ("dtype", "memory_format")}
        arguments = tuple(value for value in call.args if not isinstance(value, (torch.dtype, torch.device)))
        if call.operation == "pad":
            arguments, kept = arguments[:3], {**kept, "value": NOWHERE}
        try:
            moved = Call(call.function, arguments, kept).run(codes_of)
        # Codes are integers, for which an operation may not be made.
        except (RuntimeError, TypeError, NotImplementedError):
            return [None] * len(results)
        every = [moved] if isinstance(moved, Tensor) else list(moved)
        if [codes.shape for codes in every] != [result.shape for result in results]:
            return [None] * len(results)
        return [self._plain(codes) for codes in every]

    def _contracted(self, call: Call, result: Tensor) -> Places:
        """Places of sums over an axis: those of the first factor's rows, or of the second's columns."""
        name = "query" if "attention" in call.operation else "input"
        first, second = call.argument(0, name), call.argument(1, "other")
        if isinstance(first, Tensor) and (places := self._local(first, [-1], result)) is not None:
            return places
        if isinstance(second, Tensor) and second.ndim > 1 and call.operation in ("matmul", "mm", "bmm"):
            return self._local(second, [-2], result)
        return None

    def _summed(self, call: Call, result: Tensor) -> Places:
        """Places of `einsum`: those of the first factor that tells, at the indices that it shares."""
        equation, *operands = call.args
        if not isinstance(equation, str) or "->" not in equation or "." in equation:
            return None
        inputs, out = equation.replace(" ", "").split("->")
        for letters, operand in zip(inputs.split(","), operands, strict=False):
            # Repeated letters take a diagonal.
            if not isinstance(operand, Tensor) or not operand.ndim == len(letters) == len(set(letters)):
                continue
            summed = [axis for axis, letter in enumerate(letters) if letter not in out]
            left = [letters.index(letter) for letter in out if letter in letters]
            missing = [axis for axis, letter in enumerate(out) if letter not in letters]
            places = self._local(operand, summed, result, (*left, *summed), missing)
            if places is not None:
                return places
        return None

    def _local(
        self,
        factor: Tensor,
        summed: Sequence[int],
        result: Tensor,
        order: Sequence[int] = (),
        missing: Sequence[int] = (),
    ) -> Places:
        """The places of a factor after a sum over these axes; None if they are nowhere.

        order: of the axes in einsum's result, those that are summed last. missing: axes of the result that
        the factor has not.
        """
        if not depends(factor) or self.places_of(factor) is None:
            return None
        codes = self.codes_in(self.places_of(factor), factor)
        for axis in summed:
            codes = self.codes.mixed(codes, axis)
        if order:
            codes = codes.permute(*order)
            codes = codes.flatten(len(order) - len(summed))[..., 0] if summed else codes
            for axis in missing:
                codes = codes.unsqueeze(axis)
        return self._plain(codes.expand(result.shape)) if broadcasts(codes.shape, result.shape) else None

    def _reduced(self, call: Call, result: Tensor) -> Places:
        """Places of reductions over axes along which they do not change."""
        first = call.argument(0, "input")
        axes = call.argument(2 if "norm" in call.operation else 1, "dim")
        if not isinstance(first, Tensor) or self.places_of(first) is None:
            return None
        if not isinstance(axes, (int, tuple, list)):
            return None
        codes = self.codes_in(self.places_of(first), first)
        keeps = result.ndim == codes.ndim
        lowest, highest = codes.amin(axes, keepdim=keeps), codes.amax(axes, keepdim=keeps)
        if lowest.shape != result.shape:
            return None
        return self._plain(torch.where(lowest == highest, lowest, NOWHERE))

    def codes_in(self, places: Places, tensor: Tensor) -> Tensor:
        """The codes of a tensor's entries with these places, in its shape."""
        if places is None:
            return torch.full((), NOWHERE, device=tensor.device).expand(tensor.shape)
        codes = places if isinstance(places, Tensor) else self._of_grid(places, tensor.device)
        return codes.expand(tensor.shape)

    def _of_grid(self, grid: Grid, device: torch.device) -> Tensor:
        if grid not in self.bases:
            self.bases[grid] = self.codes.more(grid.cells)
        first = self.bases[grid]
        return torch.arange(first, first + grid.cells, device=device).view(grid)

    def _plain(self, codes: Tensor) -> Places:
        """A grid if the codes are those of one, else the codes; None if all are nowhere."""
        small = without_repeats(codes)
        if bool((small == NOWHERE).all()):
            return None
        if codes.ndim == 2 + len(self.grid) and (grid := Grid(*codes.shape[2:])).cells > 1:
            if grid in self.bases and bool((small == self._of_grid(grid, codes.device)).all()):
                return grid
        return codes
