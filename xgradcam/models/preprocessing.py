"""Values that a caller may give for a model's input and head, checked once for Python and the commands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xgradcam.errors import XGradCamError

COLOURS = 3


@dataclass(frozen=True)
class Preprocessing:
    """What replaces a model's own preprocessing; None keeps the model's.

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
    if resize is not None and not _are_counts([resize]):
        raise XGradCamError(f"the resize is {resize}: give the length of the shorter side in pixels")
    return Preprocessing(
        None if size is None else _sides_of(size),
        None if mean is None else _colours_of("mean", mean),
        None if std is None else _colours_of("std", std),
        resize,
    )


def require_classes(num_classes: int | None) -> None:
    """Raise XGradCamError for a number of classes that no model has."""
    if num_classes is not None and not _are_counts([num_classes]):
        raise XGradCamError(f"the number of classes is {num_classes}: a model has at least one")


def _sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    sides = [size] if not isinstance(size, Iterable) else list(size)
    if len(sides) not in (1, 2) or not _are_counts(sides):
        raise XGradCamError(
            f"the input size is {' x '.join(map(str, sides))}: give height and width, or one for both"
        )
    return sides[0], sides[-1]


def _colours_of(what: str, values: Sequence[float]) -> tuple[float, ...]:
    given = [values] if not isinstance(values, Iterable) else list(values)
    if len(given) != COLOURS:
        count = f"{len(given)} value{'s' * (len(given) != 1)}"
        raise XGradCamError(f"the {what} has {count}: give one each for red, green and blue")
    problem = "outside of 0 to 1" if what == "mean" else "that is not above 0 and up to 1"
    if not all(0 <= value <= 1 for value in given) or (what == "std" and 0 in given):
        raise XGradCamError(f"the {what} has a value {problem}: divide those of 0 to 255 by 255")
    return tuple(given)


def _are_counts(values: Iterable[object]) -> bool:
    return all(isinstance(value, int) and value > 0 for value in values)
