"""Names of a model's classes, from what a caller or a JSON file gives, checked against their number."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from xgradcam.errors import XGradCamError, listed
from xgradcam.models.labels import WORDNET_ID

LONGEST_NAME = 1000
WANTED = "give a name a line, or a JSON list of names"
INDEX = r"\d{1,9}"
HEADER = re.compile(
    r"[\W_]*(index|idx|id|(class|label|category|synset|wnid)([ _-]?(id|index|idx|name|label)s?)?|"
    r"names?|classes|labels|categories|synsets|wnids)?[\W_]*",
    re.IGNORECASE,
)
BACKGROUND = re.compile(
    r"[\W_]*(background|unlabell?ed|void|dummy|n/?a|none|nothing)[\W_]*( class)?", re.IGNORECASE
)
# Keys under which files of JSON keep the names of classes.
LISTS = ("classes", "class_names", "names", "labels", "categories", "label2id", "class_to_idx")
KINDS = {
    str: "the text",
    bool: "the value",
    int: "the number",
    float: "the number",
    Mapping: "an object",
    list: "a list",
    type(None): "the value",
}


@dataclass(frozen=True)
class Names:
    """Names of classes before the number of the model's classes is known.

    source: the file, or `the labels`, for messages. names: in the order of the classes. places: where each
    name is, as `line 3` or `entry 2`. first: the number of the first class in the source, 0 or 1. blank:
    lines without a name between those with names. numbered: True if each has its number in the source.
    """

    source: str
    names: tuple[str, ...]
    places: tuple[str, ...]
    first: int = 0
    blank: tuple[int, ...] = ()
    numbered: bool = False

    def for_classes(self, count: int, model: str) -> tuple[str, ...]:
        """The names, if they may be those of `count` classes: as many, or fewer for the first of them.

        Raises XGradCamError for more, and where something else than a name may have been counted as one.
        """
        if len(self.names) != count and (problem := self._problem(count)):
            many = f"{len(self.names)} names for the {count} classes of {model}"
            raise XGradCamError(f"{self.source}: {many}{problem}")
        return self.names

    def _problem(self, count: int) -> str:
        """The likely reason why there are not `count` names; '' if the last classes may just have none."""
        more, first = len(self.names) > count, f"{self.places[0]} ({self.names[0]!r})"
        if self.first:
            return f", numbered from {self.first}: number them from 0"
        if is_header(self.names[0]):
            return f": {first} may be a header: delete it"
        if more and BACKGROUND.fullmatch(self.names[0]):
            return f": {first} may be a background class that the model has not: delete it"
        if more:
            last = f"{self.places[-1]} ({self.names[-1]!r})"
            return f"; they begin with {first} and end with {last}: delete what is no class of the model"
        if self.blank and len(self.names) + len(self.blank) <= count:
            return f", and line {self.blank[0]} is blank: delete it, or name the class of that line"
        return ""


def names_of(labels: object, source: str = "the labels") -> Names:
    """Names from a value that a caller gives, or that a JSON file holds.

    Taken are names in order, a mapping from index to name or from name to index, Keras' mapping from index to
    id and name, configurations of Hugging Face with `id2label` or `label_names`, and a mapping with one of
    these under a key of `LISTS`.
    Raises XGradCamError for anything else, and for indices that are not 0 to n - 1, or 1 to n.
    """
    if isinstance(labels, Mapping):
        return _of_mapping(labels, source)
    if not isinstance(labels, Iterable) or isinstance(labels, str | bytes | set | frozenset):
        refuse(source, f"{_shown(labels)}, not a list of names: {WANTED}")
    return _named(source, [_name(source, f"entry {place}", name) for place, name in enumerate(labels)])


def is_header(line: str) -> bool:
    """True if the line, or its first column, is what headers say."""
    return HEADER.fullmatch(re.split(r"[,;\t]", line)[0]) is not None


def _of_mapping(labels: Mapping[Any, Any], source: str) -> Names:
    if "id2label" in labels:
        return names_of(labels["id2label"], source)
    if "label_names" in labels:
        return _of_timm(names_of(labels["label_names"], source), labels.get("label_descriptions"))
    lists = [key for key in LISTS if _holds_names(labels.get(key))]
    if len(lists) > 1:
        refuse(source, f"lists under {listed(lists, 5)}: keep the one with the names of the classes")
    if lists:
        return names_of(labels[lists[0]], source)
    by_index = all(_index(key) is not None for key in labels)
    pairs: Iterable[tuple[Any, Any]] = labels.items()
    if all(_is_index(value) or (not by_index and _index(value) is not None) for value in labels.values()):
        pairs = [(index, name) for name, index in labels.items()]
    elif not by_index:
        key = next(key for key in labels if _index(key) is None)
        refuse(source, f"an object with the key {_shown(key)}, not one from index to name: {WANTED}")
    named: dict[int | None, str] = {}
    for key, value in pairs:
        index = _index(key)
        if index in named:
            refuse(source, f"the index {index} is there twice: give each class once")
        named[index] = _name(source, f"the name of class {index}", value)
    first = 0 if 0 in named or not named else 1
    order = range(first, first + len(named))
    missing = [index for index in order if index not in named]
    if missing:
        refuse(source, f"{len(named)} names, but none for {missing[0]}: number them from 0 without gaps")
    ordered = [named[index] for index in order]
    return replace(_named(source, ordered, "index", first), numbered=True)


def _of_timm(names: Names, descriptions: object) -> Names:
    """The names of timm's configurations: those of ImageNet's classes are ids, described elsewhere."""
    described = descriptions if isinstance(descriptions, Mapping) else {}
    words = [described.get(name) if WORDNET_ID.fullmatch(name) else None for name in names.names]
    whole = [
        f"{name} {word}" if isinstance(word, str) else name
        for name, word in zip(names.names, words, strict=True)
    ]
    return replace(names, names=tuple(whole))


def _holds_names(value: object) -> bool:
    """True for a mapping without others in it, and for a list of names alone."""
    is_list = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    is_flat = isinstance(value, Mapping) and not any(isinstance(one, Mapping) for one in value.values())
    return (is_list or is_flat) and bool(value)


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _index(value: Any) -> int | None:
    """The class index that a key means; None if it is none."""
    is_text = isinstance(value, str) and re.fullmatch(INDEX, value, re.ASCII)
    return int(value) if is_text or _is_index(value) else None


def _named(source: str, names: Sequence[str], place: str = "entry", first: int = 0) -> Names:
    if not names:
        refuse(source, f"no names: {WANTED}")
    places = tuple(f"{place} {number}" for number in range(first, first + len(names)))
    return Names(source, tuple(names), places, first)


def _name(source: str, place: str, value: Any) -> str:
    """The name in a value, or in Keras' pair of WordNet id and name."""
    is_pair = (
        isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, str) for part in value)
    )
    if is_pair and WORDNET_ID.fullmatch(value[0]):
        value = " ".join(value)
    if not isinstance(value, str):
        refuse(source, f"{place} is {_shown(value)}, not a name: {WANTED}")
    if not value.strip():
        refuse(source, f"{place} is empty: give the class a name")
    if len(value) > LONGEST_NAME:
        refuse(source, f"{place} has {len(value)} characters, too many for a name: {WANTED}")
    return " ".join(value.split())


def _shown(value: object) -> str:
    """The value's kind and beginning, for a message."""
    text = repr(value) if isinstance(value, str | int | float | None) else ""
    kind = next(
        (name for kind, name in KINDS.items() if isinstance(value, kind)), f"a {type(value).__name__}"
    )
    return f"{kind} {text[:40]}".strip() if text else kind


def refuse(source: str, reason: str) -> NoReturn:
    """Raise XGradCamError with this reason for not taking the names of a source."""
    raise XGradCamError(f"{source}: {reason}")
