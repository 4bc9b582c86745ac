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
# Tokens of a volume or a video, 8x14x14+1, and of a signal, 100+1.
_OTHER_GRID = re.compile(r"([1-9]\d{0,4}(?:x[1-9]\d{0,4}){2})(?:\+(\d{1,4}))?|([1-9]\d{0,5})\+(\d{1,4})")
_WORDS = {"maps": "channels-first", "channels last": "channels-last"}


@dataclass(frozen=True)
class Layout:
    """The position of the feature maps in a layer's output.

    kind: 'maps' (N, C, h, w); 'channels last' (N, h, w, C); 'tokens' (N, tokens, C), of which those after the
    first `prefix` are the places, row by row, and those that follow are none; or 'chosen', by `index`.
    index: (C, h, w), the place of each entry of the maps in a sample's output, flattened, of this `shape`.
    depth: of maps (N, C, d, h, w), else 0. height: 0 for maps of a signal, (N, C, l). frames: the rows of a
    sample in an output (N · frames, ...), which become the first axis of the maps; 0 if there is one row.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0
    index: "Tensor | None" = None
    shape: tuple[int, ...] | None = None
    depth: int = 0
    frames: int = 0

    @classmethod
    def of(cls, kind: str, grid: Sequence[int], prefix: int = 0) -> "Layout":
        """The layout of maps with these sides, one to three."""
        depth, height, width = (0, 0, *grid)[-3:]
        return cls(kind, height, width, prefix, depth=depth)

    @property
    def grid(self) -> tuple[int, ...]:
        """The sides of the maps."""
        return tuple(side for side in (self.frames, self.depth, self.height, self.width) if side)

    @property
    def cells(self) -> int:
        """The number of places."""
        return math.prod(self.grid)

    def __str__(self) -> str:
        """The layout as `parse_layout` reads it."""
        grid = "x".join(map(str, self.grid[self.frames > 0 :]))
        grid += f"+{self.prefix}" if self.prefix or "x" not in grid else ""
        return grid if self.kind == "tokens" else _WORDS.get(self.kind, self.kind)

    def to_maps(self, output: "Tensor") -> "Tensor":
        """Turn an output, or a gradient of its shape, into maps (N, C, h, w)."""
        if self.frames:
            rows = replace(self, frames=0).to_maps(output)
            return rows.reshape(-1, self.frames, *rows.shape[1:]).transpose(1, 2)
        if self.index is not None:
            return output.flatten(1)[:, self.index]
        if self.kind == "maps":
            return output
        if self.kind == "channels last":
            return output.movedim(-1, 1)
        places = output.narrow(1, self.prefix, self.cells)
        return places.transpose(1, 2).reshape(len(output), output.shape[2], *self.grid)

    def with_maps(self, output: "Tensor", maps: "Tensor") -> "Tensor":
        """Put maps (M, C, h, w) into a sample's output (1, ...): (M, ...). What is no map is repeated."""
        if self.frames:
            return replace(self, frames=0).with_maps(output, maps.transpose(1, 2).flatten(0, 1))
        if self.kind == "maps":
            return maps
        if self.kind == "channels last":
            return maps.movedim(1, -1)
        filled = output.repeat(len(maps) // len(output), *[1] * (output.ndim - 1))
        if self.index is not None:
            filled.flatten(1)[:, self.index.flatten()] = maps.flatten(1)
        else:
            filled.narrow(1, self.prefix, self.cells).copy_(maps.flatten(2).transpose(1, 2))
        return filled


@dataclass(frozen=True)
class Frames:
    """The number of a sample's rows in a layer's output, and the layout of a row as far as it is said."""

    count: int
    said: "Said | None" = None


# A layout as a user says it: see `explain`.
Said: TypeAlias = str | Sequence[int] | Layout | Frames | Callable[["Tensor"], "Tensor"]


def frame_count(frames: Any) -> int:
    """The number of a sample's frames, 1 where it is not said; XGradCamError for no number of them."""
    if frames is None:
        return 1
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise XGradCamError(f"frames is {frames!r}: give the number of a sample's frames, such as 16")
    return frames


def with_frames(said: "Said | None", frames: Any) -> "Said | None":
    """The layout said, with so many frames for each sample; XGradCamError for no number of them."""
    return said if frames is None else Frames(frame_count(frames), said)


def parse_layout(said: Any) -> Layout:
    """The layout that a text or (h, w, prefix) means; 0 x 0 for maps, whose size the output tells."""
    words = re.sub(r"[()\s]", "", str(said)).lower()
    if grid := _GRID.fullmatch(words):
        return Layout("tokens", int(grid[1]), int(grid[2]), int(grid[3] or 0))
    if grid := _OTHER_GRID.fullmatch(words):
        return Layout.of("tokens", [*map(int, (grid[1] or grid[3]).split("x"))], int(grid[2] or grid[4] or 0))
    for kind, word in _WORDS.items():
        if word == words:
            return Layout(kind, 0, 0)
    raise XGradCamError(f"no layout {said!r}: take {HOW_TO_SAY}")


def said_layout(said: Said, output: "Tensor", least: int = 2) -> Layout:
    """The layout of this output (N, ...) that a user said; XGradCamError where it does not fit.

    least: sides of a map, 1 for a network of signals.
    """
    if isinstance(said, Frames):
        return replace(said_layout(said.said or "", output, least), frames=said.count)
    if callable(said):
        return _chosen(said, output, least)
    # A list, as settings in JSON have it, is like a tuple.
    said = tuple(said) if isinstance(said, list) else said
    layout, shape = said if isinstance(said, Layout) else parse_layout(said), tuple(output.shape)
    if layout.index is not None and layout.shape == shape[1:]:
        return layout
    sides = len(layout.grid[layout.frames > 0 :])
    if layout.kind in _WORDS and (len(shape) - 2 == sides or (not sides and least <= len(shape) - 2 <= 3)):
        grid = shape[2:] if layout.kind == "maps" else shape[1:-1]
        return replace(Layout.of(layout.kind, grid), frames=layout.frames)
    end = layout.prefix + layout.cells // (layout.frames or 1)
    if layout.kind != "tokens" or len(shape) != 3 or end > shape[1]:
        raise XGradCamError(f"the layout {layout} does not fit its output, {shape}")
    return layout


def _chosen(function: "Callable[[Tensor], Tensor]", output: "Tensor", least: int) -> Layout:
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
    if least <= getattr(index, "ndim", 0) - 2 <= 3 and _is_choice(index, chosen, noise):
        each = index[0].long()
        return replace(Layout.of("chosen", each.shape[1:]), index=each.to(output.device), shape=shape[1:])
    raise XGradCamError(
        f"the layout function makes {made} of {shape}: it must make maps "
        "(N, C, h, w) by choosing and ordering the output's entries, each at most once"
    )


def _is_choice(index: Any, chosen: Any, noise: "Tensor") -> bool:
    """True if (2, C, h, w) of two samples' numbers are entries of each, the same ones, none twice."""
    if len(index) != 2 or getattr(chosen, "shape", ()) != index.shape:
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


def image_grids(image: tuple[int, int]) -> dict[tuple[int, ...], set[int]]:
    """Grids of square patches of an image (H, W), its rest cut off or padded, each with its patches."""
    grids: dict[tuple[int, ...], set[int]] = {}
    for patch in range(1, max(image) + 1):
        for more in (0, patch - 1):
            grid = (image[0] + more) // patch, (image[1] + more) // patch
            if grid[0] * grid[1] > 1:
                grids.setdefault(grid, set()).add(patch)
    return grids


def token_layouts(
    tokens: int, grids: Collection[tuple[int, ...]], prefixes: tuple[int, ...] = PREFIXES
) -> list[Layout]:
    """The layouts of this many tokens by one of these grids after one of these prefixes."""
    each = [Layout.of("tokens", grid, prefix) for prefix in prefixes for grid in sorted(grids)]
    return [one for one in each if one.cells + one.prefix == tokens]
