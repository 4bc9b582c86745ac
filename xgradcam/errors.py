"""Every error that a user can mend, hints at the name that was meant, and text that is safe to show."""

import difflib
import os
import reprlib
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from operator import index
from pathlib import Path
from threading import RLock
from typing import Any

# Names of the folders that pip installs into: an environment's, a user's, Debian's.
PACKAGE_FOLDERS = {"site-packages", "dist-packages"}
# Found by where they were imported from, since they may be installed elsewhere, or as a checkout.
LIBRARIES = ("numpy", "timm", "torch", "torchvision", "xgradcam")
# Characters that a terminal obeys or that hide others: controls, formats, lone surrogates, line ends.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Formats that belong to words: they join or part letters in Persian, Hindi and others, and emoji.
JOINERS = "\u200c\u200d"
# Longest error or note in characters, and how much of its end stays, where the remedy is.
LONGEST, END = 600, 280
# Words of PyTorch, oneDNN, OpenCV, NumPy, C++ and the loader of libraries for too little memory.
OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate",
    "unable to allocate",
    "insufficient memory",
    "bad_alloc",
    "alloc_failed",
    "could not create a memory",
    "could not create a primitive",
    "can't start new thread",
    "failed to map segment",
)


class XGradCamError(Exception):
    """A problem that the user can mend; the message names the value and the remedy. All else is a bug."""


class CannotWriteError(XGradCamError):
    """A result that cannot be written: the disk is full, or the folder has gone."""


class NotApplicableError(XGradCamError):
    """A method that does not apply at this layer or to this score."""


class NoGradientError(XGradCamError):
    """A score that does not depend on the layer, as far as its gradient tells."""


class WeightsUnavailableError(XGradCamError):
    """Weights that are neither in the cache nor to be downloaded."""


class NothingFoundError(XGradCamError):
    """A score that a photograph does not have: nothing is detected there, or no pixel is of the class."""


class NotFiniteError(XGradCamError):
    """Scores that contain an infinity or NaN."""


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn an error of the user's code into an XGradCamError: `what` failed, why, and on which line.

    Too little memory is no error of the code, and stays what it is.
    """
    try:
        yield
    except XGradCamError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        reason = shortened(next(iter(message.splitlines()), ""), 160)
        said = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise XGradCamError(f"{what}: {said}{_place_of(error)}") from error


def _place_of(error: BaseException) -> str:
    """The line nearest to the error in the user's own code, in brackets; '' if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not _is_library(frame.filename):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _is_library(filename: str) -> bool:
    """True for code of Python, of installed packages and of this one, whichever environment holds them."""
    path = Path(filename)
    if filename.startswith("<") or not PACKAGE_FOLDERS.isdisjoint(path.parts):
        return True
    files = (getattr(module, "__file__", None) for module in (os, *map(sys.modules.get, LIBRARIES)))
    return any(path.is_relative_to(Path(file).parent) for file in files if file)


def shown(value: object) -> str:
    """A value as an error quotes it, in a line of at most 60 characters: `'cat'`, `[0, 1, ...]`, `a Linear`.

    Of tensors and arrays the type and shape; of other objects the type, since their text may be a page.
    """
    try:
        return shortened(" ".join(_brief.repr(value).split()), 60)
    except (
        AttributeError,
        TypeError,
        ValueError,
    ):  # integers of thousands of digits, types named like others
        return f"a {type(value).__name__}"


class _Brief(reprlib.Repr):
    """The beginning of the text of built-in values; of what else they hold, the types."""

    def repr_instance(self, value: Any, level: int) -> str:
        if value is None or isinstance(value, bool | bytes | complex | float | range):
            return repr(value)
        kind = type(value).__name__
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            return f"a {kind} {value.dtype} {tuple(value.shape)}"
        named = isinstance(value, type) or (callable(value) and hasattr(value, "__name__"))
        return f"the {kind} {value.__name__}" if named else f"a {kind}"


_brief = _Brief()
_brief.maxstring = _brief.maxother = 60


def shortened(text: str, most: int) -> str:
    """The text in at most so many characters; one that is longer ends in an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def checked_size(size: Any, what: str, sides: int = 2) -> Any:
    """The size as integers; XGradCamError unless it is (H, W), two positive ones, or one for each side."""
    try:
        given = tuple(map(index, size))
    except (TypeError, ValueError):
        given = ()
    if len(given) != sides or min(given) < 1:
        give = {1: "(L,), one positive integer", 2: "(H, W), two positive integers"}
        raise XGradCamError(
            f"{what} is {shown(size)}: give {give.get(sides, '(D, H, W), three positive integers')}"
        )
    return given


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """`; did you mean 'a' or 'b'?` of the known names nearest to this one; '' where none is near."""
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=count, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def listed(names: Iterable[str], most: int) -> str:
    """`a, b, c and 7 more`: the names as `short`, but at most so many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(short, names[:most])) + more


def short(name: str, most: int = 80) -> str:
    """A name from a file for a message: as `escaped`, and cut to so many letters."""
    return shortened(escaped(name[: most + 1]), most)


def escaped(text: str) -> str:
    """The text in one line that no terminal obeys; controls and the like are shown as in Python's strings."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in UNSEEN and character not in JOINERS
        else character
        for character in text
    )


def bounded(text: str) -> str:
    """The text without its middle, if it is longer than an error or a note should be."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - END - 5]} ... {text[-END:]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind if it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error of too little memory, of the processor or a GPU, whichever library raised it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # cv2.error is an Exception only, and most of torch's are plain RuntimeErrors.
    said = str(error).lower()
    return not isinstance(error, XGradCamError) and any(words in said for words in OUT_OF_MEMORY)


class _Unwarned:
    """Python's filters of warnings, which are those of all threads: as before when the last one ends."""

    def __init__(self) -> None:
        self._lock, self._users, self._left = RLock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._left.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._users += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._left.close()


# A context in which no warning of a library is shown; also in several threads at once.
UNWARNED = _Unwarned()
