"""A network that is asked more about a batch it has seen: without a channel, at other inputs."""

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


@dataclass(frozen=True)
class Evidence:
    """What a method may look at: activation and gradient of the score at one layer, both (N, C, h, w).

    probe: the network itself, for the methods that ask it more; those on this page do not.
    """

    activation: Tensor
    gradient: Tensor
    probe: "Probe | None" = None


def probe_of(evidence: Evidence) -> "Probe":
    """The network to ask; XGradCamError where there is only activation and gradient."""
    if evidence.probe is None:
        raise XGradCamError("this method asks the network again: use explain, or give the evidence a probe")
    return evidence.probe


# Called with the evaluations of the network that a method has done for a batch, and those it will do in all.
Progress: TypeAlias = Callable[[int, int], None]

# Numbers in the layer's output of variants that are evaluated at once: 64 MB in float32.
LARGEST = 2**24
# Inputs that go through the whole network at once.
INPUTS = 16


@dataclass(frozen=True)
class Probe:
    """A recorded batch of N and the score of interest.

    inputs: (N, ...). score_of: from the model's output to the score; score: its values, (N,).
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
        """The layer's maps, (N, C, h, w)."""
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
                for chosen in _parts(channels, max(1, LARGEST // maps[0].numel())):
                    variants = maps[sample].repeat(len(chosen), 1, 1, 1)
                    variants[torch.arange(len(chosen)), chosen] = 0
                    scores[sample, chosen] = tail(variants)
                    done += len(chosen)
                    self.progress(done, total)
        return scores

    def scores_of(self, wanted: Tensor, variants: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The scores of variants of each sample, (N, count): those that are `wanted` (N, count), else 0.

        variants: from a sample and some of the numbers below `count`, (M,), to those inputs, (M, ...).
        """
        model = self.recording.model
        scores = self.score.new_zeros(wanted.shape)
        done, total = 0, int(wanted.sum())
        with borrowed(model):
            for sample, numbers in enumerate(wanted):
                score_of = self.score_of_one(sample)
                for chosen in _parts(numbers, INPUTS):
                    output = self.arrangement.run(variants(sample, chosen), model)
                    scores[sample, chosen] = score_of(output)
                    done += len(chosen)
                    self.progress(done, total)
        return scores

    def score_of_one(self, sample: int) -> Score:
        """The score of one sample, for any number of rows that are variants of it.

        Raises XGradCamError for a score that is only of the whole batch.
        """
        score_of = of_sample(self.score_of, sample)
        if len(self.inputs) > 1 and score_of is self.score_of:
            with borrowed(self.recording.model):
                output = self.recording.model(self.inputs[sample : sample + 1])
            try:
                fits = score_of(output).shape == (1,)
            except (IndexError, RuntimeError):
                fits = False
            if not fits:
                raise XGradCamError(
                    "this method asks about variants of one sample, the score is only of the whole batch: "
                    "give it a method alone(sample), as RegionMean has it, or explain samples one by one"
                )
        return score_of

    def gradient_of(self, score_of: Score) -> Tensor:
        """The gradient of another score by the maps, (N, C, h, w)."""
        return self.layout.to_maps(self.recording.gradient(score_of(self.recording.output)))

    def gradients_at(self, inputs: Iterator[Tensor], count: int) -> Iterator[Tensor]:
        """The gradient of the score by the maps at other inputs, each (N, C, h, w); one forward for each."""
        for done, others in enumerate(inputs, 1):
            recording = record(self.recording.model, others, self.layer, arrangement=self.arrangement)
            yield self.layout.to_maps(recording.gradient(self.score_of(recording.output)))
            self.progress(done * len(others), count * len(others))

    def hessian_product(self) -> Tensor:
        """H·F, (N, C, h, w), with H the second derivatives of the score by the maps F.

        Raises NotApplicableError where an operation behind the layer has no second derivative.
        """
        direction = self.layout.with_maps(torch.zeros_like(self.recording.activation), self.maps())
        try:
            return self._second(self.recording, direction)
        except NotImplementedError:
            pass
        # Fused attention has none; its plain form, in another forward, has.
        with sdpa_kernel(SDPBackend.MATH):
            plain = record(self.recording.model, self.inputs, self.layer, arrangement=self.arrangement)
            try:
                return self._second(plain, direction)
            except NotImplementedError as error:
                raise NotApplicableError(f"this method needs second derivatives: {error}") from None

    def _second(self, recording: Recording, direction: Tensor) -> Tensor:
        product = recording.hessian_product(self.score_of(recording.output), direction)
        return self.layout.to_maps(product)

    def scores_of_maps(self, sample: int, variants: Tensor) -> Tensor:
        """The scores of one sample, (M,), if the layer's maps were these, (M, C, h, w)."""
        return _Tail(self, sample)(variants)

    def classes(self) -> tuple[Tensor, Tensor]:
        """All logits (N, classes) and each sample's class (N,); NotApplicableError for other scores."""
        if not isinstance(self.score_of, ClassScore):
            raise NotApplicableError("this method compares classes, and the score is not that of a class")
        logits = logits_of(self.recording.output, self.score_of.output).detach()
        return logits, self.score_of.targets.expand(len(logits))

    def seeds(self) -> list[int]:
        """A number for each sample that is that of its class, 0 where the score is not that of a class."""
        if not isinstance(self.score_of, ClassScore):
            return [0]
        return [int(target) for target in self.classes()[1]]


def _parts(wanted: Tensor, most: int) -> tuple[Tensor, ...]:
    """Where `wanted`, (count,) bool, is True: so many of the places at a time, and no part of none."""
    places = wanted.nonzero()[:, 0]
    return tuple(torch.split(places, most)) if len(places) else ()


class _Tail:
    """The network behind the layer for one sample: from maps (M, C, h, w) to scores (M,).

    The part up to the layer is run for one sample only. Where something behind the layer was computed from
    the input and does not take to that, it is run for as many: the first call finds out.
    """

    def __init__(self, probe: Probe, sample: int) -> None:
        self._probe = probe
        self._input = probe.inputs[sample : sample + 1]
        self._activation = probe.recording.activation.detach()[sample : sample + 1]
        self._score_of = probe.score_of_one(sample)
        self._grows: bool | None = None

    def __call__(self, maps: Tensor) -> Tensor:
        if self._grows is None:
            # One that differs from all others shows whether each variant has a row of its own.
            proof = maps[:1] / 2
            scores = self._grown(torch.cat([maps, proof]))
            alone = self._scores(self._input, proof)
            self._grows = scores is not None and self._is_close(scores[-1], alone[0])
            if scores is not None and self._grows:
                return scores[:-1]
        if self._grows:
            return self._scores(self._input, maps)
        return torch.cat([self._repeated(maps[at : at + INPUTS]) for at in range(0, len(maps), INPUTS)])

    def _repeated(self, maps: Tensor) -> Tensor:
        return self._scores(self._input.expand(len(maps), *self._input.shape[1:]), maps)

    def _grown(self, maps: Tensor) -> Tensor | None:
        try:
            scores = self._scores(self._input, maps)
        # Whatever a model may raise that finds another number of samples than it began with.
        except Exception:
            return None
        return scores if scores.shape == (len(maps),) else None

    def _scores(self, inputs: Tensor, maps: Tensor) -> Tensor:
        output: Any = replay(
            self._probe.recording.model,
            inputs,
            self._probe.layer,
            self._probe.layout.with_maps(self._activation, maps.clone()),
        )
        return self._score_of(output)

    def _is_close(self, grown: Tensor, alone: Tensor) -> bool:
        digits = 1e-3 if grown.dtype in (torch.float32, torch.float64) else 5e-2
        size = alone.abs() + self._probe.score.detach().abs().max()
        return bool((grown - alone).abs() <= digits * size)
