"""Class names: reading them, and from a class's index to its name and back."""

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from xgradcam.errors import XGradCamError, listed, shown


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Labels of ImageNet's 1000 classes in output order, as `n02123045 tabby, tabby cat`."""
    text = (files("xgradcam.models") / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def label_of(labels: Sequence[str] | None, index: int) -> str:
    """The label of a class, or `class 7` if the labels are unknown."""
    return labels[index] if labels is not None and index < len(labels) else f"class {index}"


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels from a file: one per line, or JSON with a list or an object from index to name.

    Raises XGradCamError if the file cannot be read or does not name the classes 0 to n - 1.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            return tuple(line.strip() for line in text.splitlines() if line.strip())
        content = json.loads(text)
    except OSError as error:
        raise XGradCamError(f"cannot read labels {path}: {error.strerror}") from None
    except ValueError as error:
        raise XGradCamError(f"cannot read labels {path}: {error}") from None
    if isinstance(content, dict):
        if set(content) != {str(index) for index in range(len(content))}:
            raise XGradCamError(f"labels {path}: the keys are not the indices 0 to {len(content) - 1}")
        content = [content[str(index)] for index in range(len(content))]
    if not isinstance(content, list):
        raise XGradCamError(f"labels {path}: neither a list of names nor an object from index to name")
    # In Keras' file for ImageNet, each name is a pair of WordNet id and words.
    return tuple(" ".join(map(str, name)) if isinstance(name, list) else str(name) for name in content)


def class_named(labels: Sequence[str] | None, name: str) -> int:
    """Index of the class with this name: its whole label, one of its words, or a part of no other label.

    Raises XGradCamError if no class has the name, or several have it; these are listed.
    """
    if labels is None:
        raise XGradCamError(
            f"no class {shown(name)}: the names of this model's classes are not known (--labels)"
        )
    wanted = name.strip().lower()
    for fits in (
        lambda label: wanted == label.lower(),
        lambda label: wanted in _words_of(label),
        lambda label: wanted in label.lower(),
    ):
        found = [index for index, label in enumerate(labels) if wanted and fits(label)]
        if len(found) == 1:
            return found[0]
        if found:
            candidates = listed((f"{index} ({labels[index]})" for index in found), 8)
            raise XGradCamError(f"{shown(name)} may be class {candidates}: give the index")
    raise XGradCamError(f"no class is named {shown(name)}")


def name_only(label: str) -> str:
    """The label without its WordNet id."""
    return re.sub(r"^n\d{8} ", "", label)


def _words_of(label: str) -> list[str]:
    """`n02123045 tabby, tabby cat` -> the id, `tabby` and `tabby cat`."""
    match = re.match(r"(n\d{8}) (.*)", label)
    wordnet_id, words = match.groups() if match else ("", label)
    return [wordnet_id, *(word.strip().lower() for word in words.split(","))]
