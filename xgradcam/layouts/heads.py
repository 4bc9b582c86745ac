"""Layers of networks that return no class scores: those of the backbone, and the heads that read its maps."""

import re
from collections.abc import Collection, Sequence
from typing import Any

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


def read_by_heads(names: Sequence[str], maps: Collection[str]) -> Collection[str]:
    """The names of the layers that heads read: the backbone's, or else all but the heads'.

    maps: those of layers with maps; where this would leave none of them, all names are returned.
    """
    for part in BACKBONES:
        found = [name for name in names if name.split(".")[-1] == part]
        outermost = f"{min(found, key=len)}." if found else ""
        within = [name for name in names if found and name.startswith(outermost)]
        left = {name for name in within if not READERS.search(name.removeprefix(outermost))}
        if not left.isdisjoint(maps):
            return left
    left = {name for name in names if not READERS.search(name)}
    return names if left.isdisjoint(maps) else left
