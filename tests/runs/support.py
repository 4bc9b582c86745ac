"""A run of a small network, without a command."""

from pathlib import Path

from xgradcam.models.classifier import Classifier
from xgradcam.pictures.paint import DEFAULT_STYLE
from xgradcam.runs.run import Explaining, Run, Writing

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
LAYERS = ("features.1", "features.4")


def run_of(net, classes=(None,), sources=(), layers=LAYERS, explaining=None, folder=Path(), **writing):
    """A run of 8 x 8 pixels; explaining: options of `Explaining`; writing: of `Writing`."""
    classifier = Classifier("tiny", net, (8, 8), MEAN, STD, None)
    written = Writing(folder, **{"style": DEFAULT_STYLE, **writing})
    how = Explaining(**(explaining or {}))
    return Run(sources, classifier, classifier.framing(), layers, classes, how, written)


def touch(*names):
    """Make empty files of these names, and their folders."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
