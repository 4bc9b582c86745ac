"""The true classes of a run's photographs, from the names of their folders or from a table."""

import csv
import hashlib
import io
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath

from xgradcam.errors import XGradCamError, did_you_mean, listed, short, shown
from xgradcam.models.label_files import text_of
from xgradcam.models.stated import classes_of_folders, require_stated
from xgradcam.pictures.formats import SUFFIXES
from xgradcam.runs.sources import STDIN, Source

# Bytes of a table, at most: some millions of lines.
LARGEST = 2**28
MARKS = ",;\t|"
# Names of the columns of photographs and of classes, without what is no letter or digit.
FILES = frozenset(
    "file files filename filepath path image images imagefile imagename imagepath imageid img imgname "
    "imgpath photo photograph picture".split()
)
CLASSES = frozenset(
    "class classid classindex classlabel classname label labels labelid labelindex labelname target truth "
    "trueclass truelabel groundtruth category".split()
)
# A line of a list without columns.
LISTED = re.compile(r"([^,;\t|]*[^,;\t|\s])[ \t]+(\d{1,9}|n\d{8})", re.ASCII)
COLUMNS = "begin with a line such as file,class"
Say = Callable[[str], None]


def _normal(path: str) -> str:
    """The path with composed accents: some file systems part them from their letters."""
    return unicodedata.normalize("NFC", path)


@dataclass(frozen=True)
class Row:
    """A line of a table: its number, the photograph that it names, and the class that it states."""

    number: int
    file: str
    stated: str

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The folders and the name of the file, without a root."""
        return tuple(part for part in re.split(r"[/\\]+", _normal(self.file)) if part not in ("", "."))


def by_folder(sources: Sequence[Source], labels: Sequence[str] | None, count: int | None) -> list[Source]:
    """The photographs with the class that the folder of each is named after.

    labels, count: the model's class names, and how many classes there are. Raises XGradCamError for folders
    that name no class or several, and for a photograph without a folder.
    """
    if any(source.path == STDIN for source in sources):
        raise XGradCamError("a photograph on stdin has no folder that names its class: save it as a file")
    folders = {source.path: PurePath(os.path.abspath(source.path)).parent for source in sources}
    targets = classes_of_folders(sorted(set(folders.values())), labels, count, required=True)
    return [replace(source, truth=targets[folders[source.path]]) for source in sources]


def by_table(
    table: "Table",
    sources: Sequence[Source],
    places: Sequence[str],
    labels: Sequence[str] | None,
    count: int | None,
    say: Say,
) -> list[Source]:
    """The photographs with the class that a line of the table states; None for those without a line.

    places: folders and files of the photographs. say: is told of lines and photographs that are left over.
    Raises XGradCamError for a class that is none, lines that contradict one another, and where no line is of
    any photograph.
    """
    finder = _Finder(table.path, sources, _folders(table.path, places))
    found: defaultdict[str, list[Row]] = defaultdict(list)
    others: list[Row] = []
    by_name: list[Row] = []
    for row in table.rows:
        path, certain = finder.find(row, table.once)
        if path is None:
            others.append(row)
            continue
        found[path].append(row)
        if not certain:
            by_name.append(row)
    if not found:
        lines = listed((row.file for row in others), 3)
        raise XGradCamError(
            f"{table.path} has no line of a photograph of this run: its lines are of {lines}, the "
            f"photographs {listed((source.path for source in sources), 3)}"
        )
    truth = {path: _class_of(table.path, rows, labels, count) for path, rows in found.items()}
    _say_left(table.path, others, by_name, [one for one in sources if one.path not in truth], say)
    return [replace(source, truth=truth.get(source.path)) for source in sources]


def _say_left(
    path: Path, others: Sequence[Row], by_name: Sequence[Row], without: Sequence[Source], say: Say
) -> None:
    """Tell of lines of no photograph, lines found by a name alone, and photographs of no line."""
    for rows, words in ((others, "of no photograph here"), (by_name, "found by the file's name alone")):
        if rows:
            lines = f"line{'s' * (len(rows) > 1)}"
            say(f"{len(rows):,} {lines} of {path} {words}, such as line {rows[0].number} ({rows[0].file})")
    if without:
        photographs = f"photograph{'s' * (len(without) > 1)}"
        say(f"{len(without):,} {photographs} without a line in {path}, such as {without[0].path}")


def _class_of(path: Path, rows: Sequence[Row], labels: Sequence[str] | None, count: int | None) -> int:
    """The class that all lines of one photograph state."""
    classes = {
        require_stated(row.stated, labels, count, f"{path}, line {row.number}:"): row
        for row in reversed(rows)
    }
    if len(classes) > 1:
        first, second, *_ = sorted(classes.values(), key=lambda row: row.number)
        raise XGradCamError(
            f"{path}: lines {first.number} and {second.number} say {shown(first.stated)} and "
            f"{shown(second.stated)} of {first.file}: delete one of them"
        )
    return next(iter(classes))


def _folders(table: Path, places: Iterable[str]) -> list[str]:
    """The folders that paths in a table may be relative to, those that are meant first."""
    near = [place if os.path.isdir(place) else os.path.dirname(place) for place in places if place != STDIN]
    return list(dict.fromkeys(os.path.abspath(place) for place in (str(table.parent), *near, os.curdir)))


class _Finder:
    """Finds the photograph of a line: by its path, by the end of its path, or by an only name."""

    def __init__(self, table: Path, sources: Sequence[Source], folders: Sequence[str]) -> None:
        self._table, self._folders = table, folders
        self._by_path = {os.path.abspath(one.path): one.path for one in sources if one.path != STDIN}
        self._by_name: defaultdict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for path, given in self._by_path.items():
            parts = PurePath(_normal(path)).parts
            # Without its ending, too, as in tables of ids.
            for name in {parts[-1], os.path.splitext(parts[-1])[0]}:
                self._by_name[name].append((parts, given))

    def find(self, row: Row, once: Callable[[Row], bool]) -> tuple[str | None, bool]:
        """The photograph's path, or None; and False where only its name says so.

        once: whether no other line has the name of this one.
        """
        own, *near = self._folders
        # The table's own folder comes first; among the others a line must be clear.
        if (path := self._by_path.get(os.path.normpath(os.path.join(own, row.file)))) is not None:
            return path, True
        at = {os.path.normpath(os.path.join(folder, row.file)) for folder in near}
        exact = sorted(self._by_path[one] for one in at if one in self._by_path)
        if len(exact) > 1:
            raise XGradCamError(
                f"{self._table}: line {row.number} ({row.file}) may be of {listed(exact, 3)}: give paths "
                "that begin at the table's folder"
            )
        return (exact[0], True) if exact else self._by_the_end(row, once)

    def _by_the_end(self, row: Row, once: Callable[[Row], bool]) -> tuple[str | None, bool]:
        """The only photograph whose path ends as the line's; else the only one of its name."""
        named = self._by_name.get(row.parts[-1], []) if row.parts else []
        ends = [one for one in named if one[0][-len(row.parts) : -1] == row.parts[:-1]]
        near = ends or named
        if len(near) != 1 or not (ends or once(row)):
            return None, False
        return near[0][1], bool(ends)


