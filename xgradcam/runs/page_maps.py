"""The signed maps of one photograph as a script, which a page opened from disk may load and colour.

A page may not read other files from disk, except by running them. So the script calls a function of the page
with what it holds: a header as JSON, the maps as deflated planes of integers, and a small photograph.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.cam.explanation import Explanation
from xgradcam.layouts.padding import WHOLE
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.outlines import Outline
from xgradcam.pictures.photograph import Photograph, encode_jpeg

# What follows the stem in a script's name, and how its content begins.
PAGE_MAPS = "maps.js"
MARK = b"// maps of a photograph for index.html, by xgradcam\n"
# Longest side of the photograph in the large view, and in the script.
LONGEST, SMALL = 1600, 400
SMALL_QUALITY = 80
# Maps of more cells have 8 bits a cell, others 16; sides are at most so long, by means over areas.
FINE_CELLS, LONGEST_SIDE = 64 * 64, 256
FINE, COARSE = 2**15 - 1, 2**7 - 1
# The baseline's map says nothing on how far the methods agree.
BASELINE = "random-cam"

# The explanation at one layer of one photograph and class, or those at several, to be fused.
View: TypeAlias = Sequence[Explanation]


@dataclass(frozen=True)
class PagePictures:
    """JPEG files of one photograph: for the large view, and a small one for exported cards."""

    large: bytes
    small: bytes


def page_pictures(photograph: Photograph, whole: bool = False) -> PagePictures:
    """The page's pictures of a photograph (H, W, 3); whole: the large one with all pixels, however many."""
    shown = photograph if whole else _bounded(photograph, LONGEST)
    bgr = cv2.cvtColor(_bounded(shown, SMALL), cv2.COLOR_RGB2BGR)
    small = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, SMALL_QUALITY))[1].tobytes()
    return PagePictures(encode_jpeg(shown), small)


def _bounded(photograph: Photograph, longest: int) -> Photograph:
    height, width = photograph.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return photograph
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), np.uint8)


def maps_script(
    views: Sequence[View], outline: Outline | None, framing: Framing, shape: tuple[int, int], small: bytes
) -> bytes:
    """The content of the script with all maps of a photograph of this shape (H, W).

    views: in the order of the photograph's records. outline: of what is explained. small: a JPEG file.
    Positive and negative values of a map are rounded to 32,767 steps each, of a map of more than 4,096 cells
    to 127.
    """
    planes: dict[bytes, int] = {}
    listed = [_listed(view, views, planes) for view in views]
    top, left, bottom, right = framing.window(shape)
    height, width = shape
    header = {
        "window": [top / height, left / width, bottom / height, right / width],
        "size": list(framing.size),
        "outline": [] if outline is None else _lines(outline),
        "views": listed,
    }
    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = deflated.compress(b"".join(planes)) + deflated.flush()
    texts = [json.dumps(base64.b64encode(content).decode()) for content in (data, small)]
    call = f"xgradcamMaps({json.dumps(header, allow_nan=False)},\n{texts[0]},\n{texts[1]});\n"
    return MARK + call.encode()


def _listed(view: View, views: Sequence[View], planes: dict[bytes, int]) -> dict[str, Any]:
    """A view in the header; its maps' planes are added to those that are there, each once, with its start."""
    if len(view) > 1:
        alone = {id(other[0]): place for place, other in enumerate(views) if len(other) == 1}
        return {"fused": [alone[id(explanation)] for explanation in view]}
    maps: dict[str, Any] = {}
    for method, signed in view[0].maps.items():
        values = np.asarray(signed[0].cpu().double())
        maps[method] = _described(values, planes) if np.isfinite(values).all() else None
    share = view[0].share
    return {"maps": maps, **({} if share == WHOLE else {"share": list(share)})}


def _described(values: NDArray[np.float64], planes: dict[bytes, int]) -> list[Any]:
    """Height, width, bits, lowest and highest value of a map, its plane's start, its size if reduced."""
    height, width = values.shape
    reduced = max(height, width) > LONGEST_SIDE
    if reduced:
        size = (min(width, LONGEST_SIDE), min(height, LONGEST_SIDE))
        values = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float64)
    fine = values.size <= FINE_CELLS
    steps, low, high = quantised(values, FINE if fine else COARSE)
    # High and low bytes apart are deflated to less.
    plane = steps.astype(np.int8).tobytes()
    if fine:
        plane = (steps >> 8).astype(np.int8).tobytes() + (steps & 255).astype(np.uint8).tobytes()
    start = planes.setdefault(plane, sum(map(len, planes)))
    return [*values.shape, 16 if fine else 8, low, high, start, *([[height, width]] if reduced else [])]


def quantised(values: NDArray[np.float64], steps: int) -> tuple[NDArray[np.int16], float, float]:
    """A finite map (h, w) in whole steps from -steps to steps, its lowest and its highest value.

    Steps above 0 go evenly from 0, or from the lowest value if that is positive, to the highest; those below
    likewise to the lowest.
    """
    low, high = float(values.min()), float(values.max())
    above, below = values - max(low, 0), min(high, 0) - values
    up = above / (high - max(low, 0)) if high > max(low, 0) else np.zeros_like(values)
    down = below / (min(high, 0) - low) if min(high, 0) > low else np.zeros_like(values)
    signed = np.where(values > 0, up, -down) * steps
    return np.rint(signed).astype(np.int16), low, high


def _lines(outline: Outline) -> list[list[float]]:
    """Closed lines around a box or a region: x, y, x, y, ... in shares of the input's width and height."""
    if outline.box is not None:
        x0, y0, x1, y1 = (round(float(edge), 5) for edge in outline.box)
        return [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if outline.region is None:
        return []
    region = np.asarray(outline.region, np.uint8)
    height, width = region.shape
    lines, _ = cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_TC89_L1)
    shares = [(line.reshape(-1, 2) + 0.5) / (width, height) for line in lines]
    return [[round(float(edge), 4) for edge in line.flatten()] for line in shares]


def facts_of_page(view: View) -> dict[str, Any]:
    """Facts for the page before it loads the maps: the methods, and how far they disagree."""
    apart = disagreement(view[0]) if len(view) == 1 else None
    return {"methods": list(view[0].maps), **({} if apart is None else {"disagreement": round(apart, 4)})}


def disagreement(explanation: Explanation) -> float | None:
    """The mean absolute difference of two methods' heatmaps, over all pairs: 0 to 1.

    They are compared at the size of the maps, the largest if there are several. Blank heatmaps and the
    random baseline are left out; None where fewer than two are left.
    """
    sizes = [signed.shape[1:] for signed in explanation.maps.values()]
    size = [max(sides) for sides in zip(*sizes, strict=True)]
    heatmaps = [explanation.heatmap(name, size)[0] for name in explanation.maps if name != BASELINE]
    seen = [heatmap.double() for heatmap in heatmaps if heatmap.any()]
    differences = [float((one - other).abs().mean()) for one, other in combinations(seen, 2)]
    return sum(differences) / len(differences) if differences else None
