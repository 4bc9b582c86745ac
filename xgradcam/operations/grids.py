"""Grids of places, and how the cells of one lie over those of another."""

from math import prod

import torch
from torch import Tensor


class Grid(tuple[int, ...]):
    """Places of maps (N, C, ...) with these sides: (height, width), or those of a signal or a volume."""

    def __new__(cls, *sides: int) -> "Grid":
        """A grid of one to three sides."""
        return super().__new__(cls, sides)

    @property
    def cells(self) -> int:
        """The number of places."""
        return prod(self)


def covered(before: int, after: int, device: torch.device) -> Tensor:
    """Indices of the entries along a side that each of `after` entries lies over: (after, most)."""
    start = torch.arange(after, device=device)[:, None] * before // after
    end = -(-(torch.arange(after, device=device)[:, None] + 1) * before // after)
    most = int((end - start).max())
    return torch.minimum(start + torch.arange(most, device=device), end - 1)
