"""The explanations of a run by class, with maps and numbers: they show where the evidence lies."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from xgradcam.errors import XGradCamError, first_line
from xgradcam.evaluation.boxes import region_of
from xgradcam.evaluation.clusters import Groups, Maps, group, kept_map
from xgradcam.evaluation.matching import Matches, matches_in
from xgradcam.evaluation.metrics import focus
from xgradcam.files import open_regular
from xgradcam.runs.mistakes import CONTRAST, OF_CLASSES, telling_method
from xgradcam.runs.run import Run
from xgradcam.runs.sources import Source
from xgradcam.runs.verdicts import Verdicts, verdicts_on

Record: TypeAlias = Mapping[str, Any]
# Parts of a score that are constants with a place.
PLACED = ("bias", "bypass", "curvature")


@dataclass(frozen=True, eq=False)
class Explained:
    """The explanations of one class, or of one contrast of two classes, in the order of the run.

    name: of the class, or words for another score. index: of the class, if it is one. maps: see `kept_map`,
    (N, 32, 32). inside: the share of each map's positive evidence in boxes of the class, where it has any.
    groups: of the maps that are not blank, in the order of `shown`. right: of the photographs whose true
    class it is, how many are right, and how many there are; predicted: how many are taken for it; None where
    the true classes are not known.
    """

    name: str
    index: int | None
    method: str
    records: Sequence[Record]
    maps: Maps
    inside: Sequence[float] = ()
    right: tuple[int, int] | None = None
    predicted: int | None = None

    @cached_property
    def shown(self) -> list[int]:
        """The places of the maps that are not blank."""
        return [int(place) for place in np.flatnonzero(self.maps.any(axis=(1, 2)))]

    @cached_property
    def groups(self) -> Groups:
        """Groups of maps that look at the same places."""
        return group(self.maps[self.shown])

    def mean(self, places: Sequence[int] | None = None) -> Maps:
        """The mean of the maps, or of those at some places, as shares of all evidence: (32, 32)."""
        chosen = self.maps[list(self.shown if places is None else places)]
        mean = chosen.mean(axis=0) if len(chosen) else np.zeros(self.maps.shape[1:])
        return np.asarray(mean, np.float32)

    def share(self, *parts: str) -> float | None:
        """The median share of the score that these parts of its budget are; None where they are not known."""
        shares = []
        for record in self.records:
            found = [record.get("budget", {}).get(part) for part in parts]
            # A part that is not finite is recorded as None.
            if record["score"] and None not in found:
                shares.append(sum(found) / record["score"])
        return median(shares) if shares else None

    @property
    def conservation(self) -> float | None:
        """The median conservation error of the maps; None if none is finite."""
        errors = [record.get("conservation_error", {}).get(self.method) for record in self.records]
        known = [error for error in errors if error is not None]
        return median(known) if known else None


@dataclass(frozen=True)
class Overview:
    """The explanations of a run at one layer by one method.

    classes: those of most mistakes first, then those of most photographs. contrasts: of mistakes, the most
    frequent first. photographs: those explained. verdicts: on their predictions. sources: the photographs by
    their paths. remarks: lines on boxes. elsewhere: the records at other layers, by what they explain.
    """

    run: Run
    layer: str
    method: str
    classes: Sequence[Explained]
    contrasts: Sequence[Explained]
    photographs: int
    verdicts: Verdicts
    sources: Mapping[str, Source]
    remarks: Sequence[str] = field(default=())
    elsewhere: Mapping[tuple[object, ...], Sequence[Record]] = field(default_factory=dict)

    def at_layers(self, record: Record) -> list[Record]:
        """The record of an explanation at this layer, and those at the run's other ones."""
        return [record, *self.elsewhere.get((record["image"], *_key(record)), ())]


