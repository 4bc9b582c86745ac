"""Draw a signed map over a grey photograph: red for, blue against."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.pictures.photograph import Photograph, require_photograph

# RGB of values above and below 0: far apart for colour-blind readers, too.
FOR, AGAINST = (202, 0, 32), (5, 97, 206)
# Lightest the photograph is made, so that both colours stand out; the share of it that full colour covers.
LIGHTENED, COVER = 0.45, 0.9
# Values beyond this percentile of all sizes have the full colour: a few cells may be far larger.
FULL = 99.5


def signed_overlay(photograph: Photograph, values: NDArray[Any]) -> Photograph:
    """The map (h, w) over the photograph (H, W, 3) in grey: (H, W, 3) uint8 RGB.

    The colours' strength is the value's share of the largest, up to a few outliers; each map has its own.
    """
    require_photograph(photograph)
    height, width = photograph.shape[:2]
    area = values.shape[0] > height or values.shape[1] > width
    sized = cv2.resize(
        values.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR
    )
    largest = float(np.percentile(np.abs(sized), FULL)) or float(np.abs(sized).max()) or 1.0
    cover = COVER * np.clip(np.abs(sized) / largest, 0, 1)[..., None]
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    light = 255 * LIGHTENED + (1 - LIGHTENED) * grey
    colour = np.where(sized[..., None] > 0, np.array(FOR, np.float32), np.array(AGAINST, np.float32))
    return np.asarray(np.rint((1 - cover) * light + cover * colour), np.uint8)
