"""The complete map of a finer layer, beside the maps of the bundled network."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xgradcam.runs.run import Run


def with_finer(work: "Run", arguments: argparse.Namespace) -> "Run":
    """The run of one photograph with the complete map of a finer layer, if no method or layer was chosen.

    At the bundled network's last layer Grad-CAM's and XGrad-CAM's maps are the same, and at earlier ones they
    cannot be trusted: the complete map can (docs/which-map.md).
    """
    from xgradcam.models.efficientnet_lite0 import FINER_LAYER
    from xgradcam.models.load import BUNDLED
    from xgradcam.runs.outputs import is_own
    from xgradcam.runs.results import picture_of
    from xgradcam.runs.run import COMPLETE_CAM, why_not

    classifier, writing, how = work.classifier, work.writing, work.explaining
    if not arguments.plain or work.scoring is not None or work.mistakes or not writing.original_names:
        return work
    # The terms are summed in float64, which Apple's GPUs lack.
    if classifier.name != BUNDLED or classifier.device().type == "mps":
        return work
    picture = writing.folder / picture_of(COMPLETE_CAM)
    # Where the option would be refused, or a file of the user's is in the way, the other two are still right.
    in_the_way = picture in writing.kept or (picture.exists() and not is_own(picture))
    if in_the_way or why_not(COMPLETE_CAM, how.precision, how.augment):
        return work
    return replace(work, finer=FINER_LAYER)
