"""The files that a command reads, and the settings that it records for `--resume`."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xgradcam.cli.figure_options import recorded
from xgradcam.cli.page_options import recorded_page
from xgradcam.cli.scale_options import FILES
from xgradcam.cli.scoring import score_files
from xgradcam.cli.truth_options import truth_files, truth_settings
from xgradcam.files import KeptFiles

if TYPE_CHECKING:
    from xgradcam.models.classifier import Classifier
    from xgradcam.runs.scoring import Scoring

# Options that must be the same for an interrupted run to go on.
KEPT = (
    "value_range",
    "num_classes",
    "output",
    "full_resolution",
    "crop",
    "panel",
    "html",
    "colormap",
    "alpha",
    "save_maps",
    "augment",
    "axioms",
    "guided",
    "precision",
    "probability",
)


def kept_files(arguments: argparse.Namespace, photographs: Sequence[str]) -> KeptFiles:
    """The files that a command reads, and must not write over."""
    read = [*photographs, *score_files(arguments), *truth_files(arguments), *_files_of_model(arguments)]
    read += [str(arguments.boxes)] if getattr(arguments, "boxes", None) is not None else []
    return KeptFiles([*read, *arguments.argument_files])


def _files_of_model(arguments: argparse.Namespace) -> list[str]:
    """Files that decide what the model says, beside what torchvision and timm publish; not all need exist."""
    from xgradcam.models.checkpoints import split_weights

    code = (arguments.model or "").rpartition(":")[0]
    return [code, str(split_weights(arguments.weights)[0]), str(arguments.labels)]


def settings_of(
    arguments: argparse.Namespace,
    classifier: "Classifier",
    layers: Sequence[str],
    methods: Sequence[str],
    scoring: "Scoring | None" = None,
) -> dict[str, Any]:
    """The first line of the run's record: what must be the same for the run to go on."""
    return {
        "model": classifier.name,
        "weights": arguments.weights,
        "layers": layers,
        "methods": methods,
        "photographs": arguments.image_path,
        "classes": arguments.target_index,
        "files": state_of_files(arguments, classifier),
        "size": list(classifier.size),
        "mean": list(classifier.mean),
        "std": list(classifier.std),
        **{name: getattr(arguments, name) for name in KEPT},
        "html": recorded_page(arguments),
        **recorded(arguments, methods),
        # Not there unless it is said, so that runs recorded before it was an option go on.
        **({} if arguments.layout is None else {"layout": arguments.layout}),
        **({} if scoring is None else {"score": scoring.name}),
        **({} if arguments.bands is None else {"bands": arguments.bands}),
        **truth_settings(arguments),
        **({} if arguments.column is None else {"column": arguments.column}),
        **({} if arguments.output_format == FILES else {"output_format": arguments.output_format}),
    }


def state_of_files(arguments: argparse.Namespace, classifier: "Classifier") -> list[dict[str, int]]:
    """The state of the files that decide what the model says, beside what torchvision and timm publish.

    Weights are in the state in which they were read: a file may have changed since.
    """
    from xgradcam.runs.sources import state_of

    files = [state_of(file) for file in _files_of_model(arguments)]
    if classifier.weights is not None:
        files[1:2] = [{"bytes": file.bytes, "modified": file.modified} for file in classifier.weights.files]
    return files + [state_of(file) for file in score_files(arguments)]
