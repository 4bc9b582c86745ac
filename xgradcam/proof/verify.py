"""Eq. 5 at any layer of any network: the score as the sum of its feature term and every constant behind it.

With the graph starting at the layer's activation A, and ĝ the gradient of the score S in that graph,

    S = ⟨ĝ_A, A⟩ + Σ_v ⟨ĝ_v, c_v⟩    feature + (bias + bypass + curvature)

over all operations v behind the layer, c_v the operation's intercept (`xgradcam.proof.constants`). Every
term is found on its own; none is what is left of the score. Fu et al. 2020, Eq. 5, for a ReLU-CNN: there the
curvature is 0, and the bypass too where the layer cuts the network.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from xgradcam.capture.calls import refuse_compiled
from xgradcam.capture.layers import find_layer
from xgradcam.capture.recording import record
from xgradcam.capture.scores import Targets, choose_targets, logits_of, parse_targets, require_finite
from xgradcam.errors import XGradCamError
from xgradcam.proof.constants import Kind
from xgradcam.proof.tracing import (
    Intercepting,
    Term,
    current_module,
    nodes_between,
    refuse_custom_functions,
    watched_outputs,
)
from xgradcam.proof.verification import RELATIVE_TOLERANCE, Contribution, Verification


def verify(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    targets: Targets = None,
    output: str | int | None = None,
) -> Verification:
    """Compute every term of Eq. 5 for the scores of `targets` at `layer`; see `Verification`.

    inputs: (N, ...), float32 or float64, with scores (N, classes). layer: a module of the model, or its
    name. targets: a class for all samples, one per sample, or None for the highest score. output: where the
    scores are, if the model returns more than them.
    A constant that an operation takes as its own (bias=, running mean) is bias, and so is a number; a tensor
    that is added, concatenated or chosen beside one that depends on the layer is bypass.
    Raises XGradCamError where the model, the layer or the targets do not fit, or the score is not finite.
    """
    with _ready(model, inputs):
        classes = _classes(targets, len(inputs))
        return _joined(
            [
                _verify_one(model, image, [layer], target, output)[0]
                for image, target in zip(_one_by_one(inputs), classes, strict=True)
            ]
        )


def verify_layers(
    model: nn.Module,
    inputs: Tensor,
    layers: Sequence[str],
    targets: Targets = None,
    output: str | int | None = None,
) -> Iterator[tuple[str, Verification | XGradCamError]]:
    """Each layer with what `verify` returns for it, or the error that it raises; much faster for many layers.

    layers: best in the order in which they run. One forward and backward from the first of them serve all
    that every way from there to the score goes through; the first of those left is next. The other arguments,
    and what is raised if they are wrong, are those of `verify`.
    """
    with _ready(model, inputs):
        classes = _classes(targets, len(inputs))
    left = []
    for layer in dict.fromkeys(layers):
        try:
            find_layer(model, layer)
            left.append(layer)
        except XGradCamError as error:
            yield layer, error
    while left:
        found: dict[int, Verification | XGradCamError] = {}
        try:
            with _ready(model, inputs):
                samples = [
                    _verify_one(model, image, left, target, output)
                    for image, target in zip(_one_by_one(inputs), classes, strict=True)
                ]
            for index in samples[0]:
                if all(index in sample for sample in samples):
                    found[index] = _joined([sample[index] for sample in samples])
        except XGradCamError as error:
            found[0] = error
        yield from ((left[index], result) for index, result in found.items())
        left = [layer for index, layer in enumerate(left) if index not in found]


@contextmanager
def _ready(model: nn.Module, inputs: Tensor) -> Iterator[None]:
    """Refuse what cannot be verified, and have the rest computed as exactly as it can be."""
    if inputs.dim() == 0 or len(inputs) == 0:
        raise XGradCamError(f"the inputs are {tuple(inputs.shape)}: take at least one sample, (N, ...)")
    refuse_compiled(model)
    with torch.inference_mode(False), _full_precision(inputs.device.type):
        yield


def _one_by_one(inputs: Tensor) -> Iterator[Tensor]:
    """The samples, each as a batch: behind the layer, one need not keep to its place in the first axis."""
    return (inputs[index : index + 1].detach().clone() for index in range(len(inputs)))


def _joined(samples: "Sequence[_Sample]") -> Verification:
    keys = dict.fromkeys(key for sample in samples for key in sample.terms)
    nought = torch.zeros((), dtype=torch.float64)
    values = {key: torch.stack([sample.terms.get(key, nought) for sample in samples]) for key in keys}
    return Verification(
        torch.stack([sample.score for sample in samples]),
        torch.stack([sample.feature for sample in samples]),
        torch.stack([sample.feature_magnitude for sample in samples]),
        tuple(Contribution(*key[:3], value) for key, value in values.items()),
        samples[0].dtype,
    )


_Key: TypeAlias = tuple[str, str, Kind, int]


@dataclass(frozen=True)
class _Sample:
    """The two sides for one sample; a term's key is its module, operation and kind, and its occurrence."""

    score: Tensor
    feature: Tensor
    feature_magnitude: Tensor
    terms: Mapping[_Key, Tensor]
    dtype: torch.dtype


