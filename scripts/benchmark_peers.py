"""Time of xgradcam beside other packages, interleaved in one run; prints a Markdown table.

    pip install '.[bench]' && python scripts/benchmark_peers.py [--device cuda] [--network NAME ...]
        [--batch SIZE ...] [--side PIXELS] [--quick]

One XGrad-CAM map (captum has Grad-CAM only), 224 x 224, at the last feature map, for batches of 1, 8 and 32:
medians of the times over those of plain forwards in the same round (`torch.no_grad()`, the model in its
default memory format), with quartiles; of each the second of two in a row is timed. Ours has the model as
`load_classifier` gives it, the others in its default format. "explain" is the function, "Explainer" with
`fold=True`, and "kept" with `keep_memory=True`, too, which is undone for the others. Then
the peak memory of a process that explains a batch of 32 over that of one that runs it forward under
`torch.inference_mode()`, and Ablation-CAM and Score-CAM of VGG-16 at `features.30` (512 channels) by both
packages that have them, once. Weights are random: but for Score-CAM, which passes over channels that are 0,
time does not depend on them. Peers that are not installed are left out.

With `--side 32 --batch 1` there is hardly any arithmetic: that is what each does beside it, in Python and in
PyTorch's calls, of which small batches on a GPU consist, too.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import torch
from measuring import PEAK, give_memory_back, setting, spread, wait_for
from torch import Tensor, nn

from xgradcam import Explainer, explain, load_classifier
from xgradcam.runs.memory import keep_freed_memory

NETWORKS = {
    "vgg16": "features.30",
    "resnet50": "layer4.2",
    "mobilenet_v2": "features.18",
    "efficientnet-lite0": "bn2",
}
PEERS = {"grad-cam": "pytorch_grad_cam", "torchcam": "torchcam", "captum": "captum"}
CLASS = 285
# Batch size -> rounds.
RUNS = {1: 15, 8: 7, 32: 3}
KEPT = "Explainer, kept"
EXPLAIN_32 = """
import sys
import torch
from xgradcam import explain, load_classifier
name, layer, device = sys.argv[1:]
model = load_classifier(name, "none").to(torch.device(device)).module
explain(model, torch.randn(32, 3, 224, 224, device=device), layer, 285)
"""
FORWARD_32 = """
import sys
import torch
from xgradcam import load_classifier
name, layer, device = sys.argv[1:]
model = load_classifier(name, "none", channels_last=False).module.to(device)
with torch.inference_mode():
    model(torch.randn(32, 3, 224, 224, device=device))
"""

# Appended instead of PEAK where the memory of interest is the GPU's.
PEAK_ON_GPU = """
print(torch.cuda.max_memory_allocated(device))
"""


def installed() -> dict[str, str]:
    """The versions of the peers that are here."""
    found = {}
    for name in PEERS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def seconds(work: Callable[[], object], device: str) -> float:
    """How long it takes, without what it prints, until all that the device was asked for is done."""
    with contextlib.redirect_stderr(io.StringIO()):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        return time.perf_counter() - started


@contextlib.contextmanager
def package_cam(method: str, model: nn.Module, layer: str, inputs: Tensor) -> Iterator[Callable[[], object]]:
    """A map by the package grad-cam."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with getattr(pytorch_grad_cam, method)(model, [model.get_submodule(layer)]) as cam:
        yield lambda: cam(inputs, [ClassifierOutputTarget(CLASS)] * len(inputs))


@contextlib.contextmanager
def torchcam_map(model: nn.Module, layer: str, inputs: Tensor) -> Iterator[Callable[[], object]]:
    """An XGrad-CAM map by torchcam."""
    from torchcam.methods import XGradCAM

    with XGradCAM(model, layer) as cam:
        yield lambda: cam(CLASS, model(inputs.clone().requires_grad_()))


@contextlib.contextmanager
def captum_map(model: nn.Module, layer: str, inputs: Tensor) -> Iterator[Callable[[], object]]:
    """A Grad-CAM map by captum."""
    from captum.attr import LayerGradCam

    cam = LayerGradCam(model, model.get_submodule(layer))
    yield lambda: cam.attribute(inputs, target=CLASS)


def network(name: str, device: str, *, plain: bool = False) -> nn.Module:
    """The network with random weights, as `load_classifier` gives it or in its default memory format."""
    classifier = load_classifier(name, "none", channels_last=not plain)
    return classifier.to(torch.device(device)).module


def batch(size: int, device: str, side: int = 224) -> Tensor:
    """Noise for inputs, square ones of this side."""
    return torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)


