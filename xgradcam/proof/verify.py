"""Eq. 5 at any layer of any network: the score as the sum of its feature term and every constant behind it.

With the graph starting at the layer's activation A, and ĝ the gradient of the score S in that graph,

    S = ⟨ĝ_A, A⟩ + Σ_v ⟨ĝ_v, c_v⟩    feature + (bias + bypass + curvature)

over all operations v behind the layer, c_v the operation's intercept (`xgradcam.proof.constants`). Every term is
found on its own; none is what is left of the score. Fu et al. 2020, Eq. 5, for a ReLU-CNN: there the
curvature is 0, and the bypass too where the layer cuts the network.
"""

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from xgradcam.capture.calls import (
    Call,
    outputs_of,
    refuse_compiled,
    refuse_custom_functions,
    substitute,
    tensors_of,
)
from xgradcam.capture.outputs import choose_targets, logits_of, require_finite
from xgradcam.capture.recording import find_layer, record
from xgradcam.errors import XGradCamError
from xgradcam.proof.constants import Intercept, Kind, intercept, is_linear

RELATIVE_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
ROUNDINGS = 16


@dataclass(frozen=True)
class Contribution:
    """What one operation adds to the scores: `value` is (N,), float64.

    module: the name of the innermost module that ran it, '' for the model itself. kind: 'bias' of a piecewise
    affine operation, 'bypass' of a tensor that does not depend on the layer, 'curvature' of any other.
    """

    module: str
    operation: str
    kind: Kind
    value: Tensor


@dataclass(frozen=True)
class Verification:
    """Both sides of Eq. 5, one entry per sample: (N,), float64, on the CPU.

    score = feature + bias + bypass + curvature + residual, the four being found independently of the score.
    feature_magnitude: Σ|ĝ_A A|, entry by entry. dtype: the precision that the network ran in.
    """

    score: Tensor
    feature: Tensor
    feature_magnitude: Tensor
    contributions: tuple[Contribution, ...]
    dtype: torch.dtype

    @property
    def bias(self) -> Tensor:
        """The constants of the piecewise affine operations behind the layer."""
        return self._sum("bias")

    @property
    def bypass(self) -> Tensor:
        """What reaches the score past the layer: 0 where the layer cuts the network."""
        return self._sum("bypass")

    @property
    def curvature(self) -> Tensor:
        """What operations that are not piecewise affine add: 0 in a ReLU-CNN, the premise of the paper."""
        return self._sum("curvature")

    @property
    def residual(self) -> Tensor:
        """What the identity leaves unexplained."""
        return self.score - self.feature - self.bias - self.bypass - self.curvature

    @property
    def magnitude(self) -> Tensor:
        """The sum of the absolute terms; many times |score| where the score is a cancellation.

        The feature term counts entry by entry: what cancels within it is rounded too.
        """
        return self.feature_magnitude + sum(term.value.abs() for term in self.contributions)

    @property
    def tolerance(self) -> Tensor:
        """The rounding to expect: a share of the score, or 16 roundings of the terms."""
        rounding = ROUNDINGS * torch.finfo(self.dtype).eps / 2
        return torch.maximum(RELATIVE_TOLERANCE[self.dtype] * self.score.abs(), rounding * self.magnitude)

    @property
    def closes(self) -> Tensor:
        """Whether the terms sum to the score, (N,) bool: Eq. 5 with its curvature, true of any network."""
        return self.residual.abs() <= self.tolerance

    @property
    def holds(self) -> Tensor:
        """Whether Eq. 5 holds as the paper states it: it closes, and nothing behind the layer is curved."""
        curved = (term.value.abs() for term in self.contributions if term.kind == "curvature")
        return self.closes & (sum(curved, torch.zeros_like(self.score)) <= self.tolerance)

    def _sum(self, kind: Kind) -> Tensor:
        values = (term.value for term in self.contributions if term.kind == kind)
        return sum(values, torch.zeros_like(self.score))


