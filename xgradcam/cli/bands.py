"""Photographs of as many bands as the network takes, and the three of them that are drawn."""

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from xgradcam.models.classifier import Classifier
    from xgradcam.pictures.bands import Bands
    from xgradcam.pictures.decoding import Reading
    from xgradcam.pictures.levels import ValueRange
    from xgradcam.runs.sources import Source

# Networks of so many channels get photographs as they are, in colours or grey.
USUAL = (1, 3)


def add_bands_argument(group: argparse._ActionsContainer) -> None:
    """Add the option of the bands that are drawn."""
    group.add_argument(
        "--bands", metavar=("RED", "GREEN", "BLUE"), type=int, nargs=3,
        help="of a network of other than one or three channels: the bands of its photographs (TIFF, .npy, "
        "PNG with transparency) that are drawn as red, green and blue, from 1 on; default: 1 2 3",
    )  # fmt: skip


def bands_of(
    arguments: argparse.Namespace, classifier: "Classifier", say: Callable[[str], None]
) -> "Bands | None":
    """The bands that the classifier takes, None for grey or colours; XGradCamError for --bands it lacks."""
    from xgradcam.pictures.bands import Bands
    from xgradcam.runs.settings import usual_bands

    count, asked = len(classifier.mean), arguments.bands
    if count in USUAL:
        if asked is not None:
            raise XGradCamError(f"--bands is for networks of several bands: {classifier.name} takes {count}")
        return None
    if asked is not None and not all(1 <= band <= count for band in asked):
        raise XGradCamError(f"--bands {' '.join(map(str, asked))}: {classifier.name} has bands 1 to {count}")
    drawn = asked or usual_bands(classifier.mean)
    if asked is None:
        names = ", ".join(map(str, drawn))
        say(f"photographs of {count} bands are drawn by bands {names} (--bands gives others)")
    red, green, blue = (band - 1 for band in drawn)
    return Bands(count, (red, green, blue))


def early(path: str, read: "Callable[[], Reading]") -> "Reading | None":
    """The photograph, read before the network is known; None for a file that may be of several bands."""
    from xgradcam.pictures.bands import BAND_SUFFIXES

    if os.path.splitext(path)[1].lower() in BAND_SUFFIXES:
        with suppress(XGradCamError):
            return read()
        return None
    return read()


def with_bands(
    sources: "Sequence[Source]", bands: "Bands | None", value_range: "ValueRange | None"
) -> "list[Source]":
    """The photographs as the network takes them; an only one is read now, so that its errors come first."""
    if bands is not None:
        sources = [replace(source, bands=bands, reading=None) for source in sources]
    if len(sources) == 1 and sources[0].reading is None:
        return [replace(sources[0], reading=sources[0].read(value_range))]
    return list(sources)
