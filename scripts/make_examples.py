"""Make the photographs in examples/ and the pictures in docs/pictures/.

    python scripts/make_examples.py

Needs the package, scikit-image, and for page.jpg and report.jpg Chromium. The same versions give the same
files.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from skimage import data

import xgradcam
from xgradcam.cam.explanation import heatmap_of
from xgradcam.cam.methods import title_of
from xgradcam.cli.evaluate import main as evaluate
from xgradcam.cli.proof_verify import main as proof_verify
from xgradcam.cli.xgrad_cam import main as xgrad_cam
from xgradcam.pictures.panel import draw_panel, panel, score_line
from xgradcam.pictures.photograph import JPEG_QUALITY, Photograph, read_image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, PICTURES = ROOT / "examples", ROOT / "docs" / "pictures"
MODEL = "efficientnet-lite0"
PLAIN, COMPLETE = "xgrad-cam", "complete-cam"
LAST_LAYER, LATE_LAYER, EARLY_LAYER = "bn2", "blocks.6.0.bn2", "blocks.4.0.bn2"
FINE_LAYER = "blocks.4.2.bn3"
# Of the figure of an evaluation.
THREE_LAYERS = ("blocks.4.0.bn2", "blocks.4.2.bn3", "blocks.6.0.bn2")
EVALUATED = ("grad-cam", "xgrad-cam", "hires-cam", "layer-cam", "complete-cam", "eigen-cam")
CAT, ESPRESSO = 285, 967
PAGE_LAYERS, PAGE_METHODS = (LAST_LAYER, EARLY_LAYER), ("grad-cam", "xgrad-cam", "complete-cam", "layer-cam")
PAGE_VIEW = "view=grid"
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
    """The page of a run of the three photographs, some layers and methods, as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        what = [
            "--image-path",
            "examples/c*.jpg",
            "--target-index",
            "Egyptian cat",
            "espresso",
            "--model",
            MODEL,
            "--target-layer",
            *PAGE_LAYERS,
            "--method",
            *PAGE_METHODS,
        ]
        how = ["--html", "--no-pictures", "--output-dir", folder, "--quiet"]
        subprocess.run([sys.executable, "-m", "xgradcam", *what, *how], cwd=ROOT, check=True)
        page, shot = Path(folder, "index.html"), Path(folder, "shot.png")
        # Photographs below the fold are loaded late: the browser waits for them.
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000"]
        address = f"{page.as_uri()}#{PAGE_VIEW}"
        command = [browser, *options, "--window-size=1280,875", f"--screenshot={shot}", address]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return read_image(shot)


