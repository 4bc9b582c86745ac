"""From parsed options to plain values: device, classifier, classes, layers, and the run made of them."""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING

from xgradcam.cli.bands import bands_of, early, with_bands
from xgradcam.cli.choosing import is_auto, layer_for, layer_reached, score_at_first
from xgradcam.cli.figure_options import writing_of
from xgradcam.cli.looking import encoding_photographs
from xgradcam.cli.options import ALL, AUTO
from xgradcam.cli.record import kept_files, settings_of
from xgradcam.cli.scale_options import FILES
from xgradcam.cli.scoring import scoring_of
from xgradcam.cli.terminal import note
from xgradcam.cli.truth_options import explains_mistakes, with_truth
from xgradcam.errors import XGradCamError, did_you_mean, shown, users_code
from xgradcam.models.labels import TOP as TOP
from xgradcam.models.labels import class_index as class_index

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from xgradcam.models.classifier import Classifier
    from xgradcam.pictures.levels import ValueRange
    from xgradcam.pictures.paint import Style
    from xgradcam.runs.run import Explaining, Run, Target
    from xgradcam.runs.sources import Source
    from xgradcam.scores.score import Score


def choose_device(prog: str, arguments: argparse.Namespace) -> "torch.device":
    """The device that the arguments ask for; XGradCamError where it does not exist here."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if arguments.use_cuda:
        if not cuda:
            note(prog, "no CUDA device here; falling back to the CPU")
        return torch.device("cuda" if cuda else "cpu")
    if arguments.device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(arguments.device or "cpu")
    except RuntimeError:
        raise XGradCamError(f"no device {arguments.device!r}: take auto, cpu, cuda, cuda:N or mps") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}.get(device.type, 0)
    if (device.index or 0) >= count:
        there = [f"cuda:{index}" for index in range(torch.cuda.device_count())] + ["mps"] * mps
        raise XGradCamError(f"no device {arguments.device!r} here; there is: {', '.join(['cpu', *there])}")
    return device


def device_line(device: "torch.device") -> str:
    """The original scripts' line about the device."""
    return "Using GPU for acceleration" if device.type != "cpu" else "Using CPU for computation"


def open_classifier(
    prog: str, arguments: argparse.Namespace, *, quietly: bool = False, many: bool = False
) -> "Classifier":
    """The classifier that the arguments describe.

    quietly: no warning of random weights. many: take a moment more to make it fast for many photographs.
    """
    from xgradcam.models.label_files import read_names
    from xgradcam.models.load import NO_WEIGHTS, load_classifier
    from xgradcam.models.user_code import is_own

    size = arguments.input_size
    own = arguments.model is not None and is_own(arguments.model)
    with users_code(f"cannot make {arguments.model}") if own else nullcontext():
        classifier = load_classifier(
            arguments.model,
            arguments.weights,
            lambda line: note(prog, line),
            num_classes=arguments.num_classes,
            labels=None if arguments.labels is None else read_names(arguments.labels),
            size=size,
            mean=arguments.mean,
            std=arguments.std,
            output=arguments.output,
            channels_last=many,
        )
    classifier = encoding_photographs(classifier)
    if own or size is not None:
        height, width = classifier.size
        hint = "" if size else " (--input-size gives another)"
        shape = f"1 x {len(classifier.mean)} x {height} x {width}"
        with users_code(f"{classifier.name} does not run on an input {shape}{hint}"):
            classifier.layers()
    if not quietly and arguments.weights == NO_WEIGHTS and not own:
        note(prog, "random weights: what follows says nothing about the photograph")
    return classifier


def classes_of(
    values: Sequence[str], labels: Sequence[str] | None, say: Callable[[str], None]
) -> "list[Target]":
    """The classes that the values of --target-index mean, `top3` among them; `say` as in `class_index`."""
    from xgradcam.runs.run import TopClasses

    def class_of(value: str) -> "Target":
        if top := TOP.fullmatch(value):
            return TopClasses(int(top[1]))
        try:
            return class_index(value, labels, say)
        except XGradCamError as error:
            if meant := re.fullmatch(r"\s*top\W*_?(\d{1,9})\s*", value, re.IGNORECASE):
                raise XGradCamError(f"no class {shown(value)}; did you mean top{meant[1]}?") from error
            raise

    return [class_of(value) for value in values]


