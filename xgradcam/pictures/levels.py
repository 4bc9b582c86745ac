"""From values of more than 8 bits, or floats, to 8: which value is black, and which is white."""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xgradcam.errors import XGradCamError

# The values that become black and white.
ValueRange: TypeAlias = tuple[float, float]
Values: TypeAlias = NDArray[Any]

# Pixels that are converted at a time: copies of all of a large photograph fill the memory.
AT_ONCE = 4_000_000
# Ranges of floats and of 32-bit integers, as highest values.
BITS_8, BITS_16 = 255, 65535
# Signed values of fewer than 32 bits, for messages.
SIGNED = {"int8": "8-bit signed", "int16": "16-bit signed"}
# 16 bits of which the two highest are unused are likely to be 10, 12 or 14.
LIKELY = (1023, 4095, 16383)
CHOOSE = "--range LOW HIGH, or value_range=(low, high), says what is black and white"


def require_range(value_range: ValueRange | None) -> None:
    """Raise XGradCamError unless the range has two finite values, the lower one first."""
    if value_range is None:
        return
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise XGradCamError(
            f"the range is {low:g} to {high:g}: give the value of black, then a higher of white"
        )


def eight_bits(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """The values scaled from [low, high] to 256 steps, and clipped; not a number is black."""
    # Whole numbers from low to high are one more than their difference.
    steps = high - low + (1 if high - low >= BITS_8 else 0)
    pixels = np.empty(values.shape, np.uint8)
    for part in _parts(values):
        scaled = (values[part].astype(np.float64) - low) * (256 / steps)
        pixels[part] = np.clip(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0), 0, 255)
    return pixels


def assumed_16(highest: int) -> list[str]:
    """The notes on 16-bit values that are taken for 0 to 65535, given the highest."""
    likely = next((top for top in LIKELY if highest <= top), None)
    if likely is None or highest == 0:
        return []
    return [
        f"16-bit values that fill no more than {likely.bit_length()} bits are read as 0 (black) to 65535 "
        f"(white), which is dark: {CHOOSE}"
    ]


def assumed(values: Values, number: str = "") -> tuple[ValueRange, list[str]]:
    """A range for values of 32 bits, signed ones or floats (H, W), and the notes on it.

    number: NumPy's type of the values in their file, if they have another here.
    Raises XGradCamError if no value is finite.
    """
    low, high, odd = _extremes(values)
    if low > high:
        raise XGradCamError("none of its values is finite")
    notes = (
        [f"values that are not finite: NaN is read as black, infinity as white ({odd} pixels)"] if odd else []
    )
    kind = "floating-point" if values.dtype.kind == "f" else SIGNED.get(number, "32-bit")
    if low < 0 or 1 < high < 2 or BITS_8 + 1 <= high < 2**12 or high >= BITS_16 + 1:
        notes.append(
            f"{kind} values are read from 0 or a lower lowest (black) to their highest (white): {CHOOSE}"
        )
        low = min(0, low)
        return (low, high if high > low else low + 1), notes
    top = 1 if high <= 1 else BITS_8 if high < BITS_8 + 1 else BITS_16
    notes.append(f"{kind} values are read as 0 (black) to {top} (white): {CHOOSE}")
    return (0, top), notes


def _extremes(values: Values) -> tuple[float, float, int]:
    """The lowest and highest finite value, and the number of those that are not finite."""
    low, high, odd = math.inf, -math.inf, 0
    for part in _parts(values):
        finite = values[part][np.isfinite(values[part])]
        odd += values[part].size - finite.size
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return low, high, odd


def _parts(values: Values) -> Iterator[slice]:
    """Rows of the values, a few at a time."""
    rows = max(1, AT_ONCE // max(1, values[0].size))
    for start in range(0, len(values), rows):
        yield slice(start, start + rows)
