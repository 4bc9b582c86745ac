"""Which layers a model has, and which of them to explain by default."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from xgradcam.capture.layouts import Layout, layout_of
from xgradcam.capture.recording import borrowed
from xgradcam.errors import XGradCamError

# They hand on a map, pooled or as it came: the map itself is the layer before them.
_BEHIND_THE_MAP = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)
_ATTENTION = re.compile("attention|attn", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """A module as a forward met it.

    shape: of its output, None if that is not one tensor. layout: how maps lie in it, None if they do not.
    runs: how often it ran.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...] | None
    layout: Layout | None
    runs: int

    @property
    def is_map(self) -> bool:
        """Whether it can be explained: it ran once and gave maps, or tokens, of more than one place."""
        return self.runs == 1 and self.layout is not None and self.layout.height * self.layout.width > 1


def list_layers(model: nn.Module, inputs: Tensor) -> list[Layer]:
    """The modules that `model(inputs)` runs, in the order they first finish in; the model is borrowed."""
    names = {module: name for name, module in model.named_modules()}
    shapes: dict[nn.Module, tuple[int, ...] | None] = {}
    runs: dict[nn.Module, int] = {}

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        shapes.setdefault(module, tuple(output.shape) if isinstance(output, Tensor) else None)
        runs[module] = runs.get(module, 0) + 1

    handles = [module.register_forward_hook(note) for module in names]
    try:
        with borrowed(model):
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [
        Layer(names[module], module, shape, _layout_or_none(shape, inputs), runs[module])
        for module, shape in shapes.items()
    ]


def default_layer(layers: Sequence[Layer]) -> str:
    """The name of the last feature map before pooling or flattening (VGG-16: `features.30`).

    Of modules with one output the outermost is taken that is no mere sequence (ResNet-18: `layer4.1`).
    Of a vision transformer, where the class token alone reaches the score from the last block on, it is what
    the last attention reads (torchvision's ViT-B: `encoder.layers.encoder_layer_11.ln_1`).
    Raises XGradCamError where there is no such layer.
    """
    attentions = [layer for layer in layers if _ATTENTION.search(type(layer.module).__name__)]
    maps = [
        layer
        for layer in layers
        if layer.is_map
        and layer.name
        and not isinstance(layer.module, (nn.Sequential, *_BEHIND_THE_MAP))
        and not any(_is_within(layer, attention) for attention in attentions)
    ]
    if not maps:
        raise XGradCamError("no layer gives feature maps (N, C, h, w): name one with --target-layer")
    places = [layer for layer in maps if layer.layout is not None and layer.layout.kind != "tokens"]
    tokens = maps[maps.index(places[-1]) + 1 :] if places else maps
    if not tokens:
        return places[-1].name
    blocks = {layer.name: layer for layer in tokens}
    last = [attention for attention in attentions if attention.name.rpartition(".")[0] in blocks]
    if not last:
        return tokens[-1].name
    begins = next(index for index, layer in enumerate(layers) if _is_within(layer, last[-1]))
    read = [layer for layer in maps if layers.index(layer) < begins]
    return (read or tokens)[-1].name


def _is_within(layer: Layer, outer: Layer) -> bool:
    return layer.name == outer.name or layer.name.startswith(outer.name + ".")


def _layout_or_none(shape: tuple[int, ...] | None, inputs: Tensor) -> Layout | None:
    if shape is None or inputs.ndim != 4 or shape[:1] != inputs.shape[:1]:
        return None
    try:
        return layout_of(shape, (inputs.shape[2], inputs.shape[3]))
    except XGradCamError:
        return None
