"""Exit codes, errors in one line, and notes on stderr."""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable

from xgradcam.errors import XGradCamError

DONE, FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130
# Raised by writing to a full or broken stdout.
NO_OUTPUT = (errno.ENOSPC, errno.EIO, errno.EBADF)


def run(prog: str, work: Callable[[], int]) -> int:
    """Do the work and return its exit code; report in one line what the user can mend."""
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold characters that the terminal's encoding lacks.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            # Deprecations in the libraries below are nothing that a user can mend.
            warnings.simplefilter("ignore", FutureWarning)
            code = work()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except XGradCamError as error:
        print(f"{prog}: error: {one_line(str(error))}", file=sys.stderr)
        return COULD_NOT_RUN
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return FAILED
    # A model's code may end the program, and would do so with an exit code of its own.
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in NO_OUTPUT:
            print(f"{prog}: error: cannot write the output: {error.strerror}", file=sys.stderr)
            _discard_stdout()
        else:
            traceback.print_exc()
            print(f"{prog}: error: unforeseen, in the model's code or in ours: see above", file=sys.stderr)
        # Python's own exit code would be 1, which means something else here.
        return COULD_NOT_RUN


def one_line(message: str) -> str:
    """The message with its line breaks escaped: a file's name may hold some."""
    return message.replace("\r", "\\r").replace("\n", "\\n")


def note(prog: str, line: str) -> None:
    """Print a line on stderr, beside the result."""
    print(f"{prog}: {line}", file=sys.stderr, flush=True)


def _discard_stdout() -> None:
    """Send what is left in stdout nowhere: Python would fail once more when it closes a broken stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
