"""Boxes around objects, from annotations of PASCAL VOC (XML) and COCO (JSON)."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from xgradcam.errors import XGradCamError, shown
from xgradcam.files import open_regular
from xgradcam.pictures.formats import SUFFIXES
from xgradcam.pictures.framing import Framing


@dataclass(frozen=True)
class Box:
    """The box of an object: its edges in pixels of the photograph, from the upper left corner."""

    label: str
    left: float
    top: float
    right: float
    bottom: float

    def shows(self, shape: tuple[int, int]) -> bool:
        """True if the box has an area in a photograph (H, W); not where an edge is no number."""
        left, right = max(self.left, 0), min(self.right, shape[1])
        top, bottom = max(self.top, 0), min(self.bottom, shape[0])
        known = -inf < self.left < self.right < inf and -inf < self.top < self.bottom < inf
        return known and left < right and top < bottom

    def scaled(self, across: float, down: float) -> "Box":
        """The same box in a photograph of another size."""
        edges = self.left * across, self.top * down, self.right * across, self.bottom * down
        return Box(self.label, *edges)


@dataclass(frozen=True)
class Annotation:
    """The boxes of a photograph.

    name: of its file, with as many of its folders as are known. size: its width and height in pixels; None if
    unknown.
    """

    name: PurePosixPath
    boxes: tuple[Box, ...]
    size: tuple[float, float] | None = None


def read_annotations(path: Path, say: Callable[[str], None] = lambda _line: None) -> list[Annotation]:
    """The annotations in a COCO file, a VOC file, or a folder of VOC files, by whose folders they are named.

    say: is called with a line about annotations that belong to no photograph.
    Raises XGradCamError for a file in neither format.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.xml"))
        if not files:
            raise XGradCamError(f"no XML files in the folder {path}")
        return [_below(file.parent.relative_to(path), read_voc(file)) for file in files]
    if path.suffix.lower() == ".json":
        return read_coco(path, say)
    if path.suffix.lower() == ".xml":
        return [read_voc(path)]
    raise XGradCamError(f"boxes are a COCO .json, a VOC .xml or a folder of them, not {path}")


def _below(folder: Path, annotation: Annotation) -> Annotation:
    if len(annotation.name.parts) > 1:
        return annotation
    return replace(annotation, name=PurePosixPath(folder.as_posix()) / annotation.name)


def read_voc(path: Path) -> Annotation:
    """The annotation in a PASCAL VOC file. VOC counts pixels from 1, and a box includes its edge pixels."""
    text = _read(path)
    # Nested entities can expand to gigabytes; VOC files have none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise XGradCamError(f"{path} declares a document type: VOC's files have none")
    try:
        root = ElementTree.fromstring(text)
        boxes = tuple(_voc_box(found) for found in root.iter("object"))
        size = _size(root.findtext("size/width"), root.findtext("size/height"))
        name = _file_name((root.findtext("filename") or "").strip() or path.stem)
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise XGradCamError(f"{path} is no annotation of PASCAL VOC: {error}") from None
    return Annotation(name, boxes, size)


def _voc_box(found: ElementTree.Element) -> Box:
    edges = {name: found.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")}
    missing = [name for name, value in edges.items() if value is None]
    if missing:
        raise ValueError(f"an object has no {', '.join(missing)}")
    left, top, right, bottom = (float(value or "") for value in edges.values())
    return Box((found.findtext("name") or "").strip(), left - 1, top - 1, right, bottom)


def _size(width: Any, height: Any) -> tuple[float, float] | None:
    """Width and height; None if the file does not say them (some tools write 0)."""
    size = float(width or 0), float(height or 0)
    return size if 0 < min(size) <= max(size) < inf else None


def _file_name(name: str) -> PurePosixPath:
    """The path of a photograph as an annotation gives it, also with Windows' separators or without an ending.

    Of a path on another machine only the last folder says something here.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.suffix.lower() not in SUFFIXES:
        path = path.with_name(f"{path.name}.jpg")
    is_absolute = path.is_absolute() or ":" in path.parts[0]
    return PurePosixPath(*path.parts[1:][-2:]) if is_absolute else path


def read_coco(path: Path, say: Callable[[str], None] = lambda _line: None) -> list[Annotation]:
    """The annotations in a COCO file of instances; its boxes are upper left corner, width and height.

    say: is called with the number of annotations of images that the file does not list.
    """
    try:
        content = json.loads(_read(path))
        images = _entries(content, "images", "id", "file_name")
        names = {image["id"]: image["file_name"] for image in images}
        sizes = {image["file_name"]: _size(image.get("width"), image.get("height")) for image in images}
        categories = _entries(content, "categories", "id", "name") if "categories" in content else []
        labels = {category["id"]: str(category["name"]) for category in categories}
        found = _entries(content, "annotations", "image_id", "bbox")
        boxes: defaultdict[str, list[Box]] = defaultdict(list)
        for place, entry in enumerate(found):
            if entry["image_id"] in names:
                label = labels.get(entry.get("category_id"), "")
                boxes[names[entry["image_id"]]].append(_coco_box(place, entry["bbox"], label))
        unlisted = [entry["image_id"] for entry in found if entry["image_id"] not in names]
        problem = f"{len(unlisted)} of {len(found)} annotations are of images that are not listed"
        problem += f", such as image_id {shown(unlisted[0])}" if unlisted else ""
        if unlisted and len(unlisted) == len(found):
            raise ValueError(f"{problem}: give the file with its images")
        if unlisted:
            say(f"{path}: {problem}: they are passed over")
        return [Annotation(_file_name(name), tuple(boxes[name]), size) for name, size in sizes.items()]
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise XGradCamError(f"{path} is no annotation of COCO: {error}") from None


def _entries(content: Any, key: str, *wanted: str) -> list[Mapping[str, Any]]:
    """The objects in the list under a key; ValueError that names what is missing, and what to give."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"it has no list {key!r}: give a file of instances, with images and annotations")
    for place, entry in enumerate(entries):
        missing = [name for name in wanted if not isinstance(entry, dict) or name not in entry]
        if missing:
            raise ValueError(f"{key}[{place}] has no {', '.join(missing)}: add it, or take the entry out")
    return entries


def _coco_box(place: int, edges: Any, label: str) -> Box:
    try:
        left, top, width, height = map(float, edges)
    except (ValueError, TypeError):
        wanted = "give [left, top, width, height]"
        raise ValueError(f"the bbox of annotations[{place}] is {shown(edges)}: {wanted}") from None
    return Box(label, left, top, left + width, top + height)


def _read(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return file.read().decode("utf-8-sig")
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
