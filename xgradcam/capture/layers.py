"""The layers of a model: find one by name, tell its layout, list them all, choose one by default."""

import math
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xgradcam.capture.borrowing import borrowed, wrapped
from xgradcam.capture.calls import refuse_exported
from xgradcam.capture.inputs import advice_on, plain_inputs
from xgradcam.errors import XGradCamError, did_you_mean, shown

# Class, distillation and register tokens: no network puts more of them before its patch tokens.
MAX_PREFIX_TOKENS = 16
# Modules that pool a map or pass it on: the layer before them gives the map itself.
_POOL_OR_PASS = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)
_ATTENTION = re.compile("attention|attn", re.IGNORECASE)


def find_layer(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """The name and the module of `layer`, which is a module of the model or its name."""
    if not isinstance(model, nn.Module):
        raise XGradCamError(f"the model is a {type(model).__name__}: give a torch.nn.Module")
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return name, module
        raise XGradCamError(
            f"the layer, a {type(layer).__name__}, is not a module of this {type(model).__name__}"
        )
    if not isinstance(layer, str):
        call = ", as default_layer(model, inputs) returns one" if callable(layer) else ""
        raise XGradCamError(f"the layer is {shown(layer)}: give a module of the model, or its name{call}")
    if layer in modules:
        return layer, modules[layer]
    if (inner := wrapped(model)) is not None:
        return find_layer(inner, layer)
    raise XGradCamError(
        f"no layer {shown(layer)} in this {type(model).__name__}{did_you_mean(layer, modules)} "
        f"(--list-layers, or model.named_modules(), shows all)"
    )


@dataclass(frozen=True)
class Layout:
    """The position of the feature maps in a layer's output.

    kind: 'maps' (N, C, h, w), 'channels last' (N, h, w, C), or 'tokens' (N, prefix + h w, C), row by row.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0

    def to_maps(self, output: Tensor) -> Tensor:
        """Turn an output, or a gradient of its shape, into maps (N, C, h, w) without the prefix tokens."""
        if self.kind == "maps":
            return output
        if self.kind == "channels last":
            return output.movedim(-1, 1)
        return output[:, self.prefix :].transpose(1, 2).reshape(len(output), -1, self.height, self.width)

    def with_maps(self, output: Tensor, maps: Tensor) -> Tensor:
        """Put maps (M, C, h, w) into an output (1, ...): (M, ...). The prefix tokens are repeated."""
        if self.kind == "maps":
            return maps
        if self.kind == "channels last":
            return maps.movedim(1, -1)
        tokens = maps.flatten(2).transpose(1, 2)
        return torch.cat([output[:, : self.prefix].expand(len(maps), -1, -1), tokens], dim=1)


def layout_of(shape: tuple[int, ...], image: tuple[int, int]) -> Layout:
    """The layout of a layer's output of this shape, for an image of (H, W) pixels.

    Four axes are maps, unless only the middle two have the image's aspect ratio (Swin). Three axes are
    tokens, if a grid of the image's aspect ratio fits after at most `MAX_PREFIX_TOKENS` prefix tokens.
    Raises XGradCamError for any other shape.
    """
    if len(shape) == 4:
        _, a, b, c = shape
        if _same_aspect(a, b, image) and not _same_aspect(b, c, image):
            return Layout("channels last", a, b)
        return Layout("maps", b, c)
    if len(shape) == 3:
        for prefix in range(min(MAX_PREFIX_TOKENS + 1, shape[1])):
            height = math.isqrt((shape[1] - prefix) * image[0] // image[1])
            width = (shape[1] - prefix) // max(height, 1)
            if height * width == shape[1] - prefix and _same_aspect(height, width, image):
                return Layout("tokens", height, width, prefix)
    raise XGradCamError(f"shape {shape} is neither feature maps (N, C, h, w) nor tokens (N, tokens, C)")


def _same_aspect(height: int, width: int, image: tuple[int, int]) -> bool:
    """True if scaling the image down gives the grid, rounded by less than one cell."""
    scale = image[0] / height
    return abs(image[1] / scale - width) < 1 and height <= image[0]


@dataclass(frozen=True)
class Layer:
    """A module, and its output in one forward pass.

    shape: of the output, None if it is not one tensor. layout: of the output, None if it holds no maps.
    runs: how often the module ran.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...] | None
    layout: Layout | None
    runs: int

    @property
    def is_map(self) -> bool:
        """True if the layer can be explained: it ran once and gave maps, or tokens, larger than 1 × 1."""
        return self.runs == 1 and self.layout is not None and self.layout.height * self.layout.width > 1


def list_layers(model: nn.Module, inputs: Tensor) -> list[Layer]:
    """The modules that `model(inputs)` runs, ordered by when they first finish; the model is borrowed."""
    refuse_exported(model)
    inputs = plain_inputs(inputs)
    names = {module: name for name, module in model.named_modules()}
    shapes: dict[nn.Module, tuple[int, ...] | None] = {}
    runs: dict[nn.Module, int] = {}

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        shapes.setdefault(module, tuple(output.shape) if isinstance(output, Tensor) else None)
        runs[module] = runs.get(module, 0) + 1

    with advice_on(model, inputs), ExitStack() as hooks, borrowed(model) as run:
        for module in names:
            hooks.enter_context(module.register_forward_hook(note))
        run(inputs)
    return [
        Layer(names[module], module, shape, _layout_or_none(shape, inputs), runs[module])
        for module, shape in shapes.items()
    ]


def default_layer(layers: Sequence[Layer]) -> str:
    """The name of the layer with the last feature maps before pooling or flattening.

    VGG-16: `features.30`. Of nested modules with the same output, the outermost that is not an
    `nn.Sequential` (ResNet-18: `layer4.1`). In a vision transformer, only the class token reaches the score
    from the last block on; there it is the input of the last attention (ViT-B:
    `encoder.layers.encoder_layer_11.ln_1`). Raises XGradCamError if no layer gives maps.
    """
    attentions = [layer for layer in layers if _ATTENTION.search(type(layer.module).__name__)]
    maps = [
        layer
        for layer in layers
        if layer.is_map
        and layer.name
        and not isinstance(layer.module, (nn.Sequential, *_POOL_OR_PASS))
        and not any(_is_within(layer, attention) for attention in attentions)
    ]
    if not maps:
        raise XGradCamError("no layer gives feature maps (N, C, h, w): name one with --target-layer")
    spatial = [layer for layer in maps if layer.layout is not None and layer.layout.kind != "tokens"]
    tokens = maps[maps.index(spatial[-1]) + 1 :] if spatial else maps
    if not tokens:
        return spatial[-1].name
    blocks = {layer.name: layer for layer in tokens}
    last = [attention for attention in attentions if attention.name.rpartition(".")[0] in blocks]
    if not last:
        return tokens[-1].name
    start = next(index for index, layer in enumerate(layers) if _is_within(layer, last[-1]))
    before = [layer for layer in maps if layers.index(layer) < start]
    return (before or tokens)[-1].name


def _is_within(layer: Layer, outer: Layer) -> bool:
    return layer.name == outer.name or layer.name.startswith(outer.name + ".")


def _layout_or_none(shape: tuple[int, ...] | None, inputs: Tensor) -> Layout | None:
    if shape is None or inputs.ndim != 4 or shape[:1] != inputs.shape[:1]:
        return None
    try:
        return layout_of(shape, (inputs.shape[2], inputs.shape[3]))
    except XGradCamError:
        return None
