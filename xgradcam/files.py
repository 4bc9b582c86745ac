"""Open regular files only; write files so that each is there completely or not at all; lock them."""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from errno import (
    EACCES,
    EAGAIN,
    EEXIST,
    EILSEQ,
    EINVAL,
    EISDIR,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOTDIR,
    EPERM,
    EWOULDBLOCK,
)
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, TypeVar

from xgradcam.errors import CannotWriteError, XGradCamError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Place = TypeVar("Place", str, Path)

# Errors of a name or its place, while others can be written.
OF_ONE_NAME = (ENAMETOOLONG, EISDIR, ENOTDIR, EEXIST, EACCES, EPERM, EINVAL, EILSEQ, ELOOP)
# Temporary files: those of one call share a token, and its first is locked while the call writes.
PART = re.compile(r"\.xgradcam-([0-9a-f]{16})-\d+\.part")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading bytes; nothing but a regular file, or a link to one.

    Opening a named pipe would wait for a writer, and a device never ends. Raises XGradCamError for these, and
    OSError as `open` does, IsADirectoryError for a folder.
    """
    # Without waiting, and by the open file: the name may point to something else a moment later.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
            what = "a device: give a file" if is_device else "a pipe or a socket: copy its content to a file"
            raise XGradCamError(f"not a regular file: {os.fspath(path)} is {what}")
        # `open` raises IsADirectoryError.
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def make_folder(folder: Path) -> None:
    """Make the folder and its parents if missing. Raises XGradCamError if it cannot be written to."""
    try:
        # Not by `parents=True`, by which each level is a call within the last.
        for place in reversed([*takewhile(lambda place: not place.exists(), folder.parents)]):
            place.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        kind = XGradCamError if error.errno in OF_ONE_NAME else CannotWriteError
        raise kind(f"cannot make the folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise XGradCamError(f"cannot write to the folder {folder}: choose another")


def require_writable(folder: Path) -> None:
    """Raise XGradCamError if the folder cannot be made or written to. It is not made."""
    existing = folder.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise XGradCamError(f"cannot make the folder {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise XGradCamError(f"cannot write to the folder {existing}: choose another --output-dir")


class KeptFiles:
    """Files that must stay, such as those that a run reads: `path in kept` by any of their names or links."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]] = ()) -> None:
        self._identities = set(filter(None, map(_identity, paths)))

    def __contains__(self, path: str | os.PathLike[str]) -> bool:
        return bool(self._identities) and _identity(path) in self._identities


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Device and number of a file, which all its names share; None where there is no file."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return None if stat.S_ISDIR(state.st_mode) else (state.st_dev, state.st_ino)


def lock(descriptor: int, shared: bool = False) -> bool | None:
    """Lock an open file without waiting: True; False if another holds it; None if locks do not work here.

    shared: together with others that share it; a lock that is held can so be changed. The lock ends with its
    process, however that ends. Not by the library filelock: its older versions empty a file through a link,
    and none locks a file that is open already.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (EACCES, EAGAIN, EWOULDBLOCK) else None
    return True


def write_files(contents: Mapping[Place, bytes | Iterable[bytes]]) -> None:
    """Write all files under temporary names, then rename them.

    contents: whole, or in pieces, of which one at a time is in memory. Raises CannotWriteError if no file can
    be written there, as on a full disk, and XGradCamError if those of these names cannot.
    """
    path: str | Path | None = None
    # By names: a `Path` takes longer to make than a file.
    parts: dict[str, str | Path] = {}
    tokens: dict[str, str] = {}
    with ExitStack() as stack:
        try:
            for number, (path, content) in enumerate(contents.items(), 1):
                place = os.fspath(path)
                _require_no_folder(place)
                folder = os.path.dirname(place)
                if folder not in tokens:
                    tokens[folder] = stack.enter_context(_writing_in(folder))
                # Not by tempfile: only the owner can read its files, but here the umask decides who can.
                part = _part(folder, tokens[folder], number)
                parts[part] = path
                with open(part, "xb") as file:
                    file.writelines([content] if isinstance(content, bytes) else content)
            for part, path in [*parts.items()]:
                os.replace(part, path)
                del parts[part]
        except OSError as error:
            raise cannot_write(path, error) from None
        finally:
            _discard(parts)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name when the block ends without an error; after one, it is gone.

    Raises XGradCamError and CannotWriteError as `write_files` does. Who writes to it turns errors of that
    into these by `cannot_write`.
    """
    part = ""
    with ExitStack() as stack:
        try:
            _require_no_folder(os.fspath(path))
            folder = os.path.dirname(path)
            part = _part(folder, stack.enter_context(_writing_in(folder)), 1)
            stack.callback(_discard, [part])
            file = stack.enter_context(open(part, "xb"))
        except OSError as error:
            raise cannot_write(path, error) from None
        yield file
        try:
            file.close()
            os.replace(part, path)
        except OSError as error:
            raise cannot_write(path, error) from None


def _require_no_folder(path: str) -> None:
    """Raise OSError if a folder has that name, or if no file can have it."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR, ELOOP):
            raise
        return
    if is_folder:
        raise IsADirectoryError(EISDIR, "a folder has that name")


def cannot_write(path: str | Path | None, error: OSError) -> XGradCamError:
    """The error of a file that cannot be written: one of its name, or CannotWriteError for all files."""
    kind = XGradCamError if error.errno in OF_ONE_NAME else CannotWriteError
    return kind(f"cannot write {path}: {error.strerror or error}")


def remove_parts(folder: Path) -> None:
    """Delete temporary files that killed processes left in the folder; those of running ones stay."""
    left: defaultdict[str, list[Path]] = defaultdict(list)
    with suppress(OSError):
        for name in os.listdir(folder):
            if found := PART.fullmatch(name):
                left[found[1]].append(folder / name)
    for token, parts in left.items():
        with suppress(OSError), ExitStack() as stack:
            # Without a first file nobody writes any more.
            with suppress(FileNotFoundError):
                file = stack.enter_context(open(_part(os.fspath(folder), token, 0), "rb+"))
                if not lock(file.fileno()):
                    continue
            for part in parts:
                part.unlink(missing_ok=True)


def _part(folder: str, token: str, number: int) -> str:
    return os.path.join(folder, f".xgradcam-{token}-{number}.part")


@contextmanager
def _writing_in(folder: str) -> Iterator[str]:
    """A token for temporary files in the folder, which count as used within the block."""
    while True:
        token = os.urandom(8).hex()
        first = _part(folder, token, 0)
        try:
            with open(first, "xb") as file:
                # Between the two calls `remove_parts` of another process may have taken it for left.
                if lock(file.fileno()) is False or not os.fstat(file.fileno()).st_nlink:
                    continue
                yield token
                return
        finally:
            _discard([first])


def _discard(parts: Iterable[str]) -> None:
    """Delete temporary files, as far as they are there."""
    for part in parts:
        with suppress(OSError):
            os.unlink(part)
