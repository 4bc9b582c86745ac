"""The settings of a run compared: what must be the same for an interrupted run to go on."""

from collections.abc import Mapping
from typing import Any

from xgradcam.runs.figures import DPI, OF_THE_ORIGINALS
from xgradcam.runs.packs import FILES
from xgradcam.runs.run import FIGURES

Settings = Mapping[str, Any]
# Values of settings that are the same as none.
USUAL = {"dpi": DPI, "format": "jpg", "precision": "float32", "output_format": FILES}
# Colours recorded where none are named: of the original scripts' pictures alone, and of others.
ORIGINALS_COLOURS, COLOURS = "jet", "jet and viridis"
# Settings that follow from others where they are not chosen: they are not what a user has changed.
FOLLOWS = {
    "model": ("layers", "size", "mean", "std", "files"),
    "weights": ("size", "mean", "std", "files"),
    "score": ("layers", "files"),
}
# Options that are called otherwise than what they set.
OPTIONS = {
    "classes": "--target",
    "layers": "--target-layer",
    "size": "--input-size",
    "value_range": "--range",
}
# Settings by which a method may not apply, and `all` leaves it out.
LEAVE_OUT = {"model", "layers", "score", "precision", "augment"}
# Settings that only say how something was found that is recorded, too.
FOUND = "column"


def differing(before: Settings, now: Settings, classes: int | None = None) -> list[str]:
    """The names of the settings that differ, as options are called.

    A value that equals the usual one is the same as none, and what follows from a setting that differs is not
    named beside it. classes: of the run before, if that is known.
    """
    one, two = said(before), said(now)
    named = [key for key in dict.fromkeys([*two, *one]) if one.get(key) != two.get(key)]
    if FOUND in named and (FOUND not in one or FOUND not in two):
        named.remove(FOUND)
    if "num_classes" in named and {one.get("num_classes"), two.get("num_classes")} <= {None, classes}:
        named.remove("num_classes")
    methods = one.get("methods"), two.get("methods")
    if "methods" in named and LEAVE_OUT.intersection(named) and _is_a_part(*methods):
        named.remove("methods")
    following = {name for key in FOLLOWS if key in named for name in FOLLOWS[key]}
    return [key + _more(key, one, two) for key in named if key not in following]


def said(settings: Settings) -> dict[str, Any]:
    """The settings without those of which the value is the usual one."""
    found = {
        key: value
        for key, value in settings.items()
        if value is not None and value is not False and USUAL.get(key) != value
    }
    if found.get("colormap") == _usual_colours(found):
        del found["colormap"]
    # Such figures have one anyhow.
    if found.get("format") in FIGURES:
        found.pop("color_bar", None)
    if "bands" in found and found["bands"] == usual_bands(found.get("mean")):
        del found["bands"]
    return found


def colours_of(settings: Settings, named: str | None) -> str:
    """The recorded colours of a run with these settings; named: the colour map that was asked for."""
    return named or _usual_colours(settings)


def usual_bands(mean: Any) -> list[int]:
    """The bands that are drawn unless others are asked for, from 1 on; mean: with a number for each band."""
    count = len(mean) if isinstance(mean, list | tuple) else 0
    return [min(band, count) if count > 2 else 1 for band in (1, 2, 3)]


def _usual_colours(settings: Settings) -> str:
    """Runs recorded before there was a default for each method go on where their pictures are the same."""
    methods = settings.get("methods")
    others = any(settings.get(key) for key in ("color_bar", "signed", "panel"))
    of_figures = settings.get("format") in FIGURES
    as_before = isinstance(methods, list | tuple) and set(OF_THE_ORIGINALS).issuperset(methods)
    return ORIGINALS_COLOURS if as_before and not others and not of_figures else COLOURS


def _is_a_part(one: Any, two: Any) -> bool:
    """True if one list of methods holds all of the other."""
    if not (isinstance(one, list | tuple) and isinstance(two, list | tuple)):
        return False
    return set(one) <= set(two) or set(two) <= set(one)


def _more(key: str, before: Settings, now: Settings) -> str:
    """Words on a setting that is not the option of its name alone; empty for any other."""
    if key in OPTIONS:
        return f" ({OPTIONS[key]})"
    if key == "html" and before.get(key) and now.get(key):
        return " (--no-pictures)"
    if key == "save_maps" and now.get(key):
        return " (--report needs it)"
    if key == "files" and "score" not in now:
        one, two = before.get(key), now.get(key)
        if isinstance(one, list) and isinstance(two, list) and len(one) == len(two) > 1:
            places = [place for place in range(len(one)) if one[place] != two[place]]
            roles = {0: "the model's code", len(one) - 1: "--labels"}
            return f" ({', '.join(dict.fromkeys(roles.get(place, 'the weights') for place in places))})"
    return ""
