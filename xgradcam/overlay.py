"""A heatmap painted over the photograph, as in the original scripts."""

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.errors import XGradCamError
from xgradcam.images import Photograph, require_photograph


def overlay_heatmap(photograph: Photograph, heatmap: NDArray[np.float32]) -> Photograph:
    """JET colours plus photograph, rescaled by the sum's maximum: (H, W, 3) uint8 RGB.

    photograph: (H, W, 3) uint8 RGB. heatmap: (H, W) in [0, 1]; where it is 0 all over, the result is the
    photograph itself.
    """
    require_photograph(photograph)
    heatmap = np.asarray(heatmap, np.float32)
    if heatmap.shape != photograph.shape[:2]:
        raise XGradCamError(
            f"a heatmap {heatmap.shape} for a photograph {photograph.shape[:2]}: give both the same size"
        )
    if not heatmap.any():
        return photograph.copy()
    levels = (255 * heatmap).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[:, :, ::-1]
    mixed = np.float32(colours) / 255 + np.float32(photograph) / 255
    return np.asarray(255 * (mixed / mixed.max()), np.uint8)
