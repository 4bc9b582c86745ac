"""Explain a classifier's classes of one photograph: from a file and a name to maps that can be drawn."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from xgradcam.cam.explain import DEFAULT_METHODS, explain_classes
from xgradcam.cam.explanation import ClassExplanation, heatmap_of
from xgradcam.errors import XGradCamError, shown
from xgradcam.figures.given import array_of, photograph_given
from xgradcam.lending.precision import FLOAT32, computing_in
from xgradcam.models.labels import TOP, class_index, label_of, name_only
from xgradcam.models.preprocessing import CHANNELS
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.paint import EVEN, Style, draw
from xgradcam.pictures.photograph import Photograph
from xgradcam.scores.targets import Targets, top_classes

if TYPE_CHECKING:
    from xgradcam.figures.figure import Shown
    from xgradcam.models.classifier import Classifier

# A class: its index, its name as the command takes it, or None for the one of the highest score.
Named: TypeAlias = int | str | None
# Longest side of a picture in a notebook's table, and its quality.
THUMBNAIL, QUALITY = 160, 80
# Normalised inputs so many times above those of white are likely to be pixels up to 255.
FAR = 10
OTHER_KINDS = {
    "segmentation": "PredictedRegion",
    "detection": "BoxScore",
    "image and text": "Text",
}


@dataclass(frozen=True, eq=False, repr=False)
class PhotographExplanation(ClassExplanation):
    """The maps of a class for a photograph; it knows what `plot` needs, so that `plot()` draws it.

    photographs: one for each sample, (H, W, 3); none of inputs that are no photographs. framing: how it
    became the input. class_names: of each sample. model_name, layer: those explained.
    """

    photographs: tuple[Photograph, ...] = field(default=(), kw_only=True)
    framing: Framing | None = field(default=None, kw_only=True)
    class_names: tuple[str, ...] = field(default=(), kw_only=True)
    model_name: str = field(default="", kw_only=True)
    layer: str = field(default="", kw_only=True)

    @property
    def photograph(self) -> Photograph | None:
        """The photograph of the first sample; None of inputs that are none."""
        return self.photographs[0] if self.photographs else None

    @property
    def class_name(self) -> str:
        """The name of the first sample's class."""
        return self.class_names[0]

    def sample(self, index: int) -> "PhotographExplanation":
        """One sample of the batch, as a batch of its own."""
        chosen, own = slice(index, index + 1), super().sample(index)
        return replace(own, photographs=self.photographs[chosen], class_names=self.class_names[chosen])

    def explained(self, sample: int = 0) -> str:
        """The name of a sample's class."""
        return self.class_names[sample]

    def shown(
        self,
        photograph: Any = None,
        method: str | None = None,
        signed: bool = False,
        *,
        framing: Framing | None = None,
        **how: Any,
    ) -> "Shown":
        """The plain arrays and words that `plot` draws, of the photograph explained if none is given."""
        if photograph is None and self.photographs:
            photograph, framing = list(self.photographs), framing or self.framing
        return super().shown(photograph, method, signed, framing=framing, **how)

    def thumbnail(self, method: str, sample: int) -> tuple[str, bytes]:
        """The kind and the content of a small picture of a map over the photograph, for notebooks."""
        if not self.photographs or self.framing is None:
            return super().thumbnail(method, sample)
        photograph, framing = self.photographs[sample], self.framing
        painted = draw(photograph, heatmap_of(self, method, sample), framing, Style(colormap=EVEN, alpha=0.5))
        share = THUMBNAIL / max(painted.shape[:2])
        size = max(1, round(painted.shape[1] * share)), max(1, round(painted.shape[0] * share))
        small = cv2.resize(painted, size, interpolation=cv2.INTER_AREA)
        options = (cv2.IMWRITE_JPEG_QUALITY, QUALITY)
        return "jpeg", cv2.imencode(".jpg", small[..., ::-1], options)[1].tobytes()


def explain_photograph(
    classifier: "Classifier",
    photograph: Any,
    classes: Sequence[Named],
    layer: str | nn.Module | None = None,
    methods: Sequence[str] | str = DEFAULT_METHODS,
    *,
    crop: bool = False,
    say: Callable[[str], None],
    **how: Any,
) -> tuple[PhotographExplanation, ...]:
    """Explain classes of a photograph: an explanation for each, in order, of `top3` three.

    The arguments are those of `Classifier.explain`; say: called with a line about what was guessed.
    Raises XGradCamError for what is no photograph, and for a wrong class, layer or method.
    """
    _require_classes(classifier)
    wanted = [_wanted(one, classifier, say) for one in classes]
    inputs, photographs, framing = _taken(classifier, photograph, crop, say)

    def targets_of(logits: Tensor) -> list[Targets]:
        targets: list[Targets] = []
        for one in wanted:
            targets += one(logits) if callable(one) else [one]
        return targets

    with computing_in(FLOAT32, inputs.device.type):
        layer = classifier.default_layer() if layer is None else layer
        found = explain_classes(
            classifier.module, inputs, layer, targets_of, methods, classifier.output, **how
        )
    name = layer if isinstance(layer, str) else type(layer).__name__
    about: dict[str, Any] = {
        "photographs": photographs,
        "framing": framing,
        "model_name": classifier.name,
        "layer": name,
    }
    return tuple(
        PhotographExplanation(**vars(one), **about, class_names=_names(classifier, one)) for one in found
    )


