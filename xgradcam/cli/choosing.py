"""The layer that `--target-layer auto` chooses for the photographs of a run."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from xgradcam.cli.options import AUTO
from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from torch import Tensor

    from xgradcam.models.classifier import Classifier
    from xgradcam.pictures.framing import Framing
    from xgradcam.pictures.levels import ValueRange
    from xgradcam.runs.run import Target
    from xgradcam.runs.scoring import Scoring, Shape
    from xgradcam.runs.sources import Source
    from xgradcam.scores.score import Score
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
    scoring: "Scoring | None" = None,
) -> str:
    """The finest layer that suits the first photographs, all classes and methods; `say` is told why."""
    import torch

    from xgradcam.runs.choice import choose_layer

    if scoring is not None:
        having = list(islice(_having(classifier, sources, framing, value_range, scoring), LOOKED_AT))
        inputs = torch.cat([one for one, _, _ in having])
        score = scoring.make(framing, [shape for _, shape, _ in having])
        chosen = choose_layer(classifier.module, inputs, methods=methods, score=score)
    else:
        each = islice(_each(classifier, sources, framing, value_range), LOOKED_AT)
        inputs = torch.cat([one for one, _ in each])
        targets = _targets(classifier, inputs, classes)
        repeated = inputs.repeat(len(targets) // len(inputs), 1, 1, 1)
        chosen = choose_layer(classifier.module, repeated, targets, methods, classifier.output)
    of = f" (of the first {len(inputs)} photographs)" if len(sources) > len(inputs) else ""
    say(f"layer {chosen}{of}: {chosen.reason}")
    return str(chosen)


def _each(
    classifier: "Classifier",
    sources: "Sequence[Source]",
    framing: "Framing",
    value_range: "ValueRange | None",
) -> "Iterator[tuple[Tensor, Shape]]":
    """The input (1, ...) and the shape of each photograph that can be read; XGradCamError if none can."""
    problem, any_read = XGradCamError("no photograph was given"), False
    for source in sources:
        try:
            reading = source.read(value_range)
            photograph, bands = reading.photograph, reading.bands
            one = classifier.inputs_by(framing, photograph if bands is None else bands)
        except XGradCamError as error:
            problem = error
            continue
        any_read = True
        yield one, (photograph.shape[0], photograph.shape[1])
    if not any_read:
        raise problem


def _having(
    classifier: "Classifier",
    sources: "Sequence[Source]",
    framing: "Framing",
    value_range: "ValueRange | None",
    scoring: "Scoring",
) -> "Iterator[tuple[Tensor, Shape, Score]]":
    """Each photograph that has the score: its input (1, ...), its shape, and the score with what it found.

    Raises NothingFoundError if none has it.
    """
    from xgradcam.errors import NothingFoundError
    from xgradcam.lending.borrowing import borrowed
    from xgradcam.scores.score import settled, values_of

    problem, any_found = NothingFoundError("no photograph has the score"), False
    for one, shape in _each(classifier, sources, framing, value_range):
        try:
            score = scoring.make(framing, [shape])
            with borrowed(classifier.module) as run:
                returned = run(one)
            score = settled(score, returned)
            values_of(score, returned, 1)
        except NothingFoundError as error:
            problem = error
            continue
        any_found = True
        yield one, shape, score
    if not any_found:
        raise problem


def score_at_first(
    classifier: "Classifier",
    sources: "Sequence[Source]",
    framing: "Framing",
    value_range: "ValueRange | None",
    scoring: "Scoring",
) -> "tuple[Tensor, Score]":
    """The first photograph that has the score, (1, ...), and the score with what it takes from the model."""
    one, _, score = next(_having(classifier, sources, framing, value_range, scoring))
    return one, score


def layer_reached(classifier: "Classifier", inputs: "Tensor", score: "Score") -> str:
    """The last layer of maps that the score depends on, before the class scores of a segmentation.

    The score of a detection or of a pixel depends on a single place of the layers behind it, which shows
    nothing: there it is the last layer of which it depends on more than one.
    """
    from xgradcam.cam.explain import explain_score
    from xgradcam.capture.layers import default_layer, layers_of_maps
    from xgradcam.scores.boxes import BoxScore
    from xgradcam.scores.regions import PixelScore, PredictedRegion, RegionMean

    if classifier.layer is not None:
        return classifier.layer
    layers = classifier.layers()
    maps = layers_of_maps(layers)
    names = [layer.name for layer in maps]
    default = default_layer(layers)
    last = names.index(default) if default in names else len(names) - 1
    # The planes of a segmentation are its classes already.
    planes = isinstance(score, PixelScore | PredictedRegion | RegionMean)
    classes = maps[-1].shape[1] if planes and maps[-1].shape else None
    least = 2 if isinstance(score, BoxScore | PixelScore) else 1
    for layer in reversed(maps[: last + 1]):
        if planes and layer.shape and layer.shape[1] == classes and layer is not maps[0]:
            continue
        try:
            found = explain_score(classifier.module, inputs, layer.name, score, ["hires-cam"])
        except XGradCamError:
            continue
        if int(found.maps["hires-cam"].count_nonzero()) >= least:
            return layer.name
    return default


def _targets(classifier: "Classifier", inputs: "Tensor", classes: "Sequence[Target]") -> "Tensor":
    """The classes of all samples, those of the first class asked for first: (classes · N,)."""
    import torch

    from xgradcam.lending.borrowing import borrowed
    from xgradcam.lending.precision import FLOAT32, computing_in
    from xgradcam.runs.run import TopClasses
    from xgradcam.scores.outputs import finite_logits_of
    from xgradcam.scores.targets import choose_targets, top_classes

    with borrowed(classifier.module) as run, computing_in(FLOAT32, inputs.device.type):
        logits = finite_logits_of(run(inputs), classifier.output)
    each: list[Targets] = []
    for one in classes:
        each += top_classes(one.count)(logits) if isinstance(one, TopClasses) else [one]
    return torch.cat([choose_targets(logits, one) for one in each])
