"""Make the photographs in examples/ and the pictures in docs/pictures/.

    python scripts/make_examples.py

Needs the package, scikit-image, and for page.jpg Chromium. The same versions give the same files.
"""

import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

import xgradcam
from xgradcam.cam.explanation import heatmap_of
from xgradcam.cam.methods import title_of
from xgradcam.cli.proof_verify import main as proof_verify
from xgradcam.pictures.panel import draw_panel, panel, score_line
from xgradcam.pictures.photograph import JPEG_QUALITY, Photograph, read_image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, PICTURES = ROOT / "examples", ROOT / "docs" / "pictures"
MODEL = "efficientnet-lite0"
PLAIN, COMPLETE = "xgrad-cam", "complete-cam"
LAST_LAYER, LATE_LAYER, EARLY_LAYER = "bn2", "blocks.6.0.bn2", "blocks.4.0.bn2"
FINE_LAYER = "blocks.4.2.bn3"
CAT, ESPRESSO = 285, 967
HEIGHT = 336
# Of the pictures in the docs, which nobody measures.
QUALITY = 80
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def side_by_side(cat: Photograph, coffee: Photograph) -> Photograph:
    """The cat's face and the cup, both 400 pixels high: (400, 700, 3)."""
    face, cup = cat[:, 60:360], coffee[:, 130:430]
    return np.hstack([cv2.resize(face, (400, 400), interpolation=cv2.INTER_CUBIC), cup])


def smaller(picture: Photograph, height: int) -> Photograph:
    """The picture at another height, in the same proportions."""
    width = round(picture.shape[1] * height / picture.shape[0])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


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
    return draw_panel(photograph, heatmaps, classifier.framing(), *header(explanation))


def row_with_errors(
    classifier: xgradcam.Classifier, photograph: Photograph, target: int, layer: str
) -> Photograph:
    """As `row`, with the errors of the axioms beside the methods' names."""
    inputs = classifier.inputs(photograph)
    explanation = xgradcam.explain(classifier.module, inputs, layer, target, axioms=True)
    shown = smaller(photograph, HEIGHT)
    pictures = {"photograph": shown}
    for method in explanation.maps:
        conservation, sensitivity = explanation.conservation[method], explanation.sensitivity[method]
        errors = f"errors {conservation.item():.2f} and {sensitivity.item():.2f}"
        heatmap = explanation.heatmap(method, shown.shape[:2])[0].numpy()
        pictures[f"{title_of(method)}: {errors}"] = xgradcam.overlay_heatmap(shown, heatmap)
    return panel(pictures, header(explanation)[0], "errors of conservation and sensitivity: 0 is exact")


def row_of_the_complete_map(
    classifier: xgradcam.Classifier, photograph: Photograph, target: int
) -> Photograph:
    """Photograph, the plain map at the last and at a fine layer, and the complete map at the fine one."""
    inputs, shown = classifier.inputs(photograph), smaller(photograph, HEIGHT)
    pictures = {"photograph": shown}
    for layer, method in [(LAST_LAYER, PLAIN), (FINE_LAYER, PLAIN), (FINE_LAYER, COMPLETE)]:
        explanation = xgradcam.explain(classifier.module, inputs, layer, target, [method])
        height, width = explanation.maps[method].shape[1:]
        heatmap = explanation.heatmap(method, shown.shape[:2])[0].numpy()
        caption = f"{title_of(method)}, {height} x {width} cells"
        pictures[caption] = xgradcam.overlay_heatmap(shown, heatmap)
        error = explanation.conservation[method].item()
        print(f"{layer}, class {target}: {caption}, conservation error {error:.2g}")
    return panel(pictures, *header(explanation))


def header(explanation: xgradcam.ClassExplanation) -> tuple[str, str]:
    """The class's name, and its score and probability."""
    words = xgradcam.imagenet_labels()[int(explanation.targets[0])].split(" ", 1)[1]
    return words, score_line(explanation.score.item(), explanation.probability.item())


