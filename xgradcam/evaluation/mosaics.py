"""Mosaics of four labelled photographs: does a map of one tile's class lie in that tile?"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xgradcam.errors import XGradCamError
from xgradcam.evaluation.photographs import LabelledPhotograph
from xgradcam.models.classifier import Classifier
from xgradcam.pictures.levels import ValueRange
from xgradcam.pictures.photograph import Photograph, read_file

# Tiles of a mosaic, row by row.
TILES = ("upper left", "upper right", "lower left", "lower right")


class Mosaic(NamedTuple):
    """Four photographs, row by row: their paths and classes, and the index of the tile that is explained."""

    paths: tuple[str, ...]
    targets: tuple[int, ...]
    chosen: int


def draw_mosaics(photographs: Sequence[LabelledPhotograph], count: int, seed: int) -> list[Mosaic]:
    """Random mosaics of photographs whose classes are known; the first ones are the same for any count.

    Raises XGradCamError if fewer than four classes are known.
    """
    of_class: defaultdict[int, list[str]] = defaultdict(list)
    for photograph in photographs:
        if photograph.target is not None:
            of_class[photograph.target].append(photograph.path)
    if count and len(of_class) < len(TILES):
        raise XGradCamError(
            f"a mosaic has photographs of {len(TILES)} known classes, and here are {len(of_class)}: "
            "name more folders after classes, or leave out --mosaics"
        )
    draw = np.random.default_rng(seed)
    mosaics = []
    for _ in range(count):
        targets = draw.choice(sorted(of_class), len(TILES), replace=False).tolist()
        paths = tuple(of_class[target][draw.integers(len(of_class[target]))] for target in targets)
        mosaics.append(Mosaic(paths, tuple(targets), int(draw.integers(len(TILES)))))
    return mosaics


@dataclass(frozen=True)
class Laid:
    """A mosaic as the network sees it: pixels (h, w, 3), and True in the tile explained, (h, w) bool."""

    pixels: Photograph
    tile: Tensor


def lay(
    mosaic: Mosaic, classifier: Classifier, crop: bool = False, value_range: ValueRange | None = None
) -> Laid:
    """Lay the photographs two by two, each fitted to half of the input's height and width.

    A side of an odd number of pixels gives the lower and right tiles one more. crop: each tile is resized and
    cropped as the weights expect it of the whole, at the scale of the tile.
    """
    whole = classifier.framing(crop)
    height, width = whole.size
    if min(height, width) < 2:
        raise XGradCamError(f"an input of {height} x {width} has no room for mosaics: leave out --mosaics")
    pixels = np.zeros((height, width, 3), np.uint8)
    tile = torch.zeros(height, width, dtype=torch.bool, device="cpu")
    places = [
        (rows, columns)
        for rows in (slice(0, height // 2), slice(height // 2, height))
        for columns in (slice(0, width // 2), slice(width // 2, width))
    ]
    for index, (path, place) in enumerate(zip(mosaic.paths, places, strict=True)):
        size = place[0].stop - place[0].start, place[1].stop - place[1].start
        resize = None if whole.resize is None else max(1, round(whole.resize * size[0] / height))
        framing = replace(whole, size=size, resize=resize)
        pixels[place] = framing.pixels(read_file(path, value_range).photograph)
        tile[place] = index == mosaic.chosen
    return Laid(pixels, tile)
