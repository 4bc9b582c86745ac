"""The files in folders: which of them are photographs, and what the others are."""

import glob
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from fnmatch import translate
from pathlib import Path
from typing import TypeAlias

from xgradcam.errors import XGradCamError
from xgradcam.files import open_regular
from xgradcam.pictures.formats import HEAD, READ, SUFFIXES, kind_by_name, kind_of
from xgradcam.pictures.marks import is_marked_picture

# Names of results: those of an earlier run are not photographs of this one.
MADE = re.compile(
    r"_\d+(-less-\d+)?_(.+_)?(panel|gb|[a-z-]*cam[a-z+-]*(_gb)?)\.jpg$|_photograph\.jpg$|^(X_)?cam(_gb)?\.jpg$"
)
# Names of other results, which photographs may have, too: dash-cam.jpg, 12_cam.png.
PERHAPS_MADE = re.compile(r"(^|_)(panel|gb|[a-z-]*cam[a-z+-]*)\.(jpg|png)$")
# Kinds of what is passed over, beside those of files.
RESULT, HIDDEN, PIPE, OTHER = "result", "hidden photograph", "pipe", "other file"
FORBIDDEN, REPEATED = "folder without permission", "link to a folder listed already"
UNLISTED, ABOVE = "folder that cannot be listed", "link to a folder above"

# Called with the kind of each file or folder that is passed over.
Skip: TypeAlias = Callable[[str], None]
# Device and number of a folder, by which it is known however it is reached.
Identity: TypeAlias = tuple[int, int]


def photographs_in(folder: str, output_dir: Path | None, skip: Skip) -> Iterator[str]:
    """Paths of the photographs in a folder and those below it, sorted folder by folder, linked folders last.

    A folder is listed once, however many links lead to it. Those of hidden names, and `output_dir`, are not.
    """
    for parent, names in _folders(folder, output_dir, skip):
        for name in names:
            path = os.path.join(parent, name)
            if kind := _kind_passed_over(path, name):
                skip(kind)
            elif not name.startswith("."):
                yield path


def matching(pattern: str, skip: Skip, folders: bool = False) -> list[str]:
    """Paths of the files that match a pattern, sorted; `**` stands for folders, each listed once.

    folders: with folders that match, too; of a pattern with `**` only where no file matches.
    """
    if "**" not in pattern:
        return _found(pattern, lambda path: os.path.isfile(path) or (folders and os.path.isdir(path)))
    files = _matching_anywhere(pattern, skip)
    return files if files or not folders else _found(pattern, os.path.isdir)


def _found(pattern: str, is_meant: Callable[[str], bool]) -> list[str]:
    try:
        return sorted(filter(is_meant, glob.glob(pattern, recursive=True)))
    except RecursionError:
        raise XGradCamError(f"folders lie too deep for the pattern {pattern!r}: name one of them") from None


def _matching_anywhere(pattern: str, skip: Skip) -> list[str]:
    """Paths of the files that match a pattern with `**`, sorted."""
    if re.search(r"(^|/)\.[^./]", pattern):
        return _found(pattern, os.path.isfile)
    root = root_of(pattern)
    matches = re.compile(_as_expression(pattern[len(root) + 1 if root else 0 :].lstrip("/"))).fullmatch
    start = (root or "/") if pattern.startswith("/") else root or os.curdir
    found = []
    for parent, names in _folders(start, None, skip):
        for name in names:
            path = os.path.join(parent, name)
            below = os.path.relpath(path, start)
            if matches(below.replace(os.sep, "/")) and os.path.isfile(path):
                found.append(path if root or start == "/" else below)
    return sorted(found)


def root_of(pattern: str) -> str:
    """The folder in front of the first wildcard of a pattern; '' for the current one."""
    return re.split(r"[*?[]", pattern)[0].rpartition("/")[0]


def _as_expression(pattern: str) -> str:
    """A regular expression for a pattern of `glob`, in which names that begin with a dot need one."""
    parts = pattern.split("/")
    expression = ""
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        if part == "**":
            expression += r"(?:[^./][^/]*/)*" + (r"[^./][^/]*" if is_last else "")
            continue
        visible = "" if part.startswith(".") else r"(?!\.)"
        # No part of a name goes beyond it.
        expression += visible + translate(part).replace("(?s:", "(?:").replace(".*", "[^/]*").removesuffix(
            r"\Z"
        )
        expression = expression.removesuffix(r"\z") + ("" if is_last else "/")
    return expression


def _folders(folder: str, output_dir: Path | None, skip: Skip) -> Iterator[tuple[str, list[str]]]:
    """Each folder below and including this one, with the sorted names of its files."""
    seen: set[Identity | None] = set()
    written_to = _identity(output_dir) if output_dir is not None else None
    given = Path(os.path.realpath(folder))
    links = deque([folder])
    while links:
        place = links.popleft()
        if place != folder and _identity(place) in {*seen, written_to}:
            skip(REPEATED)
            continue
        # It would bring in all that lies beside the folder given.
        if place != folder and given.is_relative_to(os.path.realpath(place)):
            skip(ABOVE)
            continue
        # Not by `os.walk`, which calls itself for each level before Python 3.12.
        left = [place]
        while left:
            parent = left.pop()
            identity = _identity(parent)
            if identity in seen or (identity == written_to and parent != folder and identity is not None):
                continue
            try:
                below, names = _listed(parent)
            except OSError as error:
                skip(_why(error))
                continue
            seen.add(identity)
            paths = [os.path.join(parent, name) for name in below if not name.startswith(".")]
            links += [path for path in paths if os.path.islink(path)]
            left += [path for path in reversed(paths) if not os.path.islink(path)]
            yield parent, names


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """The sorted names of the folders in a folder, with links to some, and of its other entries."""
    below: list[str] = []
    names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            (below if is_folder else names).append(entry.name)
    return sorted(below), sorted(names)


def is_same_folder(one: str | Path, other: str | Path) -> bool:
    """True if both are one folder, by whatever name."""
    return _identity(one) is not None and _identity(one) == _identity(other)


def _identity(path: str | Path) -> Identity | None:
    """The key that a folder is known by; None where there is none."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


def _why(error: OSError) -> str:
    return FORBIDDEN if isinstance(error, PermissionError) else UNLISTED


def _kind_passed_over(path: str, name: str) -> str:
    """The kind of a file that is no photograph to explain; '' of a photograph, or of what nobody misses."""
    is_photograph = os.path.splitext(name)[1].lower() in SUFFIXES
    if name.startswith("."):
        return HIDDEN if is_photograph else ""
    if is_photograph and MADE.search(name):
        return RESULT
    if PERHAPS_MADE.search(name) and _is_ours(path):
        return RESULT
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # A broken link is listed, so that its error is told.
        return "" if is_photograph else OTHER
    if not stat.S_ISREG(mode):
        return PIPE if stat.S_ISFIFO(mode) else OTHER
    return "" if is_photograph else kind_by_name(name) or _kind_by_content(path)


def _is_ours(path: str) -> bool:
    """True for a picture that we have made, and that nobody has changed since."""
    try:
        with open_regular(path) as file:
            return is_marked_picture(file.read())
    except (OSError, XGradCamError):
        return False


def _kind_by_content(path: str) -> str:
    try:
        with open_regular(path) as file:
            kind = kind_of(file.read(HEAD))
    except (OSError, XGradCamError):
        return OTHER
    is_read = kind in READ
    return f"{kind} of another name" if is_read else kind or OTHER
