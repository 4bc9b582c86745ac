"""Make the photographs in examples/ from scikit-image's, and the README's pictures from those.

    python scripts/make_examples.py

Needs the package and scikit-image installed. The same versions give the same files.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from skimage import data

import xgradcam
from xgradcam.cam.explanation import heatmap_of
from xgradcam.cam.methods import title_of
from xgradcam.cli.proof_verify import main as proof_verify
from xgradcam.pictures.panel import draw_panel, score_line
from xgradcam.pictures.photograph import Photograph, encode_jpeg, read_image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DEFAULT_LAYER, EARLIER_LAYER = "bn2", "blocks.6.0.bn2"
CAT, ESPRESSO = 285, 967


def side_by_side(cat: Photograph, coffee: Photograph) -> Photograph:
    """The cat's face and the cup, both 400 pixels high: (400, 700, 3)."""
    face, cup = cat[:, 60:360], coffee[:, 130:430]
    return np.hstack([cv2.resize(face, (400, 400), interpolation=cv2.INTER_CUBIC), cup])


def row(
    classifier: xgradcam.Classifier,
    photograph: Photograph,
    target: int,
    layer: str,
    methods: Sequence[str] = ("grad-cam", "xgrad-cam"),
) -> Photograph:
    """Photograph and maps of a class side by side."""
    inputs = classifier.inputs(photograph)
    explanation = xgradcam.explain(classifier.module, inputs, layer, target, methods)
    heatmaps = {title_of(method): heatmap_of(explanation, method) for method in explanation.maps}
    words = xgradcam.imagenet_labels()[target].split(" ", 1)[1]
    detail = score_line(explanation.score.item(), explanation.probability.item())
    return draw_panel(photograph, heatmaps, classifier.framing(), words, detail)


def main() -> None:
    """Write the photographs and the pictures."""
    cat, coffee = data.chelsea(), data.coffee()
    photographs = {"cat": cat, "coffee": coffee, "cat-and-coffee": side_by_side(cat, coffee)}
    for name, photograph in photographs.items():
        (EXAMPLES / f"{name}.jpg").write_bytes(encode_jpeg(photograph))
    classifier = xgradcam.load_classifier("efficientnet-lite0")
    # As the commands see it: a JPEG's pixels are not quite those that were written.
    both = read_image(EXAMPLES / "cat-and-coffee.jpg")
    for name, layer in (("explanation", DEFAULT_LAYER), ("earlier-layer", EARLIER_LAYER)):
        rows = [row(classifier, both, target, layer) for target in (CAT, ESPRESSO)]
        (EXAMPLES / f"{name}.jpg").write_bytes(encode_jpeg(np.vstack(rows)))
    applying = [method for method in xgradcam.METHODS if method != "cam"]
    everything = row(classifier, both, ESPRESSO, EARLIER_LAYER, applying)
    half = cv2.resize(everything, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    (EXAMPLES / "methods.jpg").write_bytes(encode_jpeg(np.asarray(half, np.uint8)))
    cat_alone = ["--image-path", str(EXAMPLES / "cat.jpg"), "--target-index", str(CAT)]
    proof_verify([*cat_alone, "--model", "efficientnet-lite0", "--plot", str(EXAMPLES / "split.png")])


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
