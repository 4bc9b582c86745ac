"""The kind of scores that a model has, by what it returns for a blank photograph."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from xgradcam.models.classifier import Classifier

# Keys of a segmentation in what torchvision's and transformers' models return.
SEGMENTATIONS = ("out", "logits")


@dataclass(frozen=True)
class Look:
    """The output of a model for a blank photograph, as far as scores need it.

    kind: that of its scores, a key of `score_options.KINDS`; '' if that is not certain, with the reason in
    `why`. output: where they are. planes: height and width of a segmentation. relative: boxes are shares of
    the input.
    """

    kind: str
    output: str | int | None
    planes: tuple[int, int] = (0, 0)
    relative: bool = False
    why: str = ""


def look_at(classifier: "Classifier") -> Look:
    """The kind of what the model returns; `class` where it cannot be told."""
    from xgradcam.lending.borrowing import borrowed
    from xgradcam.scores.detections import candidates_in
    from xgradcam.scores.outputs import is_scores, select_output

    try:
        with borrowed(classifier.module) as run:
            returned = run(classifier.blank())
        output = classifier.output if classifier.output is not None else _segmentation_in(returned)
        held = select_output(returned, output)
    # A model may raise anything; what is wrong with it shows where it is explained.
    except Exception:
        return Look("class", classifier.output)
    found = []
    with suppress(XGradCamError):
        found = candidates_in(held, None)
    if not is_scores(held):
        anchors = bool(found) and isinstance(held, (list, tuple)) and is_scores(held[0])
        kind = "" if anchors else "box" if found else "class"
        relative = any(one.relative for one in found)
        return Look(kind, output, relative=relative, why=f"a {type(held).__name__}" if anchors else "")
    if held.ndim == 4:
        return Look("region", output, (held.shape[2], held.shape[3]))
    if held.ndim == 3 and found:
        return Look("", output, why=f"shape {tuple(held.shape)}")
    return Look("value" if held.ndim == 1 or held.shape[1:] == (1,) else "class", output)


def _segmentation_in(returned: Any) -> str | None:
    from xgradcam.scores.outputs import is_scores

    if not isinstance(returned, Mapping):
        return None
    four = [name for name in SEGMENTATIONS if is_scores(one := returned.get(name)) and one.ndim == 4]
    return four[0] if four else None


def encoding_photographs(classifier: "Classifier") -> "Classifier":
    """The classifier with the part of a model for photographs and texts that takes photographs alone."""
    from xgradcam.scores.text import IMAGE_METHODS, TEXT_METHODS, image_encoder

    for methods in (IMAGE_METHODS, TEXT_METHODS):
        if not any(callable(getattr(classifier.module, name, None)) for name in methods):
            return classifier
    return replace(classifier, module=image_encoder(classifier.module))


def is_classifier(name: str | None) -> bool:
    """True for the name of a model that is known to be a classifier."""
    from xgradcam.models.load import BUNDLED, PAPERS_MODEL
    from xgradcam.models.user_code import HUGGING_FACE, TIMM, is_own

    if name in (None, BUNDLED, PAPERS_MODEL) or name.startswith(TIMM):
        return True
    if is_own(name) or name.startswith(HUGGING_FACE):
        return False
    from torchvision import models

    return name in models.list_models(models)


def has_texts(classifier: "Classifier") -> bool:
    """True for a model of photographs and texts."""
    return encoding_photographs(classifier) is not classifier
