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
# Pixels that are blended at once.
BLOCK_PIXELS = 2**20


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
    return signed_blend(photograph, signed_shares(sized))


def signed_shares(values: NDArray[Any]) -> NDArray[np.float32]:
    """The values as shares of the largest size, from -1 to 1, up to a few outliers; 0 if not finite."""
    finite = np.nan_to_num(np.asarray(values, np.float32), posinf=0, neginf=0)
    sizes = np.abs(finite)
    largest = float(np.percentile(sizes, FULL)) or float(sizes.max()) or 1.0
    shares: NDArray[np.float32] = np.clip(finite / largest, -1, 1)
    return shares


def signed_blend(
    photograph: Photograph,
    shares: NDArray[np.float32],
    table: NDArray[np.uint8] | None = None,
    alpha: float | None = None,
) -> Photograph:
    """Shares (H, W) from -1 to 1 over a photograph (H, W, 3) in grey: (H, W, 3) uint8 RGB.

    table: 256 colours from -1 to 1, (256, 3); None for blue and red. alpha: the share that the full
    colour covers. Block by block: a whole photograph in float32 would take 24 bytes a pixel.
    """
    picture = np.empty(photograph.shape, np.uint8)
    step = max(1, BLOCK_PIXELS // photograph.shape[1])
    for start in range(0, photograph.shape[0], step):
        rows = slice(start, start + step)
        share = shares[rows, :, None]
        cover = (COVER if alpha is None else alpha) * np.abs(share)
        grey = cv2.cvtColor(photograph[rows], cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
        light = 255 * LIGHTENED + (1 - LIGHTENED) * grey
        if table is None:
            colour = np.where(share > 0, np.array(FOR, np.float32), np.array(AGAINST, np.float32))
        else:
            colour = table[np.rint(127.5 + 127.5 * share[..., 0]).astype(np.uint8)].astype(np.float32)
        picture[rows] = np.rint((1 - cover) * light + cover * colour)
    return picture
