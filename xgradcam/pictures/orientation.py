"""The orientation of a photograph, as Exif and XMP keep it, and turning pixels upright by it."""

import re
import struct

import numpy as np
from numpy.typing import NDArray

ORIENTATION = 274
# Exif's types of whole numbers: SHORT and LONG.
WHOLE = {3: "H", 4: "I"}
XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])\s*["'<]""")
UPRIGHT = 1


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """The orientation from 1 to 8 in a block of Exif, or else of XMP; 1, upright, where there is none.

    All other tags are ignored, and so is an orientation of a wrong type or value.
    """
    if found := _from_exif(exif):
        return found
    match = XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else UPRIGHT


def _from_exif(exif: bytes) -> int | None:
    """The orientation in Exif; None where it has none at all."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return None
        start = struct.unpack_from(order + "I", exif, 4)[0]
        count = struct.unpack_from(order + "H", exif, start)[0]
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, place)
            if tag == ORIENTATION:
                if kind not in WHOLE or values != 1:
                    return UPRIGHT
                value = struct.unpack_from(order + WHOLE[kind], exif, place + 8)[0]
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:  # the block is cut off
        pass
    return None


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The pixels (H, W, ...) turned and mirrored as the orientation says, contiguous."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])
