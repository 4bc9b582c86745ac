"""The layers of a model: list them all, and choose one by default."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from xgradcam.capture.recording import Downstream, Recording, record
from xgradcam.errors import XGradCamError
from xgradcam.layouts.axes import input_layout
from xgradcam.layouts.heads import gives_classes, read_by_heads
from xgradcam.layouts.layout import Frames, Said, frame_count, said_layout
from xgradcam.layouts.layout import Layout as Layout
from xgradcam.layouts.watching import Watch, watched, watching
from xgradcam.lending.borrowing import borrowed, is_close
from xgradcam.lending.finding import AnyLayer, find_layer, is_input, run_of
from xgradcam.lending.inputs import Inputs, advice_on, lent
from xgradcam.lending.several import Place, for_sample
from xgradcam.lending.turns import in_turn
from xgradcam.operations.calls import float_tensors_of, refuse_exported

# Modules that pool a map or pass it on: the layer before them gives the map itself.
_POOL_OR_PASS = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity),
)
_ATTENTION = re.compile("attention|attn", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """A module, and its output in one forward pass.

    shape: of the output, None if it is not one tensor. layout: of the output, None if it holds no maps.
    runs: how often the module ran. reaches: True if the scores have a gradient at one of its places.
    of_classes: False if the model returns no class scores (N, classes), as detectors and segmentations.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...] | None
    layout: Layout | None
    runs: int
    reaches: Callable[[], bool] = field(default=lambda: True, repr=False, compare=False)
    of_classes: bool = field(default=True, repr=False, compare=False)

    @property
    def is_map(self) -> bool:
        """True if the layer can be explained: it ran once and gave maps, or tokens, larger than 1 × 1."""
        return self.runs == 1 and self.layout is not None and self.layout.cells > 1


@in_turn
def list_layers(
    model: nn.Module, inputs: Inputs, *, image: Place | None = None, frames: int | None = None
) -> list[Layer]:
    """The modules that `model(inputs)` runs, ordered by when they first finish; the model is borrowed.

    inputs, image, frames: as in `explain`; layouts are with frames where outputs have a row for each.
    """
    refuse_exported(model)
    count = frame_count(frames)
    model, inputs = lent(model, inputs, image)
    names = {module: name for name, module in model.named_modules()}
    with advice_on(model, inputs), watched(model, inputs, hooked=True) as watch, borrowed(model) as run:
        of_classes = gives_classes(run(inputs), len(inputs))
    runs = Counter(made.module for made in watch.made)
    shapes = {made.module: made.shape for made in reversed(watch.made)}
    layers = []
    unfolded = Watch(watch.model, watch.inputs, watch.known, watch.made, frames=count)
    for module, times in runs.items():
        layout, rows = None, (shapes[module] or (0,))[0]
        with suppress(XGradCamError):
            if count > 1 and rows == count * len(inputs):
                layout = replace(unfolded.layout(module), frames=count)
            else:
                layout = watch.layout(module)
        reaches = partial(_reaches, watch, module, layout)
        layers.append(Layer(names[module], module, shapes[module], layout, times, reaches, of_classes))
    return layers


def _reaches(watch: Watch, module: nn.Module, layout: Layout | None) -> bool:
    """True if the scores have a gradient at a place of the layer, or cannot be asked."""
    if watch.inputs.is_meta or layout is None:
        return True
    try:
        recording = record(watch.model, watch.inputs, module)
        outputs = float_tensors_of(recording.output)
        # Class scores, if they are there, and not the features that a model may return beside them.
        outputs = [one for one in outputs if one.ndim == 2] or outputs
        # Weights, since the sum of all scores may be constant, as that of probabilities is.
        sums = [(one.flatten() * torch.arange(one.numel()).to(one).cos()).sum() for one in outputs]
        return not sums or bool(layout.to_maps(recording.gradient(torch.stack(sums))).any())
    except XGradCamError:
        return False
    # A model that has no gradient cannot be asked.
    except RuntimeError:
        return True


