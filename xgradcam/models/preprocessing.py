"""Values that a caller may give for a model's input and head, checked once for Python and the commands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from operator import index

from xgradcam.errors import XGradCamError, shown

# Colours of a photograph: red, green and blue.
CHANNELS = 3
# Shares of the colours in a grey of the same brightness: ITU-R BT.601, as Pillow converts.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Preprocessing:
    """Values that replace a model's own preprocessing; None keeps the model's.

    size: input height and width. mean, std: of each channel or of all, on a scale of [0, 1].
    resize: length of the shorter side before a centre crop.
    """

    size: tuple[int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resize: int | None


def check_preprocessing(
    size: int | Sequence[int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    resize: int | None,
) -> Preprocessing:
    """The values as `Preprocessing`, where a single side stands for both; XGradCamError for a wrong one."""
    shorter = None if resize is None else _count_of(resize)
    if resize is not None and shorter is None:
        raise XGradCamError(f"the resize is {shown(resize)}: give the length of the shorter side in pixels")
    return Preprocessing(
        None if size is None else _sides_of(size),
        None if mean is None else _colours_of("mean", mean),
        None if std is None else _colours_of("std", std),
        shorter,
    )


def check_classes(num_classes: int | None) -> int | None:
    """The number of classes as an int; XGradCamError for one that no model has."""
    count = None if num_classes is None else _count_of(num_classes)
    if num_classes is not None and count is None:
        raise XGradCamError(f"the number of classes is {shown(num_classes)}: give an integer, 1 or more")
    return count


def _sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    given = [size] if not isinstance(size, Iterable) else list(size)
    sides = [side for side in map(_count_of, given) if side is not None]
    if len(given) not in (1, 2) or len(sides) != len(given):
        raise XGradCamError(
            f"the input size is {' x '.join(map(str, given))}: give height and width, or one for both"
        )
    return sides[0], sides[-1]


def _colours_of(what: str, values: Sequence[float]) -> tuple[float, ...]:
    given = [values] if not isinstance(values, Iterable) else list(values)
    if not given or not all(isinstance(value, Real) for value in given):
        raise XGradCamError(f"the {what} is {shown(values)}: give a number from 0 to 1 for each channel")
    problem = "outside of 0 to 1" if what == "mean" else "that is not above 0 and up to 1"
    if not all(0 <= value <= 1 for value in given) or (what == "std" and 0 in given):
        raise XGradCamError(f"the {what} has a value {problem}: divide those of 0 to 255 by 255")
    return tuple(map(float, given))


def for_channels(what: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A value for each channel, where a single one stands for all; XGradCamError for another number."""
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        words = {1: "one", CHANNELS: "one each for red, green and blue"}
        has = f"the model takes {channels} channel{'s' * (channels != 1)}"
        give = words.get(channels, f"{channels}, or one for all")
        raise XGradCamError(f"the {what} has {len(values)} values, and {has}: give {give}")
    return values


def default_colours(
    channels: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A model's mean and deviation for inputs of this many channels, from those of its colours.

    For grey, that of the three colours by their share in it; for more than colours, the same for all.
    """
    if channels in (len(mean), CHANNELS) and len(mean) == len(std):
        return tuple(mean), tuple(std)
    grey = (
        round(sum(share * value for share, value in zip(LUMA, values, strict=True)), 3)
        if len(values) == CHANNELS
        else values[0]
        for values in (mean, std)
    )
    of_mean, of_std = grey
    return (of_mean,) * channels, (of_std,) * channels


def _count_of(value: object) -> int | None:
    """A positive integer of Python's or NumPy's as an int; None for anything else, a bool among it."""
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    return number if number > 0 and not isinstance(value, bool) else None
