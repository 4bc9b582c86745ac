"""The score that is verified: that of a class, or one that a user gives, of one sample at a time."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from xgradcam.capture.recording import Recording
from xgradcam.errors import XGradCamError
from xgradcam.proof.tracing import Tracer
from xgradcam.proof.verification import RELATIVE_TOLERANCE
from xgradcam.scores.outputs import logits_of, require_finite
from xgradcam.scores.score import Score, of_sample, require_one, settled, values_of
from xgradcam.scores.targets import Targets, choose_targets, parse_targets


def sample_scores(
    targets: Targets, output: str | int | None, score: Score | None, samples: int
) -> list[Callable[[Recording, Tracer], Tensor]]:
    """From the recording of each sample to its score, ()."""
    require_one(targets, output, score)
    if score is None:
        classes = parse_targets(targets, samples)
        each = [None] * samples if classes is None else classes.tolist()
        return [partial(_class_score, target, output) for target in each]
    return [partial(_own_score, of_sample(score, sample)) for sample in range(samples)]


def _class_score(
    target: int | None, output: str | int | None, recording: Recording, _tracer: Tracer
) -> Tensor:
    """The score of the target, (): the highest score for None."""
    logits = logits_of(recording.output, output)
    if len(logits) != 1:
        raise XGradCamError(
            f"the model returns {tuple(logits.shape)} for one sample: Eq. 5 needs (1, classes)"
        )
    _require_usable(logits)
    return logits[0, choose_targets(logits.detach(), target)[0]]


def _own_score(score_of: Score, recording: Recording, tracer: Tracer) -> Tensor:
    """A score that the user gives, (): its operations are traced like those of the model."""
    score_of = settled(score_of, recording.output)
    with tracer:
        score = values_of(score_of, recording.output, 1)
    _require_usable(score)
    return score[0]


def _require_usable(scores: Tensor) -> None:
    if scores.dtype not in RELATIVE_TOLERANCE:
        raise XGradCamError(f"the model computes in {scores.dtype}: take float32 or float64")
    require_finite(scores)
