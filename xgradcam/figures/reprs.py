"""Short texts and small HTML tables of results, for consoles and notebooks: never the numbers of a tensor.

Imports neither torch nor the picture libraries until a map is drawn.
"""

import dataclasses
import html
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xgradcam.errors import escaped, shortened, shown

# Entries of a list, values of a tensor, samples, methods and notes that are shown at most.
MOST, VALUES, SAMPLES, METHODS, NOTES = 4, 3, 4, 6, 4
# Letters of a value at most, and pixels of a map's side in a table: stored, and as it is shown.
LETTERS, STORED, SIDE = 60, 64, 96
TERMS = ("feature", "bias", "bypass", "curvature")


class Brief:
    """Gives a dataclass a short `repr`: of tensors the type and shape, of models the class."""

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        told = (one.name for one in fields if getattr(self, one.name) is not one.default)
        parts = ((name, brief(getattr(self, name))) for name in told)
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in parts if text)})"


class BriefExplanation(Brief):
    """The short texts of explanations."""

    def __repr__(self) -> str:
        one: Any = self
        maps = one.maps
        sides = " x ".join(map(str, next(iter(maps.values())).shape[1:])) if maps else "no"
        scores = numbers(one.score)
        told = [one.explained(index) for index in range(min(len(one.score), MOST))]
        what = ", ".join(dict.fromkeys(told)) + (", ..." if len(one.score) > MOST else "")
        count = sum(map(len, one.notes))
        notes = f"; {count} note{'s' * (count != 1)}" if count else ""
        samples = f"{len(one.score)} sample{'s' * (len(one.score) != 1)}"
        about = f"{escaped(what)}; score {scores}; maps {sides} by {', '.join(maps)}{notes}"
        return f"<{type(one).__name__} of {samples}: {about}>"

    def _repr_html_(self) -> str:
        one: Any = self
        samples, methods = range(min(len(one.score), SAMPLES)), list(one.maps)[:METHODS]
        conservation = one.conservation
        head = ["", "score", *methods]
        rows = [
            [
                cell(one.explained(index)),
                cell(number(one.score[index])),
                *(_map_cell(one, method, index, conservation[method][index]) for method in methods),
            ]
            for index in samples
        ]
        left = {"samples": len(one.score) - len(samples), "methods": len(one.maps) - len(methods)}
        more = [f"{count} more {what}" for what, count in left.items() if count]
        notes = [note for of_sample in one.notes for note in of_sample]
        lines = [*dict.fromkeys(notes)][:NOTES] + more
        return table(type(one).__name__, head, rows, lines)

    def thumbnail(self, method: str, sample: int) -> tuple[str, bytes]:
        """The kind and the content of a small picture of a map."""
        one: Any = self
        return "png", small_picture(one.maps[method][sample])


class BriefVerification(Brief):
    """The short texts of verifications."""

    def __repr__(self) -> str:
        one: Any = self
        terms = " + ".join(f"{term} {numbers(getattr(one, term))}" for term in TERMS)
        return f"<{type(one).__name__}: score {numbers(one.score)} = {terms}; {self._verdict()}>"

    def _repr_html_(self) -> str:
        one: Any = self
        count = min(len(one.score), SAMPLES)
        head = ["term", *(f"sample {index}" for index in range(count))] if count > 1 else ["term", "value"]
        rows = [
            [cell(term), *(cell(number(getattr(one, term)[index])) for index in range(count))]
            for term in ("score", *TERMS, "residual")
        ]
        lines = [self._verdict()]
        if len(one.score) > count:
            lines.append(f"{len(one.score) - count} more samples")
        return table(type(one).__name__, head, rows, lines)

    def _verdict(self) -> str:
        one: Any = self
        holds, closes, count = int(one.holds.sum()), int(one.closes.sum()), len(one.score)
        if holds == count:
            return "Eq. 5 holds" if count == 1 else f"Eq. 5 holds for all {count} samples"
        of = "" if count == 1 else f" for {count - holds} of {count} samples"
        sums = "its terms sum to the score" if closes == count else "its terms do not sum to the score"
        return f"Eq. 5 does not hold{of}; {sums}"


