"""A photograph as a user has it: a path, Pillow's image, an array or a tensor, made (H, W, 3) uint8."""

import os
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from xgradcam.errors import XGradCamError, shown
from xgradcam.pictures.photograph import Photograph, read_image, require_photograph

COLOURS = 3
GIVE = "give a path, an image of Pillow's, or uint8 pixels (H, W, 3)"


def photograph_given(given: Any, note: Callable[[str], None] | None = None) -> Photograph:
    """The photograph (H, W, 3) uint8, upright, of a path, Pillow's image, an array or a tensor.

    Pixels are uint8, (H, W, 3) or grey (H, W), and of tensors also (3, H, W) or (1, H, W). A file is read as
    by `read_image`, which is given `note`.
    Raises XGradCamError for anything else, such as floats: their range is not known.
    """
    if isinstance(given, str | os.PathLike):
        return read_image(cast("str | os.PathLike[str]", given), note=note)
    if isinstance(given, Image.Image):
        return _of_pillow(given)
    if not hasattr(given, "shape") or not hasattr(given, "dtype"):
        raise XGradCamError(f"the photograph is {shown(given)}: {GIVE}")
    pixels = array_of(given)
    if hasattr(given, "detach") and pixels.ndim == 3 and pixels.shape[0] in (1, COLOURS):
        if pixels.shape[2] in (1, COLOURS):
            raise XGradCamError(
                f"the photograph is {shown(given)}, channels first or last: give an array (H, W, 3)"
            )
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint8 and pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], COLOURS, axis=2)
    require_photograph(pixels)
    return np.ascontiguousarray(pixels)


def array_of(given: Any) -> NDArray[Any]:
    """The values of an array or a tensor on any device."""
    return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)


def _of_pillow(image: Image.Image) -> Photograph:
    """Pillow's image upright, as RGB without transparency; XGradCamError for more than 8 bits a channel."""
    if image.mode.startswith(("I", "F")):
        raise XGradCamError(
            f"the image has more than 8 bits a channel (mode {image.mode}): give its path, which read_image "
            "reads with a value_range"
        )
    try:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise XGradCamError(f"cannot read the image of Pillow's: {str(error)[:100]}") from None
