"""Class names beside their index, one a line: which part of each line is the index, and which the name."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from xgradcam.models.labels import WORDNET_ID
from xgradcam.models.names import HEADER, Names, is_header, refuse

INDEX = r"(?P<index>\d{1,9})(?:\.0+)?"
SIGN = r"\s*(?:->|=>|[,;:=|\t])\s*"
COLUMN = r"(?:\s*[,;:|\t]\s*|\s+)"
IDENTITY = r"(?P<id>n\d{8})"
BEFORE = re.compile(
    rf"(?:(?:class|label|index|id)[ _]?|\[(?=\d+\])|\((?=\d+\))|#)?{INDEX}"
    rf"(?P<mark>[\])]?{SIGN}|[.)\]]\s+|\s*-\s*|\s+)(?P<name>.+)",
    re.ASCII | re.IGNORECASE,
)
BEHIND = re.compile(
    rf"(?P<name>.*?\S)(?P<mark>{SIGN}|-|\s+-\s+|\s*[\[(]|\s+){INDEX}[\])]?", re.ASCII | re.IGNORECASE
)
# With a WordNet id, an index may also stand in the middle.
WITH_IDENTITY = (
    re.compile(rf"{IDENTITY}(?P<mark>{COLUMN}){INDEX}{COLUMN}(?P<name>.+)", re.ASCII),
    re.compile(rf"(?P<name>.*?\S)(?P<mark>{COLUMN}){INDEX}{COLUMN}{IDENTITY}", re.ASCII),
)
IN_THE_MIDDLE = re.compile(rf"[^,;\t]+[,;\t]\s*{INDEX}\s*[,;\t].+", re.ASCII)
COLUMN_MARKS = {",", ";", "\t"}
INDEX_COLUMN = re.compile(
    r"[\W_]*(index|idx|id|(class|label|category)[ _-]?(id|index|idx))[\W_]*", re.IGNORECASE
)
COUNT_COLUMN = re.compile(
    r"[\W_]*((number|num|no)[ _]of[ _]\w+|(num|n)_\w+|counts?|freq(uency)?|total|support|samples|images|"
    r"instances|examples)[\W_]*",
    re.IGNORECASE,
)
ADVICE = "write one index and one name a line, as 0,cat"

Lines = Sequence[tuple[int, str]]


def names_by_index(source: str, found: Lines) -> Names | None:
    """Names beside their index in every line, or in every line but a header; None if they are not.

    Raises XGradCamError for indices that are not 0 to n - 1, and where the name or the index is not clear.
    """
    read = [
        names
        for pattern in (*WITH_IDENTITY, BEFORE, BEHIND)
        if (names := _read(source, found, pattern)) is not None
    ]
    if len(read) > 1 and read[0].places != read[1].places:
        number, line = found[-1]
        refuse(source, f"line {number} ({line[:40]!r}) may begin or end with its index: {ADVICE}")
    if read:
        return read[0]
    rows = found[1:] if is_column_header(found[0][1]) else found
    middle = list(filter(None, takewhile(bool, (IN_THE_MIDDLE.fullmatch(line) for _, line in rows))))
    if len(rows) == len(middle) > 1 and first_of([int(match["index"]) for match in middle]) is not None:
        number, line = rows[0]
        refuse(source, f"line {number} ({line[:40]!r}): either column may be the name: {ADVICE}")
    return None


def is_column_header(line: str) -> bool:
    """True for `index name`, `#id,name` and the like: a header of columns, one of them of indices."""
    columns = re.split(r"\s*[,;\t|]\s*|\s+", line.strip(" #|"))
    return (
        len(columns) > 1
        and any(map(INDEX_COLUMN.fullmatch, columns))
        and all(column and HEADER.fullmatch(column) for column in columns)
    )


def _read(source: str, found: Lines, pattern: re.Pattern[str]) -> Names | None:
    """The names, if every line but a header is of this pattern, and its index is not another column."""
    header = None if pattern.fullmatch(found[0][1]) else found[0][1]
    rows = found if header is None else found[1:]
    matches = list(filter(None, takewhile(bool, (pattern.fullmatch(line) for _, line in rows))))
    if not rows or len(matches) < len(rows):
        return None
    lines = [number for number, _ in rows]
    if header is not None and pattern in (BEFORE, BEHIND):
        columns = re.split(r"[,;\t|]", header) if re.search(r"[,;\t|]", header) else header.split()
        its, other = (columns[0], columns[-1]) if pattern is BEFORE else (columns[-1], columns[0])
        if len(columns) > 1 and INDEX_COLUMN.fullmatch(other) and not INDEX_COLUMN.fullmatch(its):
            return None
        if len(columns) == 2 and COUNT_COLUMN.fullmatch(its) and is_header(other):
            return replace(_ordered(source, matches, lines, range(len(lines)), 0), numbered=False)
    return _by_index(source, header, lines, matches)


def _by_index(
    source: str, header: str | None, lines: Sequence[int], matches: Sequence[re.Match[str]]
) -> Names | None:
    """Names in the order of their numbers, 0 to n - 1 or 1 to n; None if the numbers belong to the names.

    Only before or behind a space or a hyphen can a number belong to a name (`7 up`), or behind other signs
    than those of columns (`ratio 16:9`). Raises XGradCamError for other numbers.
    """
    numbers = [int(match["index"]) for match in matches]
    pattern, mark, lowest = matches[0].re, matches[0]["mark"].strip(" "), min(numbers)
    is_behind, has_columns = pattern is BEHIND, header is not None and is_column_header(header)
    loose = mark in ("", "-") or (is_behind and mark not in COLUMN_MARKS)
    is_named = header is None or is_header(header) or has_columns
    if not is_named and (loose or len(numbers) < 2 or mark not in str(header)):
        return None  # not a header, but a name without a number
    left = [match["name"] for match in matches]
    alike = len(numbers) > 1 and 2 * len(set(left)) <= len(left)
    first = first_of(numbers)
    if pattern is BEFORE and _are_numbers(source, lines, matches):
        return None
    if first is None:
        certain = (lowest == 0 and not alike) if is_behind else (lowest == 0 or not loose)
        if is_named and certain and (not is_behind or len(numbers) > 1):
            refuse(source, fault(numbers, lines))
        return None
    if loose and first and header is not None and not has_columns:
        return None
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    with_ids = all(WORDNET_ID.match(tidy(match["name"])) for match in matches)
    if loose and not with_ids and "id" not in pattern.groupindex and not has_columns:
        in_order = order == list(range(len(numbers)))
        # `1 series, 2 series` may be names: in this order nothing depends on it.
        if in_order and (first or alike or (is_behind and len(numbers) == 1)):
            return _ordered(source, matches, lines, order, first, whole=True)
        if alike:
            place = f"line {lines[0]} ({matches[0][0][:40]!r})"
            refuse(source, f"{place}: its number may be the index, or a part of the name: {ADVICE}")
    names = _ordered(source, matches, lines, order, first)
    if header is not None and len(re.split(r"[,;\t]", header)) > 2 and not WORDNET_ID.match(names.names[0]):
        refuse(source, f"more than two columns ({header!r}): give index and name alone")
    another = r"\d+\s*[,;\t].+" if pattern is BEFORE else r".+[,;\t]\s*\d+"
    if len(left) > 1 and mark in COLUMN_MARKS and all(re.fullmatch(another, name, re.ASCII) for name in left):
        refuse(source, f"line {lines[0]} ({matches[0][0][:40]!r}) has two columns of numbers: {ADVICE}")
    return names


def _are_numbers(source: str, lines: Sequence[int], matches: Sequence[re.Match[str]]) -> bool:
    """True if all lines may be ranges (`0-2`, `4-6 years`), or decimal numbers of one unit (`0,5 mm`).

    Raises XGradCamError if their first numbers may be indices, and in another order.
    """
    rests = [re.fullmatch(r"(\d+)(.*)", match["name"], re.ASCII) for match in matches]
    units = {rest[2] if rest else None for rest in rests}
    marks, numbers = {match["mark"] for match in matches}, [int(match["index"]) for match in matches]
    if len(matches) < 2 or len(units) > 1 or None in units or marks not in ({"-"}, {","}):
        return False
    if (marks == {","} and units == {""}) or numbers == [int(rest[1]) for rest in rests if rest]:
        return False
    if first_of(numbers) is not None and numbers != sorted(numbers):
        place = f"line {lines[0]} ({matches[0][0][:40]!r})"
        refuse(source, f"{place} begins with its index, or is a range or a decimal number: {ADVICE}")
    return True


def first_of(numbers: Sequence[int]) -> int | None:
    """The lowest of the numbers, if they are 0 to n - 1 or 1 to n in any order; None if they are not."""
    first = min(numbers)
    return first if first < 2 and sorted(numbers) == list(range(first, first + len(numbers))) else None


def _ordered(
    source: str,
    matches: Sequence[re.Match[str]],
    lines: Sequence[int],
    order: Sequence[int],
    first: int,
    *,
    whole: bool = False,
) -> Names:
    """The names of the matches in this order, or their whole lines."""
    names = [tidy(matches[place][0] if whole else _name_in(matches[place])) for place in order]
    places = tuple(f"line {lines[place]}" for place in order)
    return Names(source, tuple(names), places, first, numbered=not whole)


def _name_in(match: re.Match[str]) -> str:
    """The name in a line, behind its WordNet id if it has one."""
    identity = match.groupdict().get("id")
    return f"{identity}\t{match['name']}" if identity else match["name"]


def fault(numbers: Sequence[int], lines: Sequence[int]) -> str:
    """The first number that is there twice or missing, with its line, and what to do."""
    seen: set[int] = set()
    for number, line in zip(numbers, lines, strict=True):
        if number in seen:
            return f"line {line} has the number {number} again: number the names from 0, each once"
        seen.add(number)
    missing = next(number for number in range(len(numbers) + 1) if number not in seen)
    line = lines[numbers.index(min(number for number in numbers if number > missing))]
    return f"line {line}: no name has the number {missing}: number the names from 0 without gaps"


def tidy(name: str) -> str:
    """The name without quotes around it, behind its WordNet id and a space if it has one."""
    match = re.fullmatch(r"(n\d{8})\s*[,;\t]\s*(.+)", name)
    identity, words = match.groups() if match else ("", name)
    if re.fullmatch(r"[\s,;]n\d{8}", name[-10:]):
        identity, words = name[-9:], name[:-9].rstrip(" \t,;")
    quoted = re.fullmatch(r"""(["'])(.*)\1""", words.strip())
    words = " ".join((quoted[2].replace('""', '"') if quoted else words).split())
    return f"{identity} {words}" if identity else words
