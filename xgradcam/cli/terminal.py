"""Exit codes, errors in one line, notes on stderr, and stdout for results alone."""

import argparse
import ctypes
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from typing import Any, TextIO

from xgradcam.cli.arranging import misplaced
from xgradcam.cli.signals import exit_code_of, stoppable
from xgradcam.errors import XGradCamError, bounded, escaped, first_line, is_out_of_memory

DONE, FAILED, COULD_NOT_RUN = 0, 1, 2
# Raised by writing to a full or broken stdout.
NO_OUTPUT = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF)
STREAMS = ("stdin", "stdout", "stderr")

Parse = Callable[[Sequence[str] | None], argparse.Namespace]
Work = Callable[[argparse.Namespace, TextIO], int]


def run(prog: str, parse: Parse, work: Work, argv: Sequence[str] | None) -> int:
    """Parse the arguments, do the work and return its exit code; report in one line what the user can mend.

    work: is given the arguments and the stream for results: stdout, which has nothing else with --json.
    argv: None for those of this process, which then ends with the command.
    """
    ends = argv is None
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold characters that the terminal's encoding lacks.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with stoppable(prog, ends):
        try:
            arguments = parse(argv)
        except KeyboardInterrupt as error:
            return exit_code_of(error)
        try:
            apart = _results_apart(ends) if getattr(arguments, "json", False) else nullcontext(sys.stdout)
            with warnings.catch_warnings(), apart as out:
                # Deprecations in the libraries below are nothing that a user can mend.
                warnings.simplefilter("ignore", FutureWarning)
                code = work(arguments, out)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt as error:
            note(prog, "interrupted")
            return exit_code_of(error)
        except BrokenPipeError:
            _discard_stdout()
            return FAILED
        # A model's code may end the program, and would do so with an exit code of its own.
        except (Exception, SystemExit) as error:
            return _report(prog, error, getattr(arguments, "paths_taken", {}))


def _report(prog: str, error: BaseException, paths: Mapping[str, Sequence[str]]) -> int:
    """Print the error in one line, after its traceback if it is unforeseen; return the exit code.

    paths: those that options have taken for values.
    """
    if isinstance(error, XGradCamError):
        complain(prog, f"{error}{misplaced(paths, str(error))}")
    elif isinstance(error, OSError) and error.filename is None and error.errno in NO_OUTPUT:
        complain(prog, f"cannot write the output: {error.strerror}")
        _discard_stdout()
    elif is_out_of_memory(error):
        remedy = "take a smaller model or --input-size, or another --device"
        if isinstance(error, ImportError):
            remedy = "a library was not loaded; end other programs, or raise the limit (ulimit -v)"
        complain(prog, f"not enough memory ({first_line(error)}): {remedy}")
    else:
        say("".join(traceback.format_exception(error)).rstrip("\n"), sys.stderr)
        complain(prog, "unforeseen, in the model's code or in ours: see above")
    # Python's own exit code would be 1, which means something else here.
    return COULD_NOT_RUN


def shown(message: str) -> str:
    """The message as one line of a few hundred characters that no terminal obeys."""
    return bounded(escaped(message))


def say(text: str, stream: Any) -> None:
    """Print text of one or more lines; a stream that is gone takes none."""
    print("\n".join(map(escaped, text.split("\n"))), file=stream, flush=True)


def note(prog: str, line: str) -> None:
    """Print a line on stderr, beside the result."""
    # Nobody could be told that stderr is broken.
    with suppress(OSError):
        print(f"{prog}: {shown(line)}", file=sys.stderr, flush=True)


def complain(prog: str, message: str) -> None:
    """Print an error."""
    note(prog, f"error: {message}")


def _replace_closed_streams() -> None:
    """Open the null device in place of closed standard streams.

    Files would be opened under their numbers, and have mixed in them what libraries print.
    """
    for number in range(len(STREAMS)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            with suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in enumerate(STREAMS):
        for kept in (name, f"__{name}__"):
            if getattr(sys, kept) is None:
                setattr(sys, kept, open(os.devnull, "w" if number else "r", encoding="utf-8"))


@contextmanager
def _results_apart(ends: bool) -> Iterator[TextIO]:
    """A stream to stdout for results alone: what else is written to stdout goes to stderr meanwhile.

    So does what C libraries and child processes write. ends: the process ends with the command: leave it so,
    since a library may print at the end.
    """
    before = sys.stdout
    before.flush()
    kept = os.dup(1)
    try:
        numbered = before.fileno() == 1
    except (OSError, ValueError):
        numbered = False
    out = os.fdopen(os.dup(1), "w", encoding="utf-8") if numbered else before
    os.dup2(2, 1)
    if ends:
        sys.stdout = sys.stderr
    try:
        with redirect_stdout(sys.stderr):
            yield out
        out.flush()
    except OSError:
        _discard(out)
        raise
    finally:
        with suppress(OSError, ValueError):
            before.flush()
        if not ends:
            with suppress(AttributeError, OSError):
                ctypes.CDLL(None).fflush(None)
            os.dup2(kept, 1)
        os.close(kept)
        if out is not before:
            with suppress(OSError):
                out.close()


def _discard_stdout() -> None:
    """Send what is left in stdout nowhere: Python would fail once more when it closes a broken stdout."""
    _discard(sys.stdout)


def _discard(stream: Any) -> None:
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
