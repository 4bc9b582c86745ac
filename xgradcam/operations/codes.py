"""Codes of the places of single entries: a cell's number, or that of a mixture of cells."""

import hashlib

import torch
from torch import Tensor

NOWHERE = -1
# An entry that is mixed from more cells than this has no place of its own.
MOST_MIXED = 16


class Codes:
    """The codes given out: those of a layer's cells first, then those of other grids and of mixtures.

    count: of all codes.
    """

    def __init__(self, cells: int) -> None:
        self.count = cells
        self._most = min(MOST_MIXED, cells - 1)
        # For each batch of mixtures its first code; and the mixture, the code and the share of each part.
        self._mixtures: list[tuple[int, Tensor, Tensor, Tensor]] = []
        self._firsts: dict[bytes, int] = {}

    def more(self, count: int) -> int:
        """Give out so many codes; the first of them."""
        self.count += count
        return self.count - count

    def mixed(self, codes: Tensor, axis: int) -> Tensor:
        """Codes after mixing all entries along an axis, which is kept with one entry."""
        first = codes.narrow(axis, 0, 1)
        small = without_repeats(codes)
        if small.shape[axis] == 1 or bool((small == small.narrow(axis, 0, 1)).all()):
            return first
        rows = small.movedim(axis, -1)
        patterns, index = torch.unique(rows.reshape(-1, rows.shape[-1]), dim=0, return_inverse=True)
        named = self._named(patterns.sort(dim=1).values)[index]
        return named.reshape(*rows.shape[:-1], 1).movedim(-1, axis).expand(first.shape)

    def _named(self, patterns: Tensor) -> Tensor:
        """The codes of entries that are mixed from these, in order (M, parts); `NOWHERE` if they are many.

        Parts that are nowhere do not count: padding, or a class token beside each patch.
        """
        new = patterns != NOWHERE
        new[:, 1:] &= patterns[:, 1:] != patterns[:, :-1]
        parts = new.sum(dim=1)
        named = torch.where(parts == 1, patterns[:, -1], NOWHERE)
        few = (parts > 1) & (parts <= self._most)
        named[few] = self._first(patterns[few]) + torch.arange(int(few.sum()), device=named.device)
        return named

    def _first(self, patterns: Tensor) -> int:
        """The first code of a batch of mixtures; the same batch gets the same codes."""
        key = hashlib.sha256(str(patterns.shape).encode() + patterns.cpu().numpy().tobytes()).digest()
        if len(patterns) and key not in self._firsts:
            mixtures = torch.arange(len(patterns), device=patterns.device)[:, None].expand_as(patterns)
            placed = patterns != NOWHERE
            each, counts = torch.unique(
                torch.stack([mixtures[placed], patterns[placed]]), dim=1, return_counts=True
            )
            shares = counts.double() / placed.sum(dim=1)[each[0]]
            self._firsts[key] = self.more(len(patterns))
            self._mixtures.append((self._firsts[key], *each, shares))
        return self._firsts.get(key, self.count)

    def spread(self, masses: Tensor) -> None:
        """Give the masses of mixtures to their parts, too, in masses by code (N, codes)."""
        for first, mixtures, parts, shares in reversed(self._mixtures):  # a mixture may be of earlier ones
            if first < masses.shape[1]:
                masses.index_add_(1, parts, masses[:, first + mixtures] * shares)


def without_repeats(codes: Tensor) -> Tensor:
    """The codes with one entry along each axis that repeats them."""
    for axis, stride in enumerate(codes.stride()):
        if stride == 0 and codes.shape[axis] > 1:
            codes = codes.narrow(axis, 0, 1)
    return codes


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """True if a tensor of one shape can be expanded to the other."""
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, wanted) for size, wanted in pairs)
