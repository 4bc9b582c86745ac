"""From training code to a map: train a small network, save a checkpoint, and run `xgrad-cam` on it.

    python examples/own_model.py             trains, and writes own_model.pth and own_labels.txt
    xgrad-cam --image-path examples/cat-and-coffee.jpg --model examples/own_model.py:OwnNet \
        --weights own_model.pth --labels own_labels.txt --input-size 64 --target-index cup

The network learns to tell pieces of the cat's photograph from pieces of the cup's. It sees pieces of every
size and place, so its map of the photograph with both shows where it finds the cat and where the cup.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from xgradcam import read_image, to_input

HERE = Path(__file__).resolve().parent
LABELS = ("cat", "cup")
SIDE = 64
# What `xgrad-cam` takes for a model of your own; --mean and --std change it.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class OwnNet(nn.Module):
    """Three convolutions, and a head that sees 4 x 4 places separately."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * 16, len(LABELS)))

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, 2)."""
        return self.head(self.features(images))


def pieces(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Random square pieces of the two photographs, (count, 3, 64, 64), and their classes, (count,)."""
    photographs = [read_image(HERE / name) for name in ("cat.jpg", "coffee.jpg")]
    images, classes = [], torch.randint(len(LABELS), (count,), generator=generator)
    for index in classes.tolist():
        photograph = photographs[index]
        height, width = photograph.shape[:2]
        side = int(torch.randint(80, height, (1,), generator=generator))
        top = int(torch.randint(height - side + 1, (1,), generator=generator))
        left = int(torch.randint(width - side + 1, (1,), generator=generator))
        images.append(to_input(photograph[top : top + side, left : left + side], (SIDE, SIDE), MEAN, STD))
    return torch.cat(images), classes


def main() -> None:
    """Train for a few seconds and save a checkpoint as training scripts do."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = OwnNet().train()
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(60):
        images, classes = pieces(generator, 32)
        loss = nn.functional.cross_entropy(network(images), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        images, classes = pieces(generator, 200)
        right = (network.eval()(images).argmax(dim=1) == classes).float().mean()
    torch.save({"epoch": 1, "state_dict": network.state_dict()}, "own_model.pth")
    Path("own_labels.txt").write_text("\n".join(LABELS) + "\n")
    print(f"{right:.0%} of new pieces are classified correctly; wrote own_model.pth and own_labels.txt")


if __name__ == "__main__":
    main()
