"""Which layers a model has, and which of them to explain by default."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from xgradcam.capture import borrowed
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


@dataclass(frozen=True)
class Layer:
    """A module as a forward met it: its output's shape (None if not one tensor) and how often it ran."""

    name: str
    module: nn.Module
    shape: tuple[int, ...] | None
    runs: int

    @property
    def is_map(self) -> bool:
        """Whether it can be explained: it ran once and gave maps (N, C, h, w) of more than one pixel."""
        return self.runs == 1 and self.shape is not None and len(self.shape) == 4 and _pixels(self.shape) > 1


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
    return [Layer(names[module], module, shape, runs[module]) for module, shape in shapes.items()]


def default_layer(layers: list[Layer]) -> str:
    """The name of the last feature map before pooling or flattening (VGG-16: `features.30`).

    Of modules with one output the outermost is taken that is no mere sequence (ResNet-18: `layer4.1`).
    Raises XGradCamError where there is no such map, or tokens follow it.
    """
    maps = [
        position
        for position, layer in enumerate(layers)
        if layer.is_map and layer.name and not isinstance(layer.module, (nn.Sequential, *_BEHIND_THE_MAP))
    ]
    if not maps:
        raise XGradCamError("no layer gives feature maps (N, C, h, w): name one with --target-layer")
    last = layers[maps[-1]]
    if any(layer.shape is not None and len(layer.shape) == 3 for layer in layers[maps[-1] + 1 :]):
        raise XGradCamError(
            f"behind its last feature map, '{last.name}', this network works on tokens, not on maps: "
            "name a layer with --target-layer"
        )
    return last.name


def _pixels(shape: tuple[int, ...]) -> int:
    return shape[2] * shape[3]
