"""Order of class names, where their WordNet ids or the model's own names tell more than the file's order."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from xgradcam.models.labels import WORDNET_ID, imagenet_labels, name_only
from xgradcam.models.names import Names, refuse


def in_order(names: Names, own: Sequence[str] | None, model: str, say: Callable[[str], None]) -> Names:
    """The names in the order of the model's outputs, as far as it can be known.

    own: the names of its classes in this order, None if it is not known. Their ids, where the names have the
    same, decide. Where the order is not known, it is that of the source; say: is called with a line if that
    is not the order of the ids, in which networks for ImageNet and folders of classes have them.
    Raises XGradCamError for names of the model's classes in another order, and for a numbering of ImageNet's
    classes from 1 that is not the order of their ids.
    """
    ids, known = _ids_of(names.names), _ids_of(own or ())
    if ids and known:
        return _by_known_ids(names, ids, known, model, say)
    if own is not None:
        _require_order(names, own, model)
    elif ids and list(ids) != sorted(ids) and not (names.numbered and names.first == 0):
        if names.first and set(ids) == set(_ids_of(imagenet_labels())):
            refuse(
                names.source,
                "numbered from 1 in an order that is not that of the WordNet ids, as in ImageNet's devkit; "
                "networks have these classes in the order of the ids: sort the lines by id and leave out the "
                "numbers, or number them from 0 if this model has them in this order",
            )
        by, too = ("numbers", " and leave out the numbers") if names.numbered else ("lines", "")
        taken = f"taken in the order of its {by}, which is not that of the WordNet ids"
        advice = f"sort the lines by id{too} if the model was trained on folders in the order of their names"
        say(f"{names.source}: {taken}: {advice}")
    return names


def _ids_of(names: Sequence[str]) -> tuple[str, ...]:
    """The WordNet ids of the names; empty if not all have one.

    ImageNet's names in the order of the networks have them, if the ids are left out.
    """
    matches = [WORDNET_ID.match(name) for name in names]
    ids = tuple(match[1] for match in matches if match)
    if names and not ids and list(map(_first, names)) == list(map(_first, imagenet_labels())):
        return _ids_of(imagenet_labels())
    return ids if len(ids) == len(names) else ()


def _first(label: str) -> str:
    """The first name of a label, without case, and with spaces for its underscores."""
    return name_only(label).partition(",")[0].replace("_", " ").casefold().strip()


def _by_known_ids(
    names: Names, ids: Sequence[str], known: Sequence[str], model: str, say: Callable[[str], None]
) -> Names:
    """The names in the order of the known ids, if all have one of these; XGradCamError for ids elsewhere."""
    if ids == known:
        return names
    if sorted(ids) == sorted(known):
        taken = "taken in that of their WordNet ids, which are the same"
        say(f"{names.source}: not in the order of the classes of {model}: {taken}")
        place = {identity: number for number, identity in enumerate(ids)}
        order = [place[identity] for identity in known]
        return replace(
            names,
            names=tuple(names.names[number] for number in order),
            places=tuple(names.places[number] for number in order),
        )
    index = {identity: number for number, identity in enumerate(known)}
    for number, identity in enumerate(ids):
        if index.get(identity, number) != number:
            its = f"the WordNet id {identity}, that of class {index[identity]} of {model}"
            advice = f"give all {len(known)} classes with their ids"
            refuse(names.source, f"{names.places[number]} gives class {number} {its}: {advice}")
    return names


def _require_order(names: Names, own: Sequence[str], model: str) -> None:
    """Raise XGradCamError if most names are those of the model's classes, and most of these of other ones."""
    if len(names.names) != len(own):
        return
    words = [{_first(part) for part in name_only(label).split(",")} for label in own]
    count = Counter(word for several in words for word in several)
    index = {word: number for number, several in enumerate(words) for word in several if count[word] == 1}
    found = [(number, index.get(_first(name))) for number, name in enumerate(names.names)]
    moved = [(number, its) for number, its in found if its is not None and its != number]
    if 2 * len(moved) > len(own):
        number, its = moved[0]
        place = f"{names.places[number]} ({names.names[number][:40]!r})"
        moved_too = f"class {its} of {model} is called that, and most others are moved too"
        refuse(
            names.source, f"{place} is for class {number}, but {moved_too}: give them in the model's order"
        )
