"""Maps of several classes that are still on the device, and the explanations made of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xgradcam.cam.explanation import ClassExplanation
from xgradcam.cam.notes import note_numbers, notes_on
from xgradcam.layouts.padding import WHOLE, Share
from xgradcam.operations.constants import Kind
from xgradcam.scores.outputs import require_finite
from xgradcam.scores.probability import probability_note
from xgradcam.scores.targets import Classes, choose_targets


class ClassMaps(NamedTuple):
    """The maps of several classes, still on the device; the lists have an entry for each class.

    numbers: see `numbers_of`. channels: the layer's. rule: see `probability_rule`; noted: whether the notes
    tell it. budgets, constants, depth, share: see `Explanation`.
    """

    logits: Tensor
    rule: tuple[str, str]
    noted: bool
    numbers: Tensor
    scores: list[Tensor]
    targets: list[Tensor]
    maps: list[dict[str, Tensor]]
    sensitivity: list[dict[str, Tensor]]
    budgets: list[dict[str, Tensor]]
    constants: list[dict[Kind, Tensor]]
    depth: list[dict[str, Mapping[str, Tensor]]]
    channels: int
    share: Share = WHOLE


def numbers_of(
    scores: Tensor,
    facts: Sequence[Tensor],
    maps: Sequence[Mapping[str, Tensor]],
    in_range: Sequence[Tensor] = (),
) -> Tensor:
    """1 if the scores are finite and all of `in_range` are True, else 0; then `note_numbers` of the rest."""
    table = note_numbers(facts, maps)
    right = torch.stack([torch.isfinite(scores).all(), *in_range]).all()
    return torch.cat([right[None].to(table), table])


def notes_of(
    numbers: Tensor, maps: Sequence[Mapping[str, Tensor]], channels: int
) -> tuple[bool, list[tuple[tuple[str, ...], ...]]]:
    """The first of the numbers, and the notes; a device is waited for here, and only here."""
    right, *table = _read(numbers)
    return bool(right), notes_on(table, len(maps), list(maps[0]) if maps else [], channels)


def _read(numbers: Tensor) -> list[float]:
    return [*numbers.tolist()]


def finished(found: ClassMaps, classes: Classes) -> tuple[ClassExplanation, ...]:
    """The explanations of `classes`; XGradCamError for scores that are not finite and for a wrong index."""
    right, notes = notes_of(found.numbers, found.maps, found.channels)
    if not right:
        require_finite(found.logits)
        for one in classes(found.logits) if callable(classes) else classes:
            choose_targets(found.logits, one)
    line = probability_note(*found.rule, found.logits.shape[1]) if found.noted else ()
    each = zip(
        found.maps, found.scores, notes, found.targets, found.sensitivity, found.budgets, found.constants,
        found.depth, strict=True,
    )  # fmt: skip
    return tuple(
        ClassExplanation(
            maps, score, tuple((*own, *line) for own in lines), found.logits, targets,
            sensitivity=sensitivity, budget=budget, constants_by_kind=constants,
            depth=depth, probability_rule=found.rule[0], share=found.share,
        )
        for maps, score, lines, targets, sensitivity, budget, constants, depth in each
    )  # fmt: skip
