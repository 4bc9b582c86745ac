"""XGrad-CAM: axiom-based class activation maps for PyTorch classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xgradcam.cam import ClassExplanation as ClassExplanation
    from xgradcam.cam import Explanation as Explanation
    from xgradcam.cam import explain as explain
    from xgradcam.cam import explain_classes as explain_classes
    from xgradcam.cam import explain_score as explain_score
    from xgradcam.cam import fuse as fuse
    from xgradcam.cam import heatmap as heatmap
    from xgradcam.capture import Recording as Recording
    from xgradcam.capture import record as record
    from xgradcam.classifier import Classifier as Classifier
    from xgradcam.errors import XGradCamError as XGradCamError
    from xgradcam.folding import fold_batch_norms as fold_batch_norms
    from xgradcam.identity import Contribution as Contribution
    from xgradcam.identity import Verification as Verification
    from xgradcam.identity import verify as verify
    from xgradcam.identity import verify_layers as verify_layers
    from xgradcam.images import read_image as read_image
    from xgradcam.images import to_input as to_input
    from xgradcam.labels import imagenet_labels as imagenet_labels
    from xgradcam.layers import default_layer as default_layer
    from xgradcam.layers import list_layers as list_layers
    from xgradcam.methods import METHODS as METHODS
    from xgradcam.models import load_classifier as load_classifier
    from xgradcam.overlay import overlay_heatmap as overlay_heatmap
    from xgradcam.scores import Contrast as Contrast
    from xgradcam.scores import RegionMean as RegionMean
    from xgradcam.scores import Similarity as Similarity
    from xgradcam.weightings import Evidence as Evidence

__version__ = "0.1.0"

_HOME = {
    "METHODS": "methods",
    "Classifier": "classifier",
    "ClassExplanation": "cam",
    "Contrast": "scores",
    "Contribution": "identity",
    "Evidence": "weightings",
    "Explanation": "cam",
    "Recording": "capture",
    "RegionMean": "scores",
    "Similarity": "scores",
    "Verification": "identity",
    "XGradCamError": "errors",
    "default_layer": "layers",
    "explain": "cam",
    "explain_classes": "cam",
    "explain_score": "cam",
    "fold_batch_norms": "folding",
    "fuse": "cam",
    "heatmap": "cam",
    "imagenet_labels": "labels",
    "list_layers": "layers",
    "load_classifier": "models",
    "overlay_heatmap": "overlay",
    "read_image": "images",
    "record": "capture",
    "to_input": "images",
    "verify": "identity",
    "verify_layers": "identity",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `--help` need not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'xgradcam' has no attribute {name!r}")
    return getattr(import_module(f"xgradcam.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
