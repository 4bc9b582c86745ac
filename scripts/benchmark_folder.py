"""A folder of photographs by the command, beside a bare forward and a loop over another package.

    pip install '.[bench]' && python scripts/benchmark_folder.py [--device cuda] [--quick] [--parts]

200 photographs (500 x 375, JPEG, cut from the example) are explained by two maps each, by processes that take
turns: `xgrad-cam`; a process that runs the network forward, in its default memory format and without a graph,
over as many batches of 8 that are in memory from the start; and one that reads the photographs one by one,
and makes and writes the same pictures from one forward each by torchcam, the fastest package of
`benchmark_peers.py` that has both methods. Each is run over 8 photographs, too: their median taken off is
the time without start-up. Medians of the ratios of neighbouring runs are given, with quartiles, from start
to exit and without start-up, and the photographs a second. Weights are the bundled network's, and random ones
of ResNet-50.

`--parts` reads the photographs alone, and then writes their results alone, with 1, 2, 4, ... threads as far
as there are cores, and gives photographs a second.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from measuring import setting, spread
from PIL import Image

from xgradcam import load_classifier
from xgradcam.runs.cores import usable_cores
from xgradcam.runs.memory import keep_freed_memory
from xgradcam.runs.results import write_results
from xgradcam.runs.run import Explaining, Run, Writing
from xgradcam.runs.sources import Source

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "cat-and-coffee.jpg"
NETWORKS = {"efficientnet-lite0": ("bn2", "default"), "resnet50": ("layer4", "none")}

COMMAND = """
import sys
from xgradcam.cli.xgrad_cam import main
folder, out, device, name, layer, weights, *more = sys.argv[1:]
sys.exit(main(["--image-path", folder, "--output-dir", out, "--device", device, "--quiet",
               "--model", name, "--target-layer", layer, "--weights", weights, *more]))
"""
FORWARD = """
import os, sys
import torch
from xgradcam import load_classifier
folder, out, device, name, layer, weights = sys.argv[1:]
model = load_classifier(name, weights, channels_last=False).module.to(device)
batch = torch.randn(8, 3, 224, 224, device=device)
batches = [batch.clone() for _ in range(len(os.listdir(folder)) // 8)]
with torch.no_grad():
    for batch in batches:
        scores = model(batch)
scores.cpu()
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
folder, out, device, name, layer, weights = sys.argv[1:]
classifier = load_classifier(name, weights, channels_last=False)
model, mean, std = classifier.module.to(device), np.float32(classifier.mean), np.float32(classifier.std)
with GradCAM(model, layer) as grad_cam, XGradCAM(model, layer) as xgrad_cam:
    for path in sorted(Path(folder).iterdir()):
        photograph = cv2.resize(cv2.imread(str(path)), (224, 224))
        scaled = (np.float32(photograph[:, :, ::-1]) / 255 - mean) / std
        inputs = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])).to(device)
        scores = model(inputs.requires_grad_())
        best = int(scores.argmax())
        maps = {"cam": grad_cam(best, scores, retain_graph=True)[0], "X_cam": xgrad_cam(best, scores)[0]}
        for kind, small in maps.items():
            grown = interpolate(small[None].clamp(min=0), (224, 224), mode="bilinear")[0, 0].cpu().numpy()
            level = np.uint8(255 * (grown - grown.min()) / max(grown.max() - grown.min(), 1e-12))
            colours = np.float32(cv2.applyColorMap(level, cv2.COLORMAP_JET))
            mixed = colours / 255 + np.float32(photograph) / 255
            written = np.uint8(255 * (mixed / mixed.max()))
            cv2.imwrite(f"{out}/{path.stem}_{best}_{kind}.jpg", written)
"""

PEER = {"loop over torchcam": TORCHCAM} if find_spec("torchcam") else {}
SCRIPTS = {"xgrad-cam": COMMAND, "bare forward": FORWARD, **PEER}


def photographs(folder: Path, count: int) -> None:
    """Write cuttings of the example."""
    folder.mkdir()
    random = np.random.default_rng(0)
    with Image.open(EXAMPLE) as example:
        for index in range(count):
            width, height = (int(side * random.uniform(0.7, 1)) for side in example.size)
            left = int(random.integers(example.width - width + 1))
            top = int(random.integers(example.height - height + 1))
            cutting = example.crop((left, top, left + width, top + height)).resize((500, 375))
            cutting.convert("RGB").save(folder / f"{index:03}.jpg", quality=90)


def seconds(script: str, folder: Path, network: str, device: str, processes: int = 1) -> float:
    """How long a script takes as a process of its own, or the command as several that share the work."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", script, str(folder), out, device, network, *NETWORKS[network]]
        shares = [["--shard", f"{number}/{processes}"] for number in range(1, processes + 1)]
        started = time.perf_counter()
        running = [
            subprocess.Popen([*command, *share], stderr=subprocess.DEVNULL)
            for share in (shares if processes > 1 else [[]])
        ]
        if any([one.wait() for one in running]):
            raise SystemExit(f"a process of {network} failed")
        took = time.perf_counter() - started
        made = len(list(Path(out).glob("*.jpg")))
    if made not in (0, 2 * len(list(folder.iterdir()))):
        raise SystemExit(f"{made} pictures were written")
    return took


