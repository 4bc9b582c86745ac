"""The box or the region that a score is about, to be outlined on a picture."""

from collections.abc import Sequence

import numpy as np

from xgradcam.pictures.framing import Framing
from xgradcam.pictures.outlines import Outline
from xgradcam.scores.boxes import BoxScore, Detection
from xgradcam.scores.regions import PredictedRegion, RegionMean
from xgradcam.scores.score import Score


def outline_of(score_of: Score | None, framing: Framing) -> Outline | None:
    """The box or the region that the score of one photograph is about, if it is about one."""
    for detection in detections_of(score_of):
        return Outline(box=shares_of(detection, framing))
    if isinstance(score_of, PredictedRegion | RegionMean) and score_of.region is not None:
        inside = np.asarray(score_of.region.cpu()) > 0
        return Outline(region=inside[0] if inside.ndim == 3 else inside)
    return None


def detections_of(score_of: Score | None) -> Sequence[Detection]:
    """The detections that a score of boxes has found; none for other scores."""
    return score_of.detections if isinstance(score_of, BoxScore) else ()


def shares_of(detection: Detection, framing: Framing) -> tuple[float, float, float, float]:
    """The detection's corners in shares of the input's width and height."""
    height, width = (1, 1) if detection.relative else framing.size
    x0, y0, x1, y1 = detection.box
    return x0 / width, y0 / height, x1 / width, y1 / height
