"""The methods that look at the attention of a transformer's blocks, each with its formula.

A^l is the attention of block l, (N, heads, tokens, tokens), and S the score. A method returns each block's
part of the map, (N, blocks, h, w). It looks at all blocks, whatever the layer.
"""

from torch import Tensor

from xgradcam.cam.evidence import Evidence, Probe, probe_of
from xgradcam.layouts.attention import Seen, see


def legrad(evidence: Evidence) -> Tensor:
    """Mean positive gradient of each block's own score by its attention. Bousselham et al. 2024.

    E^l = mean over heads and queries of relu(∂S^l/∂A^l),  map = mean_l E^l, at the keys that are places

    S^l: the score if each token behind the last block were the mean of block l's tokens; or, where attention
    pools the tokens, if they were block l's, and A^l is the pooling's.
    """
    probe = probe_of(evidence)
    seen, parts = seen_by(probe), []
    for attention, returned in seen.alone:
        (gradient,) = seen.gradients(probe.score_of(returned), [attention])
        parts.append(gradient.clamp(min=0).mean(dim=(1, 2)))
    return seen.placed(parts) / len(parts)


def chefer(evidence: Evidence) -> Tensor:
    """Relevance of the tokens, from block to block. Chefer, Gur and Wolf 2021 (ICCV), Eq. 5 and 6.

    R ← R + mean over heads of relu(∂S/∂A^l ∘ A^l) R,  from R = I on;  map = R − I, at the row that is read

    The rule for self-attention of "Generic Attention-model Explainability". The score reads the class token,
    or the mean of several tokens; where attention pools them, its row times R is the map.
    """
    probe = probe_of(evidence)
    seen, count = seen_by(probe), len(probe.inputs)
    score, attention = probe.score_of(seen.output), seen.blocks.attention
    probe.progress(count, count)
    row, parts = seen.row_read(score), list[Tensor]()
    for one, gradient in zip(attention[::-1], seen.gradients(score, attention)[::-1], strict=True):
        spread = (gradient * one.weights.detach().view_as(gradient)).clamp(min=0).mean(dim=1)
        parts.append(spread.mean(dim=1) if row is None else (row.to(spread)[:, None] @ spread)[:, 0])
        row = parts[-1] if row is None else row + parts[-1]
    return seen.placed(parts[::-1])


def seen_by(probe: Probe) -> Seen:
    """The attention of a probe's batch, seen once for all scores that are explained together."""
    if "attention" not in probe.all.found:
        about = probe.recording.model, probe.inputs, probe.layer, probe.layout
        probe.all.found["attention"] = see(*about, probe.all.scores_of, probe.progress)
    seen: Seen = probe.all.found["attention"]
    return seen
