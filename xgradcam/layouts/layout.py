"""The position of the feature maps in a layer's output; imports no torch, for the command line parses it."""

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from torch import Tensor

# Numbers of class, distillation and register tokens that networks put before those of the patches.
PREFIXES = (0, 1, 2, 3, 4, 5, 8, 9)
HOW_TO_SAY = "channels-first, channels-last, or a grid and the tokens before it, such as 14x14+1"
_GRID = re.compile(r"([1-9]\d{0,4})[x,]([1-9]\d{0,4})(?:[+,](\d{1,4}))?")
_WORDS = {"maps": "channels-first", "channels last": "channels-last"}


@dataclass(frozen=True)
class Layout:
    """The position of the feature maps in a layer's output.

    kind: 'maps' (N, C, h, w); 'channels last' (N, h, w, C); 'tokens' (N, tokens, C), of which those after the
    first `prefix` are the places, row by row, and those that follow are none; or 'chosen', by `index`.
    index: (C, h, w), the place of each entry of the maps in a sample's output, flattened, of this `shape`.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0
    index: "Tensor | None" = None
    shape: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """The layout as `parse_layout` reads it."""
        grid = f"{self.height}x{self.width}" + (f"+{self.prefix}" if self.prefix else "")
        return grid if self.kind == "tokens" else _WORDS.get(self.kind, self.kind)

    def to_maps(self, output: "Tensor") -> "Tensor":
        """Turn an output, or a gradient of its shape, into maps (N, C, h, w)."""
        if self.index is not None:
            return output.flatten(1)[:, self.index]
        if self.kind == "maps":
            return output
        if self.kind == "channels last":
            return output.movedim(-1, 1)
        places = output.narrow(1, self.prefix, self.height * self.width)
        return places.transpose(1, 2).reshape(len(output), output.shape[2], self.height, self.width)

    def with_maps(self, output: "Tensor", maps: "Tensor") -> "Tensor":
        """Put maps (M, C, h, w) into an output (1, ...): (M, ...). What is no map is repeated."""
        if self.kind == "maps":
            return maps
        if self.kind == "channels last":
            return maps.movedim(1, -1)
        filled = output.expand(len(maps), *output.shape[1:]).clone().contiguous()
        if self.index is not None:
            filled.flatten(1)[:, self.index.flatten()] = maps.flatten(1)
        else:
            filled.narrow(1, self.prefix, self.height * self.width).copy_(maps.flatten(2).transpose(1, 2))
        return filled


# A layout as a user says it: see `explain`.
Said: TypeAlias = str | Sequence[int] | Layout | Callable[["Tensor"], "Tensor"]


def parse_layout(said: Any) -> Layout:
    """The layout that a text or (h, w, prefix) means; 0 x 0 for maps, whose size the output tells."""
    words = re.sub(r"[()\s]", "", str(said)).lower()
    if grid := _GRID.fullmatch(words):
        return Layout("tokens", int(grid[1]), int(grid[2]), int(grid[3] or 0))
    for kind, word in _WORDS.items():
        if word == words:
            return Layout(kind, 0, 0)
    raise XGradCamError(f"no layout {said!r}: take {HOW_TO_SAY}")


def said_layout(said: Said, output: "Tensor") -> Layout:
    """The layout of this output (N, ...) that a user said; XGradCamError where it does not fit."""
    if callable(said):
        return _chosen(said, output)
    # A list, as settings in JSON have it, is like a tuple.
    said = tuple(said) if isinstance(said, list) else said
    layout, shape = said if isinstance(said, Layout) else parse_layout(said), tuple(output.shape)
    if layout.index is not None and layout.shape == shape[1:]:
        return layout
    if len(shape) == 4 and layout.kind in _WORDS:
        height, width = shape[2:] if layout.kind == "maps" else shape[1:3]
        return replace(layout, height=height, width=width)
    end = layout.prefix + layout.height * layout.width
    if layout.kind != "tokens" or len(shape) != 3 or end > shape[1]:
        raise XGradCamError(f"the layout {layout} does not fit its output, {shape}")
    return layout


def _chosen(function: "Callable[[Tensor], Tensor]", output: "Tensor") -> Layout:
    """The layout that a function means, if it takes entries of each sample's output, none of them twice."""
    import torch

    # Two samples tell that none is mixed with another, and that all are read alike.
    shape = 2, *output.shape[1:]
    numbers = torch.arange(math.prod(shape), dtype=torch.float64, device=output.device).reshape(shape)
    # Of both signs: what clips or squares the entries is no choice of them.
    noise = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu") - 0.5
    noise = noise.to(output.device)
    try:
        index, chosen = function(numbers), function(noise)
    except Exception as error:
        raise XGradCamError(f"the layout function fails on its output: {str(error)[:200]}") from error
    made = tuple(getattr(index, "shape", ())) or type(index).__name__
    if _is_choice(index, chosen, noise):
        each = index[0].long()
        return Layout("chosen", each.shape[1], each.shape[2], index=each.to(output.device), shape=shape[1:])
    raise XGradCamError(
        f"the layout function makes {made} of {shape}: it must make maps "
        "(N, C, h, w) by choosing and ordering the output's entries, each at most once"
    )


def _is_choice(index: Any, chosen: Any, noise: "Tensor") -> bool:
    """True if (2, C, h, w) of two samples' numbers are entries of each, the same ones, none twice."""
    if getattr(index, "ndim", 0) != 4 or len(index) != 2 or getattr(chosen, "shape", ()) != index.shape:
        return False
    first, second = index.long()
    fits = bool(
        (first >= 0).all() and (first < noise[0].numel()).all() and (second == first + noise[0].numel()).all()
    )
    return (
        fits
        and bool((noise.flatten()[index.long()] == chosen).all())
        and first.unique().numel() == first.numel()
    )


def image_grids(image: tuple[int, int]) -> dict[tuple[int, int], set[int]]:
    """Grids of square patches of an image (H, W), its rest cut off or padded, each with its patches."""
    grids: dict[tuple[int, int], set[int]] = {}
    for patch in range(1, max(image) + 1):
        for more in (0, patch - 1):
            grid = (image[0] + more) // patch, (image[1] + more) // patch
            if grid[0] * grid[1] > 1:
                grids.setdefault(grid, set()).add(patch)
    return grids


def token_layouts(
    tokens: int, grids: Collection[tuple[int, int]], prefixes: tuple[int, ...] = PREFIXES
) -> list[Layout]:
    """The layouts of this many tokens by one of these grids after one of these prefixes."""
    each = [Layout("tokens", *grid, prefix) for prefix in prefixes for grid in sorted(grids)]
    return [one for one in each if one.height * one.width + one.prefix == tokens]
