"""The detections in what a model returned, in any of the forms that detectors give them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xgradcam.errors import XGradCamError
from xgradcam.scores.outputs import described, is_scores, named_outputs, select_output
from xgradcam.scores.targets import require_class

# Boxes of one class that overlap by more (intersection over union) are one detection.
SAME = 0.5
LISTED = ("boxes", "labels", "scores")
# Outputs of transformers whose last class is "no object"; its others have a sigmoid for each class.
_WITH_NO_OBJECT = re.compile("(Detr|Yolos|TableTransformer)(Object|Segm)")


@dataclass(frozen=True)
class Candidates:
    """Boxes of one sample that may be detections.

    boxes: corners x0, y0, x1, y1, (M, 4), without a graph. scores: (M,), or (M, classes) without labels.
    chances: the numbers that they are ranked by, in the shape of the scores but for "no object", without a
    graph. labels: the class of each, (M,), if the detector has chosen one and dropped what it does not hold
    for a detection. relative: the boxes are shares of the input's width and height, not in its pixels.
    """

    boxes: Tensor
    scores: Tensor
    chances: Tensor
    labels: Tensor | None = None
    relative: bool = False

    def ranked(self, target: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of the detections, of one class if it is given, their classes and chances, best first.

        If no candidate is likeliest of the class that is given, all of them are taken for it.
        Raises XGradCamError for a class that there is not, and for scores that are not all of classes.
        """
        if self.labels is not None:
            rows = torch.arange(len(self.labels), device=self.labels.device)
            rows = rows if target is None else rows[self.labels == target]
            rows = rows[self.chances[rows].argsort(descending=True, stable=True)]
            return rows, self.labels[rows], self.chances[rows]
        from torchvision.ops import batched_nms

        self._require_classes()
        chances, classes = self.chances.max(dim=1)
        if target is not None:
            require_class(target, self.chances.shape[1])
            if not (classes == target).any():
                chances, classes = self.chances[:, target], torch.full_like(classes, target)
        rows = batched_nms(self.boxes.float(), chances.float(), classes, SAME)
        rows = rows if target is None else rows[classes[rows] == target]
        return rows, classes[rows], chances[rows]

    def _require_classes(self) -> None:
        """Raise XGradCamError if some scores are chances and the rest are not, as far as values tell."""
        are_chances = ((self.chances >= 0) & (self.chances <= 1)).all(dim=0)
        if are_chances.all() or not are_chances[0]:
            return
        count = int(are_chances.int().argmin())
        raise XGradCamError(
            f"of {len(are_chances)} rows after the boxes {count} are chances and others are not, as masks, "
            f"keypoints and angles: return boxes and class scores alone, such as output[:, :{4 + count}]"
        )

    def score(self, row: int, target: int) -> Tensor:
        """The score of a detection for a class, (), in the model's graph."""
        return self.scores[row] if self.labels is not None else self.scores[row, target]

    def none(self) -> Tensor:
        """The score of a detection that is not there, (): 0, in the model's graph as far as it has one."""
        return 0 * self.scores.sum()


def candidates_in(returned: Any, output: str | int | None, no_object: bool | None = None) -> list[Candidates]:
    """The candidates of each sample; XGradCamError if what the model returned has none of the known forms.

    output: see `logits_of`. no_object: see `BoxScore`.
    """
    held = select_output(returned, output)
    for form in _FORMS:
        found = form(held, no_object)
        if found is not None:
            return found
    what, hint = described(held)
    raise XGradCamError(
        f"the model returns {what}, not detections: boxes, labels and scores of each sample; logits and "
        f"pred_boxes; or boxes and class scores (N, 4 + classes, anchors), fewer than anchors{hint}"
    )


def overlaps(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of a box (4,) with others (M, 4), as corners: (M,); 1 where they are equal."""
    from torchvision.ops import box_iou

    shares = box_iou(box[None].to(boxes), boxes)[0].nan_to_num()
    return torch.where((boxes == box.to(boxes)).all(dim=1), 1, shares)


def _listed(held: Any, _no_object: bool | None) -> list[Candidates] | None:
    """A mapping of boxes, labels and scores for each sample, as torchvision's detectors return."""
    each = [held] if isinstance(held, Mapping) else held
    if not isinstance(each, (list, tuple)) or not each:
        return None
    if not all(isinstance(one, Mapping) and all(key in one for key in LISTED) for one in each):
        return None
    return [
        Candidates(one["boxes"].detach(), one["scores"], one["scores"].detach(), one["labels"])
        for one in each
    ]


def _queried(held: Any, no_object: bool | None) -> list[Candidates] | None:
    """Logits and pred_boxes (N, M, 4), centres and sizes, as DETR and its followers return."""
    if isinstance(held, (Tensor, list, tuple)):
        return None
    named = dict(named_outputs(held))
    boxes, logits = named.get("pred_boxes"), named.get("pred_logits", named.get("logits"))
    if not (is_scores(boxes) and is_scores(logits) and boxes.shape == (*logits.shape[:2], 4)):
        return None
    kind = type(held).__name__
    plain = logits.detach().float()
    if no_object is None:
        no_object = bool(_WITH_NO_OBJECT.match(kind)) or not kind.endswith("Output")
    chances = plain.softmax(dim=2)[..., :-1] if no_object else plain.sigmoid()
    corners = _corners(boxes.detach())
    return [Candidates(*one, relative=True) for one in zip(corners, logits, chances, strict=True)]


def _anchored(held: Any, _no_object: bool | None) -> list[Candidates] | None:
    """Boxes, as centres and sizes, and class scores, (N, 4 + classes, anchors), as YOLO returns.

    Rows that follow those of the classes, such as points of a pose, are left out where the raw predictions
    that are returned beside them tell; boxes with an angle are not taken.
    """
    first, *beside = held if isinstance(held, (list, tuple)) and held else [held]
    if not is_scores(first) or first.ndim != 3 or first.shape[1] < 5:
        return None
    raw = beside[0] if beside and isinstance(beside[0], Mapping) else {}
    raw = raw.get("one2one", raw)
    said = raw.get("scores")
    known = is_scores(said) and said.ndim == 3 and said.shape[2] == first.shape[2]
    if known:
        first = first[:, : 4 + said.shape[1]]
    rows = first.mT
    scores = rows[..., 4:]
    chances = scores.detach()
    likely = ((chances >= 0) & (chances <= 1)).flatten(0, 1).all(dim=0)
    if "angle" in raw:  # it turns the box
        return None
    # Where there are fewer anchors than classes, they may have been exchanged; boxes are in pixels.
    if not known and first.shape[1] >= first.shape[2] and not (likely.all() and (rows[..., :4] > 1).any()):
        return None
    boxes = _corners(rows[..., :4].detach())
    return [Candidates(*one) for one in zip(boxes, scores, chances, strict=True)]


def _corners(boxes: Tensor) -> Tensor:
    """Corners of boxes given as centres and sizes, (..., 4)."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


_FORMS: Sequence[Callable[[Any, bool | None], list[Candidates] | None]] = (_listed, _queried, _anchored)
