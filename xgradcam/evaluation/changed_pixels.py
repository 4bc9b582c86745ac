"""The measures that change a photograph's pixels, for all heatmaps of it together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xgradcam.evaluation import metrics

# Heatmaps are the same if no pixel differs by more: methods may compute the same map in another order.
ROUNDING = 1e-6


@dataclass(frozen=True)
class ChangedPixels:
    """Measures average drop, increase, deletion, insertion and ROAD for heatmaps of one photograph.

    inputs: (1, C, H, W). steps, removed: see `metrics`. known: heatmaps that were measured, and what was
    found; one that is the same but for rounding is not measured again.
    """

    inputs: Tensor
    steps: int
    removed: Sequence[float]
    known: list[tuple[Tensor, dict[str, Any]]] = field(default_factory=list)

    def measure(self, score: metrics.ScoreFunction, heatmaps: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Measure -> value for each heatmap (H, W), and the points of its curves.

        score: of inputs (M, C, H, W). Different heatmaps share batches, and the scores of what is the same
        for all of them: the whole photograph, the blurred one and the mean colour.
        """
        new: list[Tensor] = []
        for heatmap in heatmaps:
            if not any(_is_same(heatmap, other) for other in (*new, *(one for one, _ in self.known))):
                new.append(heatmap)
        if new:
            blurred = metrics.blur(self.inputs)
            shared = torch.cat([self.inputs, blurred, torch.zeros_like(self.inputs)])

            def asked() -> Iterator[Tensor]:
                yield from shared
                for heatmap in new:
                    yield from self._changed(heatmap, blurred)

            scores = metrics.scores_in_batches(score, asked())
            ends, scores = scores[: len(shared)], scores[len(shared) :]
            for heatmap, own in zip(new, scores.reshape(len(new), -1), strict=True):
                self.known.append((heatmap, self._values(ends, own)))
        return [next(values for one, values in self.known if _is_same(heatmap, one)) for heatmap in heatmaps]

    @property
    def evaluations(self) -> int:
        """Inputs to ask for a heatmap that is not known."""
        return 1 + 2 * (self.steps - 1) + 2 * len(self.removed)

    def _changed(self, heatmap: Tensor, blurred: Tensor) -> Iterator[Tensor]:
        """All inputs to ask for a heatmap but those that are the same for every heatmap."""
        rank = metrics.ranks(heatmap)
        yield metrics.fade(self.inputs, heatmap)[0]
        for start, end in ((self.inputs, torch.zeros_like(self.inputs)), (blurred, self.inputs)):
            yield from list(metrics.changing(start, end, rank, self.steps))[1:-1]
        yield from metrics.removing(self.inputs, rank, self.removed)

    def _values(self, ends: Tensor, scores: Tensor) -> dict[str, Any]:
        """The measures from the scores of the shared inputs (3,) and of `_changed` ones."""
        whole, blurred, none = ends[:, None]
        between = self.steps - 1
        parts = [1, between, between, 2 * len(self.removed)]
        faded, deleted, inserted, removed = torch.split(scores, parts)
        pixels = self.inputs.shape[2] * self.inputs.shape[3]
        deletion = metrics.curve(torch.cat([whole, deleted, none]), pixels)
        insertion = metrics.curve(torch.cat([blurred, inserted, whole]), pixels)
        return {
            "drop": float(metrics.average_drop(whole, faded)),
            "increase": float(metrics.increase_in_confidence(whole, faded)),
            "deletion": deletion.area,
            "insertion": insertion.area,
            "road": metrics.road_of(removed),
            "curves": {"deletion": deletion.scores.tolist(), "insertion": insertion.scores.tolist()},
        }


def _is_same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= ROUNDING)
