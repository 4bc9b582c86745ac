"""How a layer's output is laid out in space: as maps, channels last, or as a sequence of tokens."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from xgradcam.errors import XGradCamError

# Class, distillation and register tokens: no network puts more of them before its patches.
MOST_PREFIX_TOKENS = 16


@dataclass(frozen=True)
class Layout:
    """Where the feature maps lie in a layer's output.

    kind: 'maps' (N, C, h, w), 'channels last' (N, h, w, C), or 'tokens' (N, prefix + h w, C), row by row.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0

    def to_maps(self, output: Tensor) -> Tensor:
        """The output, or a gradient of its shape, as maps (N, C, h, w); prefix tokens are left out."""
        if self.kind == "maps":
            return output
        if self.kind == "channels last":
            return output.movedim(-1, 1)
        return output[:, self.prefix :].transpose(1, 2).reshape(len(output), -1, self.height, self.width)

    def with_maps(self, output: Tensor, maps: Tensor) -> Tensor:
        """The output (1, ...) with other maps (M, C, h, w) in it: (M, ...); prefix tokens are repeated."""
        if self.kind == "maps":
            return maps
        if self.kind == "channels last":
            return maps.movedim(1, -1)
        tokens = maps.flatten(2).transpose(1, 2)
        return torch.cat([output[:, : self.prefix].expand(len(maps), -1, -1), tokens], dim=1)


def layout_of(shape: tuple[int, ...], image: tuple[int, int]) -> Layout:
    """The layout of a layer's output of this shape, for an image of (H, W) pixels.

    Four axes are maps, unless only the middle two have the image's aspect (Swin). Three are tokens, if a
    grid of the image's aspect fits behind at most 16 others (class token, registers).
    Raises XGradCamError for any other shape.
    """
    if len(shape) == 4:
        _, a, b, c = shape
        if _same_aspect(a, b, image) and not _same_aspect(b, c, image):
            return Layout("channels last", a, b)
        return Layout("maps", b, c)
    if len(shape) == 3:
        for prefix in range(min(MOST_PREFIX_TOKENS + 1, shape[1])):
            height = math.isqrt((shape[1] - prefix) * image[0] // image[1])
            width = (shape[1] - prefix) // max(height, 1)
            if height * width == shape[1] - prefix and _same_aspect(height, width, image):
                return Layout("tokens", height, width, prefix)
    raise XGradCamError(f"shape {shape} is neither feature maps (N, C, h, w) nor tokens (N, tokens, C)")


def _same_aspect(height: int, width: int, image: tuple[int, int]) -> bool:
    """Whether a grid can come from the image by division, with a pixel of rounding."""
    scale = image[0] / height
    return abs(image[1] / scale - width) < 1 and height <= image[0]
