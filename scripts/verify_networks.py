"""Verify Eq. 5 for every ReLU-CNN of torchvision's registry, with random weights and constants.

    python scripts/verify_networks.py [NAME ...]

For each network ten feature maps over its depth, at the highest score and at class 3, in float32 and in
float64. Prints the largest |residual| / tolerance of each network as a Markdown table; exits with 1 if any
is above 1 or if curvature shows up. The tests do this for every layer of a small member of each family.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torchvision import models

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support import evenly, layers_of, randomised
from xgradcam import verify

FAMILIES = (
    "alexnet", "vgg", "resnet", "resnext", "wide_resnet", "squeezenet", "densenet", "googlenet", "inception",
    "mobilenet_v2", "mnasnet", "shufflenet", "regnet_x",
)  # fmt: skip


def largest_ratio(model: nn.Module, image: torch.Tensor) -> float:
    """Over ten layers and two classes; infinite where Eq. 5 has curvature."""
    worst = 0.0
    for layer in evenly(layers_of(model, image), 10):
        for target in (None, 3):
            found = verify(model, image, layer, target)
            if found.curvature.any():
                return float("inf")
            worst = max(worst, float(found.residual.abs() / found.tolerance))
    return worst


def main(names: list[str]) -> int:
    """Print the table; 0 if Eq. 5 holds everywhere."""
    names = names or [name for name in models.list_models(module=models) if name.startswith(FAMILIES)]
    print("| network | float32 | float64 |\n|---|---|---|")
    overall = 0.0
    for name in names:
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        generator = torch.Generator().manual_seed(len(name))
        model = randomised(models.get_model(name, weights=None, **options), generator)
        side = 75 if name == "inception_v3" else 64 if name == "alexnet" else 32
        image = torch.randn(1, 3, side, side, generator=generator)
        ratios = [largest_ratio(model, image), largest_ratio(model.double(), image.double())]
        overall = max(overall, *ratios)
        print(f"| {name} | {ratios[0]:.2g} | {ratios[1]:.2g} |", flush=True)
    print(f"\nlargest |residual| / tolerance of {len(names)} networks: {overall:.2g}")
    return int(overall > 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
