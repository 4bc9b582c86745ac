"""A score other than a class, for the photographs of a run, and what is said of it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from xgradcam.models.labels import label_of
from xgradcam.pictures.framing import Framing
from xgradcam.scores.boxes import Detection
from xgradcam.scores.outlining import detections_of, shares_of
from xgradcam.scores.regions import PixelScore, PredictedRegion, RegionMean
from xgradcam.scores.score import Contrast, Score

# Height and width of a photograph.
Shape: TypeAlias = tuple[int, int]
# Letters of a score's name in a file's name at most.
LONGEST = 40


@dataclass(frozen=True)
class Scoring:
    """A score other than a class.

    name: as the command line has it, `box:0`. what: the kind of thing, `detection`. make: from the shapes of
    a batch's photographs, as a framing fits them to the input, to the score. labels: names of the classes.
    said: words for what the explanation does not tell, such as a text. part: of a file's name, if not `name`.
    """

    name: str
    what: str
    make: Callable[[Framing, Sequence[Shape]], Score]
    labels: Sequence[str] | None = None
    said: str = ""
    part: str = ""

    @property
    def file_part(self) -> str:
        """The score as a part of a file's name."""
        return self.part or re.sub(r"[^\w.,-]+", "-", self.name).strip("-.")[:LONGEST]

    def words(self, score_of: Score | None, framing: Framing, shape: Shape) -> str:
        """The line on what is explained in one photograph of this shape; score_of: with what it found."""
        for detection in detections_of(score_of):
            corners = " ".join(f"{edge:.0f}" for edge in _on_photograph(detection, framing, shape))
            asked = "" if detection.overlap == 1 else f", overlap {detection.overlap:.2f}"
            return f"{self._label(detection.target)}, at {corners}{asked}"
        target = _target(score_of)
        if isinstance(score_of, PredictedRegion) and score_of.region is not None:
            share = float(score_of.region.float().mean())
            return f"{self._label(target)}, where the model says so, {share:.1%} of the picture"
        if isinstance(score_of, Contrast):
            others = ", ".join(self._label(other) for other in score_of.others)
            return f"{self._label(target)} in contrast to {others}"
        return self.said if target is None else f"{self._label(target)}{self.said}"

    def record(self, score_of: Score | None, framing: Framing, shape: Shape) -> dict[str, Any]:
        """The part of a photograph's record about the score; boxes are in the photograph's pixels."""
        record: dict[str, Any] = {"score_of": self.name, "what": self.what}
        record["interest"] = self.words(score_of, framing, shape)
        detections = detections_of(score_of)
        target = detections[0].target if detections else _target(score_of)
        if target is not None:
            record |= {"class_index": target, "class_name": self._label(target)}
        if detections:
            box = [round(edge, 2) for edge in _on_photograph(detections[0], framing, shape)]
            record["detection"] = {"box": box, "overlap": round(detections[0].overlap, 4)}
        return record

    def _label(self, target: int | None) -> str:
        return label_of(self.labels, target or 0)


def _target(score_of: Score | None) -> int | None:
    """The class that a score is of, for one photograph; None if it is of none."""
    if isinstance(score_of, Contrast | RegionMean | PredictedRegion | PixelScore):
        return next(iter(score_of.targets), None)
    return None


def _on_photograph(detection: Detection, framing: Framing, shape: Shape) -> list[float]:
    """The detection's corners x0, y0, x1, y1 in the photograph's pixels."""
    height, width = framing.size
    corners = np.array(shares_of(detection, framing)).reshape(2, 2) * (width, height)
    edges: list[float] = framing.in_photograph(corners, shape).flatten().tolist()
    return edges