class BriefClassifier(Brief):
    """The short texts of classifiers."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(f'{name} {text}' for name, text in self._facts())}>"

    def _repr_html_(self) -> str:
        rows = [[cell(name), cell(text)] for name, text in self._facts()]
        labels = getattr(self, "labels", None)
        lines = [f"classes: {', '.join(shortened(label, 40) for label in labels[:3])}, ..."] if labels else []
        return table(type(self).__name__, [], rows, lines)

    def _facts(self) -> list[tuple[str, str]]:
        one: Any = self
        size = " x ".join(map(str, (len(one.mean), *([one.frames] if one.frames else []), *one.size)))
        classes = "unknown names" if one.labels is None else f"{len(one.labels)} named"
        facts = [("name", shown(one.name)), ("model", type(one.module).__name__), ("kind", one.kind)]
        facts += [("input", size), ("classes", classes), ("layer", one.layer or "searched for")]
        return [(name, escaped(text)) for name, text in facts]


def brief(value: Any) -> str:
    """A value in a few words; empty for None and what is empty."""
    if value is None or (isinstance(value, str | Sequence | Mapping) and not value):
        return ""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{{{_listed(str(key) for key in value)}}}"
    if isinstance(value, str | bool | int | float | bytes):
        return shown(value)
    if isinstance(value, Sequence):
        return f"[{_listed(brief(one) or 'None' for one in value)}]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and isinstance(value, Brief):
        return repr(value)
    if callable(value) and hasattr(value, "__name__"):
        return escaped(shortened(value.__name__, LETTERS))
    return type(value).__name__


def _listed(texts: Iterable[str]) -> str:
    found = [escaped(text) for text in texts]
    return ", ".join(found[:MOST]) + (f" and {len(found) - MOST} more" if len(found) > MOST else "")


def numbers(values: Any) -> str:
    """The first values of a tensor (N,): `7.44, 3.21, ...`."""
    count = len(values)
    return ", ".join(number(values[index]) for index in range(min(count, VALUES))) + ", ..." * (
        count > VALUES
    )


def number(value: Any) -> str:
    """A number with four digits; `?` of a tensor without values."""
    try:
        return f"{float(value):.4g}"
    except (RuntimeError, TypeError, ValueError):
        return "?"


def cell(text: str) -> str:
    """A text as the content of a table's cell: nothing in it is HTML."""
    return html.escape(escaped(shortened(text, 200)))


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], lines: Iterable[str]) -> str:
    """A table in HTML, the rows' cells as they are, with lines of text below."""
    top = f"<tr>{''.join(f'<th>{cell(one)}</th>' for one in head)}</tr>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{one}</td>' for one in row)}</tr>" for row in rows)
    below = "".join(f"<div>{cell(line)}</div>" for line in lines)
    return f"<div><b>{cell(title)}</b><table>{top}{body}</table>{below}</div>"


def _map_cell(one: Any, method: str, index: int, error: Any) -> str:
    """A method's map as a small picture, and its conservation error below."""
    kind, content = one.thumbnail(method, index)
    source = f"data:image/{kind};base64,{b64encode(content).decode()}"
    style = f"height:{SIDE}px;min-width:{SIDE}px;image-rendering:{'pixelated' if kind == 'png' else 'auto'}"
    text = cell(f"map of {method}")
    return f'<img alt="{text}" style="{style}" src="{source}"><br>conservation error {number(error)}'


def small_picture(signed: Any) -> bytes:
    """A map's positive values, (h, w), (l,) or the middle of (d, h, w), in colours: a PNG of few bytes."""
    import cv2
    import numpy as np

    from xgradcam.pictures.paint import EVEN, colours_of

    values = np.nan_to_num(np.asarray(signed.detach().float().cpu()), posinf=0, neginf=0).clip(0)
    values = values[None] if values.ndim == 1 else values[len(values) // 2] if values.ndim == 3 else values
    share = min(1.0, STORED / max(values.shape))
    size = max(1, math.floor(values.shape[1] * share)), max(1, math.floor(values.shape[0] * share))
    values = cv2.resize(values, size, interpolation=cv2.INTER_AREA) if share < 1 else values
    levels = np.rint(255 * values / (float(values.max()) or 1)).astype(np.uint8)
    encoded: bytes = cv2.imencode(".png", colours_of(EVEN)[levels][..., ::-1])[1].tobytes()
    return encoded
