"""The layer that `--target-layer auto` chooses for the photographs of a run."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xgradcam.cli.options import AUTO
from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from torch import Tensor

    from xgradcam.models.classifier import Classifier
    from xgradcam.pictures.framing import Framing
    from xgradcam.pictures.levels import ValueRange
    from xgradcam.runs.run import Target
    from xgradcam.runs.sources import Source
    from xgradcam.scores.targets import Targets

# The layer suits so many of the run's photographs.
LOOKED_AT = 8


def is_auto(layer: str, classifier: "Classifier") -> bool:
    """True for `auto`, unless a module of the model has that name."""
    return layer == AUTO and AUTO not in dict(classifier.module.named_modules(remove_duplicate=False))


def layer_for(
    classifier: "Classifier",
    sources: "Sequence[Source]",
    framing: "Framing",
    classes: "Sequence[Target]",
    methods: Sequence[str],
    value_range: "ValueRange | None",
    say: Callable[[str], None],
) -> str:
    """The finest layer that suits the first photographs, all classes and methods; `say` is told why."""
    import torch

    from xgradcam.pictures.photograph import normalise
    from xgradcam.runs.choice import choose_layer

    read = []
    for source in sources:
        try:
            pixels = framing.pixels(source.read(value_range).photograph)
        except XGradCamError as error:
            problem = error
            continue
        read.append(normalise(pixels, classifier.mean, classifier.std))
        if len(read) == LOOKED_AT:
            break
    if not read:
        raise problem
    inputs = classifier.like_weights(torch.cat(read)).to(classifier.device())
    targets = _targets(classifier, inputs, classes)
    inputs = inputs.repeat(len(targets) // len(inputs), 1, 1, 1)
    chosen = choose_layer(classifier.module, inputs, targets, methods, classifier.output)
    of = f" (of the first {len(read)} photographs)" if len(sources) > len(read) else ""
    say(f"layer {chosen}{of}: {chosen.reason}")
    return str(chosen)


def _targets(classifier: "Classifier", inputs: "Tensor", classes: "Sequence[Target]") -> "Tensor":
    """The classes of all samples, those of the first class asked for first: (classes · N,)."""
    import torch

    from xgradcam.cam.class_maps import top_classes
    from xgradcam.lending.borrowing import borrowed
    from xgradcam.lending.precision import FLOAT32, computing_in
    from xgradcam.runs.run import TopClasses
    from xgradcam.scores.outputs import finite_logits_of
    from xgradcam.scores.targets import choose_targets

    with borrowed(classifier.module) as run, computing_in(FLOAT32, inputs.device.type):
        logits = finite_logits_of(run(inputs), classifier.output)
    each: list[Targets] = []
    for one in classes:
        each += top_classes(one.count)(logits) if isinstance(one, TopClasses) else [one]
    return torch.cat([choose_targets(logits, one) for one in each])
