"""Values that a caller may give for a model's input and head, checked once for Python and the commands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from operator import index

from xgradcam.errors import XGradCamError, shown

# Colours of a photograph: red, green and blue.
CHANNELS = 3


@dataclass(frozen=True)
class Preprocessing:
    """Values that replace a model's own preprocessing; None keeps the model's.

    size: input height and width. mean, std: of the three colours, on a scale of [0, 1].
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
    if len(given) != CHANNELS:
        count = f"{len(given)} value{'s' * (len(given) != 1)}"
        raise XGradCamError(f"the {what} has {count}: give one each for red, green and blue")
    if not all(isinstance(value, Real) for value in given):
        raise XGradCamError(f"the {what} is {shown(values)}: give three numbers from 0 to 1")
    problem = "outside of 0 to 1" if what == "mean" else "that is not above 0 and up to 1"
    if not all(0 <= value <= 1 for value in given) or (what == "std" and 0 in given):
        raise XGradCamError(f"the {what} has a value {problem}: divide those of 0 to 255 by 255")
    return tuple(map(float, given))


def _count_of(value: object) -> int | None:
    """A positive integer of Python's or NumPy's as an int; None for anything else, a bool among it."""
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
    return number if number > 0 and not isinstance(value, bool) else None
