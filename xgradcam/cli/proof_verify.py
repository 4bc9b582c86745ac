"""`proof-verify`: check Eq. 5 of the paper on a photograph, at one layer or at many."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from xgradcam.cli.listings import print_layers
from xgradcam.cli.options import ALL, parse, proof_verify_parser
from xgradcam.cli.proof_report import Row, dtype_of, report
from xgradcam.cli.record import kept_files
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
from xgradcam.files import open_regular

if TYPE_CHECKING:
    from torch import Tensor

    from xgradcam.models.classifier import Classifier

PROG = "proof-verify"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 Eq. 5 holds, 1 it does not, 2 could not run."""
    return run(PROG, partial(parse, proof_verify_parser(PROG)), _main, argv)


def _main(arguments: argparse.Namespace, out: TextIO) -> int:
    if arguments.list_layers:
        print_layers(PROG, arguments, out)
        return DONE
    from xgradcam.runs.sources import read_photograph

    tell = partial(say, stream=sys.stderr if arguments.json else out)
    if TOP.fullmatch(arguments.target_index):
        raise XGradCamError(f"--target-index is {arguments.target_index}: {PROG} takes one class")
    if arguments.plot is not None:
        _require_drawable(arguments.plot)
        _require_free(arguments)
    reading = read_photograph(arguments.image_path, range_of(arguments))
    for line in reading.notes:
        note(PROG, f"note: {line}")
    device = choose_device(PROG, arguments)
    tell(device_line(device))
    classifier = open_classifier(PROG, arguments).to(device)
    inputs = classifier.inputs(reading.photograph)
    if inputs.device.type == "mps":
        note(PROG, "this device has no float64, in which the terms are summed; computing on the CPU")
        inputs, classifier = inputs.cpu(), replace(classifier, module=classifier.module.cpu())
    if arguments.double:
        inputs, classifier = inputs.double(), replace(classifier, module=classifier.module.double())

    index = class_index(arguments.target_index, classifier.labels, partial(note, PROG))
    target = _target(classifier, inputs, index)
    wanted = arguments.target_layer or (ALL if arguments.plot else _default_layer(classifier, inputs))
    if several := is_pattern(wanted):
        rows = _verify_all(classifier, inputs, layers_matching(classifier, inputs, wanted), target)
    else:
        rows = [_verify(classifier, inputs, wanted, target)]
    text, numbers = report(classifier, target, rows, several)
    tell(text)
    if arguments.plot is not None:
        _plot(arguments.plot, classifier, target, rows)
        tell(f"wrote {arguments.plot}")
    if arguments.json:
        print(json.dumps(numbers, indent=2, allow_nan=False), file=out)
    return DONE if all(row.verdict == "holds" for row in rows) else FAILED


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
    """Stop before a file that the command reads would be written over, or one that is no plot."""
    path = arguments.plot
    if path in kept_files(arguments, [arguments.image_path]):
        raise XGradCamError(
            f"{path} would be written over a file that is read: choose another name for --plot"
        )
    if path.exists() and not _is_plot(path):
        raise XGradCamError(
            f"{path} is there already, and no plot of {PROG}: move it, or choose another name"
        )


def _is_plot(path: Path) -> bool:
    """True for a picture that an earlier call has drawn."""
    from xgradcam.proof.plot import is_plot

    try:
        with open_regular(path) as file:
            return is_plot(file.read())
    except (OSError, XGradCamError):
        return False


def _target(classifier: "Classifier", inputs: "Tensor", index: int | None) -> int:
    """The class of interest; for None the one of the highest score."""
    from xgradcam.lending.borrowing import borrowed
    from xgradcam.lending.precision import FLOAT32, computing_in
    from xgradcam.scores.outputs import finite_logits_of
    from xgradcam.scores.targets import choose_targets

    with borrowed(classifier.module) as run, computing_in(FLOAT32, inputs.device.type):
        logits = finite_logits_of(run(inputs), classifier.output)
    return int(choose_targets(logits, index)[0])


def _default_layer(classifier: "Classifier", inputs: "Tensor") -> str:
    # Not `classifier.default_layer()`, whose blank photograph is float32.
    from xgradcam.capture.layers import default_layer, list_layers

    return classifier.layer or default_layer(list_layers(classifier.module, inputs))


def _verify(classifier: "Classifier", inputs: "Tensor", layer: str, target: int) -> Row:
    from xgradcam.proof.verify import verify

    return Row(layer, verify(classifier.module, inputs, layer, target, classifier.output))


def _verify_all(classifier: "Classifier", inputs: "Tensor", layers: Sequence[str], target: int) -> list[Row]:
    """A row for each layer; XGradCamError where none of them can be verified."""
    from tqdm import tqdm

    from xgradcam.proof.verify import verify_layers

    results = verify_layers(classifier.module, inputs, layers, target, classifier.output)
    found = dict(tqdm(results, total=len(layers), unit="layer", leave=False, delay=1, disable=None))
    rows = [
        Row(layer, None, str(result))
        if isinstance(result := found[layer], XGradCamError)
        else Row(layer, result)
        for layer in layers
    ]
    if all(row.verification is None for row in rows):
        raise XGradCamError(f"none of these {len(rows)} layers can be verified: {rows[0].problem}")
    return rows


def _plot(path: Path, classifier: "Classifier", target: int, rows: Sequence[Row]) -> None:
    from xgradcam.files import write_files
    from xgradcam.models.labels import label_of
    from xgradcam.proof.plot import plot_split

    splits = {row.layer: row.verification for row in rows if row.verification is not None}
    name = label_of(classifier.labels, target)
    title = f"{name}: how Eq. 5 splits its score\n{classifier.name}, {dtype_of(rows)}"
    try:
        write_files({path: plot_split(splits, title, path.suffix.lower())})
    except CannotWriteError as error:
        raise XGradCamError(f"{error}: make room there, or choose another name for --plot") from None


if __name__ == "__main__":
    sys.exit(main())
