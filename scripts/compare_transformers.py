"""Compare maps of a small vision transformer in mosaics of digits.

    python scripts/compare_transformers.py [--seeds N] [--mosaics N]

For each seed a transformer of four blocks is trained on mosaics of 2 x 2 digits (scikit-learn's, 8 x 8
pixels each) to say which digits are in the mosaic, each by a score of its own. Mosaics of other digits, of
four classes each, are explained for one of the classes that the network finds. Prints for each method the
mean share of the map's positive evidence in that digit's tile, by chance 0.25, with a 95% bootstrap interval
over the mosaics of all networks, as a Markdown table; and the same of the heatmap, which is that less its
minimum: a map without negative values has a floor. Takes a few minutes on one core.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.models import VisionTransformer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xgradcam import explain
from xgradcam.evaluation.metrics import focus
from xgradcam.evaluation.report import mean_of

METHODS = ("complete-cam", "xgrad-cam", "hires-cam", "legrad", "chefer", "random-cam")
LAYERS = {
    "behind block 2": "encoder.layers.encoder_layer_1",
    "in block 4": "encoder.layers.encoder_layer_3.ln_1",
}
SIDE, PATCH, STEPS, BATCH = 16, 4, 800, 128


def mosaics(
    digits: Tensor, labels: Tensor, count: int, generator: torch.Generator, distinct: bool = False
) -> tuple[Tensor, Tensor]:
    """So many mosaics (N, 1, 16, 16) and the digits in them (N, 4); distinct: of four classes each."""
    if distinct:
        chosen = torch.stack(
            [
                torch.stack([pick(labels == label, generator) for label in four])
                for four in torch.rand(count, 10, generator=generator).argsort(dim=1)[:, :4]
            ]
        )
    else:
        chosen = torch.randint(len(digits), (count, 4), generator=generator)
    tiles = digits[chosen].view(count, 2, 2, 8, 8)
    return tiles.permute(0, 1, 3, 2, 4).reshape(count, 1, SIDE, SIDE), labels[chosen]


def pick(mask: Tensor, generator: torch.Generator) -> Tensor:
    """The index of one True of a mask."""
    indices = mask.nonzero()[:, 0]
    return indices[torch.randint(len(indices), (1,), generator=generator)][0]


def trained(digits: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """A transformer whose scores, one for each class, tell which digits are in a mosaic."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = VisionTransformer(SIDE, PATCH, 4, 4, 48, 96, num_classes=10)
    model.conv_proj = nn.Conv2d(1, 48, PATCH, PATCH)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    for _ in range(STEPS):
        images, inside = mosaics(digits, labels, BATCH, generator)
        wanted = torch.zeros(BATCH, 10).scatter(1, inside, 1)
        loss = nn.functional.binary_cross_entropy_with_logits(model(images), wanted)
        optimiser.zero_grad()
        # PyTorch gives it no types.
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return model.eval()


def shares(model: nn.Module, images: Tensor, inside: Tensor, layer: str) -> dict[str, list[float | None]]:
    """Method -> the share in the right tile, for each mosaic of which the digit explained is found."""
    found: dict[str, list[float | None]] = {
        f"{method}{kind}": [] for method in METHODS for kind in ("", ", heatmap")
    }
    for number, (image, four) in enumerate(zip(images, inside, strict=True)):
        tile = number % 4
        explanation = explain(model, image[None], layer, int(four[tile]), METHODS)
        if float(explanation.score) <= 0:
            continue
        region = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        row, column = 8 * (tile // 2), 8 * (tile % 2)
        region[row : row + 8, column : column + 8] = True
        for method in METHODS:
            positive = explanation.maps[method].clamp(min=0)
            found[method].append(focus(positive, region))
            found[f"{method}, heatmap"].append(focus(positive - positive.min(), region))
    return found


def main(arguments: list[str]) -> int:
    """Train, explain, print the table; 0."""
    parser = argparse.ArgumentParser(description="Compare maps of a small vision transformer.")
    parser.add_argument("--seeds", type=int, default=2, help="networks to train (default 2)")
    parser.add_argument("--mosaics", type=int, default=60, help="mosaics for each network (default 60)")
    options = parser.parse_args(arguments)
    data = load_digits()
    digits = torch.from_numpy(data.images / 8 - 1).float()
    labels = torch.from_numpy(data.target).long()
    cut = 2 * len(digits) // 3
    found: dict[tuple[str, str], list[float | None]] = {}
    accuracy = []
    for seed in range(options.seeds):
        model = trained(digits[:cut], labels[:cut], seed)
        generator = torch.Generator().manual_seed(100 + seed)
        images, inside = mosaics(digits[cut:], labels[cut:], options.mosaics, generator, distinct=True)
        with torch.no_grad():
            there = torch.zeros(len(images), 10).scatter(1, inside, 1)
            accuracy.append(float(((model(images) > 0) == there.bool()).float().mean()))
        for title, layer in LAYERS.items():
            for method, values in shares(model, images, inside, layer).items():
                found.setdefault((method, title), []).extend(values)
    print(f"{options.seeds} networks, of whose answers {np.mean(accuracy):.1%} are right\n")
    heads = [f"{title}{kind}" for title in LAYERS for kind in ("", ", heatmap")]
    print(f"| method | {' | '.join(heads)} |\n|---|---|---|---|---|")
    for method in METHODS:
        means = [mean_of(found[method + kind, title]) for title in LAYERS for kind in ("", ", heatmap")]
        cells = [f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})" for one in means]
        print(f"| `{method}` | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
