"""`python -m xgradcam.evaluation`: measure which map to trust, on photographs."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from xgradcam.cli.listings import print_listing
from xgradcam.cli.lookup_options import LISTINGS, add_lookup_arguments
from xgradcam.cli.model_options import (
    add_device_arguments,
    add_model_arguments,
    add_own_model_arguments,
    add_probability_argument,
    add_range_argument,
)
from xgradcam.cli.options import ALL, Parser
from xgradcam.cli.record import kept_files, state_of_files
from xgradcam.cli.setup import (
    choose_device,
    layers_of,
    open_classifier,
    range_of,
)
from xgradcam.cli.terminal import DONE, FAILED, note, run, say
from xgradcam.errors import CannotWriteError, XGradCamError

if TYPE_CHECKING:
    from xgradcam.evaluation.photographs import LabelledPhotograph
    from xgradcam.evaluation.run import Evaluation
    from xgradcam.models.classifier import Classifier

PROG = "python -m xgradcam.evaluation"
DESCRIPTION = f"""\
Measure which map to trust: compare methods at layers of a network on photographs, and print a table.

  {PROG} FOLDER --model resnet50 --target-layer layer3 layer4
  {PROG} --installed

A photograph's class is the name of its folder, if that is an index, an id or a whole name of a class;
otherwise it is the class of the highest score. The class of each folder is printed. --installed takes the
20 ImageNet photographs with known classes of the package foolbox, and five of scikit-image and
scikit-learn (pip install 'xgradcam[test]'). The default model is the bundled efficientnet-lite0.
`xgrad-cam --help` explains the options of the model.

Measured for each photograph, layer and method: the errors of the two axioms, average drop, increase in
confidence, deletion, insertion and ROAD; with --boxes also the pointing game and the energy inside the
boxes of the class; with --mosaics how much of the positive evidence for a class lies in its tile of a
mosaic of four photographs (chance: 0.25); and how much the map stays the same when the network's
weights are random (mean rank correlation).

Files in the output folder: evaluation.md and evaluation.csv (means with 95% bootstrap intervals),
evaluation.png (the same as plots, with the curves), evaluation-table.csv and .tex (the tables), a figure for
each question (evaluation-axioms.pdf and .png, ...), and evaluation.jsonl (all numbers; --resume reads it).
Exit code: 0 done, 1 some photographs could not be read, 2 could not run; 129, 130 and 143
stopped by a signal."""
LOG = "evaluation.jsonl"
QUESTIONS = ("axioms", "pixels", "objects", "weights", "cost")
FIGURES = tuple(f"evaluation-{question}.{kind}" for question in QUESTIONS for kind in ("pdf", "png"))
TABLES = ("evaluation-table.csv", "evaluation-table.tex")
WRITTEN = ("evaluation.md", "evaluation.csv", "evaluation.png", *TABLES, *FIGURES, LOG)
# Settings of the model that a resumed run must share; `Evaluation` knows the others.
MODEL_SETTINGS = ("model", "weights", "num_classes", "output", "input_size", "mean", "std")
# Folders whose classes are printed before the work begins.
MOST_FOLDERS = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 some photographs failed, 2 could not run."""
    return run(PROG, evaluation_parser().parse_args, lambda arguments, _out: _evaluate(arguments), argv)


def evaluation_parser(prog: str = PROG) -> Parser:
    """The parser of `python -m xgradcam.evaluation`."""
    parser = Parser(prog, "%(prog)s [options] FOLDER ...", DESCRIPTION, (*LISTINGS, "--installed"))
    photographs = parser.add_argument_group("photographs")
    photographs.add_argument(
        "folders", metavar="FOLDER", nargs="*", help="photographs, or folders of photographs"
    )
    photographs.add_argument(
        "--installed", action="store_true", help="take photographs of installed packages"
    )
    photographs.add_argument(
        "--limit", metavar="N", type=int, help="take only the first photographs, this many"
    )
    add_model_arguments(
        parser,
        "layers to measure at, or patterns in quotes; default: the model's default layer",
        {"nargs": "+"},
    )
    _add_measure_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir", metavar="DIR", type=Path, default=Path("evaluation"), help="default: evaluation"
    )
    output.add_argument("--resume", action="store_true", help="keep what an earlier run has measured")
    add_own_model_arguments(parser)
    add_range_argument(parser.add_argument_group("more than 8 bits"))
    add_probability_argument(parser)
    add_device_arguments(parser)
    add_lookup_arguments(parser, None, methods=True)
    parser.set_defaults(model="efficientnet-lite0")
    return parser


