"""A model, with what is needed to show it a photograph."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from xgradcam.capture.layers import Layer, default_layer, list_layers
from xgradcam.errors import XGradCamError
from xgradcam.figures.reprs import BriefClassifier
from xgradcam.lending.borrowing import borrowed
from xgradcam.models.preprocessing import CHANNELS
from xgradcam.models.reading import FileState
from xgradcam.pictures.bands import framed
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.photograph import Photograph, normalise
from xgradcam.scores.outputs import logits_of

if TYPE_CHECKING:
    from xgradcam.models.explaining import Named, PhotographExplanation

Kind: TypeAlias = Literal["classification", "segmentation", "detection", "video", "image and text"]


@dataclass(frozen=True)
class LoadedWeights:
    """Weights from files of the user's.

    name: of the state dict that was taken, '' for a file's content itself. files: those that were read, with
    their size and time of change then.
    """

    name: str
    files: tuple[FileState, ...]


@dataclass(frozen=True, repr=False)
class Classifier(BriefClassifier):
    """A model, its preprocessing and the names of its classes.

    size: input height and width. mean, std: of the normalisation, on a scale of [0, 1], a value for each
    channel of the input.
    labels: class names in the order of the outputs; None if unknown.
    layer: the last feature map before pooling or flattening; None if it has to be searched for.
    output: key of the class scores, if the model returns a dictionary, a tuple or an object.
    resize: length of the shorter side before the centre crop that the weights expect; None if unknown.
    interpolation: how it is resized. weights: the user's files that were read, if any.
    kind: what the model returns: class scores of a photograph or a clip, of each pixel, of boxes, or
    embeddings. frames: of a clip, for a model of video. tokenizer: of a model of images and texts.
    """

    name: str
    module: nn.Module
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: Sequence[str] | None
    layer: str | None = None
    output: str | int | None = None
    resize: int | None = None
    interpolation: str = "bilinear"
    weights: LoadedWeights | None = None
    kind: Kind = "classification"
    frames: int | None = None
    tokenizer: Any = None

    def device(self) -> torch.device:
        """The device of the model's parameters; the CPU if it has none."""
        parameter = next(self.module.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def to(self, device: torch.device) -> "Classifier":
        """The same classifier on another device."""
        module = self.module.to(device)
        if device.type not in ("cpu", "cuda"):
            module.to(memory_format=torch.contiguous_format)  # channels last is fast on those two only
        return replace(self, module=module)

    def default_layer(self) -> str:
        """Name of the layer that is explained by default; XGradCamError if the model has none."""
        return self.layer or default_layer(self.layers())

    def layers(self) -> list[Layer]:
        """The model's layers, as `list_layers` finds them on a blank photograph."""
        return list_layers(self.module, self.blank())

    def blank(self) -> Tensor:
        """An input of a black photograph, as far as photographs are inputs of the model."""
        if len(self.mean) in (1, CHANNELS) and self.frames is None:
            return self.inputs(np.zeros((1, 1, CHANNELS), np.uint8))
        frames = () if self.frames is None else (self.frames,)
        blank = torch.zeros(1, len(self.mean), *frames, *self.size, device="cpu")
        return self.like_weights(blank).to(self.device())

    def class_count(self) -> int | None:
        """The number of scores for a blank photograph; None if the model gives none for one."""
        try:
            with borrowed(self.module) as run:
                scores = logits_of(run(self.blank()), self.output)
        except Exception:
            return None
        return scores.shape[1]

    def framing(self, crop: bool = False) -> Framing:
        """The way a photograph becomes an input: stretched, or resized and cropped as the weights expect.

        Raises XGradCamError for a crop if the resize is unknown: a guess might not be the model's own; and
        for a model of video.
        """
        if self.frames is not None:
            shape = f"(N, {len(self.mean)}, frames, {self.size[0]}, {self.size[1]})"
            raise XGradCamError(
                f"{self.name} takes clips, and a photograph is none: from Python, give explain inputs {shape}"
            )
        if not crop:
            return Framing(self.size)
        if self.resize is None:
            raise XGradCamError(
                f"{self.name} has no known resize before a centre crop: have the photograph stretched, "
                "or give load_classifier the resize"
            )
        return Framing(self.size, self.resize, self.interpolation)

    def inputs(self, photograph: Photograph, crop: bool = False) -> Tensor:
        """The network's input for a photograph (H, W, 3): (1, channels, h, w) on the model's device.

        For one channel the photograph becomes grey; for other numbers than one and three it must have as many
        bands, (H, W, channels) uint8, or XGradCamError is raised.
        """
        return self.inputs_by(self.framing(crop), photograph)

    def inputs_by(self, framing: Framing, photograph: Photograph) -> Tensor:
        """The same, for a photograph that is fitted to the network's input by this framing."""
        count = len(self.mean)
        is_bands = count not in (1, CHANNELS) and np.shape(photograph)[2:] == (count,)
        pixels = framed(framing, photograph) if is_bands else framing.pixels(photograph)
        inputs = normalise(pixels, self.mean, self.std)
        return self.like_weights(inputs).to(self.device())

    @overload
    def explain(
        self, photograph: Any, target: int | None = None, *args: Any, **how: Any
    ) -> "PhotographExplanation": ...
    @overload
    def explain(self, photograph: Any, target: str, *args: Any, **how: Any) -> Any: ...
    @overload
    def explain(
        self, photograph: Any, target: "Sequence[Named]", *args: Any, **how: Any
    ) -> "tuple[PhotographExplanation, ...]": ...
    def explain(
        self,
        photograph: Any,
        target: "Named | Sequence[Named]" = None,
        layer: str | nn.Module | None = None,
        methods: Sequence[str] | str = ("grad-cam", "xgrad-cam"),
        *,
        crop: bool = False,
        **how: Any,
    ) -> Any:
        """Explain a class of a photograph: an explanation that `plot`, `show` and `save` draw as it is.

        photograph: a path, an image of Pillow's, uint8 pixels (H, W, 3) or (3, H, W) of a tensor; or, of
        floats, the network's normalised inputs (N, C, h, w). target: a class's name, words of it, its index
        or id, as the command takes them; None for the one of the highest score. Several of these in a list,
        or `top3`, give a tuple of explanations. layer: None for the last feature map.
        crop: resize and crop as the weights expect, instead of stretching. how: as in `explain`, such as
        `axioms=True`. Guesses are said by a UserWarning.
        Raises XGradCamError for what is no photograph, and for a wrong class, layer or method.
        """
        from xgradcam.models.explaining import explain_photograph, is_several

        several = is_several(target)
        classes: Any = target if several and not isinstance(target, str) else [target]
        said: list[str] = []
        found = explain_photograph(
            self, photograph, classes, layer, methods, crop=crop, say=said.append, **how
        )
        for line in said:
            warnings.warn(line, stacklevel=2)
        return found if several else found[0]

    def like_weights(self, inputs: Tensor) -> Tensor:
        """The inputs in the number type of the model's parameters, such as half precision."""
        parameter = next(self.module.parameters(), None)
        if parameter is None or not parameter.is_floating_point():
            return inputs
        return inputs.to(parameter.dtype)
