"""The score of a detection: which one it is, and how it is found again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from xgradcam.errors import NothingFoundError, XGradCamError, shown
from xgradcam.scores.detections import SAME, Candidates, candidates_in, overlaps
from xgradcam.scores.score import given_tensor
from xgradcam.scores.targets import class_indices

# The least chance of a detection whose class is not given, where there is one of as much: torchvision's.
LEAST = 0.05


@dataclass(frozen=True)
class Detection:
    """The detection that is explained.

    box: corners x0, y0, x1, y1: in the input's pixels, or shares of its width and height if `relative`.
    target: its class. score: as the model gives it. overlap: with the box asked for, intersection over union;
    1 if it was asked for by its rank. index: its place in the model's output.
    """

    box: tuple[float, float, float, float]
    target: int
    score: float
    overlap: float
    index: int
    relative: bool = False


@dataclass(frozen=True)
class BoxScore:
    """The score of one detection of each sample: S = score of class c at the box.

    where: the rank of the detection by its score, 0 the best; or a box, corners x0, y0, x1, y1, (4,) for all
    samples or (N, 4): then it is the detection that overlaps the box most, by intersection over union. Boxes
    are in the unit of the model's: pixels of the input, but shares of its width and height for DETR.
    target: the class, as the model numbers it, one for all samples or N; None for the detection's best one.
    output: see `logits_of`. no_object: True if the last of DETR's classes is "no object", False if it is a
    class and each has a sigmoid; None: by the name of what transformers' models return, True for others.

    The model returns, for each sample, a dictionary of `boxes`, `labels` and `scores` (torchvision; S is the
    probability); `logits`, or `pred_logits`, and `pred_boxes` (DETR; S is the logit); or (N, 4 + classes,
    anchors), alone or first in a tuple (YOLO; S is the class score). Of the latter two, boxes of one class
    that overlap a better one by more than a half are no detections of their own.

    Methods that ask the network again ask for the same detection: of DETR and YOLO for the same candidate,
    of torchvision, which drops and sorts them, for the one of the class that overlaps the box found most; S
    is 0 if none does by more than a half.
    detections: those found, for each sample; `explain_score` has them in its explanation.
    Raises NothingFoundError, an XGradCamError, if a sample has no such detection.
    """

    where: int | Sequence[float] | Sequence[Sequence[float]] | Tensor = 0
    target: int | Sequence[int] | Tensor | None = None
    output: str | int | None = None
    no_object: bool | None = field(default=None, kw_only=True)
    detections: tuple[Detection, ...] = field(default=(), kw_only=True)

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        if not self.detections:
            return self.settled(returned)(returned)
        each = candidates_in(returned, self.output, self.no_object)
        wanted = self.detections * (len(each) if len(self.detections) == 1 else 1)
        if len(wanted) != len(each):
            raise XGradCamError(f"{len(wanted)} detections for {len(each)} samples: give a box for each")
        return torch.stack([_again(one, found) for one, found in zip(each, wanted, strict=True)])

    def settled(self, returned: Any) -> "BoxScore":
        """The same score with the detections found in what the model returned."""
        each = candidates_in(returned, self.output, self.no_object)
        where, targets = self._where(len(each)), self._targets(len(each))
        names = [f" in sample {number}" if len(each) > 1 else "" for number in range(len(each))]
        found = tuple(map(_find, each, where, targets, names))
        return replace(self, detections=found)

    def alone(self, sample: int) -> "BoxScore":
        """The score with one sample's detection, for any number of rows."""
        where = given_tensor(self.where, "box")
        where = where[min(sample, len(where) - 1)] if where.ndim > 1 else where
        target = None if self.target is None else class_indices(self.target)
        if target is not None and target.ndim == 1 and len(target) > 1:
            target = target[sample]
        found = self.detections if len(self.detections) < 2 else (self.detections[sample],)
        return BoxScore(where, target, self.output, no_object=self.no_object, detections=found)

    def _where(self, samples: int) -> Sequence[int | Tensor]:
        """The rank or the box (4,) for each sample."""
        rank = class_indices(self.where)
        if rank is not None and rank.ndim == 0:
            if rank < 0:
                raise XGradCamError(f"the detection is {int(rank)}: give its rank, 0 for the best")
            return [int(rank)] * samples
        boxes = given_tensor(self.where, "box").double()
        fits = boxes.shape in ((4,), (1, 4), (samples, 4))
        if not fits or not (boxes[..., :2] < boxes[..., 2:]).all():
            raise XGradCamError(
                f"the box is {shown(self.where)}: give the rank of a detection, or x0, y0, x1, y1 with "
                f"x0 < x1 and y0 < y1, (4,) for all samples or ({samples}, 4)"
            )
        return list(boxes.expand(samples, 4))

    def _targets(self, samples: int) -> Sequence[int | None]:
        if self.target is None:
            return [None] * samples
        given = class_indices(self.target)
        if given is None or given.shape not in ((), (1,), (samples,)):
            raise XGradCamError(f"the class is {shown(self.target)}: give its index, or one for each sample")
        targets: list[int | None] = given.expand(samples).tolist()
        return targets


def _find(one: Candidates, where: int | Tensor, target: int | None, sample: str) -> Detection:
    """The detection of this rank, or the one that overlaps this box most; sample: its name, for errors."""
    rows, classes, chances = one.ranked(target)
    of_class = "" if target is None else f" of class {target}"
    if not len(rows):
        raise NothingFoundError(
            f"the model detects nothing{of_class}{sample}: ask for another class or photograph, "
            "or lower the detector's threshold"
        )
    if isinstance(where, int):
        if where >= len(rows):
            raise NothingFoundError(
                f"no detection {where}{of_class}{sample}: there are {len(rows)}, the best is 0"
            )
        return _detection(one, int(rows[where]), int(classes[where]), 1.0)
    if one.relative and where.abs().max() > 2:
        raise XGradCamError(
            "the boxes of this model are shares of the input's width and height: divide x by the width and "
            "y by the height"
        )
    if target is None and (likely := chances >= LEAST).any():
        rows, classes = rows[likely], classes[likely]
    shares = overlaps(where, one.boxes[rows])
    best = int((shares == shares.max()).nonzero()[0])
    if not shares[best]:
        asked, near = (_edges(box) for box in (where, one.boxes[rows[0]]))
        unit = "shares of" if one.relative else "pixels of"
        raise NothingFoundError(
            f"no detection{of_class} overlaps the box {asked}{sample}; the best one is at {near}, in {unit} "
            "the network's input"
        )
    return _detection(one, int(rows[best]), int(classes[best]), float(shares[best]))


def _edges(box: Tensor) -> str:
    return ",".join(f"{edge:.4g}" for edge in box.tolist())


def _detection(one: Candidates, row: int, target: int, overlap: float) -> Detection:
    x0, y0, x1, y1 = one.boxes[row].tolist()
    score = float(one.score(row, target).detach())
    return Detection((x0, y0, x1, y1), target, score, overlap, row, one.relative)


def _again(one: Candidates, found: Detection) -> Tensor:
    """The score of a detection that was found, perhaps of another input: ()."""
    if one.labels is None:
        return one.score(found.index, found.target)
    rows = (one.labels == found.target).nonzero()[:, 0]
    shares = overlaps(one.boxes.new_tensor(found.box), one.boxes[rows])
    if not len(rows) or shares.max() <= SAME:
        return one.none()
    return one.score(int(rows[shares.argmax()]), found.target)
