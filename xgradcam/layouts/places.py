"""Places of the image in the outputs of modules, told by a change at a few of them: the marks.

A model runs on two equal samples. In the second, every map of a convolution and the like is that of the
first, but for the marks. A module's output is of places if it is changed most, or alone, at these.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from math import comb, prod
from operator import lt
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from xgradcam.layouts.axes import FIRST, axis_by_type
from xgradcam.layouts.layout import PREFIXES
from xgradcam.layouts.mixing import UNCHANGED, Noting, Unmixed
from xgradcam.lending.borrowing import Run, borrowed, fields_of
from xgradcam.lending.hooks import OfThread
from xgradcam.operations.calls import tensors_of

# The sides of maps: height and width, or those of a signal, a volume or a video.
Grid: TypeAlias = tuple[int, ...]
# The most marks of a grid.
MARKS = 6
# Where all is mixed: the share of pairs of a mark and another place of which the mark is changed more; the
# ways to choose as many marks, or the ratio of their least change to the largest other, that are no chance.
ORDERED, WAYS, RATIO = 0.95, 1000, 2.0
# Share of the largest entry below which a change is made anew.
WEAK = 0.01


def halved(grids: Collection[Grid]) -> set[Grid]:
    """The grids that later stages make of these, which halve them once or more: floor or ceiling."""
    return {grid for one in grids for _, grid in _stages(one) if grid != one}


def _stages(grid: Grid) -> Iterator[tuple[tuple[int, ...], Grid]]:
    """A grid and those that later stages make of it, each with the times that each side is halved.

    Networks for videos and volumes halve all sides, or all but the first.
    """
    for still in (0, 1) if len(grid) > 2 else (0,):
        times, grids = 0, {grid}
        while grids:
            if times or not still:
                yield from ((_halvings(grid, still, times), one) for one in sorted(grids))
            halves = {
                (*one[:still], *((side + more) // 2 for side in one[still:]))
                for one in grids
                for more in (0, 1)
            }
            times, grids = times + 1, {one for one in halves if prod(one[still:]) > 1}


def _halvings(grid: Grid, still: int, times: int) -> tuple[int, ...]:
    return tuple(times if axis >= still else 0 for axis in range(len(grid)))


def marks(grid: Grid) -> list[Grid]:
    """A few places of a grid, fewer than half, which are not the same in another order of its places.

    Most have even numbers of row and column, or multiples of 4 and so on: they remain where later stages take
    every second, and are in different cells where these merge neighbours.
    """
    if len(grid) == 3 and 1 in grid:
        each = (iter(one) for one in marks(tuple(side for side in grid if side > 1) or (1,)))
        return [tuple(next(one) if side > 1 else 0 for side in grid) for one in each]
    step = 1
    while min(grid) > 4 * step:
        step *= 2
    last = tuple((side - 1) // step * step for side in grid)
    middle = tuple(side // step // 2 * step for side in last)
    first, before = (0,) * len(grid), (0,) * (len(grid) - 1)
    chosen = [first, (*before, 1), (*before, last[-1]), middle, last]
    if len(grid) == 2:
        chosen = [first, (0, 1), (1, 0), (0, last[1]), middle, last]
    elif len(grid) == 3:
        # A step along the last side and one along the one before: no other order of the sides has the same.
        chosen.insert(2, (0, 1, 1))
    within = [place for place in dict.fromkeys(chosen) if all(map(lt, place, grid))]
    return within[: max(1, prod(grid) // 2)]


@dataclass(eq=False)
class Marked:
    """The changes of the outputs of modules where a few places are changed.

    image: the grid of patches of the image that are changed, and their size; else maps are, of `grids`.
    told: of each module's last output its shape and, by the axis of the channels, the grids of its places,
    each with its first entry: none if the output is not of places, several if they cannot be told apart.
    scattered: modules with maps that are changed at no more places than there are marks, but at others.
    sides: of maps. frames: the rows of a sample in the outputs that are looked at.
    """

    model: nn.Module
    inputs: Tensor
    image: tuple[Grid, int] | None = None
    grids: list[Grid] = field(default_factory=list)
    told: dict[nn.Module, tuple[tuple[int, ...], dict[int, set[tuple[Grid, int]]]]] = field(
        default_factory=dict
    )
    scattered: set[nn.Module] = field(default_factory=set)
    sides: int = 2
    frames: int = 1

    def __post_init__(self) -> None:
        # Some models take no other batch than the caller's.
        counts = () if self.inputs.is_meta else dict.fromkeys((2, max(2, len(self.inputs))))
        for count in counts:
            samples = self.inputs[:1].repeat(count, *[1] * (self.inputs.ndim - 1))
            if self.image is not None:
                grid, patch = self.image
                _mark(samples, [(int((y + 0.5) * patch), int((x + 0.5) * patch)) for y, x in marks(grid)])
            # A model may raise anything; what ran before is compared.
            with suppress(Exception):
                if self._run(samples, Unmixed(count)):
                    break
        else:
            # A model may also take one sample only.
            if counts:
                with suppress(Exception):
                    self._run_apart(samples[:2])

    def _run_apart(self, samples: Tensor) -> None:
        """Run the unchanged sample alone, and the other beside what that made."""
        noting, made = Noting(), list[Tensor]()

        def note(module: nn.Module, inputs: Any, output: Any) -> Any:
            if _is_batch(output, samples[:1]):
                output = _revived(module, inputs, output)
                made.append(output.clone())
            return output

        with self._hooked(note) as run, noting:
            run(samples[:1])
        self._run(samples[1:], Unmixed(2, noting.noted), made)

    @contextmanager
    def _hooked(self, see: Callable[[nn.Module, Any, Any], Any]) -> Iterator[Run]:
        with ExitStack() as hooks:
            run = hooks.enter_context(borrowed(self.model))
            for module in self.model.modules():
                hooks.enter_context(module.register_forward_hook(OfThread(see)))
            yield run

    def _run(self, samples: Tensor, unmixed: Unmixed, before: list[Tensor] | None = None) -> bool:
        """Note what is told of the modules; False if the model returns no batch.

        before: the outputs of the unchanged sample, if that ran alone.
        """
        # The last output: containers return that of their last module.
        last: tuple[Tensor, nn.Module] | None = None

        def see(module: nn.Module, inputs: Any, output: Any) -> Any:
            nonlocal last
            if not _is_batch(output, samples):
                return output
            first = None if before is None else before.pop(0)
            if last and output is last[0] and last[1] in self.told:
                self.told[module] = self.told[last[1]]
                self.scattered |= {module} if last[1] in self.scattered else set()
                return output
            # What is looked at here is no operation of the model.
            with _disable_current_modes():
                output = _revived(module, inputs, output)
                batch = output if first is None else torch.cat([first, output])
                seen = self._looked_at(module, batch, unmixed.count)
                output = output if seen is batch else seen[len(seen) - len(output) :]
            last = output, module
            return output

        with self._hooked(see) as run, unmixed:
            returned = next(tensors_of(fields_of(run(samples))), None)
        return returned is None or (returned.ndim > 0 and len(returned) % len(samples) == 0)

    def _looked_at(self, module: nn.Module, output: Tensor, count: int) -> Tensor:
        """The output of a module for `count` samples, marked if it is of maps; else its places are noted."""
        of_maps, rows = output.ndim == 2 + self.sides, count * self.frames
        if of_maps and axis_by_type(module, output.shape) == FIRST and self.image is None:
            return self._with_marks(output, count)
        return (
            self._see(module, output)
            if output.ndim in (3, 2 + self.sides) and len(output) == rows
            else output
        )

    def told_of(self, module: nn.Module, shape: tuple[int, ...], axis: int) -> set[tuple[Grid, int]]:
        """The places told of an output of this shape (N, ...) whose channels are along an axis."""
        seen, told = self.told.get(module, ((), {}))
        return told.get(axis, set()) if seen == shape[1:] else set()

    def _see(self, module: nn.Module, output: Tensor) -> Tensor:
        """Note the places of an output (count, ...); the output, marked where it is of a map or weakly."""
        grids = self.grids if self.image is None else [self.image[0]]
        change = (output[self.frames] - output[0]).abs().float()
        told: dict[int, set[tuple[Grid, int]]] = {}
        self.told[module] = tuple(output.shape[1:]), told
        self.scattered.discard(module)
        sizes = {grid for grid, _ in _cells(tuple(grids))} | {grid[::-1] for grid in grids}
        axes = (1, output.ndim - 1) if output.ndim == 2 + self.sides else (2,)
        for axis in axes:
            sides = tuple(output.movedim(axis, 1).shape[2:])
            tokens = output.ndim == 3 and axis == 2
            told[axis] = set()
            if not tokens and sides not in sizes:
                continue
            along = change.amax(dim=axis - 1).flatten()
            exact = _exact(along, grids)
            few = len(_changed(along))
            # Where only few of maps are changed, nothing is mixed, and they are the marks or not.
            mixed = tokens or few > min(2 * MARKS, len(along) // 2)
            told[axis] = set(exact) or (_ordered(along, grids) if mixed else set())
            turned = sides in grids or sides[::-1] in grids
            if not told[axis] and turned and 0 < few <= MARKS:
                self.scattered.add(module)
            # A change may fade to the size of rounding, as behind the attention of random weights.
            if len(exact) == 1 and along.amax() < WEAK * output[0].abs().amax():
                output = output.clone()
                maps = output.movedim(axis, 1)
                (numbers,) = exact.values()
                places = [tuple(map(int, np.unravel_index(number, sides))) for number in numbers]
                _mark(maps, places, self.frames)
        return output

    def _with_marks(self, maps: Tensor, count: int) -> Tensor:
        """Maps (count, C, h, w), or of several heads: all but the first are that one with the marks."""
        grid = tuple(maps.shape[2:])
        known = grid in self.grids or (len(maps) == count * self.frames and prod(grid) > 1)
        # Tokens as maps of one column, and the like, are left as they are.
        again = any(grid != one and prod(grid) == prod(one) for one in self.grids)
        if again or (not known and prod(grid) > 1):
            return maps
        samples = maps.reshape(count, -1, *maps.shape[1:])
        maps = samples[:1].expand_as(samples).flatten(0, 1).clone()
        if known:
            self.grids = list(dict.fromkeys([*self.grids, grid]))
            _mark(maps, marks(grid), len(maps) // count)
        return maps


def _is_batch(output: Any, samples: Tensor) -> bool:
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.ndim < 2:
        return False
    return output.numel() > 0 and len(output) % len(samples) == 0


def _revived(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """The output of a module, with the module's input added if its weight is zero.

    Norms of such a weight end the branches of many networks before training, where nothing would be changed.
    """
    weight, given = getattr(module, "weight", None), inputs[0] if inputs else None
    if (
        not isinstance(weight, Tensor)
        or not isinstance(given, Tensor)
        or given.shape[:-1] != output.shape[:-1]
    ):
        return output
    if weight.flatten()[:64].any() or weight.any():
        return output
    # As many channels as the output has.
    return output + given[..., torch.arange(output.shape[-1], device=given.device) % given.shape[-1]]


def _mark(maps: Tensor, places: Collection[Grid], kept: int = 1) -> None:
    """Change maps (N, C, *sides), in place, at places, each channel otherwise; the first are kept."""
    # A change that is the same in all channels would be lost in a norm.
    waves = (1 + maps[:kept].abs().amax()) * _waves(maps, 1)
    at = torch.tensor(list(places), device=maps.device)
    where: list[Any] = [at[:, axis].clamp(max=side - 1) for axis, side in enumerate(maps.shape[2:])]
    maps[(slice(kept, None), slice(None), *where)] += waves[:, None]


def _waves(like: Tensor, axis: int) -> Tensor:
    """Numbers in [-1, 1], one for each channel."""
    return torch.arange(1, 1 + like.shape[axis], device=like.device).cos().to(like.dtype)


def _changed(change: Tensor) -> list[int]:
    return (change > UNCHANGED * change.amax()).nonzero()[:, 0].tolist()


def _exact(change: Tensor, grids: Collection[Grid]) -> dict[tuple[Grid, int], list[int]]:
    """The grids whose marks are all that is changed of (entries,), each with its first entry: the marks."""
    changed = _changed(change)
    return {
        (grid, changed[0]): changed
        for grid, cells in _cells(tuple(grids))
        if [cell + changed[0] for cell in cells] == changed
        and changed[0] <= (rest := len(change) - prod(grid))
        and (rest <= max(PREFIXES) or grid in grids)
    } if changed else {}  # fmt: skip


def _ordered(change: Tensor, grids: Collection[Grid]) -> set[tuple[Grid, int]]:
    """The grids whose marks are changed most of (entries,), each with its first entry: none if by chance."""
    numbers, shares = change.cpu().numpy(), dict[tuple[Grid, int], float]()
    for grid, cells in _cells(tuple(grids)):
        rest = len(change) - prod(grid)
        for first in range(rest + 1 if rest <= max(PREFIXES) else 0):
            share = _order(numbers, [cell + first for cell in cells])
            shares[grid, first] = max(share, shares.get((grid, first), 0.0))
    most = max(shares.values(), default=0.0)
    return {one for one, share in shares.items() if share == most >= ORDERED}


@lru_cache
def _cells(grids: tuple[Grid, ...]) -> list[tuple[Grid, list[int]]]:
    """Grids and their later stages, each with the numbers of the cells that marks are in."""
    found = []
    for grid in grids:
        for times, sides in _stages(grid):
            places = {tuple(at >> less for at, less in zip(one, times, strict=True)) for one in marks(grid)}
            within = [one for one in places if all(map(lt, one, sides))]
            cells = sorted(int(np.ravel_multi_index(one, sides)) for one in within)
            if len(cells) < prod(sides):
                found.append((sides, cells))
    return found


def _order(change: np.ndarray, cells: list[int]) -> float:
    """The share of pairs of a mark and another entry of which the mark is changed more; 0 if by chance."""
    marked, others = change[cells], np.delete(change, cells)
    certain = comb(len(change), len(cells)) >= WAYS or marked.min() > RATIO * others.max()
    return float((marked[:, None] > others).mean()) if certain else 0.0
