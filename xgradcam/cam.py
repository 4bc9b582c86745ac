"""From a model, a batch and a layer to signed maps, and from those to heatmaps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from xgradcam.capture import choose_targets, find_layer, logits_of, record
from xgradcam.errors import XGradCamError
from xgradcam.layouts import Layout, layout_of
from xgradcam.weightings import METHODS, Evidence

FLAT = 1e-5


@dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of a batch of N.

    maps: method -> signed, unscaled map (N, h, w), at the layer's size.
    logits: (N, classes). targets: the class explained, (N,).
    notes: for each sample, what one must know to read its maps, a line each.
    """

    maps: Mapping[str, Tensor]
    logits: Tensor
    targets: Tensor
    notes: tuple[tuple[str, ...], ...]

    @property
    def score(self) -> Tensor:
        """The logit of each sample's target, (N,)."""
        return self.logits.gather(1, self.targets[:, None])[:, 0]

    @property
    def probability(self) -> Tensor:
        """The softmax probability of each sample's target, (N,)."""
        return self.logits.softmax(dim=1).gather(1, self.targets[:, None])[:, 0]

    def heatmap(self, method: str, size: tuple[int, int]) -> Tensor:
        """The method's map as `heatmap` makes it, (N, H, W) in [0, 1]; `size` is (H, W)."""
        if method not in self.maps:
            raise XGradCamError(f"no map of {method!r} here; there are: {', '.join(self.maps)}")
        return heatmap(self.maps[method], size)


Targets: TypeAlias = int | Sequence[int] | Tensor | None


def explain(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    targets: Targets = None,
    methods: Sequence[str] = ("grad-cam", "xgrad-cam"),
    output: str | None = None,
) -> Explanation:
    """Explain a class score of each sample by the feature maps of one layer.

    model: any module that returns class scores (N, classes), or has them in a dictionary, a tuple or an
    object at `output`; it is left as it was found.
    inputs: (N, ...). layer: a module of the model or its name; it must return maps (N, C, h, w), maps with
    channels last, or tokens with the image's aspect, of which class and register tokens are left out.
    targets: None (each sample's highest score), one class index, or N of them.
    methods: keys of `METHODS`. All of them cost one forward and one backward behind the layer.
    Raises XGradCamError for a wrong layer, class, method or model.
    """
    return explain_classes(model, inputs, layer, [targets], methods, output)[0]


def explain_classes(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    classes: Sequence[Targets] | Callable[[Tensor], Sequence[Targets]],
    methods: Sequence[str] = ("grad-cam", "xgrad-cam"),
    output: str | None = None,
) -> tuple[Explanation, ...]:
    """Explain several class scores of each sample: one explanation for each of `classes`.

    classes: what `explain` takes for `targets`, several times; or a function from the class scores
    (N, classes) to that, such as `top_classes(3)`. All of them cost one forward, and a backward each.
    The other arguments are those of `explain`.
    """
    methods = (methods,) if isinstance(methods, str) else methods
    for method in methods:
        if method not in METHODS:
            raise XGradCamError(f"no method {method!r}; there are: {', '.join(METHODS)}")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise XGradCamError("the model was made under torch.inference_mode(), which forbids gradients")
    with torch.inference_mode(False):
        recording = record(model, inputs, layer)
        logits = logits_of(recording.output, output)
        layout = _layout(model, layer, recording.activation, inputs)
        activation = layout.to_maps(recording.activation.detach())
        explanations = []
        for targets in classes(logits.detach()) if callable(classes) else classes:
            chosen = choose_targets(logits, targets)
            gradient = layout.to_maps(recording.gradient(logits.gather(1, chosen[:, None])[:, 0]))
            evidence = Evidence(activation, gradient)
            maps = {method: weighted_map(METHODS[method](evidence), activation) for method in methods}
            notes = notes_on(evidence, maps)
            explanations.append(Explanation(maps, logits.detach(), chosen, notes))
    return tuple(explanations)


