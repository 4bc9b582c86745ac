"""The class that a user's text states: the name of a folder, or a cell of a table."""

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from xgradcam.errors import XGradCamError, listed, shown
from xgradcam.models.labels import LONGEST_INDEX, class_named, classes_called, classes_listed

FOLDER = "the folder"


def class_stated(
    name: str, labels: Sequence[str] | None, count: int | None = None, what: str = FOLDER
) -> int | None:
    """The class of this index, id or whole name; None for no class. Zeros may lead an index.

    labels: the model's class names. count: of its classes; None if unknown. what: is named so, for messages.
    Raises XGradCamError for a name of several classes, and for an index that is the name of another class.
    """
    count = len(labels) if count is None and labels else count
    called = classes_called(labels, name)
    if is_index(name) and (count is None or int(name) < count):
        if labels is not None and called not in ([], [int(name)]):
            named = classes_listed(labels, called)
            choices = f"call it 0{called[0]} for the name, 0{name} for the index"
            raise XGradCamError(f"{what} {shown(name)} is an index, and the name of class {named}: {choices}")
        return int(name)
    if labels is not None and len(called) > 1:
        named = classes_listed(labels, called)
        raise XGradCamError(f"{what} {shown(name)} may be class {named}: call it by the index")
    return called[0] if called else None


def is_index(text: str) -> bool:
    """True for the digits of a number that can be the index of a class."""
    return text.isascii() and text.isdecimal() and len(text) <= LONGEST_INDEX


def require_stated(
    name: str, labels: Sequence[str] | None, count: int | None = None, what: str = FOLDER
) -> int:
    """The same; XGradCamError, with the classes that may be meant, for no class."""
    found = class_stated(name, labels, count, what)
    if found is not None:
        return found
    problem = f"{what} {shown(name)} names no class"
    if is_index(name) and count is not None:
        raise XGradCamError(f"{problem}: this model's classes are 0 to {count - 1}")
    try:
        index = class_named(labels, name)
    except XGradCamError as error:
        raise XGradCamError(f"{problem} by its index, id or whole name: {error}") from None
    meant = classes_listed(labels or (), [index])
    raise XGradCamError(f"{problem} by its index, id or whole name; did you mean {meant}?")


def classes_of_folders(
    folders: Iterable[PurePath], labels: Sequence[str] | None, count: int | None, required: bool = False
) -> dict[PurePath, int | None]:
    """The class that each folder is named after; None for none.

    required: raise XGradCamError for a folder that names no class. Raises it for folders that may be of
    several classes, and names all that are wrong.
    """
    targets: dict[PurePath, int | None] = {}
    problems: dict[str, str] = {}
    class_of = require_stated if required else class_stated
    for folder in folders:
        try:
            targets[folder] = class_of(folder.name, labels, count)
        except XGradCamError as error:
            problems.setdefault(folder.name, str(error))
    if problems:
        first, *others = problems
        more = f"; so too {listed(map(repr, others), 12)}" if others else ""
        raise XGradCamError(problems[first] + more)
    return targets
