"""Stages of a network that halve the grid of its tokens."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn


class Made(NamedTuple):
    """A module's output: its shape, None if it is no tensor; same: the layout is that of the one before."""

    module: nn.Module
    shape: tuple[int, ...] | None
    same: bool


# Tokens that a module got and the fewer ones that it gave, of one sample: (1, tokens, C).
Thinned: TypeAlias = tuple[Tensor, Tensor]


def halved(grids: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The grids that later stages make of these, which halve them once or more: floor or ceiling."""
    halves: set[tuple[int, int]] = set()
    while grids:
        grids = {((height + more) // 2, (width + more) // 2) for height, width in grids for more in (0, 1)}
        grids = {grid for grid in grids if grid[0] * grid[1] > 1} - halves
        halves |= grids
    return halves


def merges(
    made: Sequence[Made], thinned: Sequence[Thinned], tokens: int, grids: set[tuple[int, int]]
) -> bool:
    """True if so many tokens are made of a grid of about four times as many.

    By a linear layer that reads four places at once, as between Swin's stages, or by leaving out every second
    row and column, as in LeViT. Else this many tokens may be anything, such as learned queries.
    """
    widths = {one.shape[-1] for one in made if one.shape and _places(one.shape) // 4 == tokens}
    return any(_reads_four(one, tokens, widths) for one in made) or any(
        _is_every_second(pair, grid)
        for pair in thinned
        for grid in grids | halved(grids)
        if pair[1].shape[1] == tokens
    )


def _reads_four(one: Made, tokens: int, widths: set[int]) -> bool:
    module = one.module
    return (
        isinstance(module, nn.Linear)
        and one.shape is not None
        and _places(one.shape) == tokens
        and module.in_features in {4 * width for width in widths}
        and module.out_features not in widths
    )


def _is_every_second(pair: Thinned, grid: tuple[int, int]) -> bool:
    before, after = pair
    if before.ndim == 4:
        before = before.flatten(1, 2)
    if before.ndim != 3 or before.shape[1] != grid[0] * grid[1]:
        return False
    kept = before.reshape(len(before), *grid, -1)[:, ::2, ::2].flatten(1, 2)
    return kept.shape == after.shape and torch.equal(kept, after)


def _places(shape: tuple[int, ...]) -> int:
    """The number of places if channels are last: of an output (N, tokens, C) or (N, h, w, C)."""
    return prod(shape[1:-1])
