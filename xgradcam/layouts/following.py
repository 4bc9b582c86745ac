"""Followers of the places of a layer's output, by its layout."""

import torch
from torch import Tensor

from xgradcam.layouts.layout import Layout
from xgradcam.operations.codes import NOWHERE
from xgradcam.operations.places import Follower, Grid


def follower_at(layout: Layout, activation: Tensor) -> Follower:
    """A follower of the places of a layer's output (N, ...) and of all that is made of it."""
    follower = Follower(*layout.grid)
    follower.put(activation, _places(layout, activation))
    return follower


def _places(layout: Layout, activation: Tensor) -> Grid | Tensor:
    if layout.kind == "maps" and not layout.frames:
        return Grid(*layout.grid)
    rows, axis = layout.frames or 1, 1 if layout.kind == "maps" else -1
    # All channels alike, but for a layout that chooses entries one by one.
    one = activation[:rows] if layout.index is not None else activation[:rows].narrow(axis, 0, 1)
    outside = torch.full(one.shape, NOWHERE, device=activation.device)
    cells = torch.arange(layout.cells, device=activation.device)
    depth = 1 if layout.index is None else len(layout.index)
    codes = layout.with_maps(outside, cells.view(1, 1, *layout.grid).expand(1, depth, *layout.grid))
    if layout.frames:
        codes = codes.repeat(len(activation) // rows, *[1] * (codes.ndim - 1))
    return codes.expand(activation.shape)
