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
from pathlib import Path
from typing import Any

from xgradcam.errors import XGradCamError
from xgradcam.files import open_regular
from xgradcam.models.fields import names_in_fields, names_of_label_map
from xgradcam.models.index_lines import ADVICE, is_column_header, names_by_index, tidy
from xgradcam.models.names import LONGEST_NAME, WANTED, Names, names_of, refuse

LARGEST_FILE = 2**24
# Source text in one line.
SOURCE_TEXT = re.compile(
    r"""[urb]?(["']).*\1\s*([,;\])}]+$|:|,\s*["'])|[\w.]+\s*[:=]\s*[\[({]+\s*["']|[\[({\])}]+[,;]?$"""
    r"""|[\w.]+\s*(=\s*[\[({]|:\s*[\[{]).*,.*[\])}][,;]?$|[\[({]+\s*(["']|\d+\s*:|\d+\s*,\s*[^\d\s].*[\])][,;]?$)"""
    r"""|\d+\s*:\s*["'].*,$"""
)
# A line that opens a bracket and another that closes it: source text together (`smile :(` is a name).
OPENING = re.compile(r"[\w.]+\s*[:=]\s*[\[({]+$")
CLOSING = re.compile(r"""(.*["'\w],?\s*)?[\])}]+[,;]?$""")
SECTION = re.compile(r"\[(classes|class|names|labels|categories|class[ _-]?names)\]", re.IGNORECASE)
# Other kinds of text, by what all their lines are.
OTHER_TEXT = {
    r"\|.*\|": "a row of a Markdown table",
    r"-\s+\S.*": "an entry of a YAML list",
    r"[*+]\s+\S.*": "an entry of a Markdown list",
}
# Beginnings of files that hold something else.
OTHER_CONTENT = {
    r"<(!doctype|html|head|\?xml|svg)\b": "a web page or XML: download the file itself",
    "version https://git-lfs": "a pointer to a file in large-file storage: fetch it with git lfs pull",
}


def read_names(path: Path) -> Names:
    """Names from a file. Raises XGradCamError if it cannot be read, or is anything else than class names."""
    source, suffix = f"labels {path}", path.suffix.lower()
    text = text_of(path, source)
    for beginning, what in OTHER_CONTENT.items():
        if re.match(beginning, text.lstrip(), re.IGNORECASE):
            refuse(source, what)
    is_json = suffix == ".json"
    if is_json or text.lstrip()[:1] in ("[", "{"):
        content = _json(source, text, is_json)
        if is_json or content is not None:
            return names_of(content, source)
    if (mapped := names_of_label_map(source, text)) is not None:
        return mapped
    names = _names(source, _of_columns(source, text, suffix) if suffix in (".csv", ".tsv") else _lines(text))
    for place, name in zip(names.places, names.names, strict=True):
        if not name:
            refuse(source, f"{place} has an empty name: give the class one")
    return names


def _names(source: str, found: Sequence[tuple[int, str]]) -> Names:
    """Names in numbered lines, of names alone or of index and name."""
    if not found:
        refuse(source, f"no names: {WANTED}")
    _require_names_in(source, found)
    numbered = names_in_fields(source, found) or names_by_index(source, found)
    if numbered is not None:
        return numbered
    _require_no_other_text(source, found)
    if is_column_header(found[0][1]):
        number, line = found[0]
        refuse(
            source, f"line {number} ({line[:40]!r}) is a header, but no index stands in each row: {ADVICE}"
        )
    blank = sorted(set(range(found[0][0], found[-1][0])) - {number for number, _ in found})
    places = tuple(f"line {number}" for number, _ in found)
    return Names(source, tuple(tidy(line) for _, line in found), places, blank=tuple(blank))


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


def text_of(path: Path, what: str, largest: int = LARGEST_FILE, wanted: str = WANTED) -> str:
    """The text in a file of at most so many bytes, in UTF-8, or in UTF-16 if it begins with its mark.

    what: is read, and is wanted, for messages. Raises XGradCamError if it cannot be read, or is no text.
    """
    try:
        with open_regular(path) as file:
            content = file.read(largest + 1)
    except XGradCamError as error:
        raise XGradCamError(f"cannot read {what}: {error}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise XGradCamError(f"cannot read {what}: {reason}") from None
    if len(content) > largest:
        refuse(what, f"over {largest >> 20} MiB: class names take less; {wanted}")
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise XGradCamError(
            f"cannot read {what}: line {line} is not text in UTF-8: save it as UTF-8 text"
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise XGradCamError(f"cannot read {what}: line {line} is not text: {wanted}")
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


def _require_names_in(source: str, found: Sequence[tuple[int, str]]) -> None:
    """Raise XGradCamError for a line that is a comment, a line of source text, or too long for a name."""
    hashed = [number for number, line in found if re.match(r"#\s", line)]
    # One alone behind names may be a name, as `# of items`.
    comments = hashed if len(hashed) > 1 or hashed[:1] == [found[0][0]] else []
    for number, line in found:
        is_header = number == found[0][0] and is_column_header(line)
        if re.match(r"//\s", line) or (number in comments and not is_header):
            refuse(source, f"line {number} is a comment, and each line is a class: delete it")
        if len(line) > LONGEST_NAME:
            refuse(source, f"line {number} has {len(line)} characters, too many for a name: {WANTED}")
        if SOURCE_TEXT.match(line) or (OPENING.match(line) and CLOSING.match(found[-1][1])):
            refuse(source, f"line {number} is source text, not a name: {WANTED}")


def _require_no_other_text(source: str, found: Sequence[tuple[int, str]]) -> None:
    """Raise XGradCamError for lines of YAML, Markdown or a file of settings."""
    number, first = found[0]
    if re.fullmatch(r"\w+:|---", first):
        refuse(source, f"line {number} ({first!r}) is YAML, not a name: {WANTED}")
    if SECTION.fullmatch(first):
        refuse(source, f"line {number} ({first!r}) is a section of an INI file, not a name: {WANTED}")
    for pattern, what in OTHER_TEXT.items():
        if len(found) > 1 and all(re.fullmatch(pattern, line) for _, line in found):
            refuse(source, f"line {number} ({first[:40]!r}) is {what}, not a name: {WANTED}")
