"""`xgrad-cam`: explain a classifier's decision on a photograph by Grad-CAM and XGrad-CAM."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xgradcam.cli.arguments import (
    DONE,
    choose_device,
    common_parser,
    note,
    open_classifier,
    print_layers,
    run,
)

if TYPE_CHECKING:
    from xgradcam.cam import Explanation
    from xgradcam.images import Photograph
    from xgradcam.models import Classifier

PROG = "xgrad-cam"
FILES = {"grad-cam": "cam.jpg", "xgrad-cam": "X_cam.jpg"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 2 could not run."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.image_path is None and not arguments.list_layers:
        parser.error("--image-path is missing: which photograph?")
    return run(PROG, lambda: _explain(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = common_parser(
        PROG,
        "Explain why a convolutional network gives a photograph its class: writes cam.jpg (Grad-CAM) and\n"
        "X_cam.jpg (XGrad-CAM, Fu et al., BMVC 2020), the photograph with the evidence for the class in red.",
        "xgrad-cam --image-path examples/cat-and-coffee.jpg --target-index 967",
    )
    parser.add_argument_group("output").add_argument(
        "--output-dir",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where to write; made if missing (default: .)",
    )
    return parser


def _explain(arguments: argparse.Namespace) -> int:
    if arguments.list_layers:
        print_layers(PROG, open_classifier(PROG, arguments))
        return DONE
    from xgradcam.files import make_folder
    from xgradcam.images import read_image

    # What needs no network is checked before one is loaded.
    photograph = read_image(arguments.image_path)
    make_folder(arguments.output_dir)
    device = choose_device(PROG, arguments)
    print("Using GPU for acceleration" if device.type != "cpu" else "Using CPU for computation", flush=True)
    classifier = open_classifier(PROG, arguments).to(device)

    from xgradcam.cam import explain

    inputs = classifier.inputs(photograph)
    layer = arguments.target_layer or classifier.default_layer()
    targets = None if arguments.target_index == -1 else arguments.target_index
    explanation = explain(classifier.module, inputs, layer, targets, tuple(FILES))
    _print_result(classifier, layer, explanation)
    written = _write_overlays(classifier, photograph, explanation, arguments.output_dir)
    print(f"wrote {' and '.join(map(str, written))}")
    return DONE


def _print_result(classifier: "Classifier", layer: str, explanation: "Explanation") -> None:
    from xgradcam.labels import label_of

    target = int(explanation.targets[0])
    rank = int((explanation.logits[0] > explanation.score[0]).sum()) + 1
    print("class of interest: ", label_of(classifier.labels, target))
    print(
        f"class {target}: score {explanation.score[0]:.4f}, probability {explanation.probability[0]:.1%}, "
        f"rank {rank} of {explanation.logits.shape[1]}"
    )
    print(f"model {classifier.name}, layer {layer}")
    for line in explanation.notes[0]:
        note(PROG, f"note: {line}")


def _write_overlays(
    classifier: "Classifier", photograph: "Photograph", explanation: "Explanation", folder: Path
) -> list[Path]:
    from xgradcam.files import encode_jpeg, write_files
    from xgradcam.images import stretch
    from xgradcam.overlay import overlay_heatmap

    seen = stretch(photograph, classifier.size)
    contents = {}
    for method, file in FILES.items():
        heatmap = explanation.heatmap(method, classifier.size)[0].cpu().numpy()
        contents[folder / file] = encode_jpeg(overlay_heatmap(seen, heatmap))
    write_files(contents)
    return list(contents)
