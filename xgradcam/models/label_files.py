"""Class names from a file.

Read are a name a line, an index and a name a line (text, CSV, TSV), and JSON with what `names_of` takes.
"""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from xgradcam.errors import XGradCamError
from xgradcam.files import open_regular
from xgradcam.models.labels import WORDNET_ID
from xgradcam.models.names import INDEX, LONGEST_NAME, WANTED, Names, is_header, names_of, refuse

LARGEST_FILE = 2**24
NUMBERED = re.compile(rf"(?P<index>{INDEX})(?P<mark>\s*[,;:=|\t]\s*|[.)]\s+|\s+)(?P<name>.+)", re.ASCII)
NUMBERED_BEHIND = re.compile(rf"(?P<name>.+?)(?P<mark>\s*[,;\t]\s*)(?P<index>{INDEX})", re.ASCII)
COMMENT = re.compile(r"(#|//)\s")
SOURCE_TEXT = re.compile(
    r"""[urb]?(["']).*\1\s*([,;\])}]+$|:|,\s*["'])|[\w.]+\s*[:=]\s*[\[({]|[\[({\])}]+[,;]?$"""
    r"""|[\[({]+\s*(["']|\d+\s*:)|\d+\s*:\s*["'].*,$"""
)
# Beginnings of files that hold something else.
OTHER_CONTENT = {
    r"<(!doctype|html|head|\?xml|svg)\b": "a web page or XML: download the file itself",
    "version https://git-lfs": "a pointer to a file in large-file storage: fetch it with git lfs pull",
}


def read_names(path: Path) -> Names:
    """Names from a file. Raises XGradCamError if it cannot be read, or is anything else than class names."""
    source, text, suffix = f"labels {path}", _text(path), path.suffix.lower()
    for beginning, what in OTHER_CONTENT.items():
        if re.match(beginning, text.lstrip(), re.IGNORECASE):
            refuse(source, what)
    is_json = suffix == ".json"
    if is_json or text.lstrip()[:1] in ("[", "{"):
        content = _json(source, text, is_json)
        if is_json or content is not None:
            return names_of(content, source)
    names = _names(source, _of_columns(source, text, suffix) if suffix in (".csv", ".tsv") else _lines(text))
    for place, name in zip(names.places, names.names, strict=True):
        if not name:
            refuse(source, f"{place} has an empty name: give the class one")
    return names


def _names(source: str, found: Sequence[tuple[int, str]]) -> Names:
    """Names in numbered lines, of names alone or of index and name."""
    if not found:
        refuse(source, f"no names: {WANTED}")
    for number, line in found:
        _require_name_in(source, number, line)
    if (numbered := _numbered(source, found)) is not None:
        return numbered
    if re.fullmatch(r"\w+:", found[0][1]):
        refuse(source, f"line {found[0][0]} ({found[0][1]!r}) is YAML, not a name: {WANTED}")
    blank = sorted(set(range(found[0][0], found[-1][0])) - {number for number, _ in found})
    places = tuple(f"line {number}" for number, _ in found)
    return Names(source, tuple(_tidy(line) for _, line in found), places, blank=tuple(blank))


def _lines(text: str) -> list[tuple[int, str]]:
    """The numbers of the lines that are not blank, and what they hold."""
    lines = re.split(r"\r\n|\r|\n", text)
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _of_columns(source: str, text: str, suffix: str) -> list[tuple[int, str]]:
    """Numbers and content of the rows of a CSV or TSV file, without the quotes around cells."""
    first = text.lstrip().partition("\n")[0]
    mark = "\t" if suffix == ".tsv" else max(",;\t", key=first.count)
    glue = mark if mark == "\t" else f"{mark} "
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True)
    try:
        rows = [(reader.line_num, glue.join(map(str.strip, row))) for row in reader]
    except csv.Error as error:
        refuse(source, f"line {reader.line_num} is not CSV ({error}): {WANTED}")
    return [(number, " ".join(row.splitlines())) for number, row in rows if row.strip(mark + " ")]


