"""Read a mask (H, W), True inside, from an image file."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xgradcam.errors import users_code
from xgradcam.pictures import formats
from xgradcam.pictures.decoding import STRIPPERS, opened
from xgradcam.pictures.orientation import upright
from xgradcam.pictures.photograph import content_of, decode_image, reading_of

# Any value of more than 8 bits, or of floats, that is not 0 becomes more than 0 by this range.
ABOVE_0 = (0, 2**-16)
# Compressed masks are not quite black outside.
LOSSY = (".jpg", ".jpeg")


def read_mask(path: str) -> NDArray[np.bool_]:
    """The mask in an image file, upright: True where a pixel is neither black nor transparent, (H, W).

    Raises XGradCamError for what cannot be read as a photograph.
    """
    content = reading_of(path, lambda file, _name: content_of(file))
    pixels = decode_image(io.BytesIO(content), path, ABOVE_0).photograph
    dark = 127 if Path(path).suffix.lower() in LOSSY else 0
    with users_code(f"cannot read the transparency of {path}"):
        return np.logical_and((pixels > dark).any(axis=2), _opacity(content) > 0)


def _opacity(content: bytes) -> NDArray[np.uint8]:
    """The opacity of an image that is read, (H, W), 0 for what is transparent; (1, 1) where it has none."""
    kind = formats.kind_of(content[: formats.HEAD])
    opaque = np.full((1, 1), 255, np.uint8)
    if kind not in STRIPPERS or content.startswith(b"P"):  # Netpbm has no transparency
        return opaque
    stripped = STRIPPERS[kind](content)
    if kind == formats.PNG and b"tRNS" in content:  # the transparent colour, which photographs go without
        stripped = replace(stripped, stream=io.BytesIO(content))
    image = opened(stripped, kind)
    if stripped.joined:
        return upright(np.asarray(image, np.uint8)[..., 2:].max(axis=2), stripped.orientation)
    if not image.has_transparency_data:
        return opaque
    return upright(np.asarray(image.convert("RGBA").getchannel("A"), np.uint8), stripped.orientation)
