"""`xgrad-cam`: explain a classifier's decisions on photographs by Grad-CAM and XGrad-CAM."""

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from xgradcam.cli.arguments import (
    COULD_NOT_RUN,
    DONE,
    FAILED,
    INTERRUPTED,
    TOP,
    Parser,
    choose_device,
    classes_of,
    common_parser,
    open_classifier,
    parse,
    print_layers,
    run,
)
from xgradcam.cli.talk import Talk
from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from xgradcam.classifier import Classifier
    from xgradcam.images import Photograph
    from xgradcam.journal import Journal
    from xgradcam.photographs import Source
    from xgradcam.pictures import Style
    from xgradcam.pipeline import Job
    from xgradcam.results import Results

PROG = "xgrad-cam"
METHODS = ("grad-cam", "xgrad-cam")
BATCH_SIZE = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 some photographs failed, 2 could not run."""
    arguments = parse(_parser(), argv)
    return run(PROG, lambda: _explain(arguments))


def _parser() -> Parser:
    parser = common_parser(
        PROG,
        "Explain why a network gives a photograph its class: writes cam.jpg (Grad-CAM) and X_cam.jpg\n"
        "(XGrad-CAM, Fu et al., BMVC 2020), the photograph with the evidence for the class in red. Of\n"
        "several photographs or classes the names begin with both: cat_285_X_cam.jpg.\n"
        "Exit code: 0 done, 1 some photographs failed, 2 could not run. @FILE reads arguments from a file.",
        f"{PROG} --image-path examples/cat-and-coffee.jpg --target-index 967\n"
        f"  {PROG} --image-path photos --target-index top3 --output-dir out --resume",
        several=True,
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where to write; made if missing (default: .)",
    )
    _add_picture_arguments(parser)
    output.add_argument(
        "--save-maps", action="store_true", help="write the signed, unscaled maps and the scores too, as .npz"
    )
    output.add_argument(
        "--json", action="store_true",
        help="print a JSON object per photograph and class on stdout, all text on stderr",
    )  # fmt: skip
    output.add_argument(
        "--html",
        action="store_true",
        help="write index.html, a page to look through all results, that opens from disk",
    )
    talk = output.add_mutually_exclusive_group()
    talk.add_argument("--quiet", action="store_true", help="no text but errors, no progress bar")
    talk.add_argument("--verbose", action="store_true", help="the notes on every one of many photographs")
    many = parser.add_argument_group("many photographs")
    many.add_argument(
        "--batch-size", metavar="INT", type=int, default=BATCH_SIZE,
        help=f"photographs at a time (default: {BATCH_SIZE}); fewer where the memory is too small",
    )  # fmt: skip
    many.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run: pass over what is complete"
    )
    return parser


def _add_picture_arguments(parser: Parser) -> None:
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--full-resolution", action="store_true", help="at the photograph's own resolution, not the network's"
    )
    pictures.add_argument(
        "--crop", action="store_true",
        help="resize and crop as the weights expect it, instead of stretching; the rest is dimmed",
    )  # fmt: skip
    pictures.add_argument(
        "--panel", action="store_true", help="photograph and maps side by side with captions, too"
    )
    pictures.add_argument(
        "--colormap",
        metavar="NAME",
        default="jet",
        help="one of OpenCV's: jet (default), turbo, viridis, ...",
    )
    pictures.add_argument(
        "--alpha", metavar="SHARE", type=float,
        help="of the colours, from 0 to 1; default: the sum of colours and photograph, as in the originals",
    )  # fmt: skip


def _explain(arguments: argparse.Namespace) -> int:
    if arguments.list_layers:
        print_layers(PROG, arguments)
        return DONE
    if arguments.batch_size < 1:
        raise XGradCamError(f"--batch-size is {arguments.batch_size}: take 1 or more")
    from xgradcam.files import require_writable
    from xgradcam.photographs import find_photographs
    from xgradcam.pictures import Style

    style = Style(arguments.full_resolution, arguments.colormap, arguments.alpha)
    # What needs no network is checked before one is loaded.
    sources = find_photographs(arguments.image_path, arguments.output_dir)
    alone = _read(sources[0]) if len(sources) == 1 else None
    require_writable(arguments.output_dir)
    device = choose_device(PROG, arguments)
    talk = Talk(PROG, arguments.json, arguments.quiet, arguments.verbose or len(sources) == 1, len(sources))
    talk.say("Using GPU for acceleration" if device.type != "cpu" else "Using CPU for computation")
    classifier = open_classifier(PROG, arguments).to(device)

    plain = _has_the_originals_names(arguments, sources)
    results = _results(arguments, classifier, style, plain)
    with nullcontext() if plain else _journal(arguments, results) as journal:
        for source in sources:
            talk.add_earlier(journal.done.get(source.path) if journal else None)
        code = _work(arguments, talk, results, sources, alone, journal)
        if arguments.html and journal:
            talk.say(f"wrote {_page(journal, results)}")
        return code


def _has_the_originals_names(arguments: argparse.Namespace, sources: "Sequence[Source]") -> bool:
    """Whether one photograph and class were asked for, and nothing that tells of a run."""
    one_class = len(arguments.target_index) == 1 and not TOP.fullmatch(arguments.target_index[0])
    one_file = len(sources) == 1 and sources[0].path == arguments.image_path[0]
    return one_file and one_class and not arguments.html


def _results(
    arguments: argparse.Namespace, classifier: "Classifier", style: "Style", plain: bool
) -> "Results":
    from xgradcam.results import Results

    return Results(
        classifier,
        arguments.target_layer or classifier.default_layer(),
        arguments.output_dir,
        classifier.framing(arguments.crop),
        style,
        plain=plain,
        panel=arguments.panel,
        page=arguments.html,
        save_maps=arguments.save_maps,
    )


def _work(
    arguments: argparse.Namespace,
    talk: Talk,
    results: "Results",
    sources: "Sequence[Source]",
    alone: "Photograph | None",
    journal: "Journal | None",
) -> int:
    """Explain the photographs and tell of each; the exit code."""
    from tqdm import tqdm

    from xgradcam.pipeline import explain_photographs

    job = _job(arguments, results, alone)
    silent = True if talk.quiet or talk.total == 1 else None
    with tqdm(total=talk.total, initial=talk.earlier, unit="photo", leave=False, disable=silent) as bar:
        talk.write = bar.write
        done = journal.done if journal else ()
        outcomes = explain_photographs(results.classifier, sources, job, done)
        try:
            for outcome in outcomes:
                if journal is not None and not outcome.problem:
                    journal.add(outcome.source.path, outcome.state, outcome.records)
                talk.tell(outcome.source, outcome.records, outcome.problem)
                bar.update()
        except KeyboardInterrupt:
            outcomes.close()
            bar.close()
            talk.sum_up(arguments.output_dir, "interrupted")
            return INTERRUPTED
    talk.sum_up(arguments.output_dir)
    if talk.total == 1 and talk.failed:
        return COULD_NOT_RUN
    return FAILED if talk.failed else DONE


def _job(arguments: argparse.Namespace, results: "Results", alone: "Photograph | None") -> "Job":
    from xgradcam.images import normalise
    from xgradcam.pipeline import Job

    classifier = results.classifier
    return Job(
        layer=results.layer,
        classes=classes_of(arguments.target_index, classifier.labels),
        methods=METHODS,
        batch_size=arguments.batch_size,
        read=lambda source: _read(source) if alone is None else alone,
        frame=lambda photograph: (
            normalise(results.framing.pixels(photograph), classifier.mean, classifier.std),
            results.drawn_on(photograph),
        ),
        write=results.write,
    )


def _page(journal: "Journal", results: "Results") -> Path:
    from xgradcam.gallery import write_gallery

    title = f"{results.classifier.name}, layer {results.layer}"
    return write_gallery(journal.folder, journal.records(), title)


def _read(source: "Source") -> "Photograph":
    from xgradcam.images import decode_image, read_image
    from xgradcam.photographs import STDIN

    return (
        decode_image(io.BytesIO(sys.stdin.buffer.read()), "stdin")
        if source.path == STDIN
        else read_image(source.path)
    )


def _files_of_the_model(arguments: argparse.Namespace) -> list[str]:
    """The files that decide what the model says, beside what torchvision and timm publish."""
    code = (arguments.model or "").rpartition(":")[0]
    return [code, arguments.weights, str(arguments.labels)]


def _journal(arguments: argparse.Namespace, results: "Results") -> "Journal":
    from xgradcam.files import make_folder
    from xgradcam.journal import Journal
    from xgradcam.photographs import state_of

    make_folder(arguments.output_dir)
    classifier = results.classifier
    settings = {
        "model": classifier.name,
        "weights": arguments.weights,
        "layer": results.layer,
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
            )
        },
    }
    return Journal(arguments.output_dir, settings, arguments.resume)
