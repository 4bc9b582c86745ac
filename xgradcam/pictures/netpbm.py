"""Read the formats of Netpbm: PBM, PGM and PPM, in bytes or as text."""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xgradcam.pictures.bounds import UnreadableError, require_affordable, require_size

# Whitespace and comments between the numbers of a header.
GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
HEADER = re.compile(rb"P([1-6])" + GAP + rb"(\d{1,10})" + GAP + rb"(\d{1,10})")
MAXIMUM = re.compile(GAP + rb"(\d{1,10})")
# Numbers written as text are read one by one.
TEXT_BYTES = 100_000_000


def read_netpbm(
    content: bytes, before: Callable[[int], None] = lambda _pixels: None
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], int]:
    """The values (H, W) or (H, W, 3), from 0 to a maximum, and that maximum.

    before: called with the number of pixels. Raises UnreadableError where the file is damaged.
    """
    header = HEADER.match(content)
    if header is None:
        raise UnreadableError("its header is damaged")
    kind, width, height = map(int, header.groups())
    place, maximum = header.end(), 1
    channels = 3 if kind in (3, 6) else 1
    require_affordable(width, height, 3 + 2 * channels, len(content))
    if kind not in (1, 4):
        found = MAXIMUM.match(content, place)
        place, maximum = (found.end(), int(found[1])) if found else (place, 0)
        if not 0 < maximum < 2**16:
            raise UnreadableError("its header gives no maximum from 1 to 65535")
        if maximum > 255:
            require_affordable(width, height, 3 + 4 * channels, len(content))
    if width < 1 or height < 1:
        raise UnreadableError(f"its header gives {width} x {height} pixels")
    before(width * height)
    shape = (height, width, 3) if channels == 3 else (height, width)
    count = width * height * channels
    if kind <= 3:
        values = _from_text(content, place, kind == 1, count)
    elif kind == 4:
        return _from_bits(content, place + 1, height, width), 1
    else:
        values = _from_bytes(content, place + 1, maximum, count)
    if len(values) < count:
        raise UnreadableError(f"it has {len(values)} values of {count}: is the file complete?")
    values = np.minimum(values, values.dtype.type(maximum)).reshape(shape)
    return (1 - values if kind == 1 else values), maximum


def _from_bytes(
    content: bytes, place: int, maximum: int, count: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    kind = np.dtype(">u2" if maximum > 255 else "u1")
    there = max(0, min(count, (len(content) - place) // kind.itemsize))
    return np.frombuffer(content, kind, there, min(place, len(content)))


def _from_bits(content: bytes, place: int, height: int, width: int) -> NDArray[np.uint8]:
    """White where the bit is 0: (H, W) of 0 and 1."""
    row = (width + 7) // 8
    if len(content) < place + height * row:
        raise UnreadableError(
            f"it has {max(0, len(content) - place)} bytes of {height * row}: is the file complete?"
        )
    packed = np.frombuffer(content, np.uint8, height * row, place).reshape(height, row)
    return 1 - np.unpackbits(packed, axis=1, count=width)


def _from_text(
    content: bytes, place: int, is_bits: bool, count: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    require_size(len(content), TEXT_BYTES)
    text = re.sub(rb"#[^\r\n]*", b"", content[place:])
    if not is_bits:
        # Python's own `split` and `int` take ten times the memory.
        if re.search(rb"[^\d\s]|\d{6}", text):
            raise UnreadableError("its text has something else than numbers from 0 to 65535")
        numbers = np.fromstring(text.decode() if text.strip() else "0", np.int32, sep=" ")[:count]
        return np.minimum(numbers, 65535).astype(np.uint16)
    digits = np.frombuffer(b"".join(text.split())[:count], np.uint8)
    if not np.isin(digits, (48, 49)).all():
        raise UnreadableError("its text has something else than 0 and 1")
    return digits - np.uint8(48)