def _verify_one(
    model: nn.Module,
    image: Tensor,
    layers: Sequence[str | nn.Module],
    target: int | None,
    output: str | int | None,
) -> dict[int, _Sample]:
    """The two sides at the first layer, and at those others, by index, that all ways from it go through.

    Behind such a layer an operation depends on it just where it depends on the first: the terms are the same.
    """
    with current_module(model) as path, watched_outputs(model, layers[1:]) as places:
        downstream = Intercepting(path)
        recording = record(model, image, layers[0], downstream)
    score = _score(recording.output, target, output)
    refuse_custom_functions(score)
    terms = downstream.terms
    cuts = {
        index: (place, behind)
        for index, place in enumerate(places, 1)
        if place is not None
        and (behind := nodes_between(score, place.edge, recording.activation)) is not None
    }
    edges = [*(place.edge for place, _ in cuts.values()), *(term.edge for term in terms)]
    gradient, gradients = recording.gradients(score, edges)
    values = [
        (term, _inner_product(by_term, term.intercept).cpu())
        for term, by_term in zip(terms, gradients[len(cuts) :], strict=True)
    ]
    found = {0: _sample(score, gradient, recording.activation.detach(), values)}
    for (index, (place, behind)), by_place in zip(cuts.items(), gradients[: len(cuts)], strict=True):
        kept = [(term, value) for term, value in values if term.edge.node in behind]
        found[index] = _sample(score, by_place, place.activation, kept)
    return found


def _sample(
    score: Tensor, gradient: Tensor | None, activation: Tensor, terms: "Sequence[tuple[Term, Tensor]]"
) -> _Sample:
    values: dict[_Key, Tensor] = {}
    occurrences: Counter[tuple[str, str, Kind]] = Counter()
    for term, value in terms:
        name = (term.module, term.operation, term.kind)
        values[(*name, occurrences[name])] = value
        occurrences[name] += 1
    magnitude = None if gradient is None else gradient.abs()
    return _Sample(
        score.detach().double().cpu(),
        _inner_product(gradient, activation).cpu(),
        _inner_product(magnitude, activation.abs()).cpu(),
        values,
        score.dtype,
    )


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """No autocast and no TF32, whose 10 bits would be taken for a missing constant; restored after."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    backends, attribute, exact = [matmul, cudnn], "allow_tf32", cast(Any, False)
    if hasattr(matmul, "fp32_precision"):  # from PyTorch 2.9 on; the older name cannot always be read there
        backends, attribute, exact = [matmul, cudnn.conv, cudnn.rnn], "fp32_precision", "ieee"
    before = [getattr(backend, attribute) for backend in backends]
    try:
        for backend in backends:
            setattr(backend, attribute, exact)
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            setattr(backend, attribute, value)


def _classes(targets: Targets, samples: int) -> list[int | None]:
    """The target of each sample, or None for its highest score."""
    classes = parse_targets(targets, samples)
    return [None] * samples if classes is None else [*classes.tolist()]


def _score(returned: Any, target: int | None, output: str | int | None) -> Tensor:
    """The score of the class, (): the highest where none is given."""
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
    """⟨gradient, constant⟩ with the constant broadcast, (), float64; 0 where no gradient arrives."""
    if gradient is None:
        return torch.zeros((), dtype=torch.float64)
    # The innermost axis is summed in the network's own precision, which is fast, the rest in float64.
    if constant.dim() == 0 or constant.shape[-1] == 1:
        return (gradient.sum(-1, keepdim=True).double() * constant.double()).sum()
    return (gradient * constant).sum(-1).double().sum()