def top_classes(count: int) -> Callable[[Tensor], Sequence[Tensor]]:
    """The `count` classes of the highest scores, best first, for `explain_classes`."""
    return lambda logits: logits.topk(min(count, logits.shape[1]), dim=1).indices.unbind(dim=1)


def _layout(model: nn.Module, layer: str | nn.Module, activation: Tensor, inputs: Tensor) -> Layout:
    shape = tuple(activation.shape)
    name, _ = find_layer(model, layer)
    if len(activation) != len(inputs):
        raise XGradCamError(
            f"layer {name!r} gives shape {shape} for {len(inputs)} samples: take one outside of it"
        )
    if inputs.ndim != 4 and activation.ndim == 4:
        return Layout("maps", shape[2], shape[3])
    try:
        return layout_of(shape, (inputs.shape[-2], inputs.shape[-1]))
    except XGradCamError as error:
        raise XGradCamError(f"layer {name!r}: {error}; --list-layers shows the shapes of all") from None


def weighted_map(weights: Tensor, activation: Tensor) -> Tensor:
    """Σ_k w_k F^k, signed: (N, h, w). `weights` broadcast against the activation (N, C, h, w)."""
    return (weights * activation).sum(dim=1)


def heatmap(signed: Tensor, size: tuple[int, int]) -> Tensor:
    """ReLU, bilinear upsampling to `size` (H, W), minus minimum, over maximum: (N, H, W) in [0, 1].

    The original scripts' order of steps. A map with no positive value, the same value everywhere, or a value
    that is not finite gives 0.
    """
    positive = signed.clamp(min=0)[:, None]
    grown = nn.functional.interpolate(positive, size=size, mode="bilinear", align_corners=False)[:, 0]
    raised = grown - grown.amin(dim=(1, 2), keepdim=True)
    highest = raised.amax(dim=(1, 2), keepdim=True)
    contrast = highest > FLAT * grown.amax(dim=(1, 2), keepdim=True)
    return torch.where(contrast, raised / torch.where(contrast, highest, 1), 0)


def notes_on(evidence: Evidence, maps: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    """For each sample of the batch, the lines that no reader of its maps should miss."""
    gradient, activation = evidence.gradient, evidence.activation
    spread = (gradient.amax(dim=(2, 3)) - gradient.amin(dim=(2, 3))).amax(dim=1)
    flat = spread <= FLAT * gradient.abs().amax(dim=(1, 2, 3))
    negative = (activation < 0).any(dim=3).any(dim=2).sum(dim=1)
    notes: list[tuple[str, ...]] = []
    for sample in range(len(activation)):
        lines = []
        if {"grad-cam", "xgrad-cam"} <= maps.keys() and flat[sample] and gradient[sample].any():
            lines.append(
                "the two maps coincide here: the gradient is constant over space, as where global average "
                "pooling and a linear layer follow; an earlier layer tells the methods apart"
            )
        if "xgrad-cam" in maps and negative[sample]:
            lines.append(
                f"signed activations: {int(negative[sample])} of {activation.shape[1]} channels have "
                "negative values, where an XGrad-CAM weight is no weighted mean of the gradient and its "
                "denominator can vanish"
            )
        lines.extend(_blank(method, signed[sample]) for method, signed in maps.items())
        notes.append(tuple(filter(None, lines)))
    return tuple(notes)


def _blank(method: str, signed: Tensor) -> str:
    if not torch.isfinite(signed).all():
        return f"not finite: the {method} map holds infinities or no numbers; its picture is the photograph"
    low, high = signed.min(), signed.max()
    if high <= 0:
        return f"no positive evidence: the {method} map has no positive value; its picture is the photograph"
    if low > 0 and high - low <= FLAT * high:
        return f"no contrast: the {method} map is the same everywhere; its picture is the photograph"
    return ""
