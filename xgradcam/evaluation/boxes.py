"""Boxes around objects, from annotations of PASCAL VOC (XML) and COCO (JSON)."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from xgradcam.errors import XGradCamError
from xgradcam.pictures.framing import Framing


@dataclass(frozen=True)
class Box:
    """The box of an object: its edges in pixels of the photograph, from the upper left corner."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """File name of a photograph -> its boxes, from a COCO file, a VOC file, or a folder of VOC files.

    Raises XGradCamError for a file in neither format.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
        if not files:
            raise XGradCamError(f"no XML files in the folder {path}")
        return {name: boxes for file in files for name, boxes in read_voc(file).items()}
    if path.suffix.lower() == ".json":
        return read_coco(path)
    if path.suffix.lower() == ".xml":
        return read_voc(path)
    raise XGradCamError(f"boxes are a COCO .json, a VOC .xml or a folder of them, not {path}")


def read_voc(path: Path) -> dict[str, list[Box]]:
    """The boxes in a PASCAL VOC file. VOC counts pixels from 1, and a box includes its edge pixels."""
    text = _read(path)
    # Nested entities can expand to gigabytes; VOC files have none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise XGradCamError(f"{path} declares a document type: VOC's files have none")
    try:
        root = ElementTree.fromstring(text)
        boxes = [_voc_box(found) for found in root.iter("object")]
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise XGradCamError(f"{path} is no annotation of PASCAL VOC: {error}") from None
    return {root.findtext("filename") or f"{path.stem}.jpg": boxes}


def _voc_box(found: ElementTree.Element) -> Box:
    edges = {name: found.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")}
    missing = [name for name, value in edges.items() if value is None]
    if missing:
        raise ValueError(f"an object has no {', '.join(missing)}")
    left, top, right, bottom = (float(value or "") for value in edges.values())
    return Box(found.findtext("name") or "", left - 1, top - 1, right, bottom)


def read_coco(path: Path) -> dict[str, list[Box]]:
    """The boxes in a COCO file of instances, where a box is its upper left corner, width and height."""
    try:
        content: Mapping[str, Sequence[Mapping[str, Any]]] = json.loads(_read(path))
        names = {image["id"]: image["file_name"] for image in content["images"]}
        labels = {category["id"]: category["name"] for category in content.get("categories", [])}
        boxes: defaultdict[str, list[Box]] = defaultdict(list)
        for found in content["annotations"]:
            left, top, width, height = map(float, found["bbox"])
            label = labels.get(found.get("category_id"), "")
            boxes[names[found["image_id"]]].append(Box(label, left, top, left + width, top + height))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise XGradCamError(f"{path} is no annotation of COCO: {type(error).__name__} {error}") from None
    return dict(boxes)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise XGradCamError(f"cannot read {path}: {error}") from None


def region_of(boxes: Sequence[Box], shape: tuple[int, int], framing: Framing) -> Tensor:
    """True where the network's input shows one of the boxes: (h, w) bool.

    shape: of the photograph, (H, W). framing: how the photograph becomes the input (h, w).
    A pixel is inside if its centre is in a box; a box without any pixel's centre has the pixel that it is in.
    """
    size, seen = framing.size, framing.window(shape)
    region = torch.zeros(size, dtype=torch.bool, device="cpu")
    vertical, horizontal = size[0] / (seen.bottom - seen.top), size[1] / (seen.right - seen.left)
    for box in boxes:
        rows = _pixels((box.top - seen.top) * vertical, (box.bottom - seen.top) * vertical, size[0])
        columns = _pixels((box.left - seen.left) * horizontal, (box.right - seen.left) * horizontal, size[1])
        region[rows, columns] = True
    return region


def _pixels(start: float, stop: float, length: int) -> slice:
    """The pixels between two edges, at least one unless they lie outside of `length` pixels."""
    first, last = round(start), round(stop)
    if last <= first:
        middle = (start + stop) / 2
        if not 0 <= middle <= length:
            return slice(0, 0)
        first = min(int(middle), length - 1)
        last = first + 1
    return slice(max(0, first), max(0, min(last, length)))