def maps(
    name: str, size: int, peers: dict[str, str], runs: int, device: str, side: int
) -> dict[str, list[float]]:
    """The times of the maps of a batch by each, over those of a plain forward."""
    layer, inputs = NETWORKS[name], batch(size, device, side)
    ours, model = network(name, device), network(name, device, plain=True)
    folding = Explainer(ours, layer, ["xgrad-cam"], fold=True)
    works = {
        "explain": lambda: explain(ours, inputs, layer, CLASS, ["xgrad-cam"]),
        "both maps": lambda: explain(ours, inputs, layer, CLASS),
        "Explainer": lambda: folding(inputs, CLASS),
        KEPT: lambda: folding(inputs, CLASS),
    }
    makers = {
        "grad-cam": lambda: package_cam("XGradCAM", model, layer, inputs),
        "torchcam": lambda: torchcam_map(model, layer, inputs),
        "captum": lambda: captum_map(model, layer, inputs),
    }

    def forward() -> None:
        with torch.no_grad():
            model(inputs)

    found: dict[str, list[float]] = {key: [] for key in (*works, *peers)}
    for _ in range(runs):
        plain = second_of_two(forward, device)
        for key, ratios in found.items():
            model.requires_grad_(key in peers)  # theirs cannot do without
            with makers[key]() if key in peers else contextlib.nullcontext(works[key]) as work:
                keep_freed_memory() if key == KEPT else give_memory_back()
                ratios.append(second_of_two(work, device) / plain)
            give_memory_back()
            model.zero_grad()
    return found


def second_of_two(work: Callable[[], object], device: str) -> float:
    """How long it takes when it has just been done: the memory that another left is no part of it."""
    work()
    return seconds(work, device)


def peak_memory(name: str, device: str) -> float:
    """The peak memory of a process that explains a batch of 32, over that of one that runs it forward.

    Of the GPU, if it is one.
    """
    peaks, peak = [], PEAK_ON_GPU if device.startswith("cuda") else PEAK
    for script in (EXPLAIN_32, FORWARD_32):
        run = subprocess.run(
            [sys.executable, "-c", script + peak, name, NETWORKS[name], device],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(run.stdout))
    return peaks[0] / peaks[1]


def asking_again(method: str, theirs: str, device: str) -> tuple[float, float]:
    """Seconds of a method that runs the network often, by us and by the package grad-cam."""
    layer, inputs = NETWORKS["vgg16"], batch(1, device)
    own, model = network("vgg16", device), network("vgg16", device, plain=True)
    ours = seconds(lambda: explain(own, inputs, layer, CLASS, [method]), device)
    with package_cam(theirs, model, layer, inputs) as work:
        return ours, seconds(work, device)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few runs and no ablation: shows that it works")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    parser.add_argument(
        "--network", nargs="+", choices=NETWORKS, default=[*NETWORKS], help="the batches of these alone"
    )
    parser.add_argument(
        "--batch", nargs="+", type=int, choices=RUNS, default=[*RUNS], help="batches of these sizes alone"
    )
    parser.add_argument("--side", type=int, default=224, help="of the inputs, in pixels (default: 224)")
    arguments = parser.parse_args(argv)
    quick, device, names = arguments.quick, arguments.device, arguments.network
    warnings.simplefilter("ignore")
    peers = installed()
    print(f"{', '.join([setting(device), *(f'{name} {number}' for name, number in peers.items())])}\n")
    columns = ["explain", "both maps", "Explainer", KEPT, *peers]
    print(f"| a map of each, a plain forward = 1 | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name in names[-1:] if quick else names:
        for size in (1,) if quick else arguments.batch:
            runs = 3 if quick else RUNS[size]
            found = maps(name, size, peers, runs, device, arguments.side)
            cells = [spread(found[column]) if column in found else "-" for column in columns]
            print(f"| {name}, {size} | {' | '.join(cells)} |", flush=True)
    if quick or len(names) < len(NETWORKS) or len(arguments.batch) < len(RUNS) or arguments.side != 224:
        return 0
    print("\n| peak memory, 32 photographs, a plain forward = 1 | xgradcam |\n|---|---|")
    for name in NETWORKS:
        print(f"| {name} | {peak_memory(name, device):.2f} |", flush=True)
    for method, theirs in (("ablation-cam", "AblationCAM"), ("score-cam", "ScoreCAM")):
        if "grad-cam" in peers:
            ours, others = asking_again(method, theirs, device)
            print(
                f"\n{method}, VGG-16 features.30: {ours:.2f} s, grad-cam {others:.1f} s: "
                f"1/{others / ours:.1f} of the time",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
