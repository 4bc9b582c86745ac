"""Make the photographs in examples/ from scikit-image's, and the README's pictures from those.

    python scripts/make_examples.py

Needs the package and scikit-image installed. The same versions give the same files.
"""

import warnings
from pathlib import Path

import cv2
import numpy as np
from skimage import data

import xgradcam
from xgradcam.files import encode_jpeg
from xgradcam.images import Photograph, stretch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DEFAULT_LAYER, EARLIER_LAYER = "bn2", "blocks.6.0.bn2"
CAT, ESPRESSO = 285, 967
CAPTIONS = ("photograph", "Grad-CAM", "XGrad-CAM")
BAND = 28


def side_by_side(cat: Photograph, coffee: Photograph) -> Photograph:
    """The cat's face and the cup, both 400 pixels high: (400, 700, 3)."""
    face, cup = cat[:, 60:360], coffee[:, 130:430]
    return np.hstack([cv2.resize(face, (400, 400), interpolation=cv2.INTER_CUBIC), cup])


def row(classifier: xgradcam.Classifier, photograph: Photograph, target: int, layer: str) -> Photograph:
    """Photograph, Grad-CAM and XGrad-CAM of a class in a row, with captions."""
    explanation = xgradcam.explain(classifier.module, classifier.inputs(photograph), layer, target)
    height, width = 224, 224 * photograph.shape[1] // photograph.shape[0]
    seen = stretch(photograph, (height, width))
    pictures = [seen] + [
        xgradcam.overlay_heatmap(seen, explanation.heatmap(method, (height, width))[0].numpy())
        for method in explanation.maps
    ]
    word = xgradcam.imagenet_labels()[target].split(" ", 1)[1]
    captions = [CAPTIONS[0], *(f"{caption}: {word}" for caption in CAPTIONS[1:])]
    return np.hstack([captioned(*pair) for pair in zip(pictures, captions, strict=True)])


def captioned(picture: Photograph, caption: str) -> Photograph:
    """The picture with a white band above it that holds the caption."""
    band = np.full((BAND, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(band, caption, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([band, picture])


def main() -> None:
    """Write the photographs and the pictures."""
    cat, coffee = data.chelsea(), data.coffee()
    photographs = {"cat": cat, "coffee": coffee, "cat-and-coffee": side_by_side(cat, coffee)}
    for name, photograph in photographs.items():
        (EXAMPLES / f"{name}.jpg").write_bytes(encode_jpeg(photograph))
    classifier = xgradcam.load_classifier("efficientnet-lite0")
    both = photographs["cat-and-coffee"]
    for name, layer in (("explanation", DEFAULT_LAYER), ("earlier-layer", EARLIER_LAYER)):
        rows = [row(classifier, both, target, layer) for target in (CAT, ESPRESSO)]
        (EXAMPLES / f"{name}.jpg").write_bytes(encode_jpeg(np.vstack(rows)))


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
