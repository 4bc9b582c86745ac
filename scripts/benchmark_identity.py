"""Time `verify`, and `verify_layers` at all maps of VGG-16, against a plain forward, as a Markdown table.

    python scripts/benchmark_identity.py [--quick]

Medians of alternating runs. Random weights, float32, one sample of 224 x 224, on the CPU.
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


def verify_all(model: torch.nn.Module, inputs: torch.Tensor, layers: Sequence[str]) -> None:
    """Take the results of `verify_layers`, which works as they are taken."""
    for _ in xgradcam.verify_layers(model, inputs, layers):
        pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="time verify against a plain forward")
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


if __name__ == "__main__":
    main()