def _add_measure_arguments(parser: Parser) -> None:
    """Add the options on what is measured, and how."""
    measures = parser.add_argument_group("what is measured")
    measures.add_argument("--method", metavar="NAME", nargs="+", default=[ALL], help="methods; default: all")
    measures.add_argument(
        "--without", metavar="METHOD", nargs="+", default=[], help="methods to leave out, such as score-cam"
    )
    measures.add_argument("--crop", action="store_true", help="resize and crop as the weights expect it")
    measures.add_argument(
        "--boxes",
        metavar="PATH",
        type=Path,
        help="where the objects are: COCO .json, VOC .xml, or a folder of VOC files; "
        "matched by path, then by the name without its ending",
    )
    measures.add_argument(
        "--mosaics", metavar="N", type=int, default=0,
        help="mosaics of four photographs of known classes to look for one of them in (default: 0)",
    )  # fmt: skip
    measures.add_argument(
        "--randomise", metavar="N", type=int, default=4,
        help="photographs to compare with random weights on (default: 4; 0: none)",
    )  # fmt: skip
    measures.add_argument(
        "--removed", metavar="SHARE", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8],
        help="shares of pixels that ROAD removes (default: 0.2 0.4 0.6 0.8)",
    )  # fmt: skip
    measures.add_argument(
        "--steps", metavar="N", type=int, default=28, help="steps of the curves (default: 28)"
    )
    measures.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="of the random weights, the mosaics and the bootstrap",
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    if print_listing(PROG, arguments, sys.stdout):
        return DONE
    if find_spec("scipy") is None:
        raise XGradCamError("the evaluation needs scipy: pip install 'xgradcam[evaluation]'")
    from xgradcam.evaluation.run import Evaluation

    evaluation = Evaluation(
        methods=_methods(arguments.method, arguments.without),
        layers=(),
        crop=arguments.crop,
        boxes=arguments.boxes,
        steps=arguments.steps,
        removed=arguments.removed,
        randomise=arguments.randomise,
        seed=arguments.seed,
        probability=arguments.probability,
        value_range=range_of(arguments),
        layout=arguments.layout,
        mosaics=arguments.mosaics,
    )
    classifier = open_classifier(PROG, arguments, many=True).to(choose_device(PROG, arguments))
    classifier.framing(arguments.crop)  # an error, before any work, if the crop is not known
    evaluation = replace(evaluation, layers=layers_of(arguments.target_layer, classifier))
    named = _photographs(arguments, classifier)
    photographs = _readable(named, evaluation)
    if not photographs:
        raise XGradCamError("none of the photographs can be read")
    _say_classes(photographs, classifier)
    _measure(arguments, evaluation, classifier, photographs)
    return DONE if len(photographs) == len(named) else FAILED


def _methods(asked: Sequence[str], without: Sequence[str]) -> list[str]:
    """The methods asked for, each once, but those to leave out."""
    from xgradcam.cam.methods import METHODS, known_methods

    known_methods(without)
    methods = [name for name in (METHODS if ALL in asked else dict.fromkeys(asked)) if name not in without]
    if not methods:
        raise XGradCamError("no method is left to measure: take one out of --without")
    return methods


