"""The boxes of its class on a photograph: its annotation, and those of its boxes that count."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from xgradcam.errors import listed
from xgradcam.evaluation.boxes import Annotation, Box, read_annotations
from xgradcam.models.labels import classes_called

# Folders that tell no photographs apart: a/annotations/cat.xml is of a/images/cat.jpg.
NEUTRAL = frozenset(
    "annotation annotations annots xml xmls labels boxes bboxes image images imgs jpegimages photo photos "
    "photographs pictures".split()
)


def match(annotations: Iterable[Annotation], photographs: Iterable[str]) -> "Matches":
    """Find each photograph's annotation by its path, then by its stem; folders must not contradict.

    An annotation belongs to one photograph. Where several fit equally, none is taken.
    """
    known: defaultdict[tuple[str, tuple[str, ...]], list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        known[annotation.name.stem, _folders(annotation.name)].append(annotation)
    stems = {stem for stem, _ in known}
    claims: defaultdict[int, list[tuple[str, Annotation]]] = defaultdict(list)
    unclear: dict[str, str] = {}
    for photograph in photographs:
        best = _best(known, Path(os.path.abspath(photograph)))
        if len(best) == 1:
            claims[id(best[0])].append((photograph, best[0]))
        elif Path(photograph).stem in stems:
            unclear[photograph] = (
                "with several annotations of its name"
                if best
                else "with annotations of its name in other folders only"
            )
    found: dict[str, Annotation] = {}
    for claimed in claims.values():
        exact = [claim for claim in claimed if Path(claim[0]).name == claim[1].name.name] or claimed
        found |= dict(exact) if len(exact) == 1 else {}
        unclear |= {
            photograph: "with a name that others share"
            for photograph, _ in claimed
            if photograph not in found
        }
    return Matches(found, unclear)


def matches_in(boxes: Path | None, photographs: Sequence[str], say: Callable[[str], None]) -> "Matches":
    """The annotations of the photographs in a file or a folder; `say` is told how many there are."""
    if boxes is None:
        return Matches({}, {})
    annotations = read_annotations(boxes, say)
    matches = match(annotations, photographs)
    have = "photograph has" if len(photographs) == 1 else "photographs have"
    line = f"{len(matches.found)} of {len(photographs)} {have} boxes in {boxes}"
    if annotations and not matches.found:
        line += f": it has those of {listed((str(one.name) for one in annotations), 2)}"
        line += f", and not of {listed(photographs, 2)}"
    say(line)
    return matches


def _best(known: Mapping[tuple[str, tuple[str, ...]], list[Annotation]], path: Path) -> list[Annotation]:
    """The annotations that fit a photograph best: by its whole name, by its stem, by the most folders."""
    folders = _folders(path)
    endings = [folders[start:] for start in range(len(folders) + 1)]
    groups = [known[path.stem, ending] for ending in endings if (path.stem, ending) in known]
    exact = [[one for one in group if one.name.name == path.name] for group in groups]
    return next(filter(None, [*exact, *groups]), [])


def _folders(path: PurePath) -> tuple[str, ...]:
    return tuple(part for part in path.parts[:-1] if part.lower() not in NEUTRAL)


class Matches:
    """Photographs with their annotations, and a count of those whose boxes cannot be used.

    found: path of a photograph -> annotation. unclear: path -> why its boxes are not taken.
    """

    def __init__(self, found: Mapping[str, Annotation], unclear: Mapping[str, str]) -> None:
        self.found = found
        self._problems = dict(unclear)
        self._scaled: set[str] = set()
        self._used: set[str] = set()

    def boxes_of(
        self, photograph: str, target: int, labels: Sequence[str] | None, shape: tuple[int, int]
    ) -> list[Box]:
        """The boxes of the class in a photograph (H, W), in its pixels; all if none of them has a label."""
        annotation = self.found.get(photograph)
        if annotation is None or not annotation.boxes:
            return []
        unlabelled = not any(box.label for box in annotation.boxes)
        named = [box for box in annotation.boxes if unlabelled or is_named(labels, target, box.label)]
        if not named:
            kinds = listed(sorted({box.label for box in annotation.boxes}), 3)
            hint = "" if labels else ": the model's have no names (--labels)"
            self._problems[photograph] = f"with boxes of other classes only ({kinds}){hint}"
            return []
        boxes = self._in_pixels(photograph, named, annotation.size, shape)
        shown = [box for box in boxes if box.shows(shape)]
        if shown:
            self._used.add(photograph)
        elif boxes:
            self._problems[photograph] = "with boxes outside of the picture or without an area"
        return shown

    def _in_pixels(
        self, photograph: str, boxes: Sequence[Box], size: tuple[float, float] | None, shape: tuple[int, int]
    ) -> list[Box]:
        """The boxes scaled to a photograph (H, W) of the size of the annotation; none for another shape."""
        height, width = shape
        if size is None or size == (width, height):
            return list(boxes)
        across, down = width / size[0], height / size[1]
        # The sides of a scaled picture are rounded.
        if min(abs(size[1] * across - height), abs(size[0] * down - width)) > 1:
            self._problems[photograph] = "with boxes for another shape of picture"
            return []
        self._scaled.add(photograph)
        return [box.scaled(across, down) for box in boxes]

    def crop_away(self, photograph: str) -> None:
        """Note that the crop shows nothing of the photograph's boxes."""
        self._used.discard(photograph)
        self._problems[photograph] = "with boxes outside of the crop"

    def summary(self, count: int) -> str:
        """The number of `count` photographs with boxes of their class, and why others were not used."""
        reasons = Counter(self._problems.values())
        have = "photograph has boxes of its" if count == 1 else "photographs have boxes of their"
        lines = [f"{len(self._used)} of {count} {have} class"]
        for reason, many in reasons.most_common(5):
            example = next(path for path, why in self._problems.items() if why == reason)
            lines.append(f"{many} {reason}, such as {example}")
        if len(reasons) > 5:
            lines.append(f"{sum(reasons.values()) - sum(many for _, many in reasons.most_common(5))} others")
        if scaled := self._scaled & self._used:
            lines.append(f"{len(scaled)} scaled to the photograph's size")
        return "boxes: " + "; ".join(lines)


def is_named(labels: Sequence[str] | None, target: int, label: str) -> bool:
    """True if the label of a box is a whole name, the id or the index of this class."""
    called = classes_called(labels, label)
    if not called and label.isascii() and label.isdecimal():
        return label.lstrip("0") == str(target).lstrip("0")
    return target in called
