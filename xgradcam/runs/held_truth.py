"""The true classes of photographs in tars and tables, from the labels beside them there."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from math import isfinite
from typing import Any

from xgradcam.errors import XGradCamError, did_you_mean, first_line, listed, shown
from xgradcam.models.stated import class_stated, require_stated
from xgradcam.runs.held import Member, apart, members_in
from xgradcam.runs.remote import opened
from xgradcam.runs.sources import Source
from xgradcam.runs.tables import Row, values_of
from xgradcam.runs.truth import CLASSES, Say, key_of

# Bytes of a label, at most.
LARGEST = 2**20
JSON = "json"


@dataclass
class _Labels:
    """The classes that labels state, by the photographs' paths; there: what a label may be called.

    named: what tables call these classes. names: of all classes of a table, by its path.
    """

    stated: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    names: dict[str, Sequence[str]] = field(default_factory=dict)
    there: dict[str, None] = field(default_factory=dict)


def is_held(source: Source) -> bool:
    """True for a photograph that can have a label beside it: in a tar or a table."""
    return isinstance(source.held, Member | Row)


def by_labels(
    name: str, sources: Sequence[Source], labels: Sequence[str] | None, count: int | None, say: Say
) -> list[Source]:
    """The photographs with the class that a label beside each states; None for those without one.

    name: of tables the column; of tars the ending, as WebDataset has them (`cls`), with `json:KEY` for a
    value in an object. say: is told of photographs without one, and of classes that are taken by number.
    Raises XGradCamError for a label of no class, labels that contradict one another, and where no photograph
    has one.
    """
    found = _Labels()
    by_place: defaultdict[str, list[Source]] = defaultdict(list)
    for source in sources:
        if isinstance(source.held, Member | Row):
            by_place[source.held.place].append(source)
    for place, of_place in by_place.items():
        read = _of_tar if isinstance(of_place[0].held, Member) else _of_table
        read(name, place, of_place, found)
    if not found.stated:
        raise _without_labels(name, found)
    truth = _classes(found, labels, count, say)
    if without := [source.path for source in sources if source.path not in truth]:
        photographs = f"photograph{'s' * (len(without) > 1)}"
        say(f"{len(without):,} {photographs} without a label {shown(name)}, such as {without[0]}")
    return [replace(source, truth=truth.get(source.path)) for source in sources]


def _without_labels(name: str, found: _Labels) -> XGradCamError:
    """The error of a name by which no class is found."""
    ending = name.partition(":")[0].lower().lstrip(".")
    if name in found.there or ending in found.there:
        return XGradCamError(
            f"--truth {name}: no photograph has a class there: all such labels are empty or of other samples"
        )
    others = f"; there are {listed(found.there, 8)}" if found.there else ""
    hint = did_you_mean(name, found.there)
    return XGradCamError(f"--truth {name}: no file, label or column is called so{others}{hint}")


def _classes(found: _Labels, labels: Sequence[str] | None, count: int | None, say: Say) -> dict[str, int]:
    """The class of each photograph: by the name that a table gives it, or else by what the label says."""
    class_of: dict[tuple[str, bool], int] = {}
    by_number = _by_number(found, labels, count, say)
    truth = {}
    for path, text in found.stated.items():
        is_name = path in found.named and not by_number
        key = found.named[path] if is_name else text, is_name
        if key not in class_of:
            class_of[key] = require_stated(key[0], labels, count, f"the label of {path}:")
        truth[path] = class_of[key]
    return truth


def _by_number(found: _Labels, labels: Sequence[str] | None, count: int | None, say: Say) -> bool:
    """True if classes that tables have names of are taken by their numbers: the model has no such names.

    XGradCamError where names that the model does have are of other numbers there.
    """
    if not found.named:
        return True
    others = [place for place, names in found.names.items() if len(names) != count]
    if labels is None:
        if others and count is not None:
            raise XGradCamError(
                f"{others[0]} has {len(found.names[others[0]])} classes, and the model {count} without "
                "names: give theirs by --labels"
            )
        say(
            "classes are taken by their numbers: the model has no names that the table's could be compared to"
        )
        return True
    named = dict.fromkeys(found.named.values())
    unknown = next((name for name in named if _class_of(name, labels, count) is None), None)
    if unknown is None or others:
        return False
    for place, names in found.names.items():
        for number, name in enumerate(names):
            if (of_model := _class_of(name, labels, count)) not in (None, number):
                raise XGradCamError(
                    f"{place} calls class {number} {shown(name)}, which is the model's class {of_model}, and "
                    f"the model has no class {shown(unknown)}: give the table's names by --labels, in the "
                    "model's order"
                )
    say(f"classes are taken by their numbers: the model has no class {shown(unknown)}, as the table has")
    return True


def _class_of(name: str, labels: Sequence[str], count: int | None) -> int | None:
    """The class that a table's name certainly means; None where it is unknown, or may be several."""
    try:
        return class_stated(name, labels, count)
    except XGradCamError:
        return None


