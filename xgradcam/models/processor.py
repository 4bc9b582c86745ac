"""Preprocessing of an image processor of transformers, told by what it makes of a few photographs.

Processors have many settings (rescaling, offsets, crops, the order of the colours), whose meaning depends on
the class. What comes out of photographs of one colour, and of a slope, tells them all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xgradcam.errors import XGradCamError, first_line
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.photograph import Photograph, normalise

# Colours that tell each channel's mean and deviation, and two that tell whether these are all.
BLACK, WHITE, OTHERS = (0, 0, 0), (255, 255, 255), ((255, 0, 0), (40, 120, 200))
# Largest difference, on a scale of [0, 1]: of one colour, and in the mean of a slope, by another filter.
SAME, ALIKE = 1e-3, 1e-2
GIVE = "give --input-size, --mean and --std"


@dataclass(frozen=True)
class Preset:
    """A model's preprocessing as in `Classifier`. turned: the model takes blue, green and red."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: str = "bilinear"
    turned: bool = False


def preset_of(processor: Any, size: tuple[int, int] | None, name: str) -> Preset:
    """The preprocessing of a processor: see `Preset`.

    size: of the inputs, where the processor leaves photographs at theirs. name: the model's.
    Raises XGradCamError for one that does something else than to resize, crop, scale and normalise.
    """
    black, white, *others = (_made(processor, _plain(colour), name) for colour in (BLACK, WHITE, *OTHERS))
    sides = tuple(white.shape[1:])
    if tuple(_made(processor, _plain(WHITE, 96), name).shape[1:]) != sides:
        if size is None:
            raise XGradCamError(
                f"the processor of {name} leaves photographs at their size: give --input-size"
            )
        sides = size
    deviation = 1 / (white - black).mean(dim=(1, 2))
    mean = -black.mean(dim=(1, 2)) * deviation
    for turned in (False, True):
        expected = [_value(colour, mean, deviation, turned) for colour in (BLACK, WHITE, *OTHERS)]
        found = (black, white, *others)
        if all(_is_close(one, value, deviation) for one, value in zip(found, expected, strict=True)):
            break
    else:
        raise XGradCamError(f"the processor of {name} does more than resize, crop and normalise: {GIVE}")
    # Given in the order red, green and blue, of which a turned model sees the last first.
    order = slice(None, None, -1) if turned else slice(None)
    means, deviations = (
        tuple(float(f"{one:.6g}") + 0.0 for one in values)[order] for values in (mean, deviation)
    )
    preset = Preset((sides[0], sides[1]), means, deviations, turned=turned)
    return _with_crop(preset, processor, name)


def _plain(colour: tuple[int, int, int], side: int = 64) -> Photograph:
    return np.full((side, side, 3), colour, np.uint8)


def _made(processor: Any, photograph: Photograph, name: str) -> Tensor:
    """The input (3, h, w) that a processor makes of a photograph."""
    try:
        made = processor(images=photograph, return_tensors="pt")
        pixels: Tensor = made["pixel_values"][0].float()
    # Processors raise anything.
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise XGradCamError(f"the processor of {name} takes no photograph ({reason}): {GIVE}") from None
    if pixels.ndim != 3 or len(pixels) != 3:
        shape = tuple(pixels.shape)
        raise XGradCamError(
            f"the processor of {name} makes {shape} of a photograph, not (3, h, w): from Python, give "
            "explain inputs of your own"
        )
    return pixels


def _value(colour: tuple[int, ...], mean: Tensor, deviation: Tensor, turned: bool) -> Tensor:
    values = torch.tensor(colour[::-1] if turned else colour) / 255
    return (values - mean) / deviation


def _is_close(found: Tensor, value: Tensor, deviation: Tensor) -> bool:
    off = ((found - value[:, None, None]) * deviation[:, None, None]).abs().amax()
    return bool(off < SAME)


def _with_crop(preset: Preset, processor: Any, name: str) -> Preset:
    """The preset with the resize before a centre crop, if the processor makes the same of a slope."""
    down, right = np.mgrid[0:240, 0:400] * 255 // np.array([239, 399])[:, None, None]
    slope = np.stack([right, down, 255 - right], axis=2).astype(np.uint8)
    made = _made(processor, slope, name)
    made = made.flip(0) if preset.turned else made
    number = getattr(processor, "resample", None)
    filters = {one.value: one.name.lower() for one in Image.Resampling}
    interpolation = filters.get(-1 if number is None else int(number), "bilinear")
    deviation = torch.tensor(preset.std)[:, None, None]
    for resize in _resizes(processor):
        pixels = Framing(preset.size, resize, interpolation).pixels(slope)
        expected = normalise(pixels, preset.mean, preset.std)[0]
        if expected.shape == made.shape and float(((expected - made) * deviation).abs().mean()) < ALIKE:
            return replace(preset, resize=resize, interpolation=interpolation)
    return preset


def _resizes(processor: Any) -> Iterator[int]:
    """Lengths of the shorter side that a processor may resize to, the likeliest first."""
    size = getattr(processor, "size", None) or {}
    # A dictionary in older versions, then an object.
    read = dict(size) if isinstance(size, Mapping) else vars(size)
    shorter = read.get("shortest_edge") or read.get("height")
    if shorter:
        yield int(shorter)
        if share := getattr(processor, "crop_pct", None):
            yield int(shorter / share)