def rates(few: Path, many: Path, network: str, device: str, runs: int) -> Iterator[tuple[str, list[str]]]:
    """From start to exit and without start-up: photographs a second, and ratios to the others' rates."""
    whole: dict[str, list[float]] = {name: [] for name in SCRIPTS}
    start: dict[str, list[float]] = {name: [] for name in SCRIPTS}
    for _ in range(runs):
        for name, script in SCRIPTS.items():
            start[name].append(seconds(script, few, network, device))
            whole[name].append(seconds(script, many, network, device))
    rest = {name: [took - statistics.median(start[name]) for took in whole[name]] for name in SCRIPTS}
    count = len(list(many.iterdir()))
    yield "from start to exit", _cells(count, whole)
    yield "without start-up", _cells(count - len(list(few.iterdir())), rest)


def _cells(photographs: int, times: dict[str, list[float]]) -> list[str]:
    ours, *others = times.values()
    if min(map(min, times.values())) <= 0:  # so few photographs that the noise is larger
        return ["-"] * len(times)
    ratios = [[theirs / own for own, theirs in zip(ours, other, strict=True)] for other in others]
    return [f"{photographs / statistics.median(ours):.0f}", *map(spread, ratios)]


def parts(folder: Path, out: Path, runs: int) -> Iterator[tuple[int, list[float]]]:
    """Numbers of threads, and the photographs that so many read, and write, a second."""
    keep_freed_memory()
    network = "efficientnet-lite0"
    layer, weights = NETWORKS[network]
    classifier = load_classifier(network, weights)
    sources = [Source(str(path), path.stem) for path in sorted(folder.iterdir())]
    run = Run(sources, classifier, classifier.framing(), [layer], [None], Explaining(), Writing(out))

    def read(source: Source) -> np.ndarray:
        return run.prepared(source.read().photograph)[1]

    canvas = read(sources[0])
    explained = run.explain(run.inputs(canvas))

    def write(source: Source) -> None:
        write_results(run, source, canvas, explained, 0)

    threads = [2**power for power in range(usable_cores().bit_length())]
    found: dict[int, list[list[float]]] = {count: [] for count in threads}
    for _ in range(runs):
        for count in threads:
            found[count].append([_rate(work, sources, count) for work in (read, write)])
    for count, pairs in found.items():
        yield count, [statistics.median(column) for column in zip(*pairs, strict=True)]


def _rate(work: Callable[[Source], object], sources: list[Source], threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(work, sources))
        return len(sources) / (time.perf_counter() - started)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="24 photographs, once: shows that it works")
    parser.add_argument("--parts", action="store_true", help="reading alone and writing alone")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    arguments = parser.parse_args(argv)
    count, runs = (24, 1) if arguments.quick else (200, 5)
    print(f"{setting(arguments.device)}\n")
    if arguments.parts:
        print("| threads | photographs read a second | written a second |\n|---|---|---|")
        with tempfile.TemporaryDirectory() as place:
            photographs(Path(place, "many"), count)
            for threads, (read, written) in parts(Path(place, "many"), Path(place, "out"), runs):
                print(f"| {threads} | {read:.0f} | {written:.0f} |")
        return 0
    _, *others = SCRIPTS
    print(
        f"| {count} photographs | photographs a second | "
        + " | ".join(f"rate of the {name} = 1" for name in others)
        + " |"
    )
    print("|---" * (2 + len(others)) + "|")
    with tempfile.TemporaryDirectory() as place:
        folders = Path(place, "few"), Path(place, "many")
        for folder, number in zip(folders, (8, count), strict=True):
            photographs(folder, number)
        for network in list(NETWORKS)[: 1 if arguments.quick else None]:
            for what, cells in rates(*folders, network, arguments.device, runs):
                print(f"| {network}, {what} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
