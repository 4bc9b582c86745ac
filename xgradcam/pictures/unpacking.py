"""Pixels of Pillow's RGB images as arrays, while other threads run.

`numpy.array(image)` holds the interpreter's lock for a third of the time for which reading a photograph does:
Pillow packs four bytes a pixel to three, and copies them twice. Arrow's interface for C lends the memory.
"""

import ctypes

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Bytes in which Pillow keeps a pixel of RGB.
KEPT = 4
NAME = b"arrow_array"


class _Array(ctypes.Structure):
    """The first fields of `struct ArrowArray`."""


_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]
_address_in = ctypes.pythonapi.PyCapsule_GetPointer
_address_in.restype, _address_in.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def rgb_of(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a decoded image of the mode RGB: (H, W, 3)."""
    height, width = image.height, image.width
    # Where rows are padded, by PILLOW_ALIGNMENT, Arrow's interface does not tell. Pillow's core has no types.
    if width * KEPT % Image.core.get_alignment():  # type: ignore[attr-defined]
        return np.array(image)
    try:
        _schema, capsule = image.__arrow_c_array__()  # keeps the memory until it is gone
        pixels = _Array.from_address(_address_in(capsule, NAME)).children[0].contents
    # Large images are in several blocks; without a child the array is of another form.
    except ValueError:
        return np.array(image)
    if pixels.length != height * width * KEPT or pixels.offset:
        return np.array(image)
    kept = (ctypes.c_uint8 * pixels.length).from_address(pixels.buffers[1])
    padded = np.frombuffer(kept, np.uint8).reshape(height, width, KEPT)
    return np.asarray(cv2.cvtColor(padded, cv2.COLOR_RGBA2RGB), np.uint8)
