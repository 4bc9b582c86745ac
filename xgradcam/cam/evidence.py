"""The evidence that a method works from, and a probe that asks the network again."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from xgradcam.capture.recording import Recording, record
from xgradcam.capture.replacing import replay
from xgradcam.errors import NotApplicableError, XGradCamError, is_out_of_memory
from xgradcam.figures.reprs import Brief
from xgradcam.layouts.layout import Layout
from xgradcam.lending.borrowing import arranged, borrowed, is_close
from xgradcam.lending.finding import AnyLayer
from xgradcam.lending.keeping import kept
from xgradcam.lending.several import for_sample
from xgradcam.operations.unfused import Unfused
from xgradcam.proof.complete import Terms
from xgradcam.scores.outputs import logits_of
from xgradcam.scores.score import ClassScore, Score, of_sample

# Called after each evaluation of the network: how many are done for a batch, and how many there will be.
Progress: TypeAlias = Callable[[int, int], None]
# Most numbers of the layer's output in one forward of variants: 64 MB in float32.
VALUES_AT_ONCE = 2**24
# Most inputs in one forward of the whole network.
INPUTS_AT_ONCE = 16


@dataclass(frozen=True, repr=False)
class Evidence(Brief):
    """The activation of a layer and the gradient of the score by it, both (N, C, h, w).

    Of signals they are (N, C, l), of volumes (N, C, d, h, w): `space` gives the sides' axes.
    probe: asks the network again, for the methods that need more than these two. terms: of Eq. 5 at their
    places, for the complete methods.
    """

    activation: Tensor
    gradient: Tensor
    probe: "Probe | None" = None
    terms: Terms | None = None


def probe_of(evidence: Evidence) -> "Probe":
    """The evidence's probe; XGradCamError if it has none."""
    if evidence.probe is None:
        raise XGradCamError("this method asks the network again: use explain, or give the evidence a probe")
    return evidence.probe


