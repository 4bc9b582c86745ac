"""The one error that users meet."""

import difflib
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class XGradCamError(Exception):
    """Something the user can mend; the message names the value and the remedy. All else is a bug."""


class CannotWriteError(XGradCamError):
    """A result that could not be written: a full disk, a folder that has gone."""


class NotFiniteError(XGradCamError):
    """Scores that hold infinities or no numbers."""


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Make an XGradCamError of what the user's code raises: `what`, the error, and where it was raised."""
    try:
        yield
    except XGradCamError:
        raise
    except (Exception, SystemExit) as error:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        reason = next(iter(message.splitlines()), "")
        said = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise XGradCamError(f"{what}: {said}{_place_of(error)}") from error


def _place_of(error: BaseException) -> str:
    """The line of code nearest to the error that is in no installed package, in brackets."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    libraries = (sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    installed = (str(Path(__file__).parent), "<", *libraries)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(installed):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


class NotApplicableError(XGradCamError):
    """A method that makes no sense at this layer or for this score."""


class WeightsUnavailableError(XGradCamError):
    """Weights that are neither cached nor reachable."""


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """`; did you mean 'a' or 'b'?` of the known names nearest to this one; '' where none is near."""
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def listed(names: Iterable[str], most: int) -> str:
    """`a, b, c and 7 more`: the names, but at most so many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
