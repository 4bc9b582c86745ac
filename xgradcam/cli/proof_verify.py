"""`proof-verify`: check Eq. 5 of the paper on a photograph, at one layer or at many."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgradcam.cli.layer_names import is_pattern, layers_named, print_layers
from xgradcam.cli.proof_report import Row, as_json, contributions_as_json, proof_lines, table_lines
from xgradcam.cli.setup import (
    ALL,
    DONE,
    FAILED,
    TOP,
    Parser,
    class_of,
    common_parser,
    note,
    open_photograph_and_classifier,
    parse,
    run,
)
from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from torch import Tensor

    from xgradcam.models.classifier import Classifier

PROG = "proof-verify"
LAYER_HELP = (
    f"the layer to verify Eq. 5 at, any that returns one tensor; '{ALL}', every layer of feature maps; or a "
    "pattern in quotes, such as 'features.*'. Default: the last feature map before pooling or flattening; "
    f"with --plot, {ALL}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 Eq. 5 holds, 1 it does not, 2 could not run."""
    arguments = parse(_parser(), argv)
    return run(PROG, lambda: _prove(arguments))


def _parser() -> Parser:
    parser = common_parser(
        PROG,
        "Verify Eq. 5 of XGrad-CAM's paper (Fu et al., BMVC 2020) on a photograph: at a layer of a ReLU-CNN\n"
        "the class score is gradients*feature plus a bias term. The three are computed independently of one\n"
        "another. Exit code: 0 where Eq. 5 holds, 1 where it does not, 2 where it could not be computed.\n"
        "@FILE reads arguments from a file.",
        f"{PROG} --image-path examples/cat.jpg --target-index 285\n"
        f"  {PROG} --image-path examples/cat.jpg --target-layer 'features.*' --plot split.png",
        LAYER_HELP,
    )
    parser.add_argument_group("precision").add_argument(
        "--double", action="store_true", help="compute in float64 instead of float32"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--plot", metavar="FILE", type=Path,
        help="draw how the score splits at the layers (.png, .pdf or .svg); its folder is made if missing",
    )  # fmt: skip
    output.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, and all text on stderr"
    )
    return parser


def _prove(arguments: argparse.Namespace) -> int:
    if arguments.list_layers:
        print_layers(PROG, arguments)
        return DONE
    say = partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if TOP.fullmatch(arguments.target_index):
        raise XGradCamError(f"--target-index is {arguments.target_index}: {PROG} takes one class")
    if arguments.plot is not None:
        _require_drawable(arguments.plot)
    photograph, classifier = open_photograph_and_classifier(PROG, arguments, say)
    inputs = classifier.inputs(photograph)
    if inputs.device.type == "mps":
        note(PROG, "this device has no float64, in which the terms are summed; computing on the CPU")
        inputs, classifier = inputs.cpu(), replace(classifier, module=classifier.module.cpu())
    if arguments.double:
        inputs, classifier = inputs.double(), replace(classifier, module=classifier.module.double())

    target = _target(classifier, inputs, class_of(arguments.target_index, classifier.labels))
    wanted = arguments.target_layer or (ALL if arguments.plot else _default_layer(classifier, inputs))
    if several := is_pattern(wanted):
        rows = _verify_all(classifier, inputs, layers_named(classifier, inputs, wanted), target)
    else:
        rows = [_verify(classifier, inputs, wanted, target)]
    return _report(arguments, say, classifier, target, rows, several)


def _require_drawable(path: Path) -> None:
    """Stop before any work where the picture could not be written in the end."""
    from xgradcam.files import make_folder
    from xgradcam.proof.plot import METADATA

    if path.suffix.lower() not in METADATA:
        raise XGradCamError(f"cannot draw {path}: its name must end in {', '.join(METADATA)}")
    if path.is_dir():
        raise XGradCamError(f"cannot write {path}: a folder has that name")
    make_folder(path.parent)


def _target(classifier: "Classifier", inputs: "Tensor", index: int | None) -> int:
    """The class of interest; for None the one of the highest score."""
    from xgradcam.capture.borrowing import borrowed
    from xgradcam.capture.scores import choose_targets, finite_logits_of

    with borrowed(classifier.module):
        logits = finite_logits_of(classifier.module(inputs), classifier.output)
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


def _report(
    arguments: argparse.Namespace,
    say: "partial[None]",
    classifier: "Classifier",
    target: int,
    rows: Sequence[Row],
    several: bool,
) -> int:
    """Print, draw and judge; the exit code."""
    from xgradcam.models.labels import label_of

    found = {row.layer: row.verification for row in rows if row.verification is not None}
    first = next(iter(found.values()))
    name, dtype = label_of(classifier.labels, target), str(first.dtype).removeprefix("torch.")
    holds = all(row.verdict == "holds" for row in rows)
    result: dict[str, Any] = {
        "model": classifier.name,
        "class_index": target,
        "class_name": name,
        "dtype": dtype,
    }
    if several:
        setting, lines = f"model {classifier.name}, {dtype}", table_lines(rows, classifier.module)
        result |= {"holds": holds, "layers": [as_json(row) for row in rows]}
    else:
        setting = f"model {classifier.name}, layer {rows[0].layer}, {dtype}"
        lines = proof_lines(rows[0].layer, first, rows[0].verdict, classifier.module)
        result |= {**as_json(rows[0]), "contributions": contributions_as_json(first)}
    say("\n".join([setting, f"class of interest:  {name}", *lines]))
    if arguments.plot is not None:
        from xgradcam.files import write_files
        from xgradcam.proof.plot import plot_split

        title = f"{name}: how Eq. 5 splits its score\n{classifier.name}, {dtype}"
        write_files({arguments.plot: plot_split(found, title, arguments.plot.suffix.lower())})
        say(f"wrote {arguments.plot}")
    if arguments.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    return DONE if holds else FAILED