def default_layer(layers: Sequence[Layer]) -> str:
    """The name of the layer with the last feature maps before pooling or flattening.

    VGG-16: `features.30`. Of nested modules with the same output, the outermost that is not an
    `nn.Sequential` (ResNet-18: `layer4.1`). In a vision transformer, only the class token reaches the score
    from the last block on; there it is the input of the last attention (ViT-B:
    `encoder.layers.encoder_layer_11.ln_1`). Of a detector or a segmentation, the last of the backbone
    (DeepLab: `backbone.layer4.2`). Raises XGradCamError if no layer gives maps.
    """
    if isinstance(layers, nn.Module):
        raise XGradCamError("default_layer takes the layers, as list_layers(model, inputs) gives them")
    attentions = _attentions(layers)
    maps = layers_of_maps(layers)
    if not all(layer.of_classes for layer in layers):
        read = read_by_heads({layer.name: layer.module for layer in layers}, {layer.name for layer in maps})
        maps = [layer for layer in maps if layer.name in read]
    spatial = [layer for layer in maps if layer.layout is not None and layer.layout.kind != "tokens"]
    tokens = maps[maps.index(spatial[-1]) + 1 :] if spatial else maps
    if not tokens:
        return _last_reaching(maps, spatial[-1])
    blocks = {layer.name: layer for layer in tokens}
    last = [attention for attention in attentions if attention.name.rpartition(".")[0] in blocks]
    if not last:
        return _last_reaching(maps, tokens[-1])
    start = next(index for index, layer in enumerate(layers) if _is_within(layer, last[-1]))
    before = [layer for layer in maps if layers.index(layer) < start]
    return _last_reaching(maps, (before or tokens)[-1])


def layers_of_maps(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that make maps of their own, outside of attention; XGradCamError where there are none."""
    attentions = _attentions(layers)
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
    return maps


def _attentions(layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if _ATTENTION.search(type(layer.module).__name__)]


def _last_reaching(maps: Sequence[Layer], chosen: Layer) -> str:
    """The name of the last layer, from the chosen one back, whose places reach the scores."""
    earlier = [layer for layer in maps[: maps.index(chosen)] if not _ATTENTION.search(layer.name)]
    # Where not even the first reaches them, the question tells nothing: a head may be all zeros.
    if chosen.reaches() or not earlier or not earlier[0].reaches():
        return chosen.name
    return next(layer.name for layer in reversed(earlier) if layer.reaches())


def _is_within(layer: Layer, outer: Layer) -> bool:
    return layer.name == outer.name or layer.name.startswith(outer.name + ".")


def recorded(
    model: nn.Module,
    inputs: Tensor,
    layer: AnyLayer,
    said: Said | None,
    downstream: Downstream | None = None,
) -> tuple[Recording, Layout]:
    """A recording at the layer, and the layout of its output: the one said, or the one that is certain."""
    name, module = find_layer(model, layer)
    frames = said.count if isinstance(said, Frames) else getattr(said, "frames", 0)
    said = said.said if isinstance(said, Frames) else said
    if is_input(model, layer) and said is None:
        said = input_layout(model, inputs)
    work, watch = partial(record, model, inputs, layer, downstream), None
    if said is None:
        recording, watch = watching(model, inputs, module, run_of(layer), work)
    else:
        recording = work()
    shape = tuple(recording.activation.shape)
    if len(recording.activation) != len(inputs) * max(1, frames):
        hint = "" if frames else ", or give the number of a sample's frames by frames="
        raise XGradCamError(
            f"layer {name!r} gives shape {shape} for {len(inputs)} samples"
            f"{f' of {frames} frames' if frames else ''}: take a layer that contains it{hint}"
        )
    if frames > 1 and len(inputs) > 1:
        alone = record(for_sample(model, 0), inputs[:1], layer).activation
        if not is_close(recording.activation[:frames], alone):
            raise XGradCamError(
                f"layer {name!r}: its first {frames} rows are not the frames of the first sample: explain "
                "one sample at a time"
            )
    try:
        if watch:
            watch.frames = max(1, frames)
            return recording, replace(watch.layout(module, shape, run_of(layer)), frames=frames)
        least = 1 if inputs.ndim - (frames > 0) < 4 else 2
        return recording, replace(said_layout(said or "", recording.activation, least), frames=frames)
    except XGradCamError as error:
        raise XGradCamError(f"layer {name!r}: {error}; --list-layers shows the shapes of all") from None
