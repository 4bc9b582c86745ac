"""The part of a layer's maps that lies over the image, where a detector pads what it is given."""

from typing import Any

import torch
from torch import Tensor, nn

from xgradcam.lending.borrowing import borrowed
from xgradcam.lending.finding import is_input
from xgradcam.lending.turns import modules_of

# Share of the maps' rows and columns over the image; what follows lies over padding.
Share = tuple[float, float]
WHOLE: Share = (1.0, 1.0)
# torchvision's, which resizes the images and pads them to a batch whose sides are multiples of 32.
RESIZER = "GeneralizedRCNNTransform"


def share_of_image(model: nn.Module, inputs: Tensor, layer: Any) -> Share:
    """The share of the maps of a model's layer that lies over these inputs (N, C, H, W)."""
    resizers: list[Any] = [module for module in modules_of(model) if type(module).__name__ == RESIZER]
    if len(resizers) != 1 or inputs.ndim != 4 or inputs.is_meta or is_input(model, layer):
        return WHOLE
    with borrowed(resizers[0]), torch.no_grad():
        images, _ = resizers[0]([inputs[0].clone()])
    (height, width), (tall, wide) = images.image_sizes[0], images.tensors.shape[2:]
    return height / tall, width / wide


def over_padding(size: Any, share: Share) -> Any:
    """The size of an image with its padding, from its own; what is no size is returned as it is."""
    if share == WHOLE or not isinstance(size, (tuple, list)) or len(size) != 2:
        return size
    return round(size[0] / share[0]), round(size[1] / share[1])
