"""Differences that decoding large JPEGs at a reduced scale would make; prints a Markdown table.

    python scripts/compare_decoding.py [--quick]

The example photographs, enlarged to 4000 x 3000 pixels, also with grain (a deviation of 8 levels), and
patterns of lines are encoded as JPEG, and decoded whole and at a half and a quarter by libjpeg. Both are
stretched to the bundled network's input. Given are the largest and the mean difference of its pixels, of 255,
the largest of XGrad-CAM's heatmaps, of 1, the scores of the class with the highest one in the whole, and
the time of decoding, the whole = 1.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from xgradcam import explain, load_classifier, read_image
from xgradcam.pictures.decoding import Photograph

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCALES = {"1/2": cv2.IMREAD_REDUCED_COLOR_2, "1/4": cv2.IMREAD_REDUCED_COLOR_4}


def pictures(width: int, height: int) -> Iterator[tuple[str, Photograph]]:
    """Names and pixels (height, width, 3)."""
    random = np.random.default_rng(0)
    for name in ("cat", "coffee", "cat-and-coffee"):
        photograph = read_image(EXAMPLES / f"{name}.jpg")
        large = np.asarray(cv2.resize(photograph, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
        yield name, large
        grain = random.normal(0, 8, large.shape)
        yield f"{name}, grain", np.clip(large + grain, 0, 255).astype(np.uint8)
    for period in (2, 17):
        line = np.where(np.arange(width) % period < period // 2, 255, 0).astype(np.uint8)
        yield f"lines, one in {period} pixels", np.tile(line[None, :, None], (height, 1, 3))


def decoded(content: np.ndarray, how: int) -> tuple[Photograph, float]:
    """The pixels of a JPEG file, and the seconds that it took."""
    started = time.perf_counter()
    pixels = np.asarray(cv2.imdecode(content, how), np.uint8)
    took = time.perf_counter() - started
    return np.ascontiguousarray(pixels[..., ::-1]), took


def main(argv: list[str] | None = None) -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1000 x 750 pixels: shows that it works")
    size = (1000, 750) if parser.parse_args(argv).quick else (4000, 3000)
    classifier = load_classifier("efficientnet-lite0")
    framing = classifier.framing()
    print(
        "| photograph, scale | pixels, largest | mean | heatmap | scores | time |\n|---|---|---|---|---|---|"
    )
    for name, picture in pictures(*size):
        content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        whole, usual = decoded(content, cv2.IMREAD_COLOR)
        inputs = classifier.inputs(whole)
        expected = explain(classifier.module, inputs, "bn2")
        for scale, how in SCALES.items():
            small, took = decoded(content, how)
            pixels = [framing.pixels(one).astype(int) for one in (whole, small)]
            away = np.abs(pixels[0] - pixels[1])
            found = explain(classifier.module, classifier.inputs(small), "bn2", expected.targets)
            heat = [one.heatmap("xgrad-cam", framing.size) for one in (expected, found)]
            cells = [
                f"{name}, {scale}",
                f"{away.max()}",
                f"{away.mean():.1f}",
                f"{(heat[0] - heat[1]).abs().max():.2f}",
                f"{float(expected.score):.2f}, {float(found.score):.2f}",
                f"{took / usual:.2f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
