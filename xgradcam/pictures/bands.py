"""Photographs of other than three channels: several bands of light, or colours with transparency."""

import io
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xgradcam.errors import XGradCamError
from xgradcam.pictures import formats, tiff
from xgradcam.pictures.bounds import TooLargeError, UnreadableError, require_affordable, require_size
from xgradcam.pictures.decoding import STRIPPERS, Reading, opened
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.levels import BITS_16, ValueRange, Values, assumed, assumed_16, eight_bits
from xgradcam.pictures.orientation import ORIENTATION, upright

NPY = b"\x93NUMPY"
# Endings of files that may hold bands, which cannot be read as a photograph.
BAND_SUFFIXES = (".npy", ".tif", ".tiff")
UNCOMPRESSED, DEFLATE = 1, (8, 32946)
PREDICTOR = 317
# NumPy's letters for the sample formats of a TIFF.
LETTERS = {1: "u", 2: "i", 3: "f"}


@dataclass(frozen=True)
class Bands:
    """The number of channels that a network takes, and the three of them that are drawn, from 0 on."""

    count: int
    drawn: tuple[int, int, int]


def read_bands(
    content: bytes, name: str, bands: Bands, value_range: ValueRange | None, before: Callable[[int], None]
) -> Reading:
    """The photograph in a file's content with all its bands (H, W, count) uint8; errors call it `name`.

    The photograph itself is that of the bands that are drawn. Files are TIFF, NumPy's .npy, and images with
    transparency. The other arguments, and the values of more than 8 bits, are those of `decode`.
    """
    try:
        require_size(len(content))
        values, notes = _values(content, bands.count, before)
    except TooLargeError as error:
        raise XGradCamError(f"image too large: {name}: {error}; shrink it first") from None
    except (UnreadableError, ValueError, zlib.error) as error:
        advice = f"give TIFF or .npy with {bands.count} bands"
        raise XGradCamError(f"cannot read the {bands.count} bands of {name}: {error}; {advice}") from None
    if values.dtype == np.uint16:
        notes += [] if value_range else assumed_16(int(values.max()))
        value_range = value_range or (0, BITS_16)
    elif values.dtype != np.uint8 and value_range is None:
        value_range, more = assumed(values.reshape(len(values), -1), values.dtype.name)
        notes += more
    pixels = values if values.dtype == np.uint8 else eight_bits(values, *value_range)  # type: ignore[misc]
    return Reading(np.ascontiguousarray(pixels[..., list(bands.drawn)]), tuple(notes), pixels)


def framed(framing: Framing, bands: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bands (H, W, count) that the network sees, fitted as `framing` does: (h, w, count)."""
    count = bands.shape[2]
    threes = [[min(first + more, count - 1) for more in range(3)] for first in range(0, count, 3)]
    seen = [framing.pixels(np.ascontiguousarray(bands[..., three])) for three in threes]
    return np.concatenate(seen, axis=2)[..., :count]


def _values(content: bytes, count: int, before: Callable[[int], None]) -> tuple[Values, list[str]]:
    """The values (H, W, count) of a file, and notes on it."""
    if content.startswith(NPY):
        return _with_bands_last(_array(content), count), []
    kind = formats.kind_of(content[: formats.HEAD])
    if kind == formats.TIFF:
        return _tiff(content, count, before)
    if kind not in STRIPPERS:
        raise UnreadableError("it is no TIFF, .npy, or image with transparency")
    stripped = STRIPPERS[kind](content)
    image = opened(stripped, kind)
    channels = len(image.getbands())
    if channels != count or image.mode not in ("RGBA", "LA", "CMYK"):
        raise UnreadableError(f"it has {channels} channel{'s' * (channels != 1)} ({image.mode})")
    require_affordable(image.width, image.height, 3 + count)
    before(image.width * image.height)
    return upright(np.asarray(image), stripped.orientation), []


def _array(content: bytes) -> Values:
    """The array in the content of a .npy file, as large as it says, and of numbers."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "uif" or math.prod(shape) * dtype.itemsize > len(content) or 0 in shape:
        raise UnreadableError(f"its array is {dtype} {shape}: is the file complete?")
    return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))


