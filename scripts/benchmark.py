"""Time and memory of xgradcam beside the plain steps, interleaved in one run; prints a Markdown table.

    python scripts/benchmark.py [--quick]

In one process: a Grad-CAM and an XGrad-CAM map of VGG-16 (batch 1, 224 x 224, `features.30`, both maps from
one call of `explain`), and what the original scripts do for one map (a forward with the graph of the whole
network, a backward to every parameter), each against a plain forward under `torch.no_grad()`; and ten classes
of one photograph against one. The median of the ratios of neighbouring runs is given, with the quartiles.
As whole processes: the command with VGG-16's weights in the cache, against the original scripts' steps
(import, build, load, forward, backward, write); with the bundled network, against an interpreter that does no
more than import torch; and `xgrad-cam --help`. Weights are random: time does not
depend on them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import PEAK, setting, spread

from xgradcam import explain, explain_classes, load_classifier, read_image
from xgradcam.models.vgg16 import WEIGHTS_URL

PHOTOGRAPH = Path(__file__).resolve().parents[1] / "examples" / "cat-and-coffee.jpg"
COMMAND = """
import sys
from xgradcam.cli.xgrad_cam import main
code = main(["--image-path", sys.argv[1], "--output-dir", sys.argv[2]])
"""
BUNDLED = COMMAND.replace('"--output-dir"', '"--model", "efficientnet-lite0", "--output-dir"')
IMPORT = """
import torch
"""
HELP = """
from contextlib import suppress
from xgradcam.cli.xgrad_cam import main
with suppress(SystemExit):
    main(["--help"])
"""
ORIGINAL_STEPS = """
import sys
import cv2
import numpy as np
import torch
from torchvision import models
model = models.vgg16(weights="IMAGENET1K_V1").eval()
photograph = np.float32(cv2.resize(cv2.imread(sys.argv[1], 1), (224, 224))) / 255
scaled = (photograph[:, :, ::-1] - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
inputs = torch.from_numpy(np.float32(scaled.transpose(2, 0, 1)[None])).requires_grad_()
kept = {}
activation = model.features(inputs)
activation.register_hook(lambda gradient: kept.update(gradient=gradient))
scores = model.classifier(model.avgpool(activation).flatten(1))
scores[0, scores[0].argmax()].backward(retain_graph=True)
feature, gradient = activation.detach()[0].numpy(), kept["gradient"][0].numpy()
for name, weights in (
    ("cam.jpg", gradient.mean(axis=(1, 2))),
    ("X_cam.jpg", (gradient * feature).sum(axis=(1, 2)) / (feature.sum(axis=(1, 2)) + 1e-6)),
):
    cam = cv2.resize(np.maximum((weights[:, None, None] * feature).sum(axis=0), 0), (224, 224))
    cam = (cam - cam.min()) / (cam.max() - cam.min() + 1e-12)
    mixed = np.float32(cv2.applyColorMap(np.uint8(255 * cam), cv2.COLORMAP_JET)) / 255 + photograph
    cv2.imwrite(f"{sys.argv[2]}/{name}", np.uint8(255 * mixed / mixed.max()))
"""


def ratios(one: Callable[[], object], other: Callable[[], object], runs: int) -> list[float]:
    """Times of `one` over times of `other`, run in turn after a warm-up."""
    pairs = [(_seconds(one), _seconds(other)) for _ in range(runs + 1)]
    return [first / second for first, second in pairs[1:]]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def process(script: str, home: Path) -> tuple[float, float]:
    """Seconds and peak memory in bytes of a script as a process of its own."""
    environment = {**os.environ, "TORCH_HOME": str(home)}
    started = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", script + PEAK, str(PHOTOGRAPH), str(home)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - started, float(run.stdout.splitlines()[-1])


def in_process(runs: int) -> list[tuple[str, str]]:
    """Rows on one photograph, the model being loaded."""
    # The model as it is by default is what the others are measured by.
    classifier = load_classifier("vgg16", "none", channels_last=False)
    model, inputs = classifier.module, classifier.inputs(read_image(PHOTOGRAPH))

    def forward() -> None:
        with torch.no_grad():
            model(inputs)

    def original() -> None:
        model.zero_grad()
        model(inputs.clone().requires_grad_()).amax().backward(retain_graph=True)

    own = load_classifier("vgg16", "none").module
    both = ratios(lambda: explain(own, inputs, "features.30"), forward, runs)
    one = ratios(
        lambda: explain(own, inputs, "features.30"),
        lambda: explain(own, inputs, "features.30", methods=["xgrad-cam"]),
        runs,
    )
    many = ten_classes(model, inputs, "features.30", runs)
    resnet = load_classifier("resnet50", "none").module
    residual = ten_classes(resnet, inputs, "layer4.2", runs)
    model.requires_grad_()
    whole = ratios(original, forward, runs)
    return [
        ("both maps from one call, a plain forward = 1", spread(both)),
        ("both maps, one of them = 1", spread(one)),
        ("the original steps for one class, a plain forward = 1", spread(whole)),
        ("ten classes of one photograph, one class = 1", spread(many)),
        ("the same for ResNet-50 at its default layer", spread(residual)),
    ]


def ten_classes(model: torch.nn.Module, inputs: torch.Tensor, layer: str, runs: int) -> list[float]:
    """Times of ten classes of one photograph over those of one."""
    return ratios(
        lambda: explain_classes(model, inputs, layer, range(10)),
        lambda: explain(model, inputs, layer, 0),
        runs,
    )


def whole_processes(runs: int) -> list[tuple[str, str]]:
    """Rows on the command from start to files."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "hub", "checkpoints", Path(WEIGHTS_URL).name)
        weights.parent.mkdir(parents=True)
        torch.save(load_classifier("vgg16", "none").module.state_dict(), weights)
        home = Path(folder)
        pairs = [(process(COMMAND, home), process(ORIGINAL_STEPS, home)) for _ in range(runs + 1)][1:]
        bundled = [(process(BUNDLED, home)[0], process(IMPORT, home)[0]) for _ in range(runs + 1)][1:]
        helps = [process(HELP, home)[0] for _ in range(runs + 1)][1:]
    return [
        ("the command's time, the original steps = 1", spread([a / b for (a, _), (b, _) in pairs])),
        ("the command's peak memory", f"{max(ours for (_, ours), _ in pairs) / 1e9:.2f} GB"),
        ("the original steps' peak memory", f"{max(theirs for _, (_, theirs) in pairs) / 1e9:.2f} GB"),
        ("the bundled network's command, importing torch = 1", spread([a / b for a, b in bundled])),
        ("`xgrad-cam --help`, seconds", spread(helps)),
    ]


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few runs: shows that it works, not how fast it is"
    )
    runs, processes = (3, 1) if parser.parse_args(argv).quick else (15, 5)
    rows = in_process(runs) + whole_processes(processes)
    print(f"VGG-16, {setting()}\n")
    print("| what | median (quartiles) |\n|---|---|")
    for what, value in rows:
        print(f"| {what} | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
