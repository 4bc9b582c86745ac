"""Layers of networks that return no class scores: those of the backbone, and the heads that read its maps."""

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from torch import nn

from xgradcam.lending.borrowing import fields_of
from xgradcam.operations.calls import tensors_of

BACKBONES = ("backbone", "encoder")
# Pyramids of features, heads and what embeds places, by the names that the usual packages give them.
READERS = re.compile(
    r"(^|[._])(fpn|neck|extra|rpn|(\w+_)?heads?|(aux_)?classifier|decoder|\w*embed\w*)(\.|$)"
)


def gives_classes(returned: Any, samples: int) -> bool:
    """True if there are class scores (N, classes) in what a model returned for N samples."""
    fields = fields_of(returned)
    found = () if isinstance(fields, list) else tensors_of(fields)
    return any(one.ndim == 2 and len(one) == samples for one in found)


def read_by_heads(modules: Mapping[str, nn.Module], maps: Collection[str]) -> Collection[str]:
    """The names of the layers that heads read: the backbone's, or else all but the heads'.

    modules: by name, in the order in which they finish. maps: the names of those with maps; where this would
    leave none of them, all names are returned.
    """
    for part in BACKBONES:
        found = [name for name in modules if name.split(".")[-1] == part]
        outermost = f"{min(found, key=len)}." if found else ""
        within = [name for name in modules if found and name.startswith(outermost)]
        left = {name for name in within if not READERS.search(name.removeprefix(outermost))}
        if not left.isdisjoint(maps):
            return left
    left = _before_the_pyramid(modules)
    if left.isdisjoint(maps):
        left = {name for name in modules if not READERS.search(name)}
    return modules.keys() if left.isdisjoint(maps) else left


def _before_the_pyramid(modules: Mapping[str, nn.Module]) -> set[str]:
    """The layers of a YOLO, before its maps first grow again, from which all comes that its head reads.

    YOLO's layers are numbered, `i`, and say which others they read: `f`, numbers or, below 0, steps back.
    Empty for other networks.
    """
    numbers: dict[str, int] = {}
    read: dict[int, list[int]] = {}
    for name, module in modules.items():
        number, others = (getattr(module, field, None) for field in ("i", "f"))
        if isinstance(number, int) and isinstance(others, (int, list)):
            numbers[name] = number
            steps = others if isinstance(others, list) else [others]
            read[number] = [step if step >= 0 else number + step for step in steps]

    @cache
    def behind(number: int) -> frozenset[int]:
        """The layer's number and those of all that it comes of."""
        return frozenset({number}).union(*(behind(one) for one in read.get(number, ()) if 0 <= one < number))

    grown = [number for name, number in numbers.items() if isinstance(modules[name], nn.Upsample)]
    if not grown:
        return set()
    common = frozenset.intersection(*map(behind, read[max(read)]))
    kept = [f"{name}." for name, number in numbers.items() if number in common and number < min(grown)]
    return {name for name in modules if f"{name}.".startswith(tuple(kept))}
