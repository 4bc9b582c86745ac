"""Write files so that each is there completely or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

from xgradcam.errors import CannotWriteError, XGradCamError


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
