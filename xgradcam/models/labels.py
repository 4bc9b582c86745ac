"""Class names: a class's index to its name, and a name back to the index."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import chain

from xgradcam.errors import XGradCamError, did_you_mean, listed, shown

WORDNET_ID = re.compile(r"(n\d{8})(?:[ \t]+(.*))?")
TOP = re.compile(r"top(\d{1,9})", re.IGNORECASE)
INDEX = re.compile(r"([+-]?)(\d+)")
# Digits of an index at most: no model has more classes.
LONGEST_INDEX = 9


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Labels of ImageNet's 1000 classes in output order, as `n02123045 tabby, tabby cat`."""
    text = (files("xgradcam.models") / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def label_of(labels: Sequence[str] | None, index: int) -> str:
    """The label of a class, or `class 7` if the labels are unknown."""
    return labels[index] if labels is not None and index < len(labels) else f"class {index}"


def name_only(label: str) -> str:
    """The label without its WordNet id."""
    return re.sub(r"^n\d{8} ", "", label)


def class_index(
    value: str, labels: Sequence[str] | None, say: Callable[[str], None] = lambda _line: None
) -> int | None:
    """The class that a text means: an index, a name, or None, for `-1`, the one of the highest score.

    say: is told of a class that was found by a part of its name. Raises XGradCamError for a number that is
    the index of one class and the name of another: with a sign it is the index.
    """
    number = INDEX.fullmatch(value.strip())
    if number is None:
        return class_named(labels, value, say)
    if len(number[2]) > LONGEST_INDEX:
        raise XGradCamError(f"no class {value.strip()[:40]}: that is no index of a class")
    index = int(number[0])
    if index == -1:
        return None
    called = [other for other in classes_called(labels, number[0]) if other != index]
    if labels is not None and called and not number[1]:
        choices = f"+{index} for the index, +{called[0]} for the name"
        named = classes_listed(labels, called)
        raise XGradCamError(f"{value!r} is an index, and the name of class {named}: give {choices}")
    return index


def class_named(
    labels: Sequence[str] | None, name: str, say: Callable[[str], None] = lambda _line: None
) -> int:
    """Index of the class with this name: a whole name before whole words, and these before parts of words.

    Case and accents do not matter, and `_` and `-` are spaces. say: is called with a line if the name is not
    a whole one, has other spaces, or is also a synonym of another class.
    Raises XGradCamError if no class has the name, or several have it equally; these are listed.
    """
    quoted = shown(name)
    if labels is None:
        raise XGradCamError(f"no class {quoted}: the names of this model's classes are not known (--labels)")
    wanted, known = _Name.of(name), _known(tuple(labels))
    fitting: list[int] = []
    for fits in (*WHOLE, *PARTS, *TOGETHER) if wanted.plain else ():
        fitting = [index for index, forms in enumerate(known) if fits(forms, wanted)]
        if fitting:
            break
    if not fitting:
        hint = did_you_mean(wanted.plain, chain.from_iterable(forms.names for forms in known))
        raise XGradCamError(f"no class is named {quoted}{hint}")
    if len(fitting) > 1:
        raise XGradCamError(f"{quoted} may be class {classes_listed(labels, fitting)}: give the index")
    others = [index for index in classes_called(labels, name) if index != fitting[0]]
    taken = f"taking class {classes_listed(labels, fitting)} for {quoted}"
    if others:
        say(f"{taken}, and not {classes_listed(labels, others)}")
    elif fits in PARTS:
        say(f"{taken}, a part of its name")
    elif fits in TOGETHER:
        say(f"{taken}, with other spaces")
    return fitting[0]


def classes_called(labels: Sequence[str] | None, name: str) -> list[int]:
    """Indices of all classes with this whole name: the label, its id, or a name between its commas."""
    wanted = _Name.of(name)
    if labels is None or not wanted.plain:
        return []
    known = _known(tuple(labels))
    return [index for index, forms in enumerate(known) if any(fits(forms, wanted) for fits in WHOLE)]


def classes_listed(labels: Sequence[str], indices: Iterable[int]) -> str:
    """`134 (n02012849 crane), 517 (n03126707 crane)`: classes with their labels, eight at most."""
    return listed((f"{index} ({labels[index]})" for index in indices), 8)


@dataclass(frozen=True)
class _Name:
    """A name without case and separators (`plain`), and without accents and full stops too (`folded`)."""

    plain: str
    folded: str

    @classmethod
    def of(cls, text: str) -> "_Name":
        plain = " ".join(re.split(r"[\s_\-]+", unicodedata.normalize("NFC", text).casefold())).strip()
        letters = (
            letter for letter in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(letter)
        )
        # `+` and `#` tell names apart (C, C++, C#), these marks do not.
        folded = re.sub(r"""[.,'’"()!?]""", "", "".join(letters))
        return cls(plain, " ".join(folded.split()))


@dataclass(frozen=True)
class _Forms:
    """The names of a class: the whole label, its own names, its synonyms and id, all as `_Name.plain`.

    names: these without the id. folded: all of them as `_Name.folded`. text, text_with_id: the label, folded.
    """

    label: str
    first: frozenset[str]
    others: frozenset[str]
    names: tuple[str, ...]
    folded: frozenset[str]
    text: str
    text_with_id: str


@lru_cache(maxsize=4)
def _known(labels: tuple[str, ...]) -> tuple[_Forms, ...]:
    return tuple(map(_forms_of, labels))


def _forms_of(label: str) -> _Forms:
    match = WORDNET_ID.fullmatch(label)
    identity, words = match.groups() if match else (None, label)
    whole, *parts = map(_Name.of, (words or "", *(words or "").split(",")))
    names = [name for name in (whole, *parts) if name.plain]
    everything = _Name.of(label)
    return _Forms(
        label=everything.plain,
        first=frozenset(name.plain for name in (whole, *parts[:1]) if name.plain),
        others=frozenset([*(name.plain for name in names), *([identity] if identity else [])]),
        names=tuple(name.plain for name in names),
        folded=frozenset(name.folded for name in (everything, *names) if name.folded),
        text=whole.folded,
        text_with_id=everything.folded,
    )


Fits = Callable[[_Forms, _Name], bool]


def _within(pattern: str) -> Fits:
    """True for a label in which the name, put into the pattern, is found; ids only if they are looked for."""

    def fits(forms: _Forms, wanted: _Name) -> bool:
        text = forms.text_with_id if re.match(r"n\d", wanted.folded) else forms.text
        return bool(
            re.search(r"\w", wanted.folded) and re.search(pattern.format(re.escape(wanted.folded)), text)
        )

    return fits


# The order in which a name is looked for: the first that any class fits decides.
WHOLE: tuple[Fits, ...] = (
    lambda forms, wanted: wanted.plain == forms.label,
    lambda forms, wanted: wanted.plain in forms.first,
    lambda forms, wanted: wanted.plain in forms.others,
    lambda forms, wanted: wanted.folded in forms.folded,
)
PARTS: tuple[Fits, ...] = (_within(r"(?<!\w){}(?!\w)"), _within(r"(?<!\w){}"), _within("{}"))
# At last, a whole name with its words written together or apart.
TOGETHER: tuple[Fits, ...] = (
    lambda forms, wanted: (
        re.search(r"\w", wanted.folded) is not None
        and wanted.folded.replace(" ", "") in {name.replace(" ", "") for name in forms.folded}
    ),
)