def is_pattern(layer: str) -> bool:
    """True if a value of --target-layer may mean several layers."""
    return layer == ALL or any(mark in layer for mark in "*?[")


def layers_matching(
    classifier: "Classifier", inputs: "Tensor", pattern: str, *, maps_only: bool = False
) -> list[str]:
    """The names of the layers that a pattern or `all` means for these inputs, in the order of execution.

    `all`, and a pattern with `maps_only`, mean those that make feature maps. XGradCamError for none.
    """
    from torch import nn

    from xgradcam.capture.layers import list_layers

    layers = [layer for layer in list_layers(classifier.module, inputs) if layer.name]
    # A sequence returns its last module's output; the others hand on their input.
    repeating = (nn.Sequential, nn.Identity, nn.Dropout, nn.Dropout2d)
    maps = [layer.name for layer in layers if layer.is_map and not isinstance(layer.module, repeating)]
    names = maps if maps_only or pattern == ALL else [layer.name for layer in layers]
    if pattern == ALL:
        problem = "gives feature maps (N, C, h, w): name one, or a pattern in quotes, with --target-layer"
    else:
        below = dict.fromkeys(name.rpartition(".")[0] + ".*" for name in names if "." in name)
        what = "with feature maps matches" if maps_only else "matches"
        problem = f"{what} {pattern!r}{did_you_mean(pattern, [*below, *names])}"
        names = [name for name in names if fnmatchcase(name, pattern)]
    if not names:
        raise XGradCamError(f"no layer of {classifier.name} {problem} (--list-layers shows all)")
    return names


def sources_of(arguments: argparse.Namespace, skipped: Counter[str]) -> "list[Source]":
    """The photographs that the arguments name; an only one is read here, before a network is loaded.

    skipped: counts the kinds of what is passed over.
    """
    from xgradcam.runs.inputs import Expansion, places_in, require_any
    from xgradcam.runs.remote import local_path
    from xgradcam.runs.sources import find_photographs

    def skip(kind: str) -> None:
        skipped[kind] += 1

    value_range = range_of(arguments)
    arguments.image_path = [local_path(place) for place in arguments.image_path]
    places = places_in(arguments.image_path)
    expand = Expansion(arguments.column, skip, len(places) == 1, arguments.output_dir)
    sources = find_photographs(places, arguments.output_dir, skip, expand)
    require_any(sources, arguments.column)
    if len(sources) != 1:
        return sources
    first = sources[0]
    return [replace(first, reading=early(first.path, lambda: first.read(value_range)))]


def range_of(arguments: argparse.Namespace) -> "ValueRange | None":
    """The values of black and white that --range gives; XGradCamError where they are none."""
    from xgradcam.pictures.levels import require_range

    if arguments.value_range is None:
        return None
    low, high = arguments.value_range
    require_range((low, high))
    return low, high


def explaining_of(arguments: argparse.Namespace) -> "Explaining":
    """The explaining that the arguments ask for, checked as far as that needs no network.

    `all` methods leaves out those that the precision or the augmentation does not allow.
    """
    from xgradcam.cam.methods import METHODS, known_methods
    from xgradcam.runs.run import Explaining, why_not

    named = known_methods([name for name in arguments.method if name != ALL])
    names = list(named)
    if ALL in arguments.method:
        how = arguments.precision, arguments.augment
        names = [name for name in METHODS if name in named or not why_not(name, *how)]
    return Explaining(
        methods=list(dict.fromkeys(names)),
        augment=arguments.augment,
        axioms=arguments.axioms,
        guided=arguments.guided,
        precision=arguments.precision,
        probability=arguments.probability,
        batch_size=arguments.batch_size,
        layout=arguments.layout,
    )


