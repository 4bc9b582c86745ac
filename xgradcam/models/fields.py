"""Class names in fields: `id: 0 name: cat` a line or over two lines, and TensorFlow's label maps."""

import re
from collections.abc import Sequence

from xgradcam.models.index_lines import ADVICE, fault, first_of, tidy
from xgradcam.models.names import INDEX, Names, refuse

KIND = r"(?:class|label|category)"
ID = rf"(?:id|index|idx|{KIND}(?:[ _-]?(?:id|index|idx))?)\s*[:=]\s*[\"']?(?P<index>{INDEX})[\"']?"
NAME = rf"(?:name|{KIND}|(?:{KIND}|display)[ _-]?name)\s*[:=]\s*(?P<name>.*\S)"
FIELDS = (
    re.compile(rf"{ID}\s*[,;|\t ]\s*{NAME}", re.ASCII | re.IGNORECASE),
    re.compile(rf"{NAME}\s*[,;|\t ]\s*{ID}", re.ASCII | re.IGNORECASE),
)
QUOTED = r"""\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"""
ITEM = re.compile(rf"(?:item|entry)\s*:?\s*\{{((?:[^{{}}\"'#]|{QUOTED}|#[^\n]*)*)\}}\s*,?")
FIELD = re.compile(rf"(\w+)\s*:\s*({QUOTED}|[^\s,;\"'#]+)\s*[,;]?|#[^\n]*", re.ASCII)

# The number of its line, its index and its name.
Item = tuple[int, int, str]


def names_in_fields(source: str, found: Sequence[tuple[int, str]]) -> Names | None:
    """Names in lines that all have an index and a name in fields, or in pairs of such lines; None if not."""
    lines = [(number, re.sub(r"^-\s+", "", line).rstrip(" ,;")) for number, line in found]
    pairs = [
        (number, f"{line} {following}")
        for (number, line), (_, following) in zip(lines[::2], lines[1::2], strict=False)
    ]
    for entries in (lines, pairs if len(lines) % 2 == 0 else []):
        for pattern in FIELDS:
            items: list[Item] = []
            for number, line in entries:
                match = pattern.fullmatch(line)
                if match is None:
                    break
                items.append((number, int(match["index"]), match["name"].rstrip(" ,;")))
            if items and len(items) == len(entries):
                return _ordered(source, items)
    return None


def names_of_label_map(source: str, text: str) -> Names | None:
    """Names in a label map, `item { id: 1 name: 'cat' }`; None for other text.

    Of two names the one to display is taken. Raises XGradCamError for an item without an id or a name.
    """
    if not re.match(r"(?:\s|#[^\n]*\n)*(?:item|entry)\s*:?\s*\{", text):
        return None
    items: list[Item] = []
    end, line = 0, 1
    for match in ITEM.finditer(text):
        line += text.count("\n", end, match.start())
        pairs = [pair for pair in FIELD.findall(match[1]) if pair[0]]
        fields = dict(pairs)
        rest = FIELD.sub("", match[1]) + re.sub(r"#[^\n]*", "", text[end : match.start()])
        name = str(fields.get("display_name", fields.get("name", "")))
        is_whole = len(pairs) == len(fields) and not rest.strip()
        if not is_whole or not name.strip("\"' ") or not re.fullmatch(INDEX, fields.get("id", "")):
            refuse(source, f"line {line}: an item of a label map without id and name alone: {ADVICE}")
        items.append((line, int(fields["id"]), re.sub(r"\\(.)", r"\1", name)))
        line, end = line + match[0].count("\n"), match.end()
    if not items or re.sub(r"#[^\n]*", "", text[end:]).strip():
        refuse(source, f"line {line} and what follows are no items of a label map: {ADVICE}")
    return _ordered(source, items)


def _ordered(source: str, items: Sequence[Item]) -> Names:
    """The names in the order of their indices; XGradCamError if these are not 0 to n - 1, or 1 to n."""
    lines, numbers, _ = zip(*items, strict=True)
    first = first_of(numbers)
    if first is None:
        refuse(source, fault(numbers, lines))
    ordered = sorted(items, key=lambda item: item[1])
    places = tuple(f"line {line}" for line, _, _ in ordered)
    return Names(source, tuple(tidy(name) for _, _, name in ordered), places, first, numbered=True)
