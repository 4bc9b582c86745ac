"""Which map to trust: measure methods at layers of a network on photographs, and print a table.

    python scripts/evaluate.py FOLDER --model resnet50 --target-layer layer3 layer4 --output-dir evaluation
    python scripts/evaluate.py --installed

The photographs are those of the folder, of which the class explained is the folder's name if that is an index
or a name of the model's classes, and else what the network says. `--installed` takes the 20 labelled ImageNet
photographs of the package foolbox and those in scikit-image and scikit-learn (`pip install '.[test]'`). The
model is the bundled efficientnet-lite0 if none is named; `xgrad-cam --help` says more of the shared options.

For each photograph, layer and method: the axioms' errors, average drop and increase in confidence, deletion
and insertion, ROAD, and with `--boxes` the pointing game and the energy inside; and the likeness of the map
to that of the network with random weights (rank correlation, mean over stages). See
`xgradcam.evaluation.metrics` and `xgradcam.evaluation.randomisation` for what they are and where from.

Written to the output folder: evaluation.md and evaluation.csv, means with bootstrap 95% intervals;
evaluation.png, the means and the curves; evaluation.jsonl, every number, by which `--resume` goes on.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from xgradcam import XGradCamError, read_image
from xgradcam.cam.methods import METHODS, known_methods
from xgradcam.capture.scores import finite_logits_of
from xgradcam.cli.listings import print_layers
from xgradcam.cli.options import Parser, add_device_arguments, add_model_arguments
from xgradcam.cli.setup import choose_device, open_classifier
from xgradcam.cli.terminal import DONE, FAILED, run
from xgradcam.evaluation.boxes import Box, read_boxes, region_of
from xgradcam.evaluation.measures import MEASURES, Mean, Question, likeness_when_randomised, mean_of, measure
from xgradcam.files import make_folder, write_files
from xgradcam.models.classifier import Classifier
from xgradcam.models.labels import class_named
from xgradcam.runs.sources import find_photographs

PROG = "evaluate.py"
STAGES = (0.0, 0.25, 0.5, 1.0)
COLOURS = "tab20"


@dataclass(frozen=True)
class Photo:
    """A photograph to measure on; target: its class, None for what the network says."""

    path: str
    target: int | None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what has not been measured, and write and print what it comes to."""
    arguments = _parser().parse_args(argv)
    return run(PROG, lambda: _evaluate(arguments))


