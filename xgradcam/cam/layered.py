"""The same classes explained at several layers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from xgradcam.cam.explain import ClassExplanation, Targets, explain_classes
from xgradcam.cam.guided import guided_backpropagation


def explain_layers(
    model: nn.Module,
    inputs: Tensor,
    layers: Sequence[str],
    classes: Sequence[Targets] | Callable[[Tensor], Sequence[Targets]],
    *,
    output: str | int | None = None,
    guided: bool = False,
    **options: Any,
) -> list[tuple[ClassExplanation, ...]]:
    """For each layer an explanation for each class, a forward for each layer.

    guided: put guided backpropagation into the explanations, the same at every layer. options, and the other
    arguments: those of `explain_classes`.
    """
    first = explain_classes(model, inputs, layers[0], classes, output=output, **options)
    # What a function chose by the scores is chosen once.
    targets = [one.targets for one in first]
    others = [
        explain_classes(model, inputs, layer, lambda _logits: targets, output=output, **options)
        for layer in layers[1:]
    ]
    if not guided:
        return [first, *others]
    gradients = [guided_backpropagation(model, inputs, target, output) for target in targets]
    return [
        tuple(replace(one, guided=gradient) for one, gradient in zip(explained, gradients, strict=True))
        for explained in (first, *others)
    ]
