"""What `--precision bf16` gains and costs; prints a Markdown table.

    python scripts/benchmark_precision.py [--quick]

Time: the second of two runs of both maps of a batch of 8, in bf16 over float32, the median of alternating
rounds. Error: the largest and the mean difference of the heatmaps of the highest score at 224 x 224, on a
scale of [0, 1], over the example photographs of the bundled network (the others have random weights), and how
many photographs keep their class.
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

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PHOTOGRAPHS = ("cat.jpg", "coffee.jpg", "cat-and-coffee.jpg")
BUNDLED = "efficientnet-lite0"
LAYERS = (
    (BUNDLED, "bn2"),
    (BUNDLED, "blocks.6.0.bn2"),
    (BUNDLED, "blocks.4.2.bn2"),
    ("resnet50", "layer4"),
    ("vgg16", "features.30"),
)


def explained(classifier: Classifier, inputs: Tensor, layer: str, coarse: bool) -> ClassExplanation:
    """Both maps of the highest scores."""
    with torch.autocast("cpu", torch.bfloat16, enabled=coarse):
        return explain(classifier.module, inputs, layer)


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
    """The largest and the mean difference of XGrad-CAM's heatmaps, and how many classes are the same."""
    inputs = torch.cat([classifier.inputs(read_image(EXAMPLES / name)) for name in PHOTOGRAPHS])
    coarse, exact = (explained(classifier, inputs, layer, coarse) for coarse in (True, False))
    same = coarse.targets == exact.targets
    difference = coarse.heatmap("xgrad-cam", (224, 224)) - exact.heatmap("xgrad-cam", (224, 224))
    absolute = difference[same].abs()
    return float(absolute.max()), float(absolute.mean()), f"{int(same.sum())} of {len(same)}"


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
        classifier = load_classifier(name, "default" if name == BUNDLED else "none")
        took = ratio(classifier, layer, 1 if quick else 7)
        cells = "- | - | -"
        if name == BUNDLED:
            largest, mean, same = error(classifier, layer)
            cells = f"{largest:.3f} | {mean:.4f} | {same}"
        print(f"| {name}, {layer} | {took:.2f} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
