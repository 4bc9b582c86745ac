"""`proof-verify`: check Eq. 5 of the paper on a photograph, at one layer or at many."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from xgradcam.cli.bands import bands_of, early
from xgradcam.cli.choosing import is_auto
from xgradcam.cli.listings import print_listing
from xgradcam.cli.options import ALL, parse, proof_verify_parser
from xgradcam.cli.proof_maps import METHOD, PNG, complete_maps, files_in, is_ours, layers_to_draw, write_maps
from xgradcam.cli.proof_report import Row, dtype_of, of_interest, report
from xgradcam.cli.proving import Proof
from xgradcam.cli.record import kept_files
from xgradcam.cli.scoring import contrast_of, scoring_of
from xgradcam.cli.setup import (
    TOP,
    choose_device,
    class_index,
    device_line,
    is_pattern,
    layers_matching,
    open_classifier,
    range_of,
)
from xgradcam.cli.terminal import DONE, FAILED, note, run, say
from xgradcam.errors import CannotWriteError, XGradCamError

if TYPE_CHECKING:
    from torch import Tensor

    from xgradcam.models.classifier import Classifier
    from xgradcam.pictures.photograph import Photograph
    from xgradcam.runs.choice import ChosenLayer

PROG = "proof-verify"
XGRAD_CAM = "xgrad-cam"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 Eq. 5 holds, 1 it does not, 2 could not run."""
    return run(PROG, partial(parse, proof_verify_parser(PROG), several=False), _main, argv)


def _main(arguments: argparse.Namespace, out: TextIO) -> int:
    if print_listing(PROG, arguments, out):
        return DONE
    from xgradcam.runs.sources import read_photograph

    tell = partial(say, stream=sys.stderr if arguments.json else out)
    for value in (arguments.target_index, *(arguments.contrast or ())):
        if TOP.fullmatch(value):
            option = "--target-index" if value is arguments.target_index else "--contrast"
            raise XGradCamError(f"{option} is {value}: {PROG} takes one class")
    if (contrast := contrast_of(arguments)) is not None:
        arguments.contrast = contrast
    _require_free(arguments)
    path, value_range = arguments.image_path, range_of(arguments)
    reading = early(path, lambda: read_photograph(path, value_range))
    for line in () if reading is None else reading.notes:
        note(PROG, f"note: {line}")
    device = choose_device(PROG, arguments)
    tell(device_line(device))
    classifier = open_classifier(PROG, arguments).to(device)
    bands = bands_of(arguments, classifier, partial(note, PROG))
    if reading is None or bands is not None:
        reading = read_photograph(path, value_range, bands=bands)
        for line in reading.notes:
            note(PROG, f"note: {line}")
    inputs = classifier.inputs(reading.photograph if reading.bands is None else reading.bands)
    if inputs.device.type == "mps":
        note(PROG, "this device has no float64, in which the terms are summed; computing on the CPU")
        inputs, classifier = inputs.cpu(), replace(classifier, module=classifier.module.cpu())
    if arguments.double:
        inputs, classifier = inputs.double(), replace(classifier, module=classifier.module.double())

    shape = reading.photograph.shape[0], reading.photograph.shape[1]
    proof = _proof(arguments, classifier, inputs, shape)
    wanted = arguments.target_layer or (ALL if arguments.plot or arguments.maps else proof.default_layer())
    if is_auto(wanted, classifier):
        wanted = proof.choose(XGRAD_CAM)
        tell(f"layer {wanted}: {wanted.reason}")
    return _prove(arguments, proof, wanted, reading.photograph, tell, out)


def _proof(
    arguments: argparse.Namespace, classifier: "Classifier", inputs: "Tensor", shape: tuple[int, int]
) -> Proof:
    """The proof of the score that the arguments mean, for a photograph of this shape."""
    from xgradcam.lending.borrowing import borrowed
    from xgradcam.scores.score import settled

    say_class = partial(note, PROG)
    scoring = None if arguments.contrast else scoring_of(arguments, classifier, say_class)
    if scoring is not None:
        framing = classifier.framing()
        with borrowed(classifier.module) as run_model:
            score = settled(scoring.make(framing, [shape]), run_model(inputs))
        return Proof(classifier, inputs, -1, own=score, record=scoring.record(score, framing, shape))
    index = class_index(arguments.target_index, classifier.labels, say_class)
    against = [class_index(other, classifier.labels, say_class) for other in arguments.contrast or ()]
    proof = Proof(classifier, inputs, _target(classifier, inputs, index))
    return replace(proof, others=_others(proof, against))


