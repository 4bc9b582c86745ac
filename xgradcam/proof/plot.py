"""A picture of the terms of Eq. 5 at every layer, over the depth of the network."""

import io
import math
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xgradcam.proof.verification import Verification

# Okabe and Ito's palette, safe for colour-blind readers.
COLOURS = {"feature": "#0072B2", "bias": "#E69F00", "bypass": "#009E73", "curvature": "#CC79A7"}
LABELS = {
    "feature": "feature: gradients × activation",
    "bias": "bias: constants behind the layer",
    "bypass": "bypass: what goes past the layer",
    "curvature": "curvature: not piecewise affine",
}
# Marks our plots, in the metadata of each format; HELD: how the formats hold it.
MARK = "xgradcam proof-verify"
# No date in the file: the same numbers give the same bytes.
METADATA: Mapping[str, dict[str, str | None]] = {
    ".png": {"Creator": MARK},
    ".pdf": {"Creator": MARK, "CreationDate": None},
    ".svg": {"Creator": MARK, "Date": None},
}
HELD = (f"tEXtCreator\0{MARK}", f"/Creator ({MARK})", f"<dc:title>{MARK}</dc:title>")
# Layer names that fit on the axis, and those that fit without turning them.
MAX_NAMES = 42
MAX_LEVEL_NAMES = 3


def plot_split(splits: Mapping[str, Verification], title: str, suffix: str) -> bytes:
    """Draw the terms of one score, stacked, at each layer; return the picture file's bytes.

    splits: layer name to the verification of one sample, in order of execution. suffix: a key of `METADATA`.
    """
    width = min(max(7.0, 0.24 * len(splits)), 13.0)
    longest = max(map(len, splits)) if len(splits) > MAX_LEVEL_NAMES else 0
    figure = Figure(figsize=(width, 4.9 + 0.068 * longest), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _stack(axes, splits)
    score = float(next(iter(splits.values())).score[0])
    axes.axhline(0, color="black", linewidth=0.6)
    axes.axhline(score, color="black", linestyle="--", linewidth=1.4, label=f"score: {score:.6g}")
    _name_layers(axes, list(splits))
    axes.set_ylabel("contribution to the class score (logit)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=2 if width < 9 else 3, fontsize=8, frameon=False)
    picture = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "xgradcam", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(picture, format=suffix.removeprefix("."), metadata=METADATA[suffix])
    return picture.getvalue()


def is_plot(content: bytes) -> bool:
    """True for the content of a file that `plot_split` has made."""
    return any(mark.encode() in content for mark in HELD)


def _stack(axes: Axes, splits: Mapping[str, Verification]) -> None:
    """Stack positive terms upwards from zero, negative ones downwards; their signed sum is the score."""
    positions = np.arange(len(splits))
    # With more bars, gaps are about a pixel wide and would look like a pattern.
    width = 0.86 if len(splits) <= 60 else 1.0
    above, below = np.zeros(len(splits)), np.zeros(len(splits))
    for term, colour in COLOURS.items():
        values = np.array([float(getattr(split, term)[0]) for split in splits.values()])
        if term in ("bypass", "curvature") and not values.any():
            continue
        bottom = np.where(values >= 0, above, below)
        axes.bar(positions, values, width, bottom, color=colour, label=LABELS[term])
        above += values.clip(min=0)
        below += values.clip(max=0)
    margin = 0.05 * (above.max() - below.min()) or 1.0
    axes.set_ylim(below.min() - margin * bool(below.min()), above.max() + margin)


def _name_layers(axes: Axes, names: list[str]) -> None:
    """Label the axis with as many layer names as are readable."""
    step = math.ceil(len(names) / MAX_NAMES)
    shown = range(0, len(names), step)
    rotation = 90 if len(names) > MAX_LEVEL_NAMES else 0
    axes.set_xticks(shown, [names[position] for position in shown], rotation=rotation, fontsize=8)
    beside = 0.8 if len(names) > MAX_LEVEL_NAMES else 1.5
    axes.set_xlim(-beside, len(names) - 1 + beside)
    every = {1: "", 2: "; every 2nd is named", 3: "; every 3rd is named"}
    axes.set_xlabel("layer, in the order of execution" + every.get(step, f"; every {step}th is named"))