@dataclass(frozen=True)
class Together:
    """K scores of one recorded batch, for all of which the network is asked at once.

    scores: their values, (K, N). found: question -> the answers, (K, N, count); and the attention, if seen.
    """

    scores_of: Sequence[Score]
    scores: Tensor
    found: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """Asks the network again about a recorded batch of N: without a channel, at other inputs, ...

    inputs: (N, ...). score_of: from the model's output to the score. score: its values, (N,).
    together: the scores that are explained together, if there are others; number: that of this one.
    """

    recording: Recording
    inputs: Tensor
    layer: AnyLayer
    layout: Layout
    score_of: Score
    score: Tensor
    progress: Progress = lambda _done, _total: None
    together: Together | None = None
    number: int = 0

    @kept
    def all(self) -> Together:
        """The scores explained together, this one alone if there are no others."""
        return self.together or Together([self.score_of], self.score.detach()[None])

    def _once(self, question: str, ask: Callable[[], Tensor]) -> Tensor:
        """This score's answers, (N, count), to a question that is asked once for all scores together."""
        if question not in self.all.found:
            self.all.found[question] = ask()
        answers: Tensor = self.all.found[question][self.number]
        return answers

    def maps(self) -> Tensor:
        """The layer's feature maps, (N, C, h, w)."""
        return self.layout.to_maps(self.recording.activation.detach())

    @property
    def without_channels(self) -> Tensor:
        """The score without each channel, S(F with F^k = 0): (N, C). Channels that are 0 cost nothing."""
        return self._once("without channels", self._without_channels)

    def _without_channels(self) -> Tensor:
        maps = self.maps()
        live = maps.flatten(2).any(dim=2)
        total, done = int(live.sum()), 0
        scores = self.all.scores[:, :, None].repeat(1, 1, maps.shape[1])
        with torch.no_grad():
            for sample, channels in enumerate(live):
                tail = self._behind(sample)
                for chosen in _groups(channels, max(1, VALUES_AT_ONCE // maps[0].numel())):
                    variants = maps[sample].repeat(len(chosen), *[1] * (maps.ndim - 1))
                    variants[torch.arange(len(chosen), device=chosen.device), chosen] = 0
                    scores[:, sample, chosen] = tail(variants)
                    done += len(chosen)
                    self.progress(done, total)
        return scores

    def scores_with_maps(self, sample: int, variants: Tensor) -> Tensor:
        """The scores of one sample, (M,), with other maps at the layer, (M, C, h, w)."""
        return self._behind(sample)(variants)[self.number]

    def _behind(self, sample: int) -> "_Variants":
        """The network behind the layer, from maps of one sample.

        The part up to the layer runs for one input, if the part behind it can combine that with M maps, or
        else for M copies of the input.
        """
        self.recording.refuse_detours(self.score)
        row, maps = slice(sample, sample + 1), self.maps()
        model = for_sample(self.recording.model, sample)
        output = self.recording.activation.tensor_split(len(self.inputs))[sample]

        def with_one_input(variants: Tensor) -> Any:
            return self._replayed(model, self.inputs[row], output, variants)

        def with_copies(variants: Tensor) -> Any:
            copies = self.inputs[row].expand(len(variants), *self.inputs.shape[1:])
            return self._replayed(model, copies, output, variants)

        ways = [(with_one_input, sys.maxsize), (with_copies, INPUTS_AT_ONCE)]
        # Half of the maps, so that a row that is taken for all others shows.
        known = torch.stack([self.all.scores[:, sample], self._with_half_the_maps[:, sample]], dim=1)
        return _Variants(self, sample, maps, ways, self._with_all_maps, maps[row] / 2, known)

    def _with_all_maps(self, maps: Tensor) -> Any:
        return self._replayed(self.recording.model, self.inputs, self.recording.activation, maps)

    @kept
    def _with_half_the_maps(self) -> Tensor:
        return _each(self.all.scores_of, self._with_all_maps(self.maps() / 2)).detach()

    def _replayed(self, model: nn.Module, inputs: Tensor, output: Tensor, maps: Tensor) -> Any:
        """Run the model on these inputs with maps (M, C, h, w) in this output of the layer."""
        replaced = self.layout.with_maps(output.detach(), maps.clone())
        return replay(model, inputs, self.layer, replaced, self.recording.place)

    def scores_at(self, question: str, wanted: Tensor, variants: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The scores at variants of each sample's input: (N, count), 0 where `wanted` (N, count) is False.

        question: a name for these variants, which must be the same for all scores explained together.
        variants: from a sample and the numbers of M of its variants, (M,), to those inputs, (M, ...).
        """
        return self._once(question, partial(self._scores_at, wanted, variants))

    def _scores_at(self, wanted: Tensor, variants: Callable[[int, Tensor], Tensor]) -> Tensor:
        scores = self.all.scores.new_zeros(len(self.all.scores), *wanted.shape)
        done, total = 0, int(wanted.sum())

        def ask(model: nn.Module, inputs: Tensor) -> Any:
            with borrowed(model) as run:
                return run(arranged(model, run, inputs))

        for sample, numbers in enumerate(wanted):
            known = self.all.scores[:, sample, None].expand(-1, 2)
            alone = partial(ask, for_sample(self.recording.model, sample))
            network = _Variants(
                self, sample, self.inputs, [(alone, INPUTS_AT_ONCE + 2)],
                partial(ask, self.recording.model), self.inputs[[sample]], known,
            )  # fmt: skip
            for chosen in _groups(numbers, INPUTS_AT_ONCE):
                scores[:, sample, chosen] = network(variants(sample, chosen))
                done += len(chosen)
                self.progress(done, total)
        return scores

    def gradient_of(self, score_of: Score) -> Tensor:
        """The gradient of another score by the maps, (N, C, h, w)."""
        return self.layout.to_maps(self.recording.gradient(score_of(self.recording.output)))

    def gradients_at(self, inputs: Iterator[Tensor], count: int) -> Iterator[Tensor]:
        """The gradient of the score by the maps at each of `count` other inputs, (N, C, h, w)."""
        for done, others in enumerate(inputs, 1):
            recording = record(self.recording.model, others, self.layer)
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
        with Unfused():
            unfused = record(self.recording.model, self.inputs, self.layer)
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
        return logits, self.score_of.indices(logits)

    def seeds(self) -> list[int]:
        """A random seed for each sample: its class; a single 0 if the score is not that of a class."""
        if not isinstance(self.score_of, ClassScore):
            return [0]
        return [int(target) for target in self.classes()[1]]


def _groups(wanted: Tensor, most: int) -> tuple[Tensor, ...]:
    """The indices at which `wanted` (count,) is True, in groups of 1 to `most`."""
    indices = wanted.nonzero()[:, 0]
    return tuple(torch.split(indices, most)) if len(indices) else ()


@dataclass
class _Variants:
    """From variants of one sample, (M, ...), to their scores, (K, M).

    A model may hold other inputs for a batch of its own, or mix the rows of a batch. So the first of `ways`
    is taken, each with the most rows it is for, that finds the `known` scores, (K, 2), of the sample itself
    and of a `control`, at the ends of the variants. What is left is to `ask_all`: one variant at a time
    in the sample's place in the `batch` that was recorded.
    """

    probe: Probe
    sample: int
    batch: Tensor
    ways: Sequence[tuple[Callable[[Tensor], Any], int]]
    ask_all: Callable[[Tensor], Any]
    control: Tensor
    known: Tensor
    proven: bool = False

    def __call__(self, variants: Tensor) -> Tensor:
        while self.ways:
            scores = self._tried(variants, *self.ways[0])
            if scores is not None:
                return scores
            self.ways, self.proven = self.ways[1:], False
        return torch.stack([self._among_others(variant) for variant in variants], dim=1)

    def _tried(self, variants: Tensor, ask: Callable[[Tensor], Any], most: int) -> Tensor | None:
        scores_of = [of_sample(score_of, self.sample) for score_of in self.probe.all.scores_of]
        count, samples = len(variants), len(self.batch)
        if not self.proven:
            # Rows may be taken for other samples: two at an end tell, and never as many as samples.
            ends = 1 if samples == 1 else 2 + ((count + 3) % samples == 0)
            variants = torch.cat([self.batch[[self.sample]], variants, *[self.control] * ends])
        try:
            scores = torch.cat([_each(scores_of, ask(part)) for part in torch.split(variants, most)], dim=1)
        # A model may raise anything if the number of samples changes. The last way shows its true errors.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return None
        if scores.shape != (len(scores_of), len(variants)):
            return None
        if self.proven:
            return scores
        sizes = self.probe.all.scores.abs().amax(dim=1)
        found, known = scores[:, [0, *range(count + 1, len(variants))]], self.known[:, [0] + [1] * ends]
        self.proven = all(map(is_close, found, known, sizes))
        return scores[:, 1 : count + 1] if self.proven else None

    def _among_others(self, variant: Tensor) -> Tensor:
        batch = self.batch.clone()
        batch[self.sample] = variant
        return _each(self.probe.all.scores_of, self.ask_all(batch))[:, self.sample]


def _each(scores_of: Sequence[Score], returned: Any) -> Tensor:
    """Each of K scores of what the model returned for M inputs: (K, M)."""
    return torch.stack([score_of(returned) for score_of in scores_of])
