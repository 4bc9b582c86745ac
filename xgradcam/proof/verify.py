"""Eq. 5 at any layer of any network: the score as the sum of its feature term and all constants behind it.

The graph starts at the layer's activation A; ĝ is the gradient of the score S in that graph. Then

    S = ⟨ĝ_A, A⟩ + Σ_v ⟨ĝ_v, c_v⟩    feature + (bias + bypass + curvature)

over all operations v behind the layer, where c_v is the operation's intercept: see
`xgradcam.operations.constants`. Every term is computed by itself; none is the remainder of the score. Fu et
al. 2020 state Eq. 5 for a ReLU-CNN: there the curvature is 0, and so is the bypass if the layer cuts the
network.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from xgradcam.capture.recording import Recording, record
from xgradcam.errors import XGradCamError
from xgradcam.layouts.axes import input_layout
from xgradcam.layouts.following import follower_at
from xgradcam.layouts.layout import Layout, frame_count
from xgradcam.lending.differentiating import refuse_custom_functions
from xgradcam.lending.finding import INPUT, AnyLayer, LayerRun, at_run, find_layer, is_input
from xgradcam.lending.hooks import running_modules
from xgradcam.lending.inputs import Inputs, advice_on, lent
from xgradcam.lending.precision import FLOAT32, computing_in
from xgradcam.lending.several import Place, for_sample
from xgradcam.lending.turns import in_turn
from xgradcam.operations.calls import nodes_between, refuse_scripted
from xgradcam.operations.codes import NOWHERE
from xgradcam.operations.constants import Kind
from xgradcam.operations.places import Follower, Grid, Places
from xgradcam.proof.scoring import sample_scores
from xgradcam.proof.tracing import TracedIntercept, Tracer, trace_activations
from xgradcam.proof.verification import Contribution, Verification
from xgradcam.scores.score import Score
from xgradcam.scores.targets import Targets

# A layer, its name, or one of its runs.
OneLayer = TypeVar("OneLayer", bound=AnyLayer)


@in_turn
def verify(
    model: nn.Module,
    inputs: Inputs,
    layer: str | nn.Module,
    targets: Targets = None,
    output: str | int | None = None,
    *,
    score: Score | None = None,
    layouts: Mapping[str, Layout | None] | None = None,
    image: Place | None = None,
    run: int | None = None,
    frames: int | None = None,
) -> Verification:
    """Compute every term of Eq. 5 for the scores of `targets` at `layer`; see `Verification`.

    inputs: (N, ...), float32 or float64, with scores (N, classes); of a model of several, as in `explain`.
    layer: a module of the model, or its name; `input` for the inputs themselves. targets: one class for all
    samples, one per sample, or None for the highest score. output: the key, attribute or position of the
    scores, if the model returns more. image, run: as in `explain`; what comes of other runs alone is bypass.
    score: in place of a class, any function of the model's output, as in `explain_score`. It is given one
    sample at a time (of one with `alone`, that sample's), and its own constants count too.
    layouts: of layers' outputs by name, as `list_layers` finds them: then it is known what is `nowhere`.
    frames: of each sample, if the layer's output has a row for each of them, and its layout does not say so.
    An operation's own constants (bias=, running mean) and numbers are bias. A tensor that is added to,
    concatenated with or chosen instead of one that depends on the layer is bypass.
    Raises XGradCamError if the model, the layer or the targets do not fit, or the score is not finite.
    """
    model, inputs = lent(model, inputs, image)
    with _exact(model, inputs), advice_on(model, inputs):
        return verify_together(
            model, inputs, [layer], targets, output, score=score, layouts=layouts, run=run, frames=frames
        )[layer]


def verify_layers(
    model: nn.Module,
    inputs: Inputs,
    layers: Sequence[str],
    targets: Targets = None,
    output: str | int | None = None,
    *,
    score: Score | None = None,
    layouts: Mapping[str, Layout | None] | None = None,
    image: Place | None = None,
    run: int | None = None,
    frames: int | None = None,
) -> Iterator[tuple[str, Verification | XGradCamError]]:
    """Yield each layer with the result of `verify`, or with its error; much faster for many layers.

    layers: best in the order in which they run, but for `input`, which is the first. One forward and backward
    pass from the first layer serves all others that lie on every path from it to the score; then the first
    of the rest is next.
    layouts: of the layers' outputs, as `list_layers` finds them: then each `Verification.nowhere` is known
    where the first layer of its pass has a layout. run: of every layer, the same.
    The other arguments, and the errors that they raise, are those of `verify`.
    """
    model, inputs = lent(model, inputs, image)
    with _exact(model, inputs):
        sample_scores(targets, output, score, len(inputs))
    how: dict[str, Any] = {"score": score, "layouts": layouts, "run": run, "frames": frames}
    at_run("", run)
    frame_count(frames)
    left = []
    for layer in dict.fromkeys(layers):
        try:
            find_layer(model, layer)
            left.append(layer)
        except XGradCamError as error:
            yield layer, error
    left.sort(key=lambda layer: not is_input(model, layer))
    while left:
        found: Mapping[str, Verification | XGradCamError]
        try:
            found = verify_together(model, inputs, left, targets, output, **how)
        except XGradCamError as error:
            found = {left[0]: error}
        yield from found.items()
        left = [layer for layer in left if layer not in found]


@in_turn
def verify_together(
    model: nn.Module,
    inputs: Inputs,
    layers: Sequence[OneLayer],
    targets: Targets = None,
    output: str | int | None = None,
    *,
    score: Score | None = None,
    layouts: Mapping[str, Layout | None] | None = None,
    image: Place | None = None,
    run: int | None = None,
    frames: int | None = None,
) -> dict[OneLayer, Verification]:
    """The results at the first layer and at those others that one forward and backward pass from it serves.

    The arguments, and the errors that they raise, are those of `verify_layers`.
    """
    model, inputs = lent(model, inputs, image)
    places = [at_run(layer, run) if not isinstance(layer, LayerRun) else layer for layer in layers]
    count = frame_count(frames)
    known = {INPUT: input_layout(model, inputs), **(layouts or {})}
    with _exact(model, inputs):
        scores = sample_scores(targets, output, score, len(inputs))
        samples = [
            _verify_sample(*sample, places, score_of, partial(_layout_at, places[0], known, count))
            for sample, score_of in zip(_one_by_one(model, inputs), scores, strict=True)
        ]
    return {
        layers[index]: _joined([sample[index] for sample in samples])
        for index in samples[0]
        if all(index in sample for sample in samples)
    }


@contextmanager
def _exact(model: nn.Module, inputs: Tensor) -> Iterator[None]:
    """Refuse what cannot be verified; compute everything else exactly.

    TF32's 10 bits would look like a missing constant.
    """
    if inputs.dim() == 0 or len(inputs) == 0:
        raise XGradCamError(f"the inputs are {tuple(inputs.shape)}: take at least one sample, (N, ...)")
    refuse_scripted(model)
    with torch.inference_mode(False), computing_in(FLOAT32, inputs.device.type):
        yield


def _one_by_one(model: nn.Module, inputs: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield the model for each sample, and the sample as a batch of one.

    Behind the layer, the first axis may no longer be the samples.
    """
    for index in range(len(inputs)):
        yield for_sample(model, index), inputs[index : index + 1].detach().clone()


_Key: TypeAlias = tuple[str, str, Kind, int]


@dataclass(frozen=True)
class _Sample:
    """Both sides of Eq. 5 for one sample.

    feature, contributions: each with its part that has no place, (2,). contributions: by module, operation,
    kind, and a count of the calls that share these three.
    """

    score: Tensor
    feature: Tensor
    feature_magnitude: Tensor
    contributions: Mapping[_Key, Tensor]
    dtype: torch.dtype


def _verify_sample(
    model: nn.Module,
    sample: Tensor,
    layers: Sequence[AnyLayer],
    score_of: Callable[[Recording, Tracer], Tensor],
    layout_of: Callable[[int], Layout | None],
) -> dict[int, _Sample]:
    """Both sides at the first layer, and at each other layer, by index, that every path from it crosses.

    Behind such a layer, the same operations depend on it as on the first layer, so the terms are the same.
    """
    start: list[Places] = [None]

    def begin(activation: Tensor) -> Tracer:
        if (layout := layout_of(len(activation))) is not None:
            tracer.follower = follower_at(layout, activation)
            start[:] = [tracer.follower.places_of(activation)]
        return tracer

    with running_modules(model) as running:
        tracer = Tracer(running)
        with trace_activations(model, layers[1:], tracer) as activations:
            recording = record(model, sample, layers[0], begin)
    score = score_of(recording, tracer)
    refuse_custom_functions(score)
    cuts = {
        index: (traced, behind)
        for index, traced in enumerate(activations, 1)
        if traced is not None
        and (behind := nodes_between(traced.edge, score, recording.activation)) is not None
    }
    edges = [traced.edge for traced, _ in cuts.values()] + [one.edge for one in tracer.intercepts]
    gradient, gradients = recording.gradients(score, edges)
    product = partial(_product, tracer.follower)
    contributions = [
        (one, product(by_result, one.value, one.places))
        for one, by_result in zip(tracer.intercepts, gradients[len(cuts) :], strict=True)
    ]
    feature = product(gradient, recording.activation.detach(), start[0])
    samples = {0: _sample(score, gradient, recording.activation.detach(), feature, contributions)}
    for (index, (traced, behind)), by_layer in zip(cuts.items(), gradients[: len(cuts)], strict=True):
        kept = [(one, value) for one, value in contributions if one.edge.node in behind]
        feature = product(by_layer, traced.activation, traced.places)
        samples[index] = _sample(score, by_layer, traced.activation, feature, kept)
    return samples


def _layout_at(
    layer: AnyLayer, layouts: Mapping[str, Layout | None], frames: int, rows: int
) -> Layout | None:
    """The layout of a layer's output, with so many rows for a sample of these frames, if known."""
    named = layer.layer if isinstance(layer, LayerRun) else layer
    layout = layouts.get(named) if isinstance(named, str) else None
    unfolds = layout is not None and not layout.frames and rows == frames > 1
    return replace(layout, frames=frames) if unfolds and layout is not None else layout


def _product(follower: Follower | None, gradient: Tensor | None, constant: Tensor, places: Places) -> Tensor:
    """⟨gradient, constant⟩, and the part that has no place, NaN without a follower: (2,), on the CPU."""
    whole = _inner_product(gradient, constant)
    if follower is None:
        nowhere = torch.full_like(whole, torch.nan)
    elif gradient is None or isinstance(places, Grid):
        nowhere = torch.zeros_like(whole)
    elif places is None:
        nowhere = whole
    else:
        outside = follower.codes_in(places, gradient) == NOWHERE
        nowhere = _inner_product(gradient * outside, constant)
    return torch.stack([whole, nowhere]).cpu()


def _sample(
    score: Tensor,
    gradient: Tensor | None,
    activation: Tensor,
    feature: Tensor,
    contributions: Sequence[tuple[TracedIntercept, Tensor]],
) -> _Sample:
    values: dict[_Key, Tensor] = {}
    calls: Counter[tuple[str, str, Kind]] = Counter()
    for one, value in contributions:
        name = (one.module, one.operation, one.kind)
        values[(*name, calls[name])] = value
        calls[name] += 1
    magnitude = None if gradient is None else gradient.abs()
    return _Sample(
        score.detach().double().cpu(),
        feature,
        _inner_product(magnitude, activation.abs()).cpu(),
        values,
        # A double score of single activations has their rounding.
        torch.float32 if activation.dtype == torch.float32 else score.dtype,
    )


def _joined(samples: Sequence[_Sample]) -> Verification:
    keys = dict.fromkeys(key for sample in samples for key in sample.contributions)
    zero = torch.zeros(2, dtype=torch.float64, device="cpu")
    values = {key: torch.stack([sample.contributions.get(key, zero) for sample in samples]) for key in keys}
    features = torch.stack([sample.feature for sample in samples])
    return Verification(
        torch.stack([sample.score for sample in samples]),
        features[:, 0],
        torch.stack([sample.feature_magnitude for sample in samples]),
        tuple(Contribution(*key[:3], *value.unbind(dim=1)) for key, value in values.items()),
        samples[0].dtype,
        features[:, 1],
    )


def _inner_product(gradient: Tensor | None, constant: Tensor) -> Tensor:
    """⟨gradient, constant⟩ with the constant broadcast, (), float64; 0 if there is no gradient."""
    if gradient is None:
        return torch.zeros((), dtype=torch.float64, device="cpu")
    # The last axis is summed in the network's own precision, which is fast, the others in float64.
    if constant.dim() == 0 or constant.shape[-1] == 1:
        return (gradient.sum(-1, keepdim=True).double() * constant.double()).sum()
    return (gradient * constant).sum(-1).double().sum()