def run_of(
    arguments: argparse.Namespace,
    sources: "Sequence[Source]",
    classifier: "Classifier",
    explaining: "Explaining",
    style: "Style",
    say: Callable[[str], None],
) -> "Run":
    """The run that the arguments describe; `say` is told of methods left out and of classes guessed."""
    from xgradcam.runs.run import Run, Writing

    framing, value_range = classifier.framing(arguments.crop), range_of(arguments)
    sources = with_bands(sources, bands_of(arguments, classifier, say), value_range)
    scoring = scoring_of(arguments, classifier, say)
    sources = with_truth(arguments, sources, classifier, None if scoring is None else scoring.name, say)
    classes = [None] if scoring else classes_of(arguments.target_index, classifier.labels, say)

    def choose() -> str:
        return layer_for(classifier, sources, framing, classes, explaining.methods, value_range, say, scoring)

    at_first, asked = None, arguments.target_layer
    if scoring is not None and (not asked or ALL in arguments.method):
        at_first = score_at_first(classifier, sources, framing, value_range, scoring)
        asked = asked or [layer_reached(classifier, *at_first)]
    layers = layers_of(asked, classifier, choose)
    if ALL in arguments.method:
        explaining = _applicable(explaining, classifier, layers, say, at_first)
    writing = Writing(
        folder=arguments.output_dir,
        style=style,
        original_names=_has_original_names(arguments, sources, layers),
        page=arguments.html,
        pictures=not arguments.no_pictures,
        save_maps=arguments.save_maps,
        report=arguments.report,
        boxes=arguments.boxes,
        kept=kept_files(arguments, list(dict.fromkeys(source.file for source in sources))),
        output_format=arguments.output_format,
        **writing_of(arguments),
    )
    settings = settings_of(arguments, classifier, layers, explaining.methods, scoring)
    return Run(
        sources, classifier, framing, layers, classes, explaining, writing, settings, value_range, scoring,
        explains_mistakes(arguments),
    )  # fmt: skip


def _applicable(
    explaining: "Explaining",
    classifier: "Classifier",
    layers: Sequence[str],
    say: Callable[[str], None],
    at_first: "tuple[Tensor, Score] | None" = None,
) -> "Explaining":
    """The same with the methods that apply at these layers and in this precision."""
    from xgradcam.cam.methods import METHODS
    from xgradcam.runs.preparation import applicable
    from xgradcam.runs.run import why_not

    methods, unfit = applicable(classifier, layers, explaining.methods, explaining.layout, at_first)
    for method, reason in unfit.items():
        say(f"left out: {reason if reason.startswith(f'{method} ') else f'{method}: {reason}'}")
    for method in METHODS:
        if method not in explaining.methods:
            say(f"left out: {method}: {why_not(method, explaining.precision, explaining.augment)}")
    return replace(explaining, methods=methods)


def _has_original_names(
    arguments: argparse.Namespace, sources: "Sequence[Source]", layers: Sequence[str]
) -> bool:
    """True if one photograph, one class and one layer were asked for, and neither a page nor another form."""
    one_class = len(arguments.target_index) == 1 and not TOP.fullmatch(arguments.target_index[0])
    one_file = len(sources) == 1 and sources[0].path == arguments.image_path[0]
    one_class = one_class and not explains_mistakes(arguments)
    alone = not arguments.html and not arguments.report and arguments.output_format == FILES
    return one_file and one_class and len(layers) == 1 and alone


def layers_of(
    asked: Sequence[str] | None, classifier: "Classifier", choose: Callable[[], str] | None = None
) -> list[str]:
    """The layers that --target-layer means, each once; choose: the layer for `auto`, None to refuse it."""
    if not asked:
        return [classifier.default_layer()]
    if any(is_auto(layer, classifier) for layer in asked):
        if choose is None:
            raise XGradCamError(f"--target-layer {AUTO} is for xgrad-cam and proof-verify: name the layers")
        chosen = choose()
        asked = [chosen if is_auto(layer, classifier) else layer for layer in asked]
    blank = classifier.blank()
    names = [
        layers_matching(classifier, blank, layer, maps_only=True) if is_pattern(layer) else [layer]
        for layer in asked
    ]
    return list(dict.fromkeys(chain(*names)))
