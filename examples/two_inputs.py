"""Two inputs, and a layer that runs twice: an image with a table, and a pair of images.

python examples/two_inputs.py
"""

import torch
from torch import Tensor, nn

from xgradcam import explain, verify

torch.manual_seed(0)


class Pair(nn.Module):
    """The class of two images and a table of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8 + 4, 2)

    def forward(self, image: Tensor, other: Tensor, table: Tensor) -> Tensor:
        """The scores, (N, 2)."""
        distance = (self.encoder(image).mean((2, 3)) - self.encoder(other).mean((2, 3))).abs()
        scores: Tensor = self.head(torch.cat([distance, table], dim=1))
        return scores


inputs = {"image": torch.rand(2, 3, 32, 32), "other": torch.rand(2, 3, 32, 32), "table": torch.rand(2, 4)}
model = Pair().eval()
for run, image in enumerate(["image", "other"]):  # the encoder runs once for each
    explanation = explain(model, inputs, "encoder", run=run, image=image)
    terms = verify(model, inputs, "encoder", run=run)
    print(image, explanation.maps["xgrad-cam"].shape, f"bypass {terms.bypass[0]:.3f}", terms.closes)
