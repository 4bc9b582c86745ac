"""A folder of photographs by the command, beside a bare forward and a loop over another package.

    pip install '.[bench]' && python scripts/benchmark_folder.py [--quick]

200 photographs (500 x 375, JPEG, cut from the example) are explained by two maps each, by processes that take
turns, from start to exit: `xgrad-cam`; a process that runs the network forward, in its default memory format
and without a graph, over as many batches of 8 that are in memory from the start; and one that reads the
photographs one by one, and makes and writes the same pictures from one forward each by torchcam, the fastest
package of `benchmark_peers.py`. Medians of the ratios of neighbouring runs are given, with quartiles, and the
photographs a second. Weights are the bundled network's, and random ones of ResNet-50.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from measuring import spread
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "cat-and-coffee.jpg"
NETWORKS = {"efficientnet-lite0": ("bn2", "default"), "resnet50": ("layer4", "none")}

COMMAND = """
import sys
from xgradcam.cli.xgrad_cam import main
folder, out, name, layer, weights = sys.argv[1:]
sys.exit(main(["--image-path", folder, "--output-dir", out, "--quiet",
               "--model", name, "--target-layer", layer, "--weights", weights]))
"""
FORWARD = """
import os, sys
import torch
from xgradcam import load_classifier
folder, out, name, layer, weights = sys.argv[1:]
model = load_classifier(name, weights, channels_last=False).module
batches = [torch.randn(8, 3, 224, 224) for _ in range(len(os.listdir(folder)) // 8)]
with torch.no_grad():
    for batch in batches:
        model(batch)
"""
TORCHCAM = """
import sys
from pathlib import Path
import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate
from torchcam.methods import GradCAM, XGradCAM
from xgradcam import load_classifier
folder, out, name, layer, weights = sys.argv[1:]
classifier = load_classifier(name, weights, channels_last=False)
model, mean, std = classifier.module, np.float32(classifier.mean), np.float32(classifier.std)
with GradCAM(model, layer) as grad_cam, XGradCAM(model, layer) as xgrad_cam:
    for path in sorted(Path(folder).iterdir()):
        photograph = cv2.resize(cv2.imread(str(path)), (224, 224))
        scaled = (np.float32(photograph[:, :, ::-1]) / 255 - mean) / std
        inputs = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])).requires_grad_()
        scores = model(inputs)
        best = int(scores.argmax())
        maps = {"cam": grad_cam(best, scores, retain_graph=True)[0], "X_cam": xgrad_cam(best, scores)[0]}
        for kind, small in maps.items():
            grown = interpolate(small[None].clamp(min=0), (224, 224), mode="bilinear")[0, 0].numpy()
            level = np.uint8(255 * (grown - grown.min()) / max(grown.max() - grown.min(), 1e-12))
            colours = np.float32(cv2.applyColorMap(level, cv2.COLORMAP_JET))
            mixed = colours / 255 + np.float32(photograph) / 255
            written = np.uint8(255 * (mixed / mixed.max()))
            cv2.imwrite(f"{out}/{path.stem}_{best}_{kind}.jpg", written)
"""


def photographs(folder: Path, count: int) -> None:
    """Write cuttings of the example."""
    folder.mkdir()
    random = np.random.default_rng(0)
    with Image.open(EXAMPLE) as example:
        for index in range(count):
            width, height = (int(side * random.uniform(0.7, 1)) for side in example.size)
            left, top = (
                random.integers(example.width - width + 1),
                random.integers(example.height - height + 1),
            )
            cutting = example.crop((left, top, left + width, top + height)).resize((500, 375))
            cutting.convert("RGB").save(folder / f"{index:03}.jpg", quality=90)


def seconds(script: str, folder: Path, name: str) -> float:
    """How long a script takes as a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", script, str(folder), out, name, *NETWORKS[name]]
        started = time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=dict(os.environ))
        took = time.perf_counter() - started
        made = len(list(Path(out).glob("*.jpg")))
    if made not in (0, 2 * len(list(folder.iterdir()))):
        raise SystemExit(f"{made} pictures were written")
    return took


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="16 photographs, once: shows that it works")
    quick = parser.parse_args(argv).quick
    count, runs = (16, 1) if quick else (200, 3)
    others = {"bare forward": FORWARD} | ({"torchcam": TORCHCAM} if find_spec("torchcam") else {})
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}\n")
    print(
        "| network | photographs a second | "
        + " | ".join(f"rate of the {name} = 1" for name in others)
        + " |"
    )
    print("|---" * (2 + len(others)) + "|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photographs")
        photographs(folder, count)
        for network in list(NETWORKS)[: 1 if quick else None]:
            times: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
            for _ in range(runs):
                for name, script in {"ours": COMMAND, **others}.items():
                    times[name].append(seconds(script, folder, network))
            ratios = [
                spread([other / ours for ours, other in zip(times["ours"], times[name], strict=True)])
                for name in others
            ]
            rate = count / statistics.median(times["ours"])
            print(f"| {network} | {rate:.0f} | {' | '.join(ratios)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
