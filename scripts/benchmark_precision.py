"""What `--precision bf16` gains and costs; prints a Markdown table.

    python scripts/benchmark_precision.py [--quick]

Time: the second of two runs of both maps of a batch of 8, in bf16 over float32, the median of alternating
rounds. Error: the largest and the mean difference of XGrad-CAM's heatmaps of the class with the highest score
in float32, at 224 x 224, on a scale of [0, 1], over the example photographs, and how many of them keep their
class. Only the bundled network has trained weights; evidence for and against a class cancels in random ones.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from measuring import setting
from torch import Tensor

from xgradcam import ClassExplanation, Classifier, explain, load_classifier, read_image
from xgradcam.lending.precision import BF16, FLOAT32, computing_in

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PHOTOGRAPHS = ("cat.jpg", "coffee.jpg", "cat-and-coffee.jpg")
BUNDLED = "efficientnet-lite0"
LAYERS = (
    (BUNDLED, "bn2"),
    (BUNDLED, "blocks.6.0.bn2"),
    (BUNDLED, "blocks.4.2.bn2"),
    ("resnet50", "layer4"),
    ("densenet121", "features.denseblock4"),
    ("vgg16", "features.30"),
)


def explained(
    classifier: Classifier, inputs: Tensor, layer: str, coarse: bool, targets: Tensor | None = None
) -> ClassExplanation:
    """Both maps of the targets, or of the highest scores."""
    with computing_in(BF16 if coarse else FLOAT32, "cpu"):
        return explain(classifier.module, inputs, layer, targets)


def ratio(classifier: Classifier, layer: str, rounds: int) -> float:
    """The time of a batch of 8 in bf16, over that in float32."""
    inputs = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ratios = []
    for _ in range(rounds):
        times = []
        for coarse in (True, False):
            explained(classifier, inputs, layer, coarse)
            started = time.perf_counter()
            explained(classifier, inputs, layer, coarse)
            times.append(time.perf_counter() - started)
        ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def error(classifier: Classifier, layer: str) -> tuple[float, float, str]:
    """The largest and the mean difference of XGrad-CAM's heatmaps, and how many classes stay the same."""
    inputs = torch.cat([classifier.inputs(read_image(EXAMPLES / name)) for name in PHOTOGRAPHS])
    exact = explained(classifier, inputs, layer, False)
    coarse = explained(classifier, inputs, layer, True, exact.targets)
    same = int((coarse.logits.argmax(dim=1) == exact.targets).sum())
    away = (coarse.heatmap("xgrad-cam", (224, 224)) - exact.heatmap("xgrad-cam", (224, 224))).abs()
    return float(away.max()), float(away.mean()), f"{same} of {len(inputs)}"


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the bundled network only, one round")
    quick = parser.parse_args(argv).quick
    print(f"{setting()}, {torch.backends.cpu.get_cpu_capability()}\n")
    print("| network, layer | time, float32 = 1 | largest difference | mean difference | same class |")
    print("|---|---|---|---|---|")
    for name, layer in LAYERS[: 2 if quick else None]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            classifier = load_classifier(name, "default" if name == BUNDLED else "none")
        took = ratio(classifier, layer, 1 if quick else 7)
        largest, mean, same = error(classifier, layer)
        print(f"| {name}, {layer} | {took:.2f} | {largest:.3f} | {mean:.4f} | {same} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
