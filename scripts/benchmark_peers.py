"""Time of xgradcam beside other packages, interleaved in one run; prints a Markdown table.

    pip install '.[bench]' && python scripts/benchmark_peers.py [--quick]

One XGrad-CAM map (captum has Grad-CAM only), batch 1, 224 x 224, at the last feature map: medians of the
times over those of neighbouring plain forwards, with quartiles. And Ablation-CAM of VGG-16 at `features.30`
(512 channels) by both packages that have it, each once after the other. Weights are random: time does not
depend on them. Peers that are not installed are left out.
"""

import argparse
import contextlib
import io
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn

from xgradcam import explain, load_classifier

NETWORKS = {
    "vgg16": "features.30",
    "resnet50": "layer4.2",
    "mobilenet_v2": "features.18",
    "efficientnet-lite0": "bn2",
}
PEERS = {"grad-cam": "pytorch_grad_cam", "torchcam": "torchcam", "captum": "captum"}
CLASS = 285


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
        yield lambda: cam(inputs, [ClassifierOutputTarget(CLASS)])


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


def one_map(name: str, peers: dict[str, str], runs: int) -> dict[str, list[float]]:
    """The times of a map by each, over those of a plain forward."""
    classifier = load_classifier(name, "none")
    model, layer = classifier.module, NETWORKS[name]
    inputs = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def forward() -> None:
        with torch.no_grad():
            model(inputs)

    def ours() -> None:
        explain(model, inputs, layer, CLASS, ["xgrad-cam"])

    makers = {
        "grad-cam": lambda: package_cam("XGradCAM", model, layer, inputs),
        "torchcam": lambda: torchcam_map(model, layer, inputs),
        "captum": lambda: captum_map(model, layer, inputs),
    }
    found: dict[str, list[float]] = {"xgradcam": [], **{peer: [] for peer in peers}}
    for run in range(runs + 1):
        for peer in found:
            model.requires_grad_(peer != "xgradcam")  # theirs cannot do without
            with contextlib.nullcontext(ours) if peer == "xgradcam" else makers[peer]() as work:
                ratio = seconds(work) / seconds(forward)
            model.zero_grad()
            if run:
                found[peer].append(ratio)
    return found


def ablation(runs: int) -> tuple[list[float], list[float]]:
    """Seconds of Ablation-CAM of VGG-16 by us and by the package grad-cam, in turn."""
    model, layer = load_classifier("vgg16", "none").module, NETWORKS["vgg16"]
    inputs = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(seconds(lambda: explain(model, inputs, layer, CLASS, ["ablation-cam"])))
        with package_cam("AblationCAM", model, layer, inputs) as work:
            theirs.append(seconds(work))
    return ours, theirs


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


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
    print(f"| one map, a plain forward = 1 | {' | '.join(['xgradcam', *peers])} |")
    print("|---" * (len(peers) + 2) + "|")
    for name in ("efficientnet-lite0",) if quick else NETWORKS:
        found = one_map(name, peers, 3 if quick else 15)
        print(f"| {name} | {' | '.join(map(spread, found.values()))} |", flush=True)
    if "grad-cam" in peers and not quick:
        ours, theirs = ablation(2)
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(
            f"\nAblation-CAM, VGG-16 features.30: {statistics.median(ours):.2f} s, "
            f"grad-cam {statistics.median(theirs):.1f} s: 1/{ratio:.0f} of the time"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
