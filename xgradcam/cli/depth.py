"""The lines on how much each block of a transformer adds to a map of its attention."""

from collections.abc import Iterator, Mapping
from typing import Any


def depth_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """A line for each method of attention: the first and the last block, and all shares, in percent."""
    for method, shares in record.get("depth", {}).items():
        names = list(shares)
        blocks = " to ".join(dict.fromkeys([names[0], names[-1]]))
        percent = " ".join("–" if share is None else f"{100 * share:.0f}" for share in shares.values())
        yield f"depth of {method}, {blocks}: {percent} % of the map"