def shot_of(browser: str, page: Path, width: int, height: int) -> Photograph:
    """The page as a browser shows it in a window of this size."""
    shot = page.with_name("shot.png")
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},{height}"]
    command = [browser, *options, f"--screenshot={shot}", page.as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return read_image(shot)


def explained(folder: Path, *options: str) -> Path:
    """The results of a run in a folder, whose photographs are in `photos` there."""
    out = folder / "out"
    what = ["photos", "--model", MODEL, "--output-dir", str(out), "--quiet", *options]
    subprocess.run([sys.executable, "-m", "xgradcam", *what], cwd=folder, check=True)
    return out


def picture_of_a_mistake() -> Photograph:
    """The panel of the photograph of both: the network takes it for a tiger cat, and espresso is true."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "photos").mkdir()
        shutil.copy(EXAMPLES / "cat-and-coffee.jpg", folder / "photos")
        (folder / "classes.csv").write_text("file,class\ncat-and-coffee.jpg,espresso\n")
        (found,) = explained(folder, "--truth", "classes.csv", "--panel").glob("*-less-*_panel.jpg")
        return read_image(found)


def write_shortcuts(folder: Path, cat: Photograph, coffee: Photograph) -> None:
    """Write photographs of two classes into folders of their names, parts of both, the same at each call.

    A third of the cups are cats with a small cup in a corner.
    """
    random = np.random.default_rng(0)

    def part(photograph: Photograph, least: float) -> Photograph:
        side = int(random.uniform(least, 1) * min(photograph.shape[:2]))
        top, left = (int(random.uniform(0, whole - side)) for whole in photograph.shape[:2])
        return smaller(photograph[top : top + side, left : left + side], 256)

    cup, cats, cups = smaller(coffee[50:350, 130:430], 88), folder / "Egyptian cat", folder / "espresso"
    for of_class in (cats, cups):
        of_class.mkdir(parents=True)
    for number in range(24):
        write_jpeg(cups / f"cup-{number:02}.jpg", part(coffee, 0.8), JPEG_QUALITY)
        write_jpeg(cats / f"cat-{number:02}.jpg", part(cat, 0.7), JPEG_QUALITY)
    for number in range(12):
        marked = part(cat, 0.8).copy()
        marked[4:92, -92:-4] = cup
        write_jpeg(cups / f"corner-{number:02}.jpg", marked, JPEG_QUALITY)


def picture_of_a_report(browser: str, cat: Photograph, coffee: Photograph) -> Photograph:
    """The first class in the report of a run, in which a mark in a corner tells of the class."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_shortcuts(folder / "photos", cat, coffee)
        page = explained(folder, "--truth", "folder", "--report") / "report.html"
        others = (
            r'(?s)<header>.*?</header>|<section aria-labelledby="(?!class-0").*?</section>|<h3>The most un.*'
        )
        page.write_text(re.sub(others, "", page.read_text()))
        return smaller(shot_of(browser, page, 1080, 640)[40:], 410)


def write_figures(classifier: xgradcam.Classifier, path: Path) -> None:
    """Write a figure, a grid, and a figure of an evaluation, as Python and the evaluation draw them."""
    both = [PLAIN, COMPLETE]
    espresso = classifier.explain(path, "espresso", FINE_LAYER, methods=both)
    classes = classifier.explain(path, ["Egyptian cat", "espresso"], FINE_LAYER, methods=both)
    write_jpeg(PICTURES / "compare.jpg", _saved(xgradcam.compare(classes, signed=True).save, 58), QUALITY)
    write_jpeg(PICTURES / "figure.jpg", _saved(espresso.save, 75, method=COMPLETE), QUALITY)
    with tempfile.TemporaryDirectory() as folder:
        what = [str(EXAMPLES), "--model", MODEL, "--method", *EVALUATED, "--target-layer", *THREE_LAYERS]
        how = ["--steps", "2", "--limit", "2", "--randomise", "0", "--output-dir", folder]
        evaluate([*what, *how])
        with Image.open(Path(folder, "evaluation-axioms.png")) as picture:
            picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS).save(
                PICTURES / "evaluation.png"
            )
    store_with_a_palette(PICTURES / "evaluation.png")


def _saved(save: Callable[..., None], dpi: int, **how: Any) -> Photograph:
    """The pixels of a figure at a resolution in dots per inch."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "figure.png"), dpi=dpi, **how)
        return read_image(Path(folder, "figure.png"))


def picture_of_signed_maps() -> Photograph:
    """The panel of "espresso" with evidence against it, as the command draws it."""
    with tempfile.TemporaryDirectory() as folder:
        what = [str(EXAMPLES / "cat-and-coffee.jpg"), "--target", "espresso", "--model", MODEL]
        how = ["--target-layer", FINE_LAYER, "--method", PLAIN, COMPLETE, "--signed", "--panel"]
        xgrad_cam([*what, *how, "--quiet", "--output-dir", folder])
        return read_image(Path(folder, "panel.jpg"))


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
    layers, mistake, signed = picture_of_all_layers(), picture_of_a_mistake(), picture_of_signed_maps()
    write_figures(classifier, EXAMPLES / "cat-and-coffee.jpg")
    pictures = {
        "all-layers": smaller(layers, layers.shape[0] // 2),
        "photograph": smaller(both, HEIGHT),
        "explanation": row_with_errors(classifier, both, CAT, EARLY_LAYER),
        "complete": smaller(complete, complete.shape[0] * 2 // 3),
        "last-layer": smaller(last, last.shape[0] * 2 // 3),
        "late-layer": smaller(late, late.shape[0] * 2 // 3),
        "mistake": smaller(mistake, mistake.shape[0] // 2),
        "signed": smaller(signed, signed.shape[0] // 2),
        "methods": smaller(methods, methods.shape[0] * 2 // 5),
    }
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser:
        page = picture_of_the_page(browser)
        pictures["page"] = smaller(page, page.shape[0] * 3 // 4)
        pictures["report"] = picture_of_a_report(browser, cat, coffee)
    else:
        print("left as they are, for want of Chromium: page.jpg and report.jpg")
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
