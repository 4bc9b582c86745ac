"""XGrad-CAM: axiom-based class activation maps for PyTorch classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xgradcam.cam.evidence import Evidence as Evidence
    from xgradcam.cam.explain import explain as explain
    from xgradcam.cam.explain import explain_classes as explain_classes
    from xgradcam.cam.explain import explain_score as explain_score
    from xgradcam.cam.explanation import ClassExplanation as ClassExplanation
    from xgradcam.cam.explanation import Explanation as Explanation
    from xgradcam.cam.explanation import fuse as fuse
    from xgradcam.cam.explanation import heatmap as heatmap
    from xgradcam.cam.methods import METHODS as METHODS
    from xgradcam.capture.layers import default_layer as default_layer
    from xgradcam.capture.layers import list_layers as list_layers
    from xgradcam.capture.recording import Recording as Recording
    from xgradcam.capture.recording import record as record
    from xgradcam.errors import XGradCamError as XGradCamError
    from xgradcam.figures.comparing import Comparison as Comparison
    from xgradcam.figures.comparing import compare as compare
    from xgradcam.models.classifier import Classifier as Classifier
    from xgradcam.models.explaining import PhotographExplanation as PhotographExplanation
    from xgradcam.models.folding import fold_batch_norms as fold_batch_norms
    from xgradcam.models.labels import imagenet_labels as imagenet_labels
    from xgradcam.models.load import load_classifier as load_classifier
    from xgradcam.pictures.paint import overlay_heatmap as overlay_heatmap
    from xgradcam.pictures.photograph import read_image as read_image
    from xgradcam.pictures.photograph import to_input as to_input
    from xgradcam.pictures.sides import draw_signal as draw_signal
    from xgradcam.pictures.sides import draw_volume as draw_volume
    from xgradcam.proof.verification import Contribution as Contribution
    from xgradcam.proof.verification import Verification as Verification
    from xgradcam.proof.verify import verify as verify
    from xgradcam.proof.verify import verify_layers as verify_layers
    from xgradcam.runs.choice import ChosenLayer as ChosenLayer
    from xgradcam.runs.choice import choose_layer as choose_layer
    from xgradcam.runs.dataset import ExplainBatch as ExplainBatch
    from xgradcam.runs.dataset import explain_dataset as explain_dataset
    from xgradcam.runs.explainer import Explainer as Explainer
    from xgradcam.scores.boxes import BoxScore as BoxScore
    from xgradcam.scores.boxes import Detection as Detection
    from xgradcam.scores.regions import PixelScore as PixelScore
    from xgradcam.scores.regions import PredictedRegion as PredictedRegion
    from xgradcam.scores.regions import RegionMean as RegionMean
    from xgradcam.scores.score import ClassScore as ClassScore
    from xgradcam.scores.score import Contrast as Contrast
    from xgradcam.scores.score import Similarity as Similarity
    from xgradcam.scores.single import Binary as Binary
    from xgradcam.scores.single import Regression as Regression
    from xgradcam.scores.text import Text as Text
    from xgradcam.scores.text import image_encoder as image_encoder

__version__ = "0.1.0"

_HOME = {
    "Binary": "scores.single",
    "BoxScore": "scores.boxes",
    "ChosenLayer": "runs.choice",
    "ClassExplanation": "cam.explanation",
    "ClassScore": "scores.score",
    "Classifier": "models.classifier",
    "Comparison": "figures.comparing",
    "Contrast": "scores.score",
    "Contribution": "proof.verification",
    "Detection": "scores.boxes",
    "Evidence": "cam.evidence",
    "ExplainBatch": "runs.dataset",
    "Explainer": "runs.explainer",
    "Explanation": "cam.explanation",
    "METHODS": "cam.methods",
    "PhotographExplanation": "models.explaining",
    "PixelScore": "scores.regions",
    "PredictedRegion": "scores.regions",
    "Recording": "capture.recording",
    "RegionMean": "scores.regions",
    "Regression": "scores.single",
    "Similarity": "scores.score",
    "Text": "scores.text",
    "Verification": "proof.verification",
    "XGradCamError": "errors",
    "choose_layer": "runs.choice",
    "compare": "figures.comparing",
    "default_layer": "capture.layers",
    "draw_signal": "pictures.sides",
    "draw_volume": "pictures.sides",
    "explain": "cam.explain",
    "explain_classes": "cam.explain",
    "explain_dataset": "runs.dataset",
    "explain_score": "cam.explain",
    "fold_batch_norms": "models.folding",
    "fuse": "cam.explanation",
    "heatmap": "cam.explanation",
    "image_encoder": "scores.text",
    "imagenet_labels": "models.labels",
    "list_layers": "capture.layers",
    "load_classifier": "models.load",
    "overlay_heatmap": "pictures.paint",
    "read_image": "pictures.photograph",
    "record": "capture.recording",
    "to_input": "pictures.photograph",
    "verify": "proof.verify",
    "verify_layers": "proof.verify",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `--help` need not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'xgradcam' has no attribute {name!r}")
    return getattr(import_module(f"xgradcam.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