def is_several(target: Any) -> bool:
    """True for a list of classes, and for `top3`, which mean several explanations."""
    if isinstance(target, str):
        return TOP.fullmatch(target) is not None
    return isinstance(target, Iterable) and getattr(target, "ndim", 1) != 0


def _require_classes(classifier: "Classifier") -> None:
    if classifier.kind in OTHER_KINDS:
        raise XGradCamError(
            f"{classifier.name} is a model of {classifier.kind}, which has no class scores of a photograph: "
            f"explain_score explains it, with a score such as {OTHER_KINDS[classifier.kind]}"
        )


def _wanted(
    named: Any, classifier: "Classifier", say: Callable[[str], None]
) -> "Targets | Callable[[Tensor], Sequence[Targets]]":
    """The class that was named, or a function from the logits to the classes of the highest scores."""
    if isinstance(named, str):
        if top := TOP.fullmatch(named):
            return top_classes(int(top[1]))
        return class_index(named, classifier.labels, say)
    if named is None or (hasattr(named, "__index__") and not isinstance(named, bool)):
        return None if named is None else int(named)
    raise XGradCamError(
        f"the target is {shown(named)}: give a class's name or index, top3, or a list of them"
    )


def _taken(
    classifier: "Classifier", given: Any, crop: bool, say: Callable[[str], None]
) -> tuple[Tensor, tuple[Photograph, ...], Framing | None]:
    """The network's inputs of what was given, the photographs that they show, and their framing."""
    if isinstance(given, Tensor) and given.is_floating_point():
        return _of_inputs(classifier, given, say)
    framing, count = classifier.framing(crop), len(classifier.mean)
    if count not in (1, CHANNELS) and np.shape(given)[2:] == (count,):
        return classifier.inputs_by(framing, array_of(given)), (), None
    photograph = photograph_given(given, say)
    return classifier.inputs_by(framing, photograph), (photograph,), framing


def _of_inputs(
    classifier: "Classifier", given: Tensor, say: Callable[[str], None]
) -> tuple[Tensor, tuple[Photograph, ...], Framing | None]:
    """Normalised inputs (N, C, h, w), or one of them, and the photographs that they were."""
    sides = 3 + (classifier.frames is not None)
    inputs = given[None] if given.ndim == sides else given
    count = len(classifier.mean)
    if inputs.ndim != sides + 1 or inputs.shape[1] != count or not inputs.numel():
        shape = ", ".join(("N", str(count), *["frames"] * (sides - 3), "h", "w"))
        raise XGradCamError(
            f"the tensor is {shown(given)}: give inputs ({shape}), normalised, or uint8 pixels (3, H, W)"
        )
    mean, std = (
        torch.tensor(values, dtype=torch.float64, device=given.device).view(-1, *[1] * (sides - 1))
        for values in (classifier.mean, classifier.std)
    )
    _warn_of_pixels(classifier, inputs, mean, std, say)
    own = classifier.like_weights(inputs).to(classifier.device())
    if sides != 3 or count not in (1, CHANNELS):
        return own, (), None
    pixels = (255 * (inputs.detach().double() * std + mean)).round().clamp(0, 255).nan_to_num(0)
    each = pixels.to(torch.uint8).expand(-1, CHANNELS, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    height, width = inputs.shape[2:]
    return own, tuple(np.ascontiguousarray(one) for one in each), Framing((height, width))


def _warn_of_pixels(
    classifier: "Classifier", inputs: Tensor, mean: Tensor, std: Tensor, say: Callable[[str], None]
) -> None:
    """Say where normalised inputs look like pixels: from 0 to 1, or far beyond what pixels become."""
    low, high = float(inputs.min()), float(inputs.max())
    taken = f"floats are taken as normalised inputs of {classifier.name}, and these"
    remedy = "give uint8 pixels, a path, or classifier.inputs(photograph)"
    if 0 <= low and high <= 1 and (bool((mean != 0).any()) or bool((std != 1).any())):
        say(f"{taken} lie in [0, 1], as pixels that are not: {remedy}")
    elif high > FAR * (highest := float(((1 - mean) / std).max().clamp(min=1))):
        say(f"{taken} go up to {high:.4g}, where those of photographs end at {highest:.3g}: {remedy}")


def _names(classifier: "Classifier", one: ClassExplanation) -> tuple[str, ...]:
    return tuple(name_only(label_of(classifier.labels, index)) for index in one.targets.tolist())