def verify(
    model: nn.Module,
    inputs: Tensor,
    layer: str | nn.Module,
    targets: int | Sequence[int] | Tensor | None = None,
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
    targets: int | Sequence[int] | Tensor | None = None,
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
    with _current_module(model) as path, _places(model, layers[1:]) as places:
        downstream = _Intercepting(path)
        recording = record(model, image, layers[0], downstream)
    score = _score(recording.output, target, output)
    refuse_custom_functions(score)
    terms = downstream.terms
    cuts = {
        index: (place, behind)
        for index, place in enumerate(places, 1)
        if place is not None and (behind := _behind(score, place.edge, recording.activation)) is not None
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
    score: Tensor, gradient: Tensor | None, activation: Tensor, terms: "Sequence[tuple[_Term, Tensor]]"
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


@dataclass(frozen=True)
class _Place:
    """A layer's output: where it is in the graph, and a copy of its values."""

    edge: GradientEdge
    activation: Tensor


@contextmanager
def _places(model: nn.Module, layers: Sequence[str | nn.Module]) -> Iterator[list[_Place | None]]:
    """The outputs of the layers in a forward; None for what is not in its graph, or more than once."""
    places: list[_Place | None] = [None] * len(layers)
    runs = [0] * len(layers)

    def keep(index: int, output: Any) -> None:
        runs[index] += 1
        places[index] = None
        if runs[index] == 1 and isinstance(output, Tensor) and output.requires_grad:
            with torch.no_grad():
                places[index] = _Place(get_gradient_edge(output), output.detach().clone())

    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            module = find_layer(model, layer)[1]
            hook = module.register_forward_hook(lambda _m, _i, output, index=index: keep(index, output))
            hooks.enter_context(hook)
        yield places


def _behind(score: Tensor, place: GradientEdge, start: Tensor) -> set[Node] | None:
    """The graph between a place and the score; None where a way from the start to the score avoids it."""
    first = get_gradient_edge(start).node
    if score.grad_fn is None:
        return None
    behind, waiting, met = {score.grad_fn}, [score.grad_fn], False
    while waiting:
        for node, output in waiting.pop().next_functions:
            if node is None or node in behind:
                continue
            if node == place.node and output == place.output_nr:
                met = True
            elif node == first:
                return None
            else:
                behind.add(node)
                waiting.append(node)
    return behind if met else None


@dataclass(frozen=True)
class _Term:
    """An intercept, and where it enters the graph: an operation's output, before later writes to it."""

    module: str
    operation: str
    kind: Kind
    edge: GradientEdge
    intercept: Tensor


class _Intercepting(TorchFunctionMode):
    """Runs every operation as it is, and notes the intercepts of those that depend on the layer."""

    def __init__(self, path: Sequence[str]) -> None:
        super().__init__()
        self.path = path
        self.terms: list[_Term] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and note what it adds."""
        call = Call(function, args, kwargs or {})
        if any(map(is_functorch_wrapped_tensor, tensors_of((args, kwargs)))):
            raise XGradCamError(
                f"the model runs '{call.operation}' inside of torch.func or torch.vmap: out of reach"
            )
        if not call.dependents:
            if next(tensors_of((args, kwargs)), None) is None:
                return function(*args, **call.kwargs)
            with torch.no_grad():  # parameters ask for gradients: what depends on them alone must not
                return function(*args, **call.kwargs)
        if call.operation in ("numpy", "array"):  # leaves PyTorch, and comes back as a constant
            return function(*substitute(args, Tensor.detach), **call.kwargs)
        if any(tensor.is_inference() for tensor in tensors_of((args, kwargs))):
            call = Call(function, *substitute((args, call.kwargs), _normal))
        if not torch.is_grad_enabled() or is_linear(call):
            return function(*call.args, **call.kwargs)
        return self._run(call) if call.target is None else self._run_in_place(call, call.target)

    def _run(self, call: Call) -> Any:
        result = call.function(*call.args, **call.kwargs)
        if any(output.requires_grad for output in outputs_of(result)):
            self._note(call, intercept(call), result)
        return result

    def _run_in_place(self, call: Call, target: Tensor) -> Any:
        constant = intercept(call)  # of the values before they are overwritten
        if constant is None:
            return call.function(*call.args, **call.kwargs)
        # A view has no place of its own in the graph of its base: write to a copy, and the copy to the view.
        written = call.run(lambda tensor: tensor)
        self._note(call, constant, written)
        target.copy_(written)
        return target

    def _note(self, call: Call, constant: Intercept | None, result: Any) -> None:
        if constant is None:
            return
        module = self.path[-1] if self.path else ""
        for output, value in zip(outputs_of(result), constant.values, strict=True):
            if output.requires_grad:
                edge = get_gradient_edge(output)
                self.terms.append(_Term(module, call.operation, constant.kind, edge, value))


def _normal(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode, which no graph may keep."""
    return tensor.detach().clone() if tensor.is_inference() else tensor


@contextmanager
def _current_module(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that are running, innermost last."""
    path: list[str] = []

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            # A hook that returns None changes nothing; the names are bound now, not when the hooks run.
            hooks.enter_context(module.register_forward_pre_hook(lambda _m, _i, name=name: path.append(name)))
            hooks.enter_context(module.register_forward_hook(lambda _m, _i, _o: _drop(path)))
        yield path


def _drop(path: list[str]) -> None:
    path.pop()


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


def _classes(targets: int | Sequence[int] | Tensor | None, samples: int) -> list[int | None]:
    """The class of each sample, or None for its highest score."""
    if targets is None:
        return [None] * samples
    given = targets.tolist() if isinstance(targets, Tensor) else targets
    try:
        chosen = list(given) if isinstance(given, Sequence) else [given] * samples
        classes = [operator.index(target) for target in chosen]
    except TypeError:
        raise XGradCamError(f"the targets are {targets!r}: give a class index, or one per sample") from None
    if len(classes) != samples:
        raise XGradCamError(f"{len(classes)} targets for {samples} samples: give one for all, or one each")
    return [*classes]


def _score(output: Any, target: int | None, entry: str | int | None) -> Tensor:
    """The score of the class, (): the highest where none is given."""
    logits = logits_of(output, entry)
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
