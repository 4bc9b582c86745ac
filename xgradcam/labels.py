"""Class index to name."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files


@cache
def imagenet_labels() -> tuple[str, ...]:
    """ImageNet's 1000 classes in output order, as `n02087394 Rhodesian ridgeback`: WordNet id and words."""
    text = (files("xgradcam") / "data" / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def label_of(labels: Sequence[str] | None, index: int) -> str:
    """The name of a class, or `class 7` where the names are not known."""
    return labels[index] if labels is not None and index < len(labels) else f"class {index}"
