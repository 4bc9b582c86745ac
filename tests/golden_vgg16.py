"""The VGG-16 of the golden cases: weights that are the same on every machine, no download needed.

Uniform with He's variance, biases uniform in [-0.1, 0.1], drawn in the order of the state dict.
`golden/*.npz` hold what the authors' original scripts computed with seed 0 for scikit-image's `chelsea.png`:
`cam` and `X_cam` (224, 224), `proof` (score, gradients*feature, bias_term, residual) and `target`.
"""

import torch
from torch import Tensor
from torchvision.models import vgg16


def vgg16_state_dict(seed: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in vgg16().state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        bound = 0.1 if len(shape) == 1 else (6 / shape[1:].numel()) ** 0.5
        state[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return state
