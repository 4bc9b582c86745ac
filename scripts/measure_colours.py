"""Measure colour maps: is their lightness even, and do colour-blind readers tell their levels apart?

    python scripts/measure_colours.py

Prints a Markdown table of OpenCV's colour maps, best first. *Falls*: the share of the way through CIELAB's
lightness that goes back; 0 for a map that only becomes lighter, or only darker. *Uneven*: the deviation of
the steps of lightness from their mean, in shares of it. *Least step*: the smallest distance in CIELAB (ΔE
1976) between levels a tenth of the map apart, as seen by readers with full colour vision and without one of
the three kinds of cones (Machado, Oliveira and Fernandes 2009, severity 1.0).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from xgradcam.pictures.paint import COLORMAPS, colours_of

# Machado et al. 2009, table 1: linear RGB as seen by readers without one kind of cones.
VISION: Mapping[str, NDArray[np.float64]] = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# Levels that must be told apart: a tenth of the map.
APART = 26


class Measures(NamedTuple):
    """Measures of a colour map; see above. span: of its lightness, from 0 to 100."""

    falls: float
    uneven: float
    least_step: float
    span: float


def seen(colours: NDArray[np.uint8], vision: str) -> NDArray[np.float64]:
    """CIELAB (levels, 3) of sRGB colours (levels, 3) as readers of this vision see them."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    turned = (linear @ VISION[vision].T).clip(0, 1)
    encoded = np.where(turned <= 0.0031308, 12.92 * turned, 1.055 * turned ** (1 / 2.4) - 0.055)
    lab: NDArray[np.float64] = cv2.cvtColor(encoded[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    return lab


def measured(colours: NDArray[np.uint8]) -> Measures:
    """The measures of a colour map (levels, 3) of sRGB."""
    lightness = seen(colours, "full")[:, 0]
    way = lightness[-1] - lightness[0]
    steps = np.diff(lightness) * (1 if way >= 0 else -1)
    falls = float(-steps[steps < 0].sum() / max(np.abs(steps).sum(), 1e-9))
    # Over an eighth of the map: 8 bits round single steps.
    broad = lightness[32:] - lightness[:-32]
    uneven = float(broad.std() / max(abs(broad.mean()), 1e-9))
    least = min(least_step(colours, vision) for vision in VISION)
    return Measures(falls, uneven, least, float(np.ptp(lightness)))


def least_step(colours: NDArray[np.uint8], vision: str) -> float:
    """The smallest distance between levels a tenth of the map apart."""
    lab = seen(colours, vision)
    return float(np.linalg.norm(lab[APART:] - lab[:-APART], axis=1).min())


def even(measures: Measures) -> bool:
    """True for a map of even lightness whose levels everybody can tell apart."""
    return measures.falls < 0.01 and measures.uneven < 0.25 and measures.least_step > 5


def main() -> None:
    """Print the table."""
    found: dict[str, Any] = {name: measured(colours_of(name)) for name in COLORMAPS}
    print("| map | even and safe | falls | uneven | least step | lightness from end to end |")
    print("|---|---|---|---|---|---|")
    for name, one in sorted(
        found.items(), key=lambda pair: (not even(pair[1]), pair[1].falls, pair[1].uneven)
    ):
        numbers = f"{one.falls:.1%} | {one.uneven:.2f} | {one.least_step:.1f} | {one.span:.0f}"
        print(f"| {name} | {'yes' if even(one) else ''} | {numbers} |")


if __name__ == "__main__":
    main()
