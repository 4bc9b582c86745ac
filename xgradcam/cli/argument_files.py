"""Files of arguments: `@FILE` on a command line stands for the arguments in it."""

import codecs
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from xgradcam.errors import XGradCamError
from xgradcam.files import open_regular

# Byte-order marks; the longer one comes first, since it begins with a shorter one.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# More files than this on one command line are a mistake: files that name each other again and again.
MOST_FILES = 1000
# Signs that a shell takes for more than a letter; a shell that completes a name puts a backslash before each.
SIGNS = r"()\[\]{}&;$!*?<>|`~"
QUOTED = r"""'[^']*'|"(?:\\.|[^"\\])*\""""
WORD = re.compile(rf"(?:{QUOTED}|\\.|\S)+")
# In a word: quotes; two backslashes that begin a path (1); a backslash that quotes; one before a sign of the
# shell (2); one in a path (3); # that begins no comment (4), as shlex would have it.
BACKSLASHES = re.compile(rf"""{QUOTED}|(^\\\\(?=[\w$]))|\\[\s'"\\]|^\\\#|(\\[{SIGNS}])|(\\)|(?<!^)(\#)""")
# A word that a shell has completed: a backslash begins it, or is before a space or a closing bracket in it,
# and is before each of the signs.
COMPLETED = re.compile(rf"""(?=\\|.*\\[\s)\]}}])(?:\\[{SIGNS}\s'"\\#]|[^{SIGNS}\s\\])+""")


@dataclass(frozen=True)
class Origin:
    """The place of an argument: an argument file, or the line itself.

    path: of the file. depth: of files that name files, 0 of the line. number: the file's, in their order.
    """

    path: str = ""
    depth: int = 0
    number: int = 0

    @property
    def nearness(self) -> tuple[int, int]:
        """A key for what counts: the line before its files, a file before those that it names, later ones."""
        return -self.depth, self.number


class Word(str):
    """An argument that knows where it stands."""

    origin = Origin()


def expanded(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments with those of each @FILE in its place, also in such files, and the files' names.

    Each is a `Word`.

    In a file a line holds one or more arguments, as in a shell: words with spaces in quotes, # begins a
    comment. A backslash quotes a space, a quote, a backslash, or # at the start of a word. Before anything
    else it is a part of a path, but for words as a shell completes them, with one before each of its signs.
    Raises XGradCamError for a file that cannot be read.
    """
    files: list[str] = []
    return _expanded(arguments, files, (), Origin()), files


def _expanded(
    arguments: Sequence[str], files: list[str], within: tuple[str, ...], origin: Origin
) -> list[str]:
    found: list[str] = []
    for argument in arguments:
        if not argument.startswith("@"):
            word = Word(argument)
            word.origin = origin
            found.append(word)
            continue
        path = argument[1:]
        real = os.path.realpath(path) if "\0" not in path else path
        if real in within:
            raise XGradCamError(f"the argument file {path} names itself: take out that line")
        files.append(path)
        if len(files) > MOST_FILES:
            raise XGradCamError(f"over {MOST_FILES} argument files, the last of them {path}: name each once")
        inside = Origin(path, origin.depth + 1, len(files))
        found += _expanded(_arguments_in(path), files, (*within, real), inside)
    return found


def _arguments_in(path: str) -> list[str]:
    advice = f"; a photograph called @{path} is written ./@{path}"
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise XGradCamError(f"cannot read the argument file {path!r}: {error.strerror}{advice}") from None
    except (XGradCamError, ValueError) as error:
        raise XGradCamError(f"cannot read the argument file {path!r}: {error}{advice}") from None
    encoding = next((MARKS[mark] for mark in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise XGradCamError(
            f"the argument file {path!r} is not text in UTF-8 or UTF-16: save it as such{advice}"
        ) from None
    if "\0" in text:
        raise XGradCamError(f"the argument file {path!r} holds a NUL character: save it as text{advice}")
    found = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        try:
            found += _words(line)
        except ValueError as error:
            raise XGradCamError(
                f"in the argument file {path!r}, line {number}: {str(error).lower()}: {line.strip()}"
            ) from None
    return found


def _words(line: str) -> list[str]:
    """Words of a line as a shell splits it, except for backslashes in paths; ValueError for an open quote."""
    # The end of a line that goes on, as in a shell: all lines of the file belong together.
    line = re.sub(r"(^|\s)\\\s*$", "", line)
    return shlex.split(WORD.sub(_with_doubled, line), comments=True)


def _with_doubled(word: re.Match[str]) -> str:
    """The word with two backslashes for each that stands for itself, as shlex wants it."""
    itself = (1, 3) if COMPLETED.fullmatch(word[0]) else (1, 2, 3)

    def doubled(found: re.Match[str]) -> str:
        if found.lastindex == 4:
            return r"\#"
        return found[0].replace("\\", "\\\\") if found.lastindex in itself else found[0]

    return BACKSLASHES.sub(doubled, word[0])
