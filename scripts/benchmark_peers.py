"""Time of xgradcam beside other packages, interleaved in one run; prints a Markdown table.

    pip install '.[bench]' && python scripts/benchmark_peers.py [--quick]

One XGrad-CAM map (captum has Grad-CAM only), 224 x 224, at the last feature map, for batches of 1, 8 and 32:
medians of the times over those of plain forwards in the same round (`torch.no_grad()`, the model in its
default memory format), with quartiles; of each the second of two in a row is timed. Ours has the model as
`load_classifier` gives it, the others in its default format; "folded" is ours after `fold_batch_norms`. Then
the peak memory of a process that explains a batch of 32 over that of one that runs it forward under
`torch.inference_mode()`, and Ablation-CAM and Score-CAM of VGG-16 at `features.30` (512 channels) by both
packages that have them, once. Weights are random: but for Score-CAM, which passes over channels that are 0,
time does not depend on them. Peers that are not installed are left out.
"""

import argparse
import contextlib
import io
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import torch
from measuring import PEAK, spread
from torch import Tensor, nn

from xgradcam import explain, load_classifier
from xgradcam.folding import fold_batch_norms

NETWORKS = {
    "vgg16": "features.30",
    "resnet50": "layer4.2",
    "mobilenet_v2": "features.18",
    "efficientnet-lite0": "bn2",
}
PEERS = {"grad-cam": "pytorch_grad_cam", "torchcam": "torchcam", "captum": "captum"}
CLASS = 285
EXPLAIN_32 = """
import sys
import torch
from xgradcam import explain, load_classifier
from xgradcam.folding import fold_batch_norms
name, layer = sys.argv[1:]
explain(load_classifier(name, "none").module, torch.randn(32, 3, 224, 224), layer, 285)
"""
FORWARD_32 = """
import sys
import torch
from xgradcam import load_classifier
name, layer = sys.argv[1:]
model = load_classifier(name, "none", channels_last=False).module
with torch.inference_mode():
    model(torch.randn(32, 3, 224, 224))
"""


def installed() -> dict[str, str]:
    """The versions of the peers that are here."""
    found = {}
    for name in PEERS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, without what it prints."""
    with contextlib.redirect_stderr(io.StringIO()):
        started = time.perf_counter()
        work()
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


def maps(name: str, size: int, peers: dict[str, str], runs: int) -> dict[str, list[float]]:
    """The times of the maps of a batch by each, over those of a plain forward."""
    ours, layer = load_classifier(name, "none").module, NETWORKS[name]
    model = load_classifier(name, "none", channels_last=False).module
    folded = load_classifier(name, "none").module
    inputs = torch.randn(size, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    works = {"xgradcam": lambda: explain(ours, inputs, layer, CLASS, ["xgrad-cam"])}
    if fold_batch_norms(folded, inputs[:1], [layer]):
        works["folded"] = lambda: explain(folded, inputs, layer, CLASS, ["xgrad-cam"])
    works["both maps"] = lambda: explain(ours, inputs, layer, CLASS)
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
        plain = second_of_two(forward)
        for key, ratios in found.items():
            model.requires_grad_(key in peers)  # theirs cannot do without
            with makers[key]() if key in peers else contextlib.nullcontext(works[key]) as work:
                ratios.append(second_of_two(work) / plain)
            model.zero_grad()
    return found


def second_of_two(work: Callable[[], object]) -> float:
    """How long it takes when it has just been done: the memory that another left is no part of it."""
    work()
    return seconds(work)


def peak_memory(name: str) -> float:
    """The peak memory of a process that explains a batch of 32, over that of one that runs it forward."""
    peaks = []
    for script in (EXPLAIN_32, FORWARD_32):
        run = subprocess.run(
            [sys.executable, "-c", script + PEAK, name, NETWORKS[name]],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(run.stdout))
    return peaks[0] / peaks[1]


def asking_again(method: str, theirs: str) -> tuple[float, float]:
    """Seconds of a method that runs the network often, by us and by the package grad-cam."""
    layer = NETWORKS["vgg16"]
    own, model = (load_classifier("vgg16", "none", channels_last=last).module for last in (True, False))
    inputs = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ours = seconds(lambda: explain(own, inputs, layer, CLASS, [method]))
    with package_cam(theirs, model, layer, inputs) as work:
        return ours, seconds(work)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few runs and no ablation: shows that it works")
    quick = parser.parse_args(argv).quick
    warnings.simplefilter("ignore")
    peers = installed()
    versions = ", ".join(f"{name} {number}" for name, number in {"torch": torch.__version__, **peers}.items())
    print(f"{versions}; {torch.get_num_threads()} threads, {platform.machine()}\n")
    columns = ["xgradcam", "folded", "both maps", *peers]
    print(f"| a map of each, a plain forward = 1 | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name in ("efficientnet-lite0",) if quick else NETWORKS:
        for size, runs in ((1, 3),) if quick else ((1, 15), (8, 5), (32, 3)):
            found = maps(name, size, peers, runs)
            cells = [spread(found[column]) if column in found else "-" for column in columns]
            print(f"| {name}, {size} | {' | '.join(cells)} |", flush=True)
    if quick:
        return 0
    print("\n| peak memory, 32 photographs, a plain forward = 1 | xgradcam |\n|---|---|")
    for name in NETWORKS:
        print(f"| {name} | {peak_memory(name):.2f} |", flush=True)
    for method, theirs in (("ablation-cam", "AblationCAM"), ("score-cam", "ScoreCAM")):
        if "grad-cam" in peers:
            ours, others = asking_again(method, theirs)
            print(
                f"\n{method}, VGG-16 features.30: {ours:.2f} s, grad-cam {others:.1f} s: "
                f"1/{others / ours:.1f} of the time",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
