"""The evidence that a method works from, and a probe that asks the network again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from xgradcam.capture.borrowing import Arrangement, borrowed
from xgradcam.capture.layers import Layout
from xgradcam.capture.recording import Recording, record, replay
from xgradcam.capture.scores import ClassScore, Score, logits_of, of_sample
from xgradcam.errors import NotApplicableError, XGradCamError

# Called after each evaluation of the network: how many are done for a batch, and how many there will be.
Progress: TypeAlias = Callable[[int, int], None]

# Most numbers of the layer's output in one forward of variants: 64 MB in float32.
VALUES_AT_ONCE = 2**24
# Most inputs in one forward of the whole network.
INPUTS_AT_ONCE = 16


@dataclass(frozen=True)
class Evidence:
    """The activation of a layer and the gradient of the score by it, both (N, C, h, w).

    probe: asks the network again, for the methods that need more than these two.
    """

    activation: Tensor
    gradient: Tensor
    probe: "Probe | None" = None


def probe_of(evidence: Evidence) -> "Probe":
    """The evidence's probe; XGradCamError if it has none."""
    if evidence.probe is None:
        raise XGradCamError("this method asks the network again: use explain, or give the evidence a probe")
    return evidence.probe


@dataclass(frozen=True)
class Probe:
    """Asks the network again about a recorded batch of N: without a channel, at other inputs, ...

    inputs: (N, ...). score_of: from the model's output to the score. score: its values, (N,).
    """

    recording: Recording
    inputs: Tensor
    layer: str | nn.Module
    layout: Layout
    score_of: Score
    score: Tensor
    progress: Progress = lambda _done, _total: None
    arrangement: Arrangement = field(default_factory=Arrangement)

    def maps(self) -> Tensor:
        """The layer's feature maps, (N, C, h, w)."""
        return self.layout.to_maps(self.recording.activation.detach())

    @cached_property
    def without_channels(self) -> Tensor:
        """The score without each channel, S(F with F^k = 0): (N, C). Channels that are 0 cost nothing."""
        maps = self.maps()
        live = maps.flatten(2).any(dim=2)
        total, done = int(live.sum()), 0
        scores = self.score.detach()[:, None].repeat(1, maps.shape[1])
        with torch.no_grad():
            for sample, channels in enumerate(live):
                tail = _Tail(self, sample)
                for chosen in _groups(channels, max(1, VALUES_AT_ONCE // maps[0].numel())):
                    variants = maps[sample].repeat(len(chosen), 1, 1, 1)
                    variants[torch.arange(len(chosen)), chosen] = 0
                    scores[sample, chosen] = tail(variants)
                    done += len(chosen)
                    self.progress(done, total)
        return scores

    def scores_with_maps(self, sample: int, variants: Tensor) -> Tensor:
        """The scores of one sample, (M,), with other maps at the layer, (M, C, h, w)."""
        return _Tail(self, sample)(variants)

    def scores_at(self, wanted: Tensor, variants: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The scores at variants of each sample's input: (N, count), 0 where `wanted` (N, count) is False.

        variants: from a sample and the numbers of M of its variants, (M,), to those inputs, (M, ...).
        """
        model = self.recording.model
        scores = self.score.new_zeros(wanted.shape)
        done, total = 0, int(wanted.sum())
        with borrowed(model):
            for sample, numbers in enumerate(wanted):
                score_of = self.score_of_one(sample)
                for chosen in _groups(numbers, INPUTS_AT_ONCE):
                    output = self.arrangement.run(variants(sample, chosen), model)
                    scores[sample, chosen] = score_of(output)
                    done += len(chosen)
                    self.progress(done, total)
        return scores

    def score_of_one(self, sample: int) -> Score:
        """The score of one sample, for any number of rows that are variants of it.

        Raises XGradCamError for a score that is defined for the whole batch only.
        """
        score_of = of_sample(self.score_of, sample)
        if len(self.inputs) > 1 and score_of is self.score_of:
            with borrowed(self.recording.model):
                output = self.recording.model(self.inputs[sample : sample + 1])
            try:
                fits = score_of(output).shape == (1,)
            # A score of the whole batch may raise anything if it is given one sample.
            except Exception:
                fits = False
            if not fits:
                raise XGradCamError(
                    "this method asks about variants of one sample, but the score needs the whole batch: "
                    "give it a method alone(sample), as RegionMean has it, or explain the samples one by one"
                )
        return score_of

    def gradient_of(self, score_of: Score) -> Tensor:
        """The gradient of another score by the maps, (N, C, h, w)."""
        return self.layout.to_maps(self.recording.gradient(score_of(self.recording.output)))

    def gradients_at(self, inputs: Iterator[Tensor], count: int) -> Iterator[Tensor]:
        """The gradient of the score by the maps at each of `count` other inputs, (N, C, h, w)."""
        for done, others in enumerate(inputs, 1):
            recording = record(self.recording.model, others, self.layer, arrangement=self.arrangement)
            yield self.layout.to_maps(recording.gradient(self.score_of(recording.output)))
            self.progress(done * len(others), count * len(others))

    def hessian_product(self) -> Tensor:
        """H F, (N, C, h, w): the second derivatives of the score by the maps F, times F.

        Raises NotApplicableError if an operation behind the layer has no second derivative.
        """
        direction = self.layout.with_maps(torch.zeros_like(self.recording.activation), self.maps())
        try:
            return self._hessian_product(self.recording, direction)
        except NotImplementedError:
            pass
        # Fused attention has no second derivative; attention step by step, in another forward, has one.
        with sdpa_kernel(SDPBackend.MATH):
            unfused = record(self.recording.model, self.inputs, self.layer, arrangement=self.arrangement)
            try:
                return self._hessian_product(unfused, direction)
            except NotImplementedError as error:
                raise NotApplicableError(f"this method needs second derivatives: {error}") from None

    def _hessian_product(self, recording: Recording, direction: Tensor) -> Tensor:
        product = recording.hessian_product(self.score_of(recording.output), direction)
        return self.layout.to_maps(product)

    def classes(self) -> tuple[Tensor, Tensor]:
        """All logits (N, classes) and each sample's class (N,); NotApplicableError for other scores."""
        if not isinstance(self.score_of, ClassScore):
            raise NotApplicableError("this method compares classes, and the score is not that of a class")
        logits = logits_of(self.recording.output, self.score_of.output).detach()
        return logits, self.score_of.targets.expand(len(logits))

    def seeds(self) -> list[int]:
        """A random seed for each sample: its class; a single 0 if the score is not that of a class."""
        if not isinstance(self.score_of, ClassScore):
            return [0]
        return [int(target) for target in self.classes()[1]]


def _groups(wanted: Tensor, most: int) -> tuple[Tensor, ...]:
    """The indices at which `wanted` (count,) is True, in groups of 1 to `most`."""
    indices = wanted.nonzero()[:, 0]
    return tuple(torch.split(indices, most)) if len(indices) else ()


class _Tail:
    """The network behind the layer, for one sample: from maps (M, C, h, w) to scores (M,).

    The part up to the layer runs for one input. If the part behind the layer also uses the input and cannot
    combine one with M maps, M copies of the input run. The first call finds out.
    """

    def __init__(self, probe: Probe, sample: int) -> None:
        self._probe = probe
        self._input = probe.inputs[sample : sample + 1]
        self._activation = probe.recording.activation.detach()[sample : sample + 1]
        self._score_of = probe.score_of_one(sample)
        self._one_input_will_do: bool | None = None

    def __call__(self, maps: Tensor) -> Tensor:
        if self._one_input_will_do is None:
            # A variant that differs from all others shows if each variant has a row of its own.
            control = maps[:1] / 2
            scores = self._tried_with_one_input(torch.cat([maps, control]))
            alone = self._scores(self._input, control)
            self._one_input_will_do = scores is not None and self._is_close(scores[-1], alone[0])
            if scores is not None and self._one_input_will_do:
                return scores[:-1]
        if self._one_input_will_do:
            return self._scores(self._input, maps)
        return torch.cat([self._with_copies(part) for part in torch.split(maps, INPUTS_AT_ONCE)])

    def _tried_with_one_input(self, maps: Tensor) -> Tensor | None:
        try:
            scores = self._scores(self._input, maps)
        # A model may raise anything if the number of samples changes on the way.
        except Exception:
            return None
        return scores if scores.shape == (len(maps),) else None

    def _with_copies(self, maps: Tensor) -> Tensor:
        return self._scores(self._input.expand(len(maps), *self._input.shape[1:]), maps)

    def _scores(self, inputs: Tensor, maps: Tensor) -> Tensor:
        output: Any = replay(
            self._probe.recording.model,
            inputs,
            self._probe.layer,
            self._probe.layout.with_maps(self._activation, maps.clone()),
        )
        return self._score_of(output)

    def _is_close(self, score: Tensor, expected: Tensor) -> bool:
        tolerance = 1e-3 if score.dtype in (torch.float32, torch.float64) else 5e-2
        size = expected.abs() + self._probe.score.detach().abs().max()
        return bool((score - expected).abs() <= tolerance * size)
