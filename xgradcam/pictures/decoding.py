"""Decode the content of an image file: (H, W, 3) uint8, upright, and what was assumed."""

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from xgradcam.errors import UNWARNED, XGradCamError
from xgradcam.pictures import formats
from xgradcam.pictures.bounds import (
    MAX_PIXELS,
    TooLargeError,
    UnreadableError,
    require_affordable,
    require_size,
)
from xgradcam.pictures.containers import CONTAINERS, Stripped
from xgradcam.pictures.levels import ValueRange, assumed, assumed_16, eight_bits, require_range
from xgradcam.pictures.netpbm import read_netpbm
from xgradcam.pictures.orientation import orientation_of, upright
from xgradcam.pictures.tiff import strip_tiff
from xgradcam.pictures.unpacking import rgb_of

# Pixels (H, W, 3), RGB from 0 to 255.
Photograph: TypeAlias = NDArray[np.uint8]

STRIPPERS: Mapping[str, Callable[[bytes], Stripped]] = {
    **CONTAINERS,
    formats.TIFF: strip_tiff,
    # Of the formats of Netpbm Pillow reads the one of floats.
    formats.NETPBM: lambda content: Stripped(io.BytesIO(content)),
}
FLOATS = b"Pf"
# Names by which Pillow knows the formats.
PILLOW = {formats.WEBP: "WEBP", formats.JPEG2000: "JPEG2000"}
# Endings of Pillow's raw modes, and of those that take the other byte of 16 bits. N is the machine's order.
SWAPPED = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
RGB = "RGB"
# Errors of Pillow that have words for people.
SPEAKING = (OSError, SyntaxError, ValueError, EOFError)
# Pixels that are converted at a time: copies of all of a large photograph fill the memory.
AT_ONCE = 4_000_000
NO_RANGE = "8 bits a channel: --range is for files of more bits, and is not used"


@dataclass(frozen=True)
class Reading:
    """A photograph (H, W, 3) uint8 as it was read, and the notes on what was assumed, a line each.

    bands: all channels (H, W, C) uint8 of a photograph of bands, of which three are drawn.
    """

    photograph: Photograph
    notes: tuple[str, ...] = ()
    bands: Photograph | None = None


def decode(
    content: bytes,
    name: str,
    value_range: ValueRange | None = None,
    before: Callable[[int], None] = lambda _pixels: None,
) -> Reading:
    """The photograph in the content of a file; errors call it `name`.

    value_range: the values that become black and white, of a file of more than 8 bits or of floats. before:
    called with the number of pixels before they are decoded.
    Raises XGradCamError, with its own reason, for what cannot be read.
    """
    require_range(value_range)
    # Pillow warns about large images; the size is checked here.
    with UNWARNED:
        try:
            require_size(len(content))
            return _decoded(content, name, value_range, before)
        except TooLargeError as error:
            raise XGradCamError(f"image too large: {name}: {error}; shrink it first") from None
        except UnreadableError as error:
            raise XGradCamError(f"cannot decode image {name}: {error}") from None
        except _NoImageError as error:
            raise XGradCamError(f"not an image: {name}: {error}") from None
        except Image.DecompressionBombError:
            limit = f"over the limit of {MAX_PIXELS // 10**6} megapixels"
            raise XGradCamError(f"image too large: {name}: {limit}; shrink it first") from None
        except MemoryError:
            raise XGradCamError(f"not enough memory for the image {name}: shrink it first") from None
        except XGradCamError as error:
            raise XGradCamError(f"cannot read image {name}: {error}") from None
        # Broken files make Pillow's decoders raise many kinds of error.
        except Exception as error:
            says = str(error).splitlines() if isinstance(error, SPEAKING) else []
            reason = says[0][:100] if says else "its data are damaged"
            raise XGradCamError(f"cannot decode image {name}: {reason}: is the file complete?") from None


class _NoImageError(XGradCamError):
    """A file that is no image of a format that is read; the reason, without its name."""


def _decoded(
    content: bytes, name: str, value_range: ValueRange | None, before: Callable[[int], None]
) -> Reading:
    kind = formats.kind_of(content[: formats.HEAD])
    if kind == formats.TIFF and formats.kind_by_name(name) == formats.RAW:
        kind = formats.RAW
    if kind not in formats.READ:
        raise _NoImageError(_reason(content, kind))
    if kind == formats.NETPBM and not content.startswith(FLOATS):
        photograph, notes = _netpbm(content, value_range, before)
        return Reading(photograph, tuple(notes))
    stripped = STRIPPERS[kind](content)
    image = opened(stripped, kind)
    if not image.width or not image.height:
        raise UnreadableError(f"its header gives {image.width} x {image.height} pixels")
    require_affordable(image.width, image.height, 7)
    before(image.width * image.height)
    orientation, pages = stripped.orientation, stripped.pages
    if kind == formats.AVIF:
        # Pillow says by Exif of its own making how the file's properties turn it.
        orientation, pages = orientation_of(image.info.get("exif", b"")), getattr(image, "n_frames", 1)
    photograph, notes = _pixels(image, stripped, kind, value_range)
    if stripped.white_is_0:
        photograph = 255 - photograph
    if pages > 1:
        notes = [f"page 1 of {pages}: the others are not looked at", *notes]
    return Reading(upright(photograph, orientation), tuple(notes))