def _text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST_FILE + 1)
    except XGradCamError as error:
        raise XGradCamError(f"cannot read labels {path}: {error}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise XGradCamError(f"cannot read labels {path}: {reason}") from None
    if len(content) > LARGEST_FILE:
        refuse(f"labels {path}", f"over {LARGEST_FILE >> 20} MiB: class names take less; {WANTED}")
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise XGradCamError(
            f"cannot read labels {path}: line {line} is not text in UTF-8: save it as UTF-8 text"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise XGradCamError(f"cannot read labels {path}: line {line} is not text: {WANTED}")
    return text


def _json(source: str, text: str, is_json: bool) -> Any:
    """The value of the JSON text; None for text that is no JSON and need not be.

    Raises XGradCamError if it has to be JSON and is not, and for a key that is there twice.
    """
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(source, pairs))
    except json.JSONDecodeError as error:
        if not is_json:
            return None
        raise XGradCamError(
            f"cannot read {source}: line {error.lineno} is not JSON ({error.msg}): {WANTED}"
        ) from None
    except (RecursionError, ValueError):
        refuse(source, f"JSON that is nested too deep, or has a too long number: {WANTED}")


def _unique(source: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; XGradCamError for a key that is there twice."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        refuse(source, f"the key {twice!r} is there twice: give each class once")
    return unique


def _require_name_in(source: str, number: int, line: str) -> None:
    """Raise XGradCamError for a line that is a comment, a line of source text, or too long for a name."""
    if COMMENT.match(line):
        refuse(source, f"line {number} is a comment, and each line is a class: delete it")
    if len(line) > LONGEST_NAME:
        refuse(source, f"line {number} has {len(line)} characters, too many for a name: {WANTED}")
    if SOURCE_TEXT.match(line):
        refuse(source, f"line {number} is source text, not a name: {WANTED}")


def _numbered(source: str, found: Sequence[tuple[int, str]]) -> Names | None:
    """Names beside their index in every line, or in every line but a header; None if they are not."""
    for pattern in (NUMBERED, NUMBERED_BEHIND):
        header = None if pattern.fullmatch(found[0][1]) else found[0][1]
        rows = found if header is None else found[1:]
        matches = list(takewhile(bool, (pattern.fullmatch(line) for _, line in rows)))
        if rows and len(matches) == len(rows):
            names = _by_index(source, header, [number for number, _ in rows], list(filter(None, matches)))
            if names is not None:
                return names
    return None


def _by_index(
    source: str, header: str | None, lines: Sequence[int], matches: Sequence[re.Match[str]]
) -> Names | None:
    """Names in the order of their numbers, 0 to n - 1 or 1 to n; None if the numbers belong to the names.

    Only before a space can a number belong to a name (`7 up`). Raises XGradCamError for other numbers.
    """
    numbers = [int(match["index"]) for match in matches]
    mark, first = matches[0]["mark"].strip(" "), min(numbers)
    spaced, is_named = not mark, header is None or is_header(header)
    if not is_named and (spaced or len(numbers) < 2 or mark not in str(header)):
        return None  # not a header, but a name without a number
    if first > 1 or sorted(numbers) != list(range(first, first + len(numbers))):
        before = matches[0].re is NUMBERED
        if before and is_named and (first == 0 or not spaced):
            refuse(source, _fault(numbers, lines))
        return None
    if spaced and first and header is not None:
        return None
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    # `1 series, 2 series` may be names: in this order nothing depends on it.
    whole = spaced and first and order == list(range(len(numbers)))
    names = [_tidy(matches[place][0 if whole else "name"]) for place in order]
    if header is not None and len(re.split(r"[,;\t]", header)) > 2 and not WORDNET_ID.match(names[0]):
        refuse(source, f"more than two columns ({header!r}): give index and name alone")
    return Names(source, tuple(names), tuple(f"line {lines[place]}" for place in order), first)


def _fault(numbers: Sequence[int], lines: Sequence[int]) -> str:
    """The first number that is there twice or missing, with its line, and what to do."""
    seen: set[int] = set()
    for number, line in zip(numbers, lines, strict=True):
        if number in seen:
            return f"line {line} has the number {number} again: number the names from 0, each once"
        seen.add(number)
    missing = next(number for number in range(len(numbers) + 1) if number not in seen)
    line = lines[numbers.index(min(number for number in numbers if number > missing))]
    return f"line {line}: no name has the number {missing}: number the names from 0 without gaps"


def _tidy(name: str) -> str:
    """The name without quotes around it, and with a space behind its WordNet id."""
    match = re.fullmatch(r"(n\d{8})\s*[,;\t]\s*(.+)", name)
    identity, words = match.groups() if match else ("", name)
    quoted = re.fullmatch(r"""(["'])(.*)\1""", words.strip())
    words = " ".join((quoted[2].replace('""', '"') if quoted else words).split())
    return f"{identity} {words}" if identity else words
