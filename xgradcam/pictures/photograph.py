"""Read a photograph (H, W, 3) uint8 RGB from a file, make an input of it, or encode it for a file."""

import warnings
from os import PathLike, fspath
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from xgradcam.errors import XGradCamError, checked_size, shown

if TYPE_CHECKING:
    import torch

# Pixels (H, W, 3), RGB from 0 to 255.
Photograph: TypeAlias = NDArray[np.uint8]

# A pixel takes 10 to 18 bytes while it is decoded: 1.8 GB at most.
MAX_PIXELS = 100_000_000
# Not every format that Pillow knows: some of its readers start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
JPEG_QUALITY = 95
# The longest side of a picture that OpenCV and libjpeg encode.
JPEG_LIMIT = 65_500


def read_image(path: str | PathLike[str]) -> Photograph:
    """The photograph in a file, upright: (H, W, 3) uint8 RGB.

    Grey, palette and CMYK become RGB, 16 bits become 8, transparency is dropped (the network never saw it),
    an animation gives its first frame. Raises XGradCamError if the file is not a complete image.
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


def decode_image(file: BinaryIO, name: str) -> Photograph:
    """The photograph in an open file, as `read_image` returns it; errors call the file `name`."""
    with warnings.catch_warnings():
        # Pillow warns about odd metadata and large images; our own limit on the size is checked here.
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise XGradCamError(_too_large(name, f"{image.width} x {image.height} pixels"))
                # In place: copies of a large photograph fill the memory.
                ImageOps.exif_transpose(image, in_place=True)
                return _rgb(image, name)
        except XGradCamError:
            raise
        except Image.DecompressionBombError:
            raise XGradCamError(_too_large(name, "its pixels")) from None
        except UnidentifiedImageError:
            empty = file.seek(0, 2) == 0
            what = "the file is empty" if empty else "it is not a complete JPEG, PNG, WebP, BMP, TIFF or GIF"
            raise XGradCamError(f"not an image: {name}: {what}") from None
        # Broken files make Pillow's decoders raise many kinds of error.
        except Exception as error:
            raise XGradCamError(f"cannot decode image {name}: {error}: is the file complete?") from None


def _rgb(image: Image.Image, name: str) -> Photograph:
    if image.mode.startswith("I;16"):
        return _repeat((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _repeat(_eight_bit(np.asarray(image, np.float64), name))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bit(pixels: NDArray[np.float64], name: str) -> NDArray[np.uint8]:
    low, high = pixels.min(), pixels.max()
    # A range of 8 or 16 bits speaks for itself; in any other range nobody knows which value is white.
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


def pixels_in(path: str | PathLike[str]) -> int:
    """The number of pixels that an image file's header gives; 0 if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return image.width * image.height
    # Broken files make Pillow's readers raise many kinds of error.
    except Exception:
        return 0


def require_photograph(photograph: Photograph) -> None:
    """Raise XGradCamError for anything but (H, W, 3) uint8."""
    is_array = isinstance(photograph, np.ndarray)
    if is_array and photograph.dtype == np.uint8 and photograph.shape[2:] == (3,) and photograph.size > 0:
        return
    remedy = "numpy.asarray makes an array of it"
    if is_array:
        remedy = "multiply floats by 255, and give a colour image"
    raise XGradCamError(
        f"a photograph is (H, W, 3) uint8 in RGB from 0 to 255, not {shown(photograph)}: {remedy}"
    )


def stretch(photograph: Photograph, size: tuple[int, int]) -> Photograph:
    """The photograph at `size` (h, w) by bilinear interpolation; its aspect is not kept."""
    require_photograph(photograph)
    height, width = size
    return np.asarray(cv2.resize(photograph, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def normalise(pixels: Photograph, mean: tuple[float, ...], std: tuple[float, ...]) -> "torch.Tensor":
    """Pixels (h, w, 3) scaled to [0, 1], less the mean, over the deviation: (1, 3, h, w) float32."""
    import torch

    normalised = (pixels.astype(np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(
        std, np.float32
    )
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)[None]))


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
    return normalise(pixels, mean, std)


def encode_jpeg(picture: Photograph) -> bytes:
    """The picture (H, W, 3) as the content of a JPEG file; XGradCamError if it is too large for one."""
    if max(picture.shape) > JPEG_LIMIT:
        raise XGradCamError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels does not fit into a JPEG file "
            f"({JPEG_LIMIT} a side): draw it smaller"
        )
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()