def _parser() -> Parser:
    parser = Parser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", nargs="*", help="photographs, or folders of them")
    parser.add_argument("--installed", action="store_true", help="photographs of installed packages")
    add_model_arguments(
        parser, "the layers to measure at; default: the model's default layer", {"nargs": "+"}
    )
    add_device_arguments(parser)
    parser.set_defaults(model="efficientnet-lite0")
    parser.add_argument("--crop", action="store_true", help="resize and crop as the weights expect it")
    parser.add_argument("--method", nargs="+", default=["all"], help="methods; default: all")
    parser.add_argument("--boxes", type=Path, help="COCO .json, VOC .xml, or a folder of those")
    parser.add_argument("--steps", type=int, default=28, help="of the curves (default: 28)")
    parser.add_argument(
        "--removed", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8], help="shares of pixels for ROAD"
    )
    parser.add_argument(
        "--randomise", metavar="N", type=int, default=4,
        help="photographs on which the network is randomised (default: 4; 0: none)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="the first so many photographs only")
    parser.add_argument("--seed", type=int, default=0, help="of the random networks and the bootstrap")
    parser.add_argument("--output-dir", type=Path, default=Path("evaluation"), help="default: evaluation")
    parser.add_argument("--resume", action="store_true", help="keep what was measured before")
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.list_layers:
        print_layers(PROG, arguments)
        return DONE
    asked = arguments.method
    methods = list(METHODS) if "all" in asked else list(dict.fromkeys(known_methods(asked)))
    if arguments.steps < 1 or not all(0 < share < 1 for share in arguments.removed):
        raise XGradCamError("--steps is at least 1, and the shares of --removed lie between 0 and 1")
    classifier = open_classifier(PROG, arguments, many=True).to(choose_device(PROG, arguments))
    classifier.framing(arguments.crop)
    named = _photographs(arguments, classifier)[: arguments.limit]
    if not named:
        raise XGradCamError("no photographs: name a folder, or --installed")
    photos = [photo for photo in named if _can_be_read(photo)]
    if not photos:
        raise XGradCamError("none of the photographs can be read")
    layers = arguments.target_layer or [classifier.default_layer()]
    boxes = read_boxes(arguments.boxes) if arguments.boxes else {}
    make_folder(arguments.output_dir)
    log = _Log(arguments.output_dir / "evaluation.jsonl", _settings(arguments), arguments.resume)
    _measure_all(arguments, classifier, photos, layers, methods, boxes, log)
    _write(arguments.output_dir, log.lines, layers, methods, len(photos), arguments.seed)
    return DONE if len(photos) == len(named) else FAILED


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What must not change when a run goes on."""
    kept = (
        "model",
        "weights",
        "num_classes",
        "output",
        "input_size",
        "mean",
        "std",
        "crop",
        "steps",
        "removed",
        "randomise",
        "seed",
    )
    boxes = None if arguments.boxes is None else str(arguments.boxes)
    return {**{name: getattr(arguments, name) for name in kept}, "boxes": boxes}


class _Log:
    """Every number, a line of JSON for each photograph, layer and method."""

    def __init__(self, path: Path, settings: Mapping[str, Any], resume: bool) -> None:
        self._path, self.lines = path, list[dict[str, Any]]()
        if resume and path.exists():
            found = [line for line in map(_json, path.read_text(encoding="utf-8").splitlines()) if line]
            if not found or found[0] != settings:
                raise XGradCamError(f"{path} is of a run with other settings: leave out --resume")
            self.lines = found[1:]
        self._keys = set(map(_key, self.lines))
        path.write_text(
            "".join(json.dumps(line) + "\n" for line in (settings, *self.lines)), encoding="utf-8"
        )

    def add(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        self._keys.add(_key(line))

    def has(self, kind: str, photo: str, layer: str, method: str) -> bool:
        return (kind, photo, layer, method) in self._keys


def _key(line: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return line["kind"], line["photo"], line["layer"], line["method"]


def _json(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:  # the last one, of a run that was killed
        return None


def _measure_all(
    arguments: argparse.Namespace,
    classifier: Classifier,
    photos: Sequence[Photo],
    layers: Sequence[str],
    methods: Sequence[str],
    boxes: Mapping[str, list[Box]],
    log: _Log,
) -> None:
    total = len(photos) * len(layers) + (len(layers) if arguments.randomise else 0)
    with tqdm(total=total, unit="photo", disable=None) as bar:
        for photo in photos:
            question = _question(arguments, classifier, photo, boxes)
            for layer in layers:
                left = [method for method in methods if not log.has("map", photo.path, layer, method)]
                for method, measures in measure(question, layer, left).items() if left else ():
                    log.add(
                        {"kind": "map", "photo": photo.path, "layer": layer, "method": method, **measures}
                    )
                bar.update()
        chosen = photos[: arguments.randomise]
        for layer in layers if chosen else ():
            left = [
                method
                for method in methods
                if not log.has("randomised", chosen[0].path, layer, method)
                # A forward for each channel, at each stage: it would take longer than all else.
                and method != "score-cam"
            ]
            if left:
                questions = [_question(arguments, classifier, photo, boxes) for photo in chosen]
                likeness = likeness_when_randomised(questions, layer, left, STAGES, arguments.seed)
                for method, values in likeness.items():
                    for photo, value in zip(chosen, values, strict=True):
                        where = {"photo": photo.path, "layer": layer, "method": method}
                        log.add({"kind": "randomised", **where, "randomised": value})
            bar.update()


def _question(
    arguments: argparse.Namespace, classifier: Classifier, photo: Photo, boxes: Mapping[str, list[Box]]
) -> Question:
    photograph = read_image(photo.path)
    inputs = classifier.inputs(photograph, arguments.crop)
    target = photo.target
    if target is None:
        with torch.no_grad():
            logits = finite_logits_of(classifier.module(inputs), classifier.output)
        target = int(logits.argmax())
    found = boxes.get(Path(photo.path).name)
    shape = (photograph.shape[0], photograph.shape[1])
    region = None if found is None else region_of(found, shape, classifier.framing(arguments.crop))
    if region is not None and not region.any():  # cropped away: no map could point at it
        region = None
    return Question(
        classifier.module, inputs, target, classifier.output, region, arguments.steps, arguments.removed
    )


def _photographs(arguments: argparse.Namespace, classifier: Classifier) -> list[Photo]:
    photos = list(_installed()) if arguments.installed else []
    sources = find_photographs(arguments.folders, arguments.output_dir) if arguments.folders else []
    for source in sources:
        photos.append(Photo(source.path, _class_of_folder(Path(source.path).parent.name, classifier)))
    return photos


def _can_be_read(photo: Photo) -> bool:
    """Whether it can; if not, why is said. Before hours of measuring, not in the middle of them."""
    try:
        read_image(photo.path)
    except XGradCamError as error:
        print(f"{PROG}: passed over: {error}", file=sys.stderr)
        return False
    return True


def _class_of_folder(name: str, classifier: Classifier) -> int | None:
    """The class that a folder is named for: an index, a WordNet id or a name; None where it is none."""
    labels = classifier.labels or ()
    if name.isdecimal():
        return int(name) if not labels or int(name) < len(labels) else None
    ids = {label.split()[0]: index for index, label in enumerate(labels) if label[:1] == "n"}
    if name in ids:
        return ids[name]
    try:
        return class_named(labels, name.replace("_", " ")) if labels else None
    except XGradCamError:
        return None


def _installed() -> Iterator[Photo]:
    """The photographs of foolbox, whose names end in their class, of scikit-image and of scikit-learn."""
    for path in sorted(_folder("foolbox", "data").glob("imagenet_*.jpg")):
        yield Photo(str(path), int(path.stem.rpartition("_")[2]))
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        yield Photo(str(_folder("skimage", "data") / name), None)
    for name in ("china.jpg", "flower.jpg"):
        yield Photo(str(_folder("sklearn", "datasets/images") / name), None)


def _folder(package: str, below: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise XGradCamError(f"the package {package} is not installed: pip install '.[test]'")
    return Path(found.origin).parent / below


def _means(
    lines: Sequence[Mapping[str, Any]], layers: Sequence[str], methods: Sequence[str], seed: int
) -> list[tuple[str, str, dict[str, Mean]]]:
    """Layer, method, and each measure's mean, of those that were measured."""
    rows = []
    for layer in layers:
        for method in methods:
            own = [line for line in lines if (line["layer"], line["method"]) == (layer, method)]
            found = {
                name: mean_of([line[name] for line in own if name in line], seed)
                for name in MEASURES
                if any(name in line for line in own)
            }
            if found:
                rows.append((layer, method, found))
    return rows


def _write(
    folder: Path,
    lines: Sequence[Mapping[str, Any]],
    layers: Sequence[str],
    methods: Sequence[str],
    photos: int,
    seed: int,
) -> None:
    rows = _means(lines, layers, methods, seed)
    if not rows:
        raise XGradCamError(f"none of these methods applies at {', '.join(layers)}: {', '.join(methods)}")
    table = _markdown(rows, layers, photos)
    print(table)
    write_files({folder / "evaluation.md": (table + "\n").encode()})
    with (folder / "evaluation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("layer", "method", "measure", "mean", "low", "high", "photographs"))
        for layer, method, found in rows:
            for name, mean in found.items():
                writer.writerow((layer, method, name, mean.value, mean.low, mean.high, mean.count))
    _plot(folder / "evaluation.png", rows, lines, layers)


def _markdown(rows: Sequence[tuple[str, str, dict[str, Mean]]], layers: Sequence[str], photos: int) -> str:
    """A table for each layer: mean and interval, the best mean of each measure in bold."""
    over = f"{photos} photographs" if photos > 1 else "1 photograph"
    parts = [f"Means over {over}, with 95% bootstrap intervals; ↑ more, ↓ less is better."]
    for layer in layers:
        own = [(method, found) for at, method, found in rows if at == layer]
        names = [name for name in MEASURES if any(name in found for _, found in own)]
        best = {name: _best(name, [found.get(name) for _, found in own]) for name in names}
        arrow = {True: " ↑", False: " ↓", None: ""}
        heads = [MEASURES[name][0] + arrow[MEASURES[name][1]] for name in names]
        parts += [
            "",
            f"**{layer}**",
            "",
            f"| method | {' | '.join(heads)} |",
            "|---" * (len(names) + 1) + "|",
        ]
        for method, found in own:
            cells = [_cell(found.get(name), best[name]) for name in names]
            parts.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(parts)


def _best(name: str, means: Sequence[Mean | None]) -> float | None:
    values = [mean.value for mean in means if mean is not None and np.isfinite(mean.value)]
    more = MEASURES[name][1]
    return None if more is None or len(set(values)) < 2 else (max if more else min)(values)


def _cell(mean: Mean | None, best: float | None) -> str:
    if mean is None or not mean.count:
        return "–"
    value = f"{mean.value:.3g}"
    # What the table's digits do not tell apart is not called worse.
    if best is not None and value == f"{best:.3g}":
        value = f"**{value}**"
    return f"{value} ({mean.low:.2g} to {mean.high:.2g})" if mean.high > mean.low else value


def _plot(
    path: Path,
    rows: Sequence[tuple[str, str, dict[str, Mean]]],
    lines: Sequence[Mapping[str, Any]],
    layers: Sequence[str],
) -> None:
    """The measures' means with intervals, and the mean curves, a row of axes for each layer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    named = [name for name in MEASURES if MEASURES[name][1] is not None]
    shown = [name for name in named if any(name in found for _, _, found in rows)]
    colours = {method: pyplot.get_cmap(COLOURS)(index) for index, method in enumerate(METHODS)}
    width = len(shown) + 2
    figure, axes = pyplot.subplots(
        len(layers), width, figsize=(2.3 * width, 3.6 * len(layers)), squeeze=False, layout="constrained"
    )
    for row, layer in zip(axes, layers, strict=True):
        own = [(method, found) for at, method, found in rows if at == layer]
        for index, (axis, name) in enumerate(zip(row, shown, strict=False)):
            arrow = "more is better" if MEASURES[name][1] else "less is better"
            axis.set_title(f"{MEASURES[name][0]}\n({arrow})", fontsize=8)
            for place, (method, found) in enumerate(own):
                if name in found and found[name].count:
                    mean = found[name]
                    spread = [[mean.value - mean.low], [mean.high - mean.value]]
                    axis.errorbar(mean.value, -place, xerr=spread, fmt="o", ms=4, color=colours[method])
            axis.set_yticks([-place for place in range(len(own))], [method for method, _ in own])
            axis.tick_params(labelsize=7, labelleft=index == 0)
            if name in ("conservation", "sensitivity"):
                axis.set_xscale("log")
        row[0].set_ylabel(layer)
        for axis, curve in zip(row[-2:], ("deletion", "insertion"), strict=True):
            axis.set_title(f"{curve} curve:\nprobability by share of pixels", fontsize=8)
            for method, _ in own:
                found = [
                    line["curves"][curve]
                    for line in lines
                    if (line["layer"], line["method"], line["kind"]) == (layer, method, "map")
                ]
                mean = np.mean(found, axis=0)
                axis.plot(np.linspace(0, 1, len(mean)), mean, color=colours[method], lw=1.2, label=method)
            axis.tick_params(labelsize=7)
        row[-1].legend(fontsize=5)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