def _with_bands_last(values: Values, count: int) -> Values:
    axes = [axis for axis in (0, 2) if values.ndim == 3 and values.shape[axis] == count]
    if len(axes) != 1:
        raise UnreadableError(f"its array is {values.shape}: give (H, W, {count}) or ({count}, H, W)")
    return np.ascontiguousarray(np.moveaxis(values, axes[0], 2))


def _tiff(content: bytes, count: int, before: Callable[[int], None]) -> tuple[Values, list[str]]:
    """The values of the first page of a TIFF, (H, W, count), and notes."""
    page = tiff.FirstPage.of(content)
    width, height, bits = page.number(tiff.WIDTH), page.number(tiff.HEIGHT), page.number(tiff.BITS, 1)
    samples, letter = page.number(tiff.SAMPLES, 1), LETTERS.get(page.number(tiff.FORMAT, 1))
    if samples != count:
        raise UnreadableError(f"it has {samples} channel{'s' * (samples != 1)}")
    if bits not in (8, 16, 32, 64) or letter is None or (bits, letter) in ((8, "f"), (16, "f")):
        raise UnreadableError(f"its values have {bits} bits: convert it to 8 or 16")
    compression, predictor = page.number(tiff.COMPRESSION, 1), page.number(PREDICTOR, 1)
    if compression not in (UNCOMPRESSED, *DEFLATE) or predictor > 2:
        raise UnreadableError(
            f"its compression {compression} (predictor {predictor}) is not read for bands: write it without, "
            "with Deflate, or as .npy"
        )
    require_affordable(width, height, count * (bits // 8 * 2 + 1), len(content))
    before(width * height)
    number = np.dtype(f"{page.order}{letter}{bits // 8}")
    values = np.zeros((height, width, count), number.newbyteorder("="))
    for (rows, columns, plane), shape, start, length in _parts(page, height, width, count):
        part = _part(content[start : start + length], shape, number, compression in DEFLATE)
        part = np.cumsum(part, axis=1, dtype=part.dtype) if predictor == 2 else part
        within = values[rows, columns, plane]
        within[...] = part[: within.shape[0], : within.shape[1]]
    return upright(values, page.number(ORIENTATION, 1)), []


def _parts(
    page: tiff.FirstPage, height: int, width: int, count: int
) -> Iterator[tuple[tuple[slice, slice, slice], tuple[int, int, int], int, int]]:
    """The strips or tiles of a TIFF: where each lies in (height, width, count), its shape, and its bytes."""
    tiles = tiff.TILE_WIDTH in page.tags
    rows = page.number(tiff.TILE_HEIGHT if tiles else tiff.STRIP_ROWS, height)
    columns = page.number(tiff.TILE_WIDTH) if tiles else width
    if min(rows, columns) < 1:
        raise UnreadableError("its parts have no size: is the file complete?")
    rows = rows if tiles else min(rows, height)
    in_planes = page.number(tiff.PLANAR, 1) == 2
    planes = [slice(one, one + 1) for one in range(count)] if in_planes else [slice(0, count)]
    places = [
        (slice(top, top + rows), slice(left, left + columns), plane)
        for plane in planes
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]
    starts = page.numbers(tiff.TILES if tiles else tiff.STRIPS)
    lengths = page.numbers(tiff.TILE_SIZES if tiles else tiff.STRIP_SIZES)
    if not len(places) == len(starts) == len(lengths):
        raise UnreadableError(f"it has {len(starts)} parts of {len(places)}: is the file complete?")
    for place, start, length in zip(places, starts, lengths, strict=True):
        left = rows if tiles else min(rows, height - place[0].start)
        yield place, (left, columns, place[2].stop - place[2].start), start, length


def _part(data: bytes, shape: tuple[int, ...], number: np.dtype, is_deflated: bool) -> Values:
    """The values of a strip or a tile."""
    size = math.prod(shape) * number.itemsize
    data = zlib.decompressobj().decompress(data, size) if is_deflated else data
    if len(data) < size:
        raise UnreadableError("a part of it is too short: is the file complete?")
    part = np.frombuffer(data, number, math.prod(shape)).reshape(shape)
    return part.astype(number.newbyteorder("="))
