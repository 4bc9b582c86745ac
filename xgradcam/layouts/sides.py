"""The sides of maps (N, C, h, w), or of other numbers of sides: (N, C, l), (N, C, d, h, w)."""

from collections.abc import Sequence

from torch import Tensor, nn


def space(maps: Tensor) -> tuple[int, ...]:
    """The axes of the sides of maps (N, C, h, w): (2, 3)."""
    return tuple(range(2, maps.ndim))


def of_channels(values: Tensor, maps: Tensor) -> Tensor:
    """A value for each channel, (N, C), as weights of maps (N, C, h, w): (N, C, 1, 1)."""
    return values.reshape(*values.shape, *[1] * (maps.ndim - 2))


def upsampled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, C, h, w) by linear interpolation along each side: (N, C, *size)."""
    mode = ("linear", "bilinear", "trilinear")[maps.ndim - 3]
    return nn.functional.interpolate(maps, size=tuple(size), mode=mode, align_corners=False)