@dataclass(frozen=True)
class Table:
    """The lines of a table of photographs and classes.

    digest: of the file's content.
    """

    path: Path
    rows: Sequence[Row]
    digest: str

    @cached_property
    def _names(self) -> Mapping[str, int]:
        return Counter(row.parts[-1] for row in self.rows if row.parts)

    def once(self, row: Row) -> bool:
        """True if no other line has the file name of this one."""
        return self._names[row.parts[-1]] == 1


def read_table(path: Path) -> Table:
    """The table in a CSV file: its columns are told by a header, or by the photographs' endings.

    Raises XGradCamError where it cannot be read, and where it is not clear what a column is.
    """
    text = text_of(path, f"the classes {path}", LARGEST, COLUMNS)
    lines = list(_lines(path, text))
    if not lines:
        raise XGradCamError(f"{path} is empty: {COLUMNS}")
    file, stated, start = _columns(path, lines)
    rows = []
    for number, cells in lines[start:]:
        if len(cells) != len(lines[0][1]):
            wanted = f"{len(lines[0][1])} columns, and line {number} has {len(cells)}"
            raise XGradCamError(f"{path}: line {lines[0][0]} has {wanted}: quote cells that hold commas")
        row = Row(number, cells[file], cells[stated])
        if not row.parts or not row.stated:
            raise XGradCamError(f"{path}: line {number} has no {'class' if row.parts else 'file'}: add it")
        rows.append(row)
    if not rows:
        raise XGradCamError(f"{path} holds a header alone: add a line for each photograph")
    return Table(path, rows, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def _lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of each line that is not blank."""
    if (listed_lines := _of_list(text)) is not None:
        yield from listed_lines
        return
    first = next((line for line in text.splitlines() if line.strip()), "")
    mark = max(MARKS, key=lambda mark: len(next(csv.reader([first], delimiter=mark))))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True)
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise XGradCamError(f"{path}: line {reader.line_num} is not CSV ({error})") from None


def _of_list(text: str) -> list[tuple[int, list[str]]] | None:
    """The lines of a list as Caffe's, of a file, a space and an index or an id; None for any other text."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            match = LISTED.fullmatch(line.strip())
            if match is None:
                return None
            found.append((number, [*match.groups()]))
    return found


def _columns(path: Path, lines: Sequence[tuple[int, list[str]]]) -> tuple[int, int, int]:
    """The columns of the photographs and of the classes, and the place of the first line of theirs."""
    number, first = lines[0]
    if len(first) < 2:
        raise XGradCamError(f"{path}: line {number} has one column: give the photograph and its class")
    keys = [key_of(cell) for cell in first]
    files = [place for place, key in enumerate(keys) if key in FILES]
    classes = [place for place, key in enumerate(keys) if key in CLASSES]
    if files and classes:
        for places, what in ((files, "the photograph"), (classes, "the class")):
            if len(places) > 1:
                named = listed((first[place] for place in places), 5)
                raise XGradCamError(f"{path}: the columns {named} may all be {what}: keep one of them")
        return files[0], classes[0], 1
    if len(first) > 2:
        known = did_you_mean(keys[0], FILES | CLASSES, 1)
        named = listed(map(short, first), 4)
        raise XGradCamError(f"{path}: which of its columns ({named}) is the class? {COLUMNS}{known}")
    if files or classes:
        # One of two columns says what both are; a file without an ending may have such a name.
        file = files[0] if files else 1 - classes[0]
        if PurePath(first[1 - file]).suffix.lower() not in SUFFIXES and not _is_photograph(first[file]):
            return file, 1 - file, 1
    rows = [cells for _, cells in lines if len(cells) == len(first)]
    pictures = [sum(_is_photograph(cells[place]) for cells in rows) for place in (0, 1)]
    file = int(pictures[1] > pictures[0])
    return file, 1 - file, 0


def key_of(cell: str) -> str:
    """The letters and digits of a column's name, by which it is known."""
    return re.sub(r"[\W_]+", "", cell.casefold())


def _is_photograph(cell: str) -> bool:
    return PurePath(cell).suffix.lower() in SUFFIXES
