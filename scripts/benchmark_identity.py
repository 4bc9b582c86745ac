"""Time `verify` against a plain forward, and the complete map against XGrad-CAM's, as Markdown tables.

    python scripts/benchmark_identity.py [--quick]

`verify_layers` at all maps of VGG-16 is in the first table. Medians of alternating runs, and quartiles of
their ratios in the second. Float32, samples of 224 x 224, on the CPU; random weights but for the bundled
network.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from measuring import setting

import xgradcam

LAYERS = {"vgg16": ("features.30", "features.4"), "resnet50": ("layer4.2", "layer1.0")}
# One after the other without a bypass: all 31 from one forward and one backward.
ALL = {"vgg16": [f"features.{index}" for index in range(31)]}


BUNDLED = "efficientnet-lite0"
# From the last layer to the first: the more of the network is behind it, the more is to be traced.
COMPLETE = {
    "resnet50": ("layer4.2", "layer3.5", "layer2.0", "conv1"),
    BUNDLED: ("bn2", "blocks.4.2.bn3", "blocks.2.1.bn3", "conv_stem"),
    "timm/vit_tiny_patch16_224": ("blocks.11.norm1", "blocks.8.norm1", "blocks.3.norm1", "blocks.0.norm1"),
}
BATCHES = (1, 8)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def medians(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median time of each, all of them in turn: what else the machine does meets them alike."""
    for work in works.values():
        work()
    times = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds)]
    return {name: statistics.median(row[name] for row in times) for name in works}


def ratios(work: Callable[[], object], other: Callable[[], object], rounds: int) -> list[float]:
    """The time of `work` as a share of that of `other`, in alternating runs."""
    work(), other()
    return [seconds(work) / seconds(other) for _ in range(rounds)]


def print_complete(rounds: int) -> None:
    """Print the table of the complete map beside XGrad-CAM's."""
    print("\n| model | layer | batch | complete-cam / xgrad-cam | quartiles |\n|---|---|---|---|---|")
    for name, layers in COMPLETE.items():
        model = xgradcam.load_classifier(name, "default" if name == BUNDLED else "none").module
        for layer in layers:
            for batch in BATCHES:
                inputs = torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
                of = partial(xgradcam.explain, model, inputs, layer)
                found = ratios(
                    partial(of, methods=["complete-cam"]), partial(of, methods=["xgrad-cam"]), rounds
                )
                low, middle, high = statistics.quantiles(found, n=4)
                print(f"| {name} | {layer} | {batch} | {middle:.2f} | {low:.2f} to {high:.2f} |", flush=True)


def verify_all(model: torch.nn.Module, inputs: torch.Tensor, layers: Sequence[str]) -> None:
    """Take the results of `verify_layers`, which works as they are taken."""
    for _ in xgradcam.verify_layers(model, inputs, layers):
        pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="time verify and the complete map")
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 15")
    rounds = 3 if parser.parse_args().quick else 15
    print(f"{setting()}, median of {rounds} rounds\n")
    print("| model | layer | forward | verify | verify / forward |\n|---|---|---|---|---|")
    for name, layers in LAYERS.items():
        model = xgradcam.load_classifier(name, "none", channels_last=False).module
        inputs = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))

        def forward(model: torch.nn.Module = model, inputs: torch.Tensor = inputs) -> torch.Tensor:
            with torch.no_grad():
                return model(inputs)

        works: dict[str, Callable[[], object]] = {"forward": forward}
        for layer in layers:
            works[layer] = partial(xgradcam.verify, model, inputs, layer)
        if name in ALL:
            works["all"] = partial(verify_all, model, inputs, ALL[name])
        took = medians(works, rounds)
        for layer in list(works)[1:]:
            plain, verified = took["forward"], took[layer]
            print(
                f"| {name} | {layer} | {1000 * plain:.0f} ms | {1000 * verified:.0f} ms "
                f"| {verified / plain:.2f} |"
            )
    print_complete(rounds)


if __name__ == "__main__":
    main()
