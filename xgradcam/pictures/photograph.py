"""From a file to what the network sees: photograph (H, W, 3) uint8 RGB, then input (1, 3, h, w) float32."""

import warnings
from os import PathLike, fspath
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    import torch

Photograph = NDArray[np.uint8]

# While it is decoded a pixel takes 10 to 18 bytes: 1.8 GB at the most.
MAX_PIXELS = 100_000_000
# Not all that Pillow knows: some of its readers start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")


def read_image(path: str | PathLike[str]) -> Photograph:
    """The photograph in a file, upright: (H, W, 3) uint8 RGB.

    Grey, palette and CMYK become RGB, 16 bit become 8, transparency is dropped (the network never saw it),
    an animation gives its first frame. Raises XGradCamError where the file is not a whole image.
    """
    name = fspath(path)
    try:
        with open(path, "rb") as file:
            return decode_image(file, name)
    except FileNotFoundError:
        raise XGradCamError(f"no such image: {name}") from None
    except IsADirectoryError:
        raise XGradCamError(f"a folder, not an image: {name}: name a file in it") from None
    except ValueError as error:
        raise XGradCamError(f"cannot read image {name!r}: {error}") from None
    except OSError as error:
        raise XGradCamError(f"cannot read image {name}: {error.strerror or error}") from None


def pixels_in(path: str | PathLike[str]) -> int:
    """How many pixels the header of an image file says it has; 0 where it says nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return image.width * image.height
    # Broken files make Pillow's readers raise many kinds of error.
    except Exception:
        return 0


def to_input(
    photograph: Photograph, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> "torch.Tensor":
    """The photograph stretched to `size` (h, w), scaled to [0, 1] and normalised: (1, 3, h, w) float32."""
    return normalise(stretch(photograph, size), mean, std)


def normalise(pixels: Photograph, mean: tuple[float, ...], std: tuple[float, ...]) -> "torch.Tensor":
    """Pixels (h, w, 3) scaled to [0, 1], less the mean, over the deviation: (1, 3, h, w) float32."""
    import torch

    normalised = (pixels.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(
        std, np.float32
    )
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)[None]))


def stretch(photograph: Photograph, size: tuple[int, int]) -> Photograph:
    """The photograph at `size` (h, w) by bilinear interpolation without regard to its aspect."""
    require_photograph(photograph)
    height, width = size
    return np.asarray(cv2.resize(photograph, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def require_photograph(photograph: Photograph) -> None:
    """Raise XGradCamError for anything but (H, W, 3) uint8."""
    shape, dtype = np.shape(photograph), getattr(photograph, "dtype", type(photograph).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise XGradCamError(f"a photograph is (H, W, 3) uint8 in RGB from 0 to 255, not {shape} {dtype}")


def decode_image(file: BinaryIO, name: str) -> Photograph:
    """The photograph in an open file, as `read_image` gives it; `name` is for the errors."""
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of size; the size is checked here, by our own limit.
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise XGradCamError(_too_large(name, f"{image.width} x {image.height} pixels"))
                # Copies of a large photograph count: none is made that is not needed.
                ImageOps.exif_transpose(image, in_place=True)
                return _rgb(image, name)
        except XGradCamError:
            raise
        except Image.DecompressionBombError:
            raise XGradCamError(_too_large(name, "its pixels")) from None
        except UnidentifiedImageError:
            empty = file.seek(0, 2) == 0
            what = (
                "the file is empty" if empty else "its content is no whole JPEG, PNG, WebP, BMP, TIFF or GIF"
            )
            raise XGradCamError(f"not an image: {name}: {what}") from None
        # Broken files make Pillow's decoders raise many kinds of error.
        except Exception as error:
            raise XGradCamError(f"cannot decode image {name}: {error}: is the file whole?") from None


def _rgb(image: Image.Image, name: str) -> Photograph:
    if image.mode.startswith("I;16"):
        return _repeat((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _repeat(_eight_bit(np.asarray(image, np.float64), name))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bit(pixels: NDArray[np.float64], name: str) -> NDArray[np.uint8]:
    low, high = pixels.min(), pixels.max()
    # Values of 8 or of 16 bits are what they seem to be; for other ranges there is no agreed white.
    if 0 <= low and (high == 0 or 1 < high < 2**16):
        return (pixels // (256 if high >= 256 else 1)).astype(np.uint8)
    raise XGradCamError(
        f"cannot read image {name}: 32-bit pixels from {low:g} to {high:g}; save it in 8 bits"
    )


def _repeat(grey: NDArray[np.uint8]) -> Photograph:
    return np.repeat(grey[..., None], 3, axis=2)


def _too_large(name: str, extent: str) -> str:
    limit = MAX_PIXELS // 10**6
    return f"image too large: {name}: {extent} are over the limit of {limit} megapixels; shrink it first"
