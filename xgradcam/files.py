"""Write results so that a file is there whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

import cv2

from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.pictures.photograph import Photograph

JPEG_QUALITY = 95
# Of a side, in OpenCV and libjpeg.
JPEG_LIMIT = 65_500


def encode_jpeg(picture: Photograph) -> bytes:
    """The picture (H, W, 3), RGB, as the bytes of a JPEG file; XGradCamError where that cannot hold it."""
    if max(picture.shape) > JPEG_LIMIT:
        raise XGradCamError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels does not fit into a JPEG file "
            f"({JPEG_LIMIT} a side): draw it smaller"
        )
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()


def make_folder(folder: Path) -> None:
    """Make the folder, and those above it, if missing; XGradCamError where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWriteError(f"cannot make the folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise XGradCamError(f"cannot write to the folder {folder}: choose another")


def require_writable(folder: Path) -> None:
    """Raise XGradCamError if the folder could not be made or written to; nothing is made."""
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise XGradCamError(f"cannot make the folder {folder}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise XGradCamError(f"cannot write to the folder {there}: choose another --output-dir")


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write these files: aside first, then all are given their names. XGradCamError where that cannot be."""
    aside: dict[Path, Path] = {}
    path = None
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(None, "a folder has that name")
            # Not by tempfile, whose files are the owner's alone: who may read them is for the umask to say.
            unnamed = path.with_name(f".{os.urandom(8).hex()}.part")
            with unnamed.open("xb") as file:
                aside[path] = unnamed
                file.write(content)
        for path, written in aside.items():
            written.replace(path)
    except OSError as error:
        raise CannotWriteError(f"cannot write {path}: {error.strerror}") from None
    finally:
        for written in aside.values():
            written.unlink(missing_ok=True)