def picture_of_all_layers() -> Photograph:
    """The complete maps of "espresso" from the input to the score, as `proof-verify --maps` draws them."""
    with tempfile.TemporaryDirectory() as folder:
        what = ["--image-path", str(EXAMPLES / "cat-and-coffee.jpg"), "--target-index", str(ESPRESSO)]
        proof_verify([*what, "--model", MODEL, "--target-layer", "all", "--maps", folder])
        return read_image(Path(folder, "maps.png"))


def picture_of_the_page(browser: str) -> Photograph:
    """The page of a run of the three photographs, as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        what = [
            "--image-path",
            "examples/c*.jpg",
            "--target-index",
            "Egyptian cat",
            "espresso",
            "--model",
            MODEL,
        ]
        how = ["--html", "--full-resolution", "--output-dir", folder, "--quiet"]
        subprocess.run([sys.executable, "-m", "xgradcam", *what, *how], cwd=ROOT, check=True)
        page, shot = Path(folder, "index.html"), Path(folder, "shot.png")
        # Photographs below the fold are loaded late: the browser waits for them.
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000"]
        command = [browser, *options, "--window-size=1280,690", f"--screenshot={shot}", page.as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return read_image(shot)


def write_jpeg(path: Path, picture: Photograph, quality: int) -> None:
    """Write a picture; not by `encode_jpeg`: it is no result of the command, which may write those over."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(path), bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))


def store_with_a_palette(plot: Path) -> None:
    """Write a plot anew in 256 colours, which looks the same in a third of the bytes."""
    with Image.open(plot) as picture:
        smaller = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    smaller.save(plot, optimize=True)


def main() -> None:
    """Write the photographs and the pictures."""
    cat, coffee = data.chelsea(), data.coffee()
    photographs = {"cat": cat, "coffee": coffee, "cat-and-coffee": side_by_side(cat, coffee)}
    for name, photograph in photographs.items():
        write_jpeg(EXAMPLES / f"{name}.jpg", photograph, JPEG_QUALITY)
    classifier = xgradcam.load_classifier(MODEL)
    # As the commands see it: a JPEG's pixels are not quite those that were written.
    both = read_image(EXAMPLES / "cat-and-coffee.jpg")
    applying = [
        name for name, method in xgradcam.METHODS.items() if name != "cam" and not method.of_attention
    ]
    methods = row(classifier, both, ESPRESSO, LATE_LAYER, applying)
    complete = np.vstack([row_of_the_complete_map(classifier, both, one) for one in (CAT, ESPRESSO)])
    last = np.vstack([row(classifier, both, target, LAST_LAYER) for target in (CAT, ESPRESSO)])
    late = row(classifier, both, CAT, LATE_LAYER)
    layers = picture_of_all_layers()
    pictures = {
        "all-layers": smaller(layers, layers.shape[0] // 2),
        "photograph": smaller(both, HEIGHT),
        "explanation": row_with_errors(classifier, both, CAT, EARLY_LAYER),
        "complete": smaller(complete, complete.shape[0] * 2 // 3),
        "last-layer": smaller(last, last.shape[0] * 2 // 3),
        "late-layer": smaller(late, late.shape[0] * 2 // 3),
        "methods": smaller(methods, methods.shape[0] * 2 // 5),
    }
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser:
        pictures["page"] = picture_of_the_page(browser)
    else:
        print("left as it is, for want of Chromium: page.jpg")
    for name, picture in pictures.items():
        write_jpeg(PICTURES / f"{name}.jpg", picture, QUALITY)
    # One without a mark would not be written over.
    plot = PICTURES / "split.png"
    plot.unlink(missing_ok=True)
    split = ["--image-path", str(EXAMPLES / "cat.jpg"), "--target-index", str(CAT), "--model", MODEL]
    proof_verify([*split, "--plot", str(plot)])
    store_with_a_palette(plot)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