def _readable(
    photographs: "Sequence[LabelledPhotograph]", evaluation: "Evaluation"
) -> "list[LabelledPhotograph]":
    """The photographs that can be read; the others and what was assumed are told."""
    from xgradcam.evaluation.photographs import readable

    assumed: list[str] = []

    def tell(reason: str) -> None:
        note(PROG, f"skipped: {reason}")

    good = readable(photographs, tell, evaluation.value_range, assumed.append)
    for line, count in Counter(assumed).most_common():
        note(PROG, f"note: {count} of {len(good)} photographs: {line}")
    return good


def _photographs(arguments: argparse.Namespace, classifier: "Classifier") -> "list[LabelledPhotograph]":
    from xgradcam.evaluation.photographs import installed_photographs, photographs_at

    installed = list(installed_photographs()) if arguments.installed else []
    if arguments.limit is not None and arguments.limit < 1:
        raise XGradCamError(f"the limit is {arguments.limit}: take at least 1 photograph")
    count = classifier.class_count()
    found = photographs_at(arguments.folders, arguments.output_dir, classifier.labels, count)
    photographs = [*installed, *found][: arguments.limit]
    if not photographs:
        raise XGradCamError("no photographs: name a folder, or --installed")
    return photographs


def _say_classes(photographs: "Sequence[LabelledPhotograph]", classifier: "Classifier") -> None:
    """Print the class that each folder's photographs are explained for, before the work of hours begins."""
    from xgradcam.evaluation.photographs import by_folder

    classes = by_folder(photographs, classifier.labels)
    for one in classes[:MOST_FOLDERS]:
        note(PROG, f"{one.folder}: {one.name}, {one.photographs} photograph{'s' * (one.photographs > 1)}")
    if len(classes) > MOST_FOLDERS:
        note(PROG, f"and {len(classes) - MOST_FOLDERS} more folders: evaluation.md will list them all")


def _require_free(folder: Path) -> None:
    """Stop before any work where a file would be written over that is of no evaluation."""
    from xgradcam.evaluation.log import is_log

    there = [path for name in WRITTEN if os.path.lexists(path := folder / name)]
    for path in there:
        if path.is_dir():
            raise XGradCamError(f"cannot write {path}: a folder has that name; choose an --output-dir")
    if there and not is_log(folder / LOG):
        what = f"no log of an evaluation is beside it ({LOG})"
        if there[-1].name == LOG:
            there, what = there[-1:], "is no log of an evaluation"
        raise XGradCamError(
            f"{there[0]} is there already, and {what}: move it, or choose another --output-dir"
        )


def _measure(
    arguments: argparse.Namespace,
    evaluation: "Evaluation",
    classifier: "Classifier",
    photographs: "Sequence[LabelledPhotograph]",
) -> None:
    """Measure, print the table and write the files."""
    from tqdm import tqdm

    from xgradcam.evaluation.run import evaluate
    from xgradcam.files import make_folder
    from xgradcam.lending.precision import FLOAT32, computing_in
    from xgradcam.runs.ledger import alone_in
    from xgradcam.runs.memory import keep_freed_memory

    keep_freed_memory()
    folder = arguments.output_dir
    kept = kept_files(arguments, [*(photograph.path for photograph in photographs), str(arguments.boxes)])
    for path in (folder / name for name in WRITTEN):
        if path in kept:
            raise XGradCamError(f"{path} would be written over a file that is read: choose an --output-dir")
    _require_free(folder)
    make_folder(folder)
    settings = {name: getattr(arguments, name) for name in MODEL_SETTINGS}
    settings["files"] = state_of_files(arguments, classifier)
    alone = alone_in(folder, partial(note, PROG), ".evaluation.lock")
    exact = computing_in(FLOAT32, classifier.device().type)
    with alone, exact, tqdm(unit="photo", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            report = evaluate(
                evaluation, classifier, photographs, folder, settings,
                resume=arguments.resume, progress=progress, say=partial(note, PROG),
            )  # fmt: skip
            say(report.markdown(), sys.stdout)
            written = report.write(folder)
            note(PROG, f"wrote {', '.join((*written, LOG))}, in {folder}")
        except CannotWriteError as error:
            raise XGradCamError(f"{error}: make room there; --resume goes on later") from None
