"""Eq. 5 at any layer of any network: the score as the sum of its feature term and all constants behind it.

The graph starts at the layer's activation A; ĝ is the gradient of the score S in that graph. Then

    S = ⟨ĝ_A, A⟩ + Σ_v ⟨ĝ_v, c_v⟩    feature + (bias + bypass + curvature)

over all operations v behind the layer, where c_v is the operation's intercept: see
`xgradcam.operations.constants`. Every term is computed by itself; none is the remainder of the score. Fu et
al. 2020 state Eq. 5 for a ReLU-CNN: there the curvature is 0, and so is the bypass if the layer cuts the
network.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError
from xgradcam.lending.finding import find_layer
from xgradcam.lending.inputs import advice_on, plain_inputs
from xgradcam.lending.precision import FLOAT32, computing_in
from xgradcam.operations.calls import refuse_scripted
from xgradcam.operations.constants import Kind
from xgradcam.proof.tracing import (
    TracedIntercept,
    Tracer,
    nodes_between,
    refuse_custom_functions,
    running_modules,
    trace_activations,
)
from xgradcam.proof.verification import RELATIVE_TOLERANCE, Contribution, Verification
from xgradcam.scores.outputs import logits_of, require_finite
from xgradcam.scores.targets import Targets, choose_targets, parse_targets


def verify(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    targets: Targets = None,
    output: str | int | None = None,
) -> Verification:
    """Compute every term of Eq. 5 for the scores of `targets` at `layer`; see `Verification`.

    inputs: (N, ...), float32 or float64, with scores (N, classes). layer: a module of the model, or its
    name. targets: one class for all samples, one per sample, or None for the highest score. output: the key,
    attribute or position of the scores, if the model returns more.
    An operation's own constants (bias=, running mean) and numbers are bias. A tensor that is added to,
    concatenated with or chosen instead of one that depends on the layer is bypass.
    Raises XGradCamError if the model, the layer or the targets do not fit, or the score is not finite.
    """
    inputs = plain_inputs(inputs)
    with _exact(model, inputs), advice_on(model, inputs):
        classes = _classes(targets, len(inputs))
        return _joined(
            [
                _verify_sample(model, sample, [layer], target, output)[0]
                for sample, target in zip(_one_by_one(inputs), classes, strict=True)
            ]
        )


def verify_layers(
    model: nn.Module,
    inputs: Tensor,
    layers: Sequence[str],
    targets: Targets = None,
    output: str | int | None = None,
) -> Iterator[tuple[str, Verification | XGradCamError]]:
    """Yield each layer with the result of `verify`, or with its error; much faster for many layers.

    layers: best in the order in which they run. One forward and backward pass from the first layer serves
    all others that lie on every path from it to the score; then the first of the rest is next. The other
    arguments, and the errors that they raise, are those of `verify`.
    """
    inputs = plain_inputs(inputs)
    with _exact(model, inputs):
        classes = _classes(targets, len(inputs))
    left = []
    for layer in dict.fromkeys(layers):
        try:
            find_layer(model, layer)
            left.append(layer)
        except XGradCamError as error:
            yield layer, error
    while left:
        verified: dict[int, Verification | XGradCamError] = {}
        try:
            with _exact(model, inputs):
                samples = [
                    _verify_sample(model, sample, left, target, output)
                    for sample, target in zip(_one_by_one(inputs), classes, strict=True)
                ]
            for index in samples[0]:
                if all(index in sample for sample in samples):
                    verified[index] = _joined([sample[index] for sample in samples])
        except XGradCamError as error:
            verified[0] = error
        yield from ((left[index], result) for index, result in verified.items())
        left = [layer for index, layer in enumerate(left) if index not in verified]


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


def _classes(targets: Targets, samples: int) -> list[int | None]:
    """The target of each sample, or None for its highest score."""
    classes = parse_targets(targets, samples)
    return [None] * samples if classes is None else [*classes.tolist()]


def _one_by_one(inputs: Tensor) -> Iterator[Tensor]:
    """Yield each sample as a batch of one: behind the layer, the first axis may no longer be the samples."""
    return (inputs[index : index + 1].detach().clone() for index in range(len(inputs)))


_Key: TypeAlias = tuple[str, str, Kind, int]


@dataclass(frozen=True)
class _Sample:
    """Both sides of Eq. 5 for one sample.

    contributions: by module, operation, kind, and a count of the calls that share these three.
    """

    score: Tensor
    feature: Tensor
    feature_magnitude: Tensor
    contributions: Mapping[_Key, Tensor]
    dtype: torch.dtype


def _verify_sample(
    model: nn.Module,
    sample: Tensor,
    layers: Sequence[str | nn.Module],
    target: int | None,
    output: str | int | None,
) -> dict[int, _Sample]:
    """Both sides at the first layer, and at each other layer, by index, that every path from it crosses.

    Behind such a layer, the same operations depend on it as on the first layer, so the terms are the same.
    """
    with running_modules(model) as running, trace_activations(model, layers[1:]) as activations:
        tracer = Tracer(running)
        recording = record(model, sample, layers[0], lambda _activation: tracer)
    score = _score(recording.output, target, output)
    refuse_custom_functions(score)
    cuts = {
        index: (traced, behind)
        for index, traced in enumerate(activations, 1)
        if traced is not None
        and (behind := nodes_between(traced.edge, score, recording.activation)) is not None
    }
    edges = [traced.edge for traced, _ in cuts.values()] + [one.edge for one in tracer.intercepts]
    gradient, gradients = recording.gradients(score, edges)
    contributions = [
        (one, _inner_product(by_result, one.value).cpu())
        for one, by_result in zip(tracer.intercepts, gradients[len(cuts) :], strict=True)
    ]
    samples = {0: _sample(score, gradient, recording.activation.detach(), contributions)}
    for (index, (traced, behind)), by_layer in zip(cuts.items(), gradients[: len(cuts)], strict=True):
        kept = [(one, value) for one, value in contributions if one.edge.node in behind]
        samples[index] = _sample(score, by_layer, traced.activation, kept)
    return samples


def _sample(
    score: Tensor,
    gradient: Tensor | None,
    activation: Tensor,
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
        _inner_product(gradient, activation).cpu(),
        _inner_product(magnitude, activation.abs()).cpu(),
        values,
        score.dtype,
    )


def _joined(samples: Sequence[_Sample]) -> Verification:
    keys = dict.fromkeys(key for sample in samples for key in sample.contributions)
    zero = torch.zeros((), dtype=torch.float64, device="cpu")
    values = {key: torch.stack([sample.contributions.get(key, zero) for sample in samples]) for key in keys}
    return Verification(
        torch.stack([sample.score for sample in samples]),
        torch.stack([sample.feature for sample in samples]),
        torch.stack([sample.feature_magnitude for sample in samples]),
        tuple(Contribution(*key[:3], value) for key, value in values.items()),
        samples[0].dtype,
    )


def _score(returned: Any, target: int | None, output: str | int | None) -> Tensor:
    """The score of the target, (): the highest score for None."""
    logits = logits_of(returned, output)
    if len(logits) != 1:
        raise XGradCamError(
            f"the model returns {tuple(logits.shape)} for one sample: Eq. 5 needs (1, classes)"
        )
    if logits.dtype not in RELATIVE_TOLERANCE:
        raise XGradCamError(f"the model computes in {logits.dtype}: take float32 or float64")
    require_finite(logits)
    return logits[0, choose_targets(logits.detach(), target)[0]]


def _inner_product(gradient: Tensor | None, constant: Tensor) -> Tensor:
    """⟨gradient, constant⟩ with the constant broadcast, (), float64; 0 if there is no gradient."""
    if gradient is None:
        return torch.zeros((), dtype=torch.float64, device="cpu")
    # The last axis is summed in the network's own precision, which is fast, the others in float64.
    if constant.dim() == 0 or constant.shape[-1] == 1:
        return (gradient.sum(-1, keepdim=True).double() * constant.double()).sum()
    return (gradient * constant).sum(-1).double().sum()
