"""VGG-16 weights that every machine can make, for numbers to compare with."""

import torch
from torch import Tensor
from torchvision.models import vgg16


def vgg16_state_dict(seed: int) -> dict[str, Tensor]:
    """He-uniform weights, biases uniform in [-0.1, 0.1], drawn in the order of the state dict."""
    source = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        blueprint = vgg16().state_dict()

    def draw(like: Tensor) -> Tensor:
        limit = 0.1 if like.dim() == 1 else (6 / like[0].numel()) ** 0.5
        return torch.empty(like.shape).uniform_(-limit, limit, generator=source)

    return {name: draw(like) for name, like in blueprint.items()}
