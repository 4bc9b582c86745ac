"""Read a photograph (H, W, 3) uint8 RGB from a file, make an input of it, or encode it for a file."""

import difflib
import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from os import PathLike, fspath
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xgradcam.errors import XGradCamError, checked_size, shown
from xgradcam.files import open_regular
from xgradcam.pictures import decoding
from xgradcam.pictures.bounds import MAX_BYTES
from xgradcam.pictures.decoding import Reading
from xgradcam.pictures.formats import SUFFIXES
from xgradcam.pictures.levels import ValueRange

if TYPE_CHECKING:
    import torch

# Pixels (H, W, 3), RGB from 0 to 255.
Photograph: TypeAlias = decoding.Photograph
Read = TypeVar("Read")

# Bytes that are read from a pipe at a time.
CHUNK = 2**24
# Files beside a missing one that are compared with its name.
MOST_BESIDE = 1000
JPEG_QUALITY = 95
# The longest side of a picture that OpenCV and libjpeg encode.
JPEG_LIMIT = 65_500
# The comment of a JPEG file of ours: this, and a digest of all else, which an edited file has no more.
MARK, DIGEST = b"xgradcam ", 16


def read_image(
    path: str | PathLike[str],
    value_range: ValueRange | None = None,
    note: Callable[[str], None] | None = None,
) -> Photograph:
    """The photograph in a file, upright: (H, W, 3) uint8 RGB.

    Grey, palette and CMYK become RGB, transparency is dropped (the network never saw it), and of several
    pages the first is read. Of metadata the orientation counts, and nothing else.
    value_range: the values that become black and white, of a file of more than 8 bits or of floats. Without
    it 16 bits are read as 0 to 65535, and floats as 0 to 1, 255 or 65535, or from their lowest to their
    highest. note: called with a line about what was assumed; by default it is a UserWarning.
    Raises XGradCamError, with its own reason, for what cannot be read.
    """
    reading = read_file(path, value_range)
    for line in reading.notes:
        if note is None:
            warnings.warn(f"{fspath(path)}: {line}", stacklevel=2)
        else:
            note(line)
    return reading.photograph


def read_file(
    path: str | PathLike[str],
    value_range: ValueRange | None = None,
    before: Callable[[int], None] = lambda _pixels: None,
) -> Reading:
    """The photograph in a file, as `read_image` returns it, with the notes on what was assumed.

    before: called with the number of pixels before they are decoded.
    """
    return reading_of(path, lambda file, name: decode_image(file, name, value_range, before))


def _nearest(name: str) -> str:
    """`; did you mean ...?` of the photographs and folders beside a missing file; '' where none is near."""
    folder, file = os.path.split(name)
    beside: dict[str, str] = {}
    with suppress(OSError, ValueError), os.scandir(folder or os.curdir) as entries:
        for entry in islice(entries, MOST_BESIDE):
            stem, suffix = os.path.splitext(entry.name.casefold())
            if suffix in SUFFIXES or entry.is_dir():
                beside[stem] = min(entry.name, beside.get(stem, entry.name))
    # By their stems: all photographs of a folder have the ending in common.
    near = difflib.get_close_matches(os.path.splitext(file.casefold())[0], sorted(beside), n=1)
    return f"; did you mean {os.path.join(folder, beside[near[0]])!r}?" if near else ""


def reading_of(path: str | PathLike[str], read: Callable[[BinaryIO, str], Read]) -> Read:
    """The result of `read` for an open file and its name, with the reasons why a file cannot be opened."""
    name = fspath(path)
    try:
        with open_regular(path) as file:
            return read(file, name)
    except FileNotFoundError:
        raise XGradCamError(f"no such image: {name}{_nearest(name)}") from None
    except IsADirectoryError:
        raise XGradCamError(f"a folder, not an image: {name}: name a file in it") from None
    except ValueError as error:
        raise XGradCamError(f"cannot read image {name!r}: {error}") from None
    except OSError as error:
        raise XGradCamError(f"cannot read image {name}: {error.strerror or error}") from None


def decode_image(
    file: BinaryIO,
    name: str,
    value_range: ValueRange | None = None,
    before: Callable[[int], None] = lambda _pixels: None,
) -> Reading:
    """The photograph in an open file, as `read_file` returns it; errors call the file `name`."""
    return decoding.decode(content_of(file), name, value_range, before)


def content_of(file: BinaryIO) -> bytes:
    """All bytes of an open file; of one with more than are read, a few more than that."""
    if file.seekable():
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return file.read() if size <= MAX_BYTES else file.read(MAX_BYTES + 1)
    content = bytearray()
    while len(content) <= MAX_BYTES and (part := file.read(CHUNK)):
        content += part
    return bytes(content)