def _prove(
    arguments: argparse.Namespace,
    proof: Proof,
    wanted: str,
    photograph: "Photograph",
    tell: Callable[[str], None],
    out: TextIO,
) -> int:
    """Verify at the layers wanted, print and write; return the exit code."""
    if several := is_pattern(wanted):
        names = layers_matching(proof.classifier, proof.inputs, wanted)
        rows = proof.verify_all(["input"] * (wanted == ALL and "input" not in names) + names)
    else:
        rows = [proof.verify(wanted)]
    text, numbers = report(proof, rows, several, _chosen(proof) if wanted == ALL else {})
    tell(text)
    if arguments.plot is not None:
        _plot(arguments.plot, proof, rows)
        tell(f"wrote {arguments.plot}")
    if arguments.maps is not None:
        kind = arguments.format or PNG
        _maps(arguments.maps, proof, rows, photograph, kind)
        tell(f"wrote {' and '.join(map(str, files_in(arguments.maps, kind)))}")
    if arguments.json:
        print(json.dumps(numbers, indent=2, allow_nan=False), file=out)
    return DONE if all(row.verdict == "holds" for row in rows) else FAILED


def _chosen(proof: Proof) -> "dict[str, ChosenLayer]":
    """The layer for each method; empty where there is none to choose, though Eq. 5 can be verified."""
    try:
        return {method: proof.choose(method) for method in (XGRAD_CAM, METHOD)}
    except XGradCamError as error:
        note(PROG, f"no layer is chosen: {error}")
        return {}


def _others(proof: Proof, classes: Sequence[int | None]) -> tuple[int, ...]:
    """The classes that the target is in contrast to."""
    others = dict.fromkeys(_target(proof.classifier, proof.inputs, one) for one in classes)
    if proof.target in others:
        raise XGradCamError(f"--contrast has the class of interest, {proof.target}: name other classes")
    return tuple(others)


def _require_drawable(path: Path) -> None:
    """Stop before any work where the picture could not be written in the end."""
    from xgradcam.files import make_folder
    from xgradcam.proof.plot import METADATA

    if path.suffix.lower() not in METADATA:
        raise XGradCamError(f"cannot draw {path}: its name must end in {', '.join(METADATA)}")
    if path.is_dir():
        raise XGradCamError(f"cannot write {path}: a folder has that name")
    make_folder(path.parent)


def _require_free(arguments: argparse.Namespace) -> None:
    """Stop before a file that the command reads would be written over, or one that it has not made."""
    if arguments.plot is not None:
        _require_drawable(arguments.plot)
    options = [("--plot", arguments.plot)] if arguments.plot is not None else []
    if arguments.format is not None and arguments.maps is None:
        raise XGradCamError(
            "--format is of the figure of --maps: give --maps, too; that of --plot is in its name"
        )
    if arguments.maps is not None:
        options += [("--maps", path) for path in files_in(arguments.maps, arguments.format or PNG)]
    kept = kept_files(arguments, [arguments.image_path])
    for option, path in options:
        if path in kept:
            raise XGradCamError(
                f"{path} would be written over a file that is read: choose another name for {option}"
            )
        if path.is_dir():
            raise XGradCamError(f"cannot write {path}: a folder has that name")
        if path.exists() and not is_ours(path):
            what = "plot" if option == "--plot" else "file"
            raise XGradCamError(
                f"{path} is there already, and no {what} of {PROG}: move it, or choose another name"
            )
    paths = [path.resolve() for _, path in options]
    if len(set(paths)) < len(paths):
        raise XGradCamError(f"--plot and --maps would both write {arguments.plot}: choose another name")


def _target(classifier: "Classifier", inputs: "Tensor", index: int | None) -> int:
    """The class of interest; for None the one of the highest score."""
    from xgradcam.lending.borrowing import borrowed
    from xgradcam.lending.precision import FLOAT32, computing_in
    from xgradcam.scores.outputs import finite_logits_of
    from xgradcam.scores.targets import choose_targets

    with borrowed(classifier.module) as run, computing_in(FLOAT32, inputs.device.type):
        logits = finite_logits_of(run(inputs), classifier.output)
    return int(choose_targets(logits, index)[0])


def _title(proof: Proof) -> str:
    return of_interest(proof)[1]


def _plot(path: Path, proof: Proof, rows: Sequence[Row]) -> None:
    from xgradcam.files import write_files
    from xgradcam.proof.plot import plot_split

    splits = {row.layer: row.verification for row in rows if row.verification is not None}
    title = f"{_title(proof)}: how Eq. 5 splits its score\n{proof.classifier.name}, {dtype_of(rows)}"
    try:
        write_files({path: plot_split(splits, title, path.suffix.lower())})
    except CannotWriteError as error:
        raise XGradCamError(f"{error}: make room there, or choose another name for --plot") from None


def _maps(folder: Path, proof: Proof, rows: Sequence[Row], photograph: "Photograph", kind: str) -> None:
    found = {row.layer: row for row in rows if row.verification is not None}
    layers = [layer for name, layer in proof.layers.items() if name in found and layer.layout is not None]
    names = [name for name in found if name not in proof.layers] + layers_to_draw(layers)
    maps = complete_maps(proof.classifier.module, proof.inputs, names, proof.score)
    write_maps(folder, photograph, maps, found, f"{_title(proof)}: complete maps", kind)


if __name__ == "__main__":
    sys.exit(main())
