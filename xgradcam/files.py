"""Open regular files only; write files so that each is there completely or not at all."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from xgradcam.errors import CannotWriteError, XGradCamError


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
            raise XGradCamError(
                f"not a regular file: {os.fspath(path)} (a pipe or a device): copy it to a file"
            )
        # `open` raises IsADirectoryError.
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def make_folder(folder: Path) -> None:
    """Make the folder and its parents if missing. Raises XGradCamError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWriteError(f"cannot make the folder {folder}: {error.strerror}") from None
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


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write all files under temporary names, then rename them; CannotWriteError if one cannot be written."""
    temporary: dict[Path, Path] = {}
    path = None
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(None, "a folder has that name")
            # Not by tempfile: only the owner can read its files, but here the umask decides who can.
            partial = path.with_name(f".{os.urandom(8).hex()}.part")
            with partial.open("xb") as file:
                temporary[path] = partial
                file.write(content)
        for path, partial in temporary.items():
            partial.replace(path)
    except OSError as error:
        raise CannotWriteError(f"cannot write {path}: {error.strerror}") from None
    finally:
        for partial in temporary.values():
            partial.unlink(missing_ok=True)