def require_photograph(photograph: Photograph) -> None:
    """Raise XGradCamError for anything but (H, W, 3) uint8."""
    is_array = isinstance(photograph, np.ndarray)
    if is_array and photograph.dtype == np.uint8 and photograph.shape[2:] == (3,) and photograph.size > 0:
        return
    remedy = "numpy.asarray makes an array of it"
    if is_array:
        remedy = "multiply floats by 255, and give a colour image"
        if photograph.dtype == np.uint8 and photograph.size:
            remedy = _remedy_for(photograph.shape)
    raise XGradCamError(
        f"a photograph is (H, W, 3) uint8 in RGB from 0 to 255, not {shown(photograph)}: {remedy}"
    )


def _remedy_for(shape: tuple[int, ...]) -> str:
    """The change that makes pixels uint8 of this shape a photograph."""
    if len(shape) == 4:
        return "give one photograph, not a batch"
    if len(shape) == 3 and shape[0] == 3:
        return "its channels come first: photograph.transpose(1, 2, 0) has them last"
    if shape[2:] == (4,):
        return "photograph[..., :3] leaves transparency out"
    return "give a colour image"


def stretch(photograph: Photograph, size: tuple[int, int]) -> Photograph:
    """The photograph at `size` (h, w) by bilinear interpolation; its aspect is not kept."""
    require_photograph(photograph)
    height, width = size
    return np.asarray(cv2.resize(photograph, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def normalise(pixels: Photograph, mean: tuple[float, ...], std: tuple[float, ...]) -> "torch.Tensor":
    """Pixels (h, w, 3) scaled to [0, 1], less the mean, over the deviation: (1, 3, h, w) float32.

    Those of bands are (h, w, C). A mean and deviation of one value are those of grey (ITU-R BT.601):
    (1, 1, h, w). XGradCamError for another number of channels.
    """
    import torch

    channels = max(len(mean), len(std))
    if channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    elif channels != pixels.shape[2]:
        raise XGradCamError(
            f"mean and deviation are of {channels} channels, and a photograph has {pixels.shape[2]}: give "
            "one of as many bands, or explain inputs of your own"
        )
    normalised = np.empty((1, channels, *pixels.shape[:2]), np.float32)
    tables = _normalised(tuple(mean), tuple(std))
    for plane, table, to in zip(cv2.split(pixels), tables, normalised[0], strict=True):
        cv2.LUT(plane, table, dst=to)
    return torch.from_numpy(normalised)


@lru_cache(maxsize=16)
def _normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """The 256 values of a pixel, normalised: (channels, 256). They are looked up, in a sixth of the time."""
    scaled = np.arange(256, dtype=np.float32)[:, None] / 255
    table = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(table.T)


def to_input(
    photograph: Photograph, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> "torch.Tensor":
    """The photograph stretched to `size` (h, w), scaled to [0, 1] and normalised: (1, 3, h, w) float32.

    Raises XGradCamError for a wrong photograph or size, and for a mean or deviation that is not one or three
    numbers.
    """
    pixels = stretch(photograph, checked_size(size, "the input's size"))
    for what, values in (("mean", mean), ("deviation", std)):
        try:
            numbers = np.asarray(values, np.float32)
            right = numbers.shape in ((), (1,), (3,)) and bool(np.isfinite(numbers).all())
        except (TypeError, ValueError):
            right = False
        if not right:
            raise XGradCamError(f"the {what} is {shown(values)}: give three numbers, such as (0.5, 0.5, 0.5)")
    # One number is that of all three colours.
    of_mean, of_std = (np.broadcast_to(np.asarray(values, np.float32), 3) for values in (mean, std))
    return normalise(pixels, tuple(of_mean.tolist()), tuple(of_std.tolist()))


def encode_jpeg(picture: Photograph) -> bytes:
    """The picture (H, W, 3) as the content of a JPEG file; XGradCamError if it is too large for one."""
    if max(picture.shape) > JPEG_LIMIT:
        raise XGradCamError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels does not fit into a JPEG file "
            f"({JPEG_LIMIT} a side): draw it smaller"
        )
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return _marked(cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes())


def is_marked(content: bytes) -> bool:
    """True for the content of a file that `encode_jpeg` has made, and nobody has changed since."""
    place = _place_of_mark(content)
    comment = _comment(b"")
    return _marked(content[:place] + content[place + len(comment) :]) == content


def _marked(jpeg: bytes) -> bytes:
    place = _place_of_mark(jpeg)
    return jpeg[:place] + _comment(jpeg) + jpeg[place:]


def _comment(jpeg: bytes) -> bytes:
    """A segment for the file without it."""
    text = MARK + hashlib.sha256(jpeg).hexdigest()[:DIGEST].encode()
    return b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text


def _place_of_mark(jpeg: bytes) -> int:
    """The place behind the first two segments, of which the second, JFIF's, gives its own length."""
    return 4 + int.from_bytes(jpeg[4:6], "big")