def overview_of(
    run: Run,
    records: Sequence[Record],
    boxes: Path | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Overview:
    """The overview of a run whose maps were saved, from its records: at its first layer.

    boxes: annotations, see `read_annotations`; `say` is told how many photographs have some.
    Raises XGradCamError where maps or boxes cannot be read.
    """
    layer, methods = run.layers[0], run.explaining.methods
    method = telling_method(methods)
    # A contrast has no map by a method of classes alone.
    of_contrast = telling_method([name for name in methods if name not in OF_CLASSES] or methods)
    paths = list(dict.fromkeys(record["image"] for record in records))
    verdicts = verdicts_on([[record] for record in {record["image"]: record for record in records}.values()])
    sources = {source.path: source for source in run.sources}
    inside = _Inside(run, matches_in(boxes, paths, say), sources)
    kinds: defaultdict[tuple[bool, int | None, str], list[Record]] = defaultdict(list)
    elsewhere: defaultdict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in (one for one in records if "maps" in one):
        if record["layer"] == layer:
            kinds[_key(record)].append(record)
        else:
            elsewhere[(record["image"], *_key(record))].append(record)
    classes, contrasts = [], []
    for (is_contrast, index, name), found in kinds.items():
        if is_contrast:
            maps = _maps(run, found, of_contrast)
            contrasts.append(Explained(found[0]["interest"], index, of_contrast, found, maps))
        else:
            classes.append(_class(run, (index, name), method, found, inside, verdicts))
    return Overview(
        run, layer, method,
        sorted(classes, key=lambda one: (-_mistakes(one), -len(one.records))),
        sorted(contrasts, key=lambda one: -len(one.records)),
        len(paths), verdicts, sources, [] if boxes is None else [inside.matches.summary(len(paths))],
        elsewhere,
    )  # fmt: skip


def _key(record: Record) -> tuple[bool, int | None, str]:
    """True for the contrast of a mistake; the class; and its name, or what tells other scores apart."""
    if record.get("role") == CONTRAST:
        return True, record.get("class_index"), str(record["score_of"])
    return False, record.get("class_index"), str(record.get("class_name", record.get("interest")))


def _mistakes(one: Explained) -> int:
    """Photographs of this class that are wrong."""
    return 0 if one.right is None else one.right[1] - one.right[0]


def _class(
    run: Run,
    key: tuple[int | None, str],
    method: str,
    records: Sequence[Record],
    inside: "_Inside",
    verdicts: Verdicts,
) -> Explained:
    index, name = key
    right = predicted = None
    if verdicts:
        of_class = [(one, count) for one, count in verdicts.items() if one.true[0] == index]
        right = sum(count for one, count in of_class if one.is_right), sum(count for _, count in of_class)
        predicted = sum(count for one, count in verdicts.items() if one.predicted[0] == index)
    maps, shares = [], []
    for record in records:
        signed = signed_map(run, record, method)
        maps.append(kept_map(signed))
        if (share := inside.share(record, signed)) is not None:
            shares.append(share)
    return Explained(name, index, method, records, np.stack(maps), shares, right, predicted)


def _maps(run: Run, records: Sequence[Record], method: str) -> Maps:
    return np.stack([kept_map(signed_map(run, record, method)) for record in records])


def signed_map(run: Run, record: Record, method: str) -> NDArray[np.float32]:
    """The signed map of an explanation, (h, w), as it was saved."""
    path = run.writing.folder / record["maps"]
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
            found = np.asarray(archive[method], np.float32)
    except (EOFError, OSError, KeyError, ValueError, BadZipFile) as error:
        reason = first_line(error)
        raise XGradCamError(f"cannot read the maps in {path}: {reason}: explain the run anew") from None
    if found.ndim != 2 or not found.size:
        raise XGradCamError(f"the maps in {path} are {found.shape}: a report is about maps (h, w)")
    return found


@dataclass(frozen=True)
class _Inside:
    """Measures the share of the evidence in the boxes of its class."""

    run: Run
    matches: Matches
    sources: Mapping[str, Source]
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def share(self, record: Record, signed: NDArray[np.float32]) -> float | None:
        """The share of one map; None without boxes of its class, or without positive evidence."""
        image, target = record["image"], record.get("class_index")
        if image not in self.matches.found or target is None or image not in self.sources:
            return None
        if image not in self.shapes:
            photograph = self.sources[image].read(self.run.value_range).photograph
            self.shapes[image] = photograph.shape[0], photograph.shape[1]
        shape = self.shapes[image]
        boxes = self.matches.boxes_of(image, target, self.run.classifier.labels, shape)
        if not boxes:
            return None
        region = region_of(boxes, shape, self.run.framing)
        if not region.any():
            self.matches.crop_away(image)
            return None
        return focus(torch.from_numpy(signed)[None], region)