def _reason(content: bytes, kind: str) -> str:
    """The reason why the content is not read, of a kind of file or of an unknown one."""
    if not content:
        return "the file is empty"
    if kind == formats.TEXT:
        return "it is text"
    if kind:
        return f"it is of the kind {kind}, which is not read: convert it to JPEG or PNG"
    return "it is not a complete JPEG, PNG, WebP, BMP, TIFF or GIF"


def opened(stripped: Stripped, kind: str) -> Image.Image:
    """The image, its pixels not yet decoded."""
    stripped.stream.seek(0)
    try:
        return Image.open(cast("IO[bytes]", stripped.stream), formats=[PILLOW.get(kind, kind)])
    except UnidentifiedImageError:
        if stripped.what:
            advice = "convert it to grey or RGB of 8 or 16 bits"
            raise UnreadableError(f"{stripped.what} is not read: {advice}") from None
        raise UnreadableError(f"its {kind} header is damaged: is the file complete?") from None


def _pixels(
    image: Image.Image, stripped: Stripped, kind: str, value_range: ValueRange | None
) -> tuple[Photograph, list[str]]:
    """The pixels of an opened image, and the notes on their values."""
    deep = _deep_mode(image)
    image.load()
    if stripped.joined:
        pairs = np.asarray(image)
        return _from_16(pairs[..., 0].astype(np.uint16) << 8 | pairs[..., 1], 16, value_range)
    if image.mode.startswith("I;16"):
        return _from_16(np.asarray(image), stripped.bits, value_range)
    if image.mode in ("I", "F") or stripped.number == "int8":
        values = np.asarray(image)
        # Bytes below 0, and numbers from 2^31, as they are in the file.
        if stripped.number in ("int8", "uint32"):
            values = values.view(stripped.number)
        limits, notes = (value_range, []) if value_range else assumed(values, stripped.number)
        return _repeat(eight_bits(values, *limits)), notes
    photograph = _rgb(image)
    if not deep:
        return photograph, [NO_RANGE] if value_range else []
    if value_range is None:
        return photograph, assumed_16(256 * int(photograph.max()) + 255)
    if image.mode not in (RGB, "RGBA"):
        raise XGradCamError(f"--range is not for {image.mode}: convert it to RGB")
    image = opened(stripped, kind)
    image.tile = [tile._replace(args=_swapped(tile.args)) for tile in image.tile]  # type: ignore[attr-defined]
    image.load()
    low = _rgb(image)
    for row in range(len(photograph)):
        photograph[row] = eight_bits(photograph[row].astype(np.uint16) << 8 | low[row], *value_range)
    return photograph, []


def _deep_mode(image: Image.Image) -> bool:
    """True for several channels of 16 bits, of which Pillow decodes the high bytes alone."""
    tiles: Sequence[Any] = getattr(image, "tile", ())
    return bool(tiles) and _raw_mode(tiles[0].args)[-4:] in SWAPPED


def _raw_mode(args: Any) -> str:
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def _swapped(args: Any) -> Any:
    """Arguments of a decoder that takes the low byte of 16 bits for the high one."""
    mode = _raw_mode(args)
    swapped = mode[:-4] + SWAPPED[mode[-4:]]
    return (swapped, *args[1:]) if isinstance(args, tuple) else swapped


def _from_16(
    values: NDArray[np.uint16], bits: int, value_range: ValueRange | None
) -> tuple[Photograph, list[str]]:
    """Grey values of so many bits as a photograph, and the notes on them."""
    if value_range:
        return _repeat(eight_bits(values, *value_range)), []
    notes = assumed_16(int(values.max())) if bits == 16 else []
    return _repeat((values >> (bits - 8)).astype(np.uint8)), notes


def _netpbm(
    content: bytes, value_range: ValueRange | None, before: Callable[[int], None]
) -> tuple[Photograph, list[str]]:
    values, maximum = read_netpbm(content, before)
    notes = [NO_RANGE] if value_range and maximum <= 255 else []
    if maximum == 65535 and not value_range:
        notes = assumed_16(int(values.max()))
    if value_range and maximum > 255:
        pixels = eight_bits(values, *value_range)
    elif maximum == 255:
        pixels = np.asarray(values, np.uint8)
    elif values.ndim == 2 and maximum > 255:
        pixels = (_scaled(values, maximum, 65535) >> 8).astype(np.uint8)
    else:
        pixels = _scaled(values, maximum, 255).astype(np.uint8)
    return (pixels if pixels.ndim == 3 else _repeat(pixels)), notes


def _scaled(values: NDArray[Any], maximum: int, top: int) -> NDArray[np.uint16]:
    """Whole values from 0 to a maximum, scaled to `top` and rounded."""
    table: NDArray[np.uint16] = np.rint(np.arange(maximum + 1) / maximum * top).astype(np.uint16)
    return np.asarray(table[values])


def _rgb(image: Image.Image) -> Photograph:
    """An image of 8 bits a channel as RGB, without transparency."""
    if image.mode == RGB:
        return rgb_of(image)
    convert = _converter(image.mode)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(convert(part))
    return pixels


def _converter(mode: str) -> Callable[[Image.Image], Image.Image]:
    """The conversion of images of a mode to RGB."""
    if mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(lab, rgb, "LAB", RGB)
        return transform.apply
    # Pillow knows no way from premultiplied values to RGB but this.
    through = {"La": "LA", "RGBa": "RGBA"}.get(mode)
    return lambda part: (part.convert(through) if through else part).convert(RGB)


def _repeat(grey: NDArray[np.uint8]) -> Photograph:
    return np.repeat(grey[..., None], 3, axis=2)
