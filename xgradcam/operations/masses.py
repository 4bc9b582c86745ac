"""Sums of gradient times constant, at the cells of a layer where an operation's result lies."""

from functools import lru_cache

import torch
from torch import Tensor

from xgradcam.operations.places import Follower, Grid, Places


class Masses:
    """Sums of N samples' gradient · constant by the place of the results, in float64."""

    def __init__(self, follower: Follower, samples: int) -> None:
        self._follower = follower
        self._samples = samples
        self._maps: dict[Grid, Tensor] = {}
        # By code, and before the first of them what is nowhere.
        self._coded: Tensor | None = None
        self._nowhere: Tensor | float = 0.0

    def add(self, places: Places, gradient: Tensor, value: Tensor) -> Tensor | None:
        """Add Σ gradient · value of one result; return it for each sample, (N,).

        None if no axis is the samples. gradient: of the result's shape. Its first axis is the samples or each
        sample's parts in turn, or its second one is the samples, behind tokens. value: broadcasts.
        """
        if isinstance(places, Grid) and len(gradient) == self._samples:
            at = _over_channels(gradient, value).double()
            self._maps[places] = self._maps[places] + at if places in self._maps else at
            return at.sum(dim=tuple(range(1, at.ndim)))
        products = gradient * value
        codes = None if places is None else self._follower.codes_in(places, gradient)
        axis = self._axis_of_samples(products, codes)
        if axis is None:
            return None
        products, codes = products.movedim(axis, 0), None if codes is None else codes.movedim(axis, 0)
        if codes is not None and codes.ndim > 1 and codes.stride(-1) == 0:
            # All channels of a token lie at one place.
            products, codes = products.sum(-1), codes[..., 0]
        products = products.reshape(self._samples, -1)
        total = products.sum(dim=1, dtype=torch.float64)
        if codes is None:
            self._nowhere = self._nowhere + total
            return total
        if self._coded is None or self._coded.shape[1] <= self._follower.codes.count:
            grown = total.new_zeros(self._samples, self._follower.codes.count + 1)
            if self._coded is not None:
                grown[:, : self._coded.shape[1]] = self._coded
            self._coded = grown
        self._coded.scatter_add_(1, (codes + 1).reshape(self._samples, -1), products.double())
        return total

    def _axis_of_samples(self, result: Tensor, codes: Tensor | None) -> int | None:
        """The axis of the samples, 0 or 1: that along which all places are the same."""
        first = result.ndim > 0 and len(result) % self._samples == 0
        second = result.ndim > 1 and result.shape[1] == self._samples
        if first and second and codes is not None and codes.stride(0) != 0:
            each = codes.reshape(self._samples, -1)
            first = bool((each == each[0]).all())
        return 0 if first else 1 if second else None

    def at_cells(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The sums at each cell of the layer, (N, h, w), and what is nowhere, (N,); float64, as `like`."""
        follower, grid = self._follower, self._follower.grid
        cells = like.new_zeros(self._samples, *grid, dtype=torch.float64)
        nowhere = like.new_zeros(self._samples, dtype=torch.float64) + self._nowhere
        maps = dict(self._maps)
        if self._coded is not None:
            nowhere, masses = nowhere + self._coded[:, 0], self._coded[:, 1:]
            follower.codes.spread(masses)
            for other, first in follower.bases.items():
                own = masses[:, first : first + other.cells]
                if own.shape[1]:
                    own = own.reshape(-1, *other)
                    maps[other] = maps[other] + own if other in maps else own
        for other, masses in maps.items():
            if len(other) == len(grid):
                cells += resampled(masses, *grid)
            else:  # maps with another number of sides do not lie over the layer's
                nowhere = nowhere + masses.flatten(1).sum(dim=1)
        return cells, nowhere


def _over_channels(gradient: Tensor, value: Tensor) -> Tensor:
    """Σ_c gradient · value of maps: (N, h', w')."""
    flat = gradient.ndim == 4
    if flat and value.ndim == 3 and value.shape[1:] == (1, 1) and value.shape[0] == gradient.shape[1]:
        # No copy of the gradient's size.
        return torch.einsum("nchw,c->nhw", gradient, value[:, 0, 0].to(gradient))
    same = flat and value.shape == gradient.shape
    if same and gradient.shape[1] > 1 and _is_channels_last(gradient, value):
        # A product of the channels of each place, several times as fast as the product of all.
        dtype = torch.promote_types(gradient.dtype, value.dtype)
        rows, columns = (one.to(dtype).movedim(1, -1).flatten(0, 2) for one in (gradient, value))
        return torch.bmm(rows[:, None], columns[..., None]).reshape(len(gradient), *gradient.shape[2:])
    return (gradient * value).sum(dim=1)


def _is_channels_last(*maps: Tensor) -> bool:
    return all(one.is_contiguous(memory_format=torch.channels_last) for one in maps)


def resampled(masses: Tensor, *sides: int) -> Tensor:
    """Masses (N, h', w') on a grid of other sides, each spread over the cells that it covers: (N, h, w)."""
    if masses.shape[1:] == sides:
        return masses
    shares = [
        _overlap(before, after).to(masses) for before, after in zip(masses.shape[1:], sides, strict=True)
    ]
    if len(sides) > 1:
        masses = shares[-2].T @ masses
    masses = masses @ shares[-1]
    return masses if len(sides) < 3 else torch.einsum("nzyx,zd->ndyx", masses, shares[0])


@lru_cache
def _overlap(before: int, after: int) -> Tensor:
    """Share of each of `before` cells along a side that lies in each of `after` cells: (before, after)."""
    start = torch.arange(before, dtype=torch.float64, device="cpu")[:, None] / before
    low = torch.arange(after, dtype=torch.float64, device="cpu") / after
    shared = torch.minimum(start + 1 / before, low + 1 / after) - torch.maximum(start, low)
    return shared.clamp(min=0) * before
