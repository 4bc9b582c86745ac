"""`xgrad-cam`: explain a classifier's decisions on photographs by Grad-CAM and XGrad-CAM."""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from xgradcam.cli.layer_names import is_pattern, layers_named, print_layers
from xgradcam.cli.options import BF16, xgrad_cam_parser
from xgradcam.cli.progress import Talk
from xgradcam.cli.setup import (
    ALL,
    COULD_NOT_RUN,
    DONE,
    FAILED,
    INTERRUPTED,
    TOP,
    choose_device,
    classes_of,
    note,
    open_classifier,
    parse,
    read_photograph,
    run,
)
from xgradcam.errors import CannotWriteError, XGradCamError

if TYPE_CHECKING:
    from torch import Tensor

    from xgradcam.models.classifier import Classifier
    from xgradcam.pictures.paint import Style
    from xgradcam.pictures.photograph import Photograph
    from xgradcam.runs.journal import Journal
    from xgradcam.runs.pipeline import Explained, Job
    from xgradcam.runs.results import Results
    from xgradcam.runs.sources import Source

PROG = "xgrad-cam"
CAM, ABLATION_CAM = "cam", "ablation-cam"
# Photographs from which on a faster network makes up for the forwards that it takes to make it.
WORTH_PREPARING = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 some photographs failed, 2 could not run."""
    arguments = parse(xgrad_cam_parser(PROG), argv)
    return run(PROG, lambda: _explain(arguments))


def _explain(arguments: argparse.Namespace) -> int:
    if arguments.list_layers:
        print_layers(PROG, arguments)
        return DONE
    if arguments.list_methods:
        _print_methods()
        return DONE
    if arguments.augment and arguments.axioms:
        raise XGradCamError("--axioms is about one input, not about an average: leave out --augment")
    coarse = arguments.precision == BF16
    if coarse and (arguments.axioms or ABLATION_CAM in arguments.method):
        raise XGradCamError(
            f"--axioms and {ABLATION_CAM} are about differences of scores, which {BF16} rounds away: "
            f"leave out --precision {BF16}"
        )
    if arguments.batch_size < 1:
        raise XGradCamError(f"--batch-size is {arguments.batch_size}: take 1 or more")
    from xgradcam.files import require_writable
    from xgradcam.pictures.paint import Style
    from xgradcam.runs.sources import find_photographs

    methods = _methods(arguments.method)
    style = Style(arguments.full_resolution, arguments.colormap, arguments.alpha)
    # What needs no network is checked before one is loaded.
    sources = find_photographs(arguments.image_path, arguments.output_dir)
    alone = read_photograph(sources[0].path) if len(sources) == 1 else None
    require_writable(arguments.output_dir)
    device = choose_device(PROG, arguments)
    talk = Talk(PROG, arguments.json, arguments.quiet, arguments.verbose or len(sources) == 1, len(sources))
    talk.say("Using GPU for acceleration" if device.type != "cpu" else "Using CPU for computation")
    classifier = open_classifier(PROG, arguments, many=len(sources) > 1).to(device)

    layers = _layers(arguments.target_layer, classifier)
    plain = _has_the_originals_names(arguments, sources, layers)
    results = _results(arguments, classifier, layers, style, plain)
    if len(sources) >= WORTH_PREPARING:
        _prepare(results)
    if ALL in arguments.method:
        methods = _applicable(results, methods, talk)
        if coarse:
            methods.remove(ABLATION_CAM)
            if not arguments.quiet:
                note(PROG, f"note: left out: {ABLATION_CAM}: {BF16} rounds differences of scores away")
    with nullcontext() if plain else _journal(arguments, results, methods, sources) as journal:
        for source in sources:
            talk.add_earlier(journal.done.get(source.path) if journal else None)
        job = _job(arguments, talk, results, methods, alone)
        code = _work(talk, results, sources, job, journal)
        if arguments.html and journal:
            talk.say(f"wrote {_page(journal, results)}")
        return code


def _has_the_originals_names(
    arguments: argparse.Namespace, sources: "Sequence[Source]", layers: Sequence[str]
) -> bool:
    """Whether one photograph, class and layer were asked for, and nothing that tells of a run."""
    one_class = len(arguments.target_index) == 1 and not TOP.fullmatch(arguments.target_index[0])
    one_file = len(sources) == 1 and sources[0].path == arguments.image_path[0]
    return one_file and one_class and len(layers) == 1 and not arguments.html


def _results(
    arguments: argparse.Namespace,
    classifier: "Classifier",
    layers: Sequence[str],
    style: "Style",
    plain: bool,
) -> "Results":
    from xgradcam.runs.results import Results

    return Results(
        classifier,
        layers,
        arguments.output_dir,
        classifier.framing(arguments.crop),
        style,
        plain=plain,
        panel=arguments.panel,
        page=arguments.html,
        save_maps=arguments.save_maps,
    )


def _layers(asked: Sequence[str] | None, classifier: "Classifier") -> list[str]:
    """The layers that --target-layer means, each once."""
    import numpy as np

    if not asked:
        return [classifier.default_layer()]
    blank = classifier.inputs(np.zeros((1, 1, 3), np.uint8))
    found = [
        layers_named(classifier, blank, layer, maps_only=True) if is_pattern(layer) else [layer]
        for layer in asked
    ]
    return list(dict.fromkeys(chain(*found)))


def _prepare(results: "Results") -> None:
    """Make many photographs faster: fold the network's batch norms, and have memory kept.

    The folding is tried with noise, not with a photograph: every run must decide alike.
    """
    import torch

    from xgradcam.models.folding import fold_batch_norms
    from xgradcam.runs.memory import keep_freed_memory

    keep_freed_memory()
    classifier = results.classifier
    noise = torch.randn(1, 3, *classifier.size, generator=torch.Generator().manual_seed(0))
    inputs = classifier.like_weights(noise).to(classifier.device())
    fold_batch_norms(classifier.module, inputs, results.layers)


def _work(
    talk: Talk, results: "Results", sources: "Sequence[Source]", job: "Job", journal: "Journal | None"
) -> int:
    """Explain the photographs and tell of each; the exit code."""
    from tqdm import tqdm

    from xgradcam.runs.pipeline import explain_photographs

    silent = True if talk.quiet or talk.total == 1 else None
    with tqdm(total=talk.total, initial=talk.earlier, unit="photo", leave=False, disable=silent) as bar:
        talk.write = bar.write
        done = journal.done if journal else ()
        outcomes = explain_photographs(results.classifier, sources, job, done)
        try:
            for outcome in outcomes:
                if journal is not None and not outcome.problem:
                    journal.add(outcome.source, outcome.state, outcome.records)
                talk.tell(outcome.source, outcome.records, outcome.problem)
                bar.update()
        except KeyboardInterrupt:
            outcomes.close()
            bar.close()
            talk.sum_up(results.folder, "interrupted")
            return INTERRUPTED
        except CannotWriteError as error:
            if journal is None:
                raise
            bar.close()
            talk.sum_up(results.folder, "stopped")
            raise XGradCamError(f"{error}; --resume goes on later") from None
    talk.sum_up(results.folder)
    if talk.total == 1 and talk.failed:
        return COULD_NOT_RUN
    return FAILED if talk.failed else DONE


def _job(
    arguments: argparse.Namespace,
    talk: Talk,
    results: "Results",
    methods: Sequence[str],
    alone: "Photograph | None",
) -> "Job":
    import torch

    from xgradcam.cam.explain import explain_layers
    from xgradcam.pictures.photograph import normalise
    from xgradcam.runs.pipeline import Job

    classifier = results.classifier
    explain = partial(
        explain_layers,
        classifier.module,
        layers=results.layers,
        classes=classes_of(arguments.target_index, classifier.labels),
        output=classifier.output,
        guided=arguments.guided,
        methods=methods,
        augment=arguments.augment,
        axioms=arguments.axioms,
        progress=talk.evaluations,
    )

    def explain_in_precision(inputs: "Tensor") -> "Explained":
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=arguments.precision == BF16):
            return explain(inputs)

    return Job(
        explain=explain_in_precision,
        batch_size=arguments.batch_size,
        read=lambda source: read_photograph(source.path) if alone is None else alone,
        frame=lambda photograph: (
            normalise(results.framing.pixels(photograph), classifier.mean, classifier.std),
            results.drawn_on(photograph),
        ),
        write=results.write,
    )


def _methods(names: Sequence[str]) -> list[str]:
    """The methods of these names, each once; XGradCamError where there is none of that name."""
    from xgradcam.cam.methods import METHODS, known_methods

    known_methods([name for name in names if name != ALL])
    return list(METHODS) if ALL in names else list(dict.fromkeys(names))


def _applicable(results: "Results", methods: Sequence[str], talk: Talk) -> list[str]:
    """The methods without CAM, the only one that needs a certain network, where it does not apply."""
    import numpy as np

    from xgradcam.cam.explain import explain
    from xgradcam.errors import NotApplicableError

    classifier = results.classifier
    blank = classifier.inputs(np.full((1, 1, 3), 127, np.uint8))
    try:
        for layer in results.layers:
            explain(classifier.module, blank, layer, methods=[CAM], output=classifier.output)
    except NotApplicableError as error:
        if not talk.quiet:
            note(PROG, f"note: left out: {error}")
        return [method for method in methods if method != CAM]
    return list(methods)


def _print_methods() -> None:
    from xgradcam.cam.methods import METHODS

    width, source = (max(map(len, column)) for column in (METHODS, [one.source for one in METHODS.values()]))
    for name, method in METHODS.items():
        print(f"{name:{width}}  {method.source:{source}}  {method.says}")


def _page(journal: "Journal", results: "Results") -> Path:
    from xgradcam.runs.gallery import write_gallery

    layers = "layer" if len(results.layers) == 1 else "layers"
    title = f"{results.classifier.name}, {layers} {', '.join(results.layers)}"
    return write_gallery(journal.folder, journal.records(), title)


def _files_of_the_model(arguments: argparse.Namespace) -> list[str]:
    """The files that decide what the model says, beside what torchvision and timm publish."""
    code = (arguments.model or "").rpartition(":")[0]
    return [code, arguments.weights, str(arguments.labels)]


def _journal(
    arguments: argparse.Namespace, results: "Results", methods: Sequence[str], sources: "Sequence[Source]"
) -> "Journal":
    from xgradcam.files import make_folder
    from xgradcam.runs.journal import Journal
    from xgradcam.runs.sources import state_of

    make_folder(arguments.output_dir)
    classifier = results.classifier
    settings = {
        "model": classifier.name,
        "weights": arguments.weights,
        "layers": results.layers,
        "methods": methods,
        "photographs": arguments.image_path,
        "classes": arguments.target_index,
        "files": [state_of(str(file)) for file in _files_of_the_model(arguments)],
        "size": list(classifier.size),
        "mean": list(classifier.mean),
        "std": list(classifier.std),
        **{
            name: getattr(arguments, name)
            for name in (
                "num_classes",
                "output",
                "full_resolution",
                "crop",
                "panel",
                "html",
                "colormap",
                "alpha",
                "save_maps",
                "augment",
                "axioms",
                "guided",
                "precision",
            )
        },
    }
    return Journal(arguments.output_dir, settings, sources, arguments.resume)
