"""A picture of how a score splits by Eq. 5 over the depth of the network."""

import io
import math
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xgradcam.proof.verification import Verification

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = {"feature": "#0072B2", "bias": "#E69F00", "bypass": "#009E73", "curvature": "#CC79A7"}
LABELS = {
    "feature": "feature: gradients × activation",
    "bias": "bias: constants behind the layer",
    "bypass": "bypass: what goes past the layer",
    "curvature": "curvature: not piecewise affine",
}
# Without the time of day: the same numbers give the same file.
METADATA: Mapping[str, dict[str, None]] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
MOST_NAMES = 42
FEW = 3


def plot_split(splits: Mapping[str, Verification], title: str, suffix: str) -> bytes:
    """The terms of one score, stacked, at each layer, as the bytes of a picture.

    splits: layer's name to the verification of one sample, in the order of execution. suffix: of `METADATA`.
    """
    width = min(max(7.0, 0.24 * len(splits)), 13.0)
    longest = max(map(len, splits)) if len(splits) > FEW else 0
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
    with matplotlib.rc_context({"svg.hashsalt": "xgradcam"}):
        figure.savefig(picture, format=suffix.removeprefix("."), metadata=METADATA[suffix])
    return picture.getvalue()


def _stack(axes: Axes, splits: Mapping[str, Verification]) -> None:
    """Positive terms upwards from zero, negative ones downwards; the bars' signed sum is the score."""
    positions = np.arange(len(splits))
    # Gaps between more bars than this are a pixel or none, which looks like a pattern.
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
    """Name as many layers as can be read."""
    step = math.ceil(len(names) / MOST_NAMES)
    shown = range(0, len(names), step)
    rotation = 90 if len(names) > FEW else 0
    axes.set_xticks(shown, [names[position] for position in shown], rotation=rotation, fontsize=8)
    beside = 0.8 if len(names) > FEW else 1.5
    axes.set_xlim(-beside, len(names) - 1 + beside)
    every = {1: "", 2: "; every 2nd is named", 3: "; every 3rd is named"}
    axes.set_xlabel("layer, in the order of execution" + every.get(step, f"; every {step}th is named"))