def _of_tar(name: str, place: str, sources: Sequence[Source], found: _Labels) -> None:
    """Add the labels of photographs in a tar: members of the same key.

    Others are not looked at: a tar may have members of that ending that are no labels, such as `info.json`.
    """
    ending, _, key_in = name.partition(":")
    ending = ending.lower().lstrip(".")
    photographs = {source.held.offset: source.path for source in sources if isinstance(source.held, Member)}
    keys: dict[str, list[str]] = defaultdict(list)
    contents: dict[str, list[tuple[str, bytes | None]]] = defaultdict(list)
    with opened(place) as file:
        for member_name, member in members_in(file, place):
            key, of_member = apart(member_name)
            if member.offset in photographs:
                keys[key].append(photographs[member.offset])
                continue
            if of_member:
                found.there.setdefault(of_member)
            if of_member == ending:
                file.seek(member.offset)
                content = file.read(member.size) if member.size <= LARGEST else None
                contents[key].append((member_name, content))
    for key, paths in keys.items():
        texts: dict[str, str] = {}
        for member_name, content in contents[key]:
            text = _text(content, f"{place}/{member_name}", key_in, ending)
            if text is not None:
                texts.setdefault(text, member_name)
        if len(texts) > 1:
            (one, first), (other, second) = list(texts.items())[:2]
            raise XGradCamError(
                f"{place}: {first} and another {second} say {shown(one)} and {shown(other)}: keep one of them"
            )
        for text in texts:
            found.stated |= dict.fromkeys(paths, text)


def _text(content: bytes | None, path: str, key: str, ending: str) -> str | None:
    """The class that the content of a label states: text, or a value in JSON; None for a null there.

    content: None for a larger one than is read.
    """
    if content is None:
        raise XGradCamError(f"the label {path} has over a megabyte: name the ending of the classes")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise XGradCamError(f"the label {path} is no text in UTF-8: name the ending of the classes") from None
    if ending == JSON or key:
        try:
            value = json.loads(text)
        except (RecursionError, ValueError) as error:
            raise XGradCamError(f"the label {path} is no JSON: {first_line(error)}") from None
        value = _value_in(value, path, key)
        return None if value is None else _said(value, path)
    if not text:
        raise XGradCamError(f"the label {path} is empty: state a class, or leave it out")
    return text


def _value_in(value: Any, path: str, key: str) -> Any:
    """The class in a value of JSON: itself, or of an object the value of this key, or of an only one."""
    if not isinstance(value, dict):
        if key:
            raise XGradCamError(f"the label {path} is no object with a key {key!r}: give --truth {JSON}")
        return value
    keys = [key] if key else [one for one in value if key_of(one) in CLASSES]
    if len(keys) != 1 or keys[0] not in value:
        what = f"no {key!r}" if key else "no class that is certain"
        raise XGradCamError(
            f"the label {path} has {what} among {listed(map(repr, value), 8)}: name it, as --truth {JSON}:KEY"
        )
    return value[keys[0]]


def _said(value: Any, path: str) -> str:
    """A number or a text that states a class, as text."""
    if isinstance(value, float | Decimal) and isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise XGradCamError(f"the label of {path} is {shown(value)}: it must be a class's index, id or name")


def _of_table(name: str, place: str, sources: Sequence[Source], found: _Labels) -> None:
    """Add the labels of photographs in a table: the values of a column.

    Numbers below 0 of a `ClassLabel` are photographs without one, as Hugging Face has it.
    """
    rows = {
        (row.group, row.index): source.path
        for source in sources
        for row in [source.held]
        if isinstance(row, Row)
    }
    values, names, columns = values_of(place, name)
    found.there |= dict.fromkeys(columns)
    for at, value in values:
        path = rows.get(at)
        # Not a number: a row without a label, as Pandas writes it.
        if path is None or value is None or value != value:
            continue
        said = _said(value, path)
        if names is not None and not isinstance(value, str):
            if (number := int(said)) < 0:
                continue
            if number >= len(names):
                raise XGradCamError(f"the label of {path} is {said}, and {place} has {len(names)} classes")
            found.named[path], found.names[place] = names[number], names
        found.stated[path] = said
