"""A run of the evaluation: measure each photograph at each layer by each method, and report the means."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xgradcam.cam.methods import known_methods
from xgradcam.errors import XGradCamError
from xgradcam.evaluation.boxes import region_of
from xgradcam.evaluation.cost import Cost, cost_of
from xgradcam.evaluation.log import Log
from xgradcam.evaluation.matching import Matches, matches_in
from xgradcam.evaluation.measures import Question, likeness_when_randomised, measure, measure_focus
from xgradcam.evaluation.mosaics import TILES, Mosaic, draw_mosaics, lay
from xgradcam.evaluation.photographs import LabelledPhotograph, by_folder
from xgradcam.evaluation.report import Report, report_on
from xgradcam.files import make_folder
from xgradcam.lending.borrowing import borrowed
from xgradcam.models.classifier import Classifier
from xgradcam.models.folding import fold_batch_norms
from xgradcam.models.labels import label_of
from xgradcam.pictures.levels import ValueRange
from xgradcam.pictures.photograph import read_file
from xgradcam.scores.outputs import finite_logits_of

# Shares of the modules with random weights at which maps are compared.
STAGES = (0.0, 0.25, 0.5, 1.0)
ABOUT_MOSAICS = (
    "focus: means over {} mosaics of four photographs of four classes; by chance it is 0.25. Mosaics where a "
    "method's map has no positive evidence do not count: their share is beside it."
)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation to do: the measures and their settings.

    methods: their names. layers: their names; none for the model's default layer. crop: resize and crop the
    photographs as the weights expect it. boxes: file or folder of the objects' boxes. steps: of the curves.
    removed: shares of pixels for ROAD. randomise: photographs for the randomisation check. seed: of the
    random weights, the mosaics and the bootstrap. mosaics: their number. probability, layout: as in
    `explain`. value_range: as in `read_image`.
    Raises XGradCamError for an unknown method and a value out of its range.
    """

    methods: Sequence[str]
    layers: Sequence[str]
    crop: bool
    boxes: Path | None
    steps: int
    removed: Sequence[float]
    randomise: int
    seed: int
    probability: str | None = None
    value_range: ValueRange | None = None
    layout: str | None = None
    mosaics: int = 0

    def __post_init__(self) -> None:
        known_methods(self.methods)
        if self.steps < 1:
            raise XGradCamError(f"steps is {self.steps}: a curve has at least 1")
        if self.randomise < 0:
            raise XGradCamError(f"randomise is {self.randomise}: give a number of photographs, 0 for none")
        if self.mosaics < 0:
            raise XGradCamError(f"mosaics is {self.mosaics}: give a number of mosaics, 0 for none")
        for share in self.removed:
            if not 0 < share < 1:
                raise XGradCamError(f"removed has {share}: shares lie between 0 and 1")

    def settings(self) -> dict[str, Any]:
        """The values that a resumed run must share, as JSON has them.

        Boxes and mosaics are not among them: the lines of the log are of the very pixels, class and region.
        """
        return {
            "crop": self.crop,
            "steps": self.steps,
            "removed": list(self.removed),
            "randomise": self.randomise,
            "seed": self.seed,
            **({"probability": self.probability} if self.probability else {}),
            # A log of an earlier version has no such settings.
            **({"value_range": list(self.value_range)} if self.value_range is not None else {}),
            **({} if self.layout is None else {"layout": self.layout}),
        }


def evaluate(
    evaluation: Evaluation,
    classifier: Classifier,
    photographs: Sequence[LabelledPhotograph],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    say: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Measure what the log in `folder` does not hold yet, and return the report on what was asked for.

    photographs: readable ones. settings: what else a resumed run must share, such as the model's name.
    progress: called with the number of steps done and of all steps; a step is one photograph at one layer.
    say: called with a line about boxes that were not found, about lines of the log that are malformed,
    about complete maps that cannot be found, and about the time that a long evaluation will take.
    Raises XGradCamError if nothing can be measured.
    """
    layers = list(evaluation.layers) or [classifier.default_layer()]
    mosaics = draw_mosaics(photographs, evaluation.mosaics, evaluation.seed)
    paths = [photograph.path for photograph in photographs]
    matches = matches_in(evaluation.boxes, paths, say)
    make_folder(folder)
    with Log(folder / "evaluation.jsonl", {**settings, **evaluation.settings()}, resume) as log:
        asked = _faster(classifier, layers)
        run = _Run(evaluation, classifier, asked, photographs, mosaics, layers, matches, log, progress)
        _say_before(run, resume, say)
        lines = run.measure()
    remarks = [] if evaluation.boxes is None else [matches.summary(len(photographs))]
    for remark in remarks:
        say(remark)
    classes = by_folder(photographs, classifier.labels)
    remarks += [ABOUT_MOSAICS.format(len(mosaics))] if mosaics else []
    return report_on(
        lines, layers, evaluation.methods, len(photographs), evaluation.seed, classes=classes, remarks=remarks
    )


def _say_before(run: "_Run", resume: bool, say: Callable[[str], None]) -> None:
    """Say which lines of the log are malformed, what cannot be found, and what a long run will cost."""
    if malformed := run.log.malformed:
        many = "1 malformed line is" if malformed == 1 else f"{malformed} malformed lines are"
        say(f"{run.log.path}: {many} passed over, and measured anew")
    cost = run.cost()
    for line in cost.refused:
        say(line)
    if line := cost.line():
        say(f"{line}; less for what the log has" if resume else line)


def _faster(classifier: Classifier, layers: Sequence[str]) -> nn.Module:
    """A copy of the model that computes the same with folded batch norms; the model where it has no copy."""
    try:
        copy = deepcopy(classifier.module)
    # A module may hold anything.
    except Exception:
        return classifier.module
    noise = torch.randn(
        classifier.blank().shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu"
    )
    fold_batch_norms(copy, classifier.like_weights(noise).to(classifier.device()), layers)
    return copy


@dataclass(frozen=True)
class _Run:
    """All that measuring needs. asked: see `Question`."""

    evaluation: Evaluation
    classifier: Classifier
    asked: nn.Module
    photographs: Sequence[LabelledPhotograph]
    mosaics: Sequence[Mosaic]
    layers: Sequence[str]
    matches: Matches
    log: Log
    progress: Callable[[int, int], None]

    def measure(self) -> list[dict[str, Any]]:
        """Log all measures that are not in the log; return the lines of all that were asked for."""
        randomised = self.photographs[: self.evaluation.randomise]
        steps = len(self.photographs) + len(self.mosaics) + bool(randomised)
        lines: list[dict[str, Any]] = []
        done = 0
        self.progress(done, steps * len(self.layers))

        def add(found: list[dict[str, Any]]) -> None:
            nonlocal done
            lines.extend(found)
            done += 1
            self.progress(done, steps * len(self.layers))

        for photograph in self.photographs:
            subject = self._subject(photograph)
            for layer in self.layers:
                add(self._measure_maps(subject, layer))
        for number, mosaic in enumerate(self.mosaics):
            subject = self._mosaic_subject(number, mosaic)
            for layer in self.layers:
                add(self._measure_mosaic(subject, mosaic, layer))
        subjects = [self._subject(photograph) for photograph in randomised]
        for layer in self.layers if randomised else ():
            add(self._randomise(subjects, layer))
        return lines

    def cost(self) -> Cost:
        """The cost of all that is to be measured, also of what the log has."""
        evaluation = self.evaluation
        photographs = len(self.photographs)
        again = (1 + len(STAGES)) * min(evaluation.randomise, photographs)
        question = self._subject(self.photographs[0]).question
        return cost_of(question, self.layers, evaluation.methods, photographs, len(self.mosaics) + again)

    def _measure_maps(self, subject: "_Subject", layer: str) -> list[dict[str, Any]]:
        methods = self.evaluation.methods
        left = [name for name in methods if not self._find("map", subject, layer, name)]
        for method, measures in measure(subject.question, layer, left).items() if left else ():
            self.log.add({"kind": "map", **subject.line(layer, method), **measures})
        return [line for name in methods if (line := self._find("map", subject, layer, name))]

    def _measure_mosaic(self, subject: "_Subject", mosaic: Mosaic, layer: str) -> list[dict[str, Any]]:
        methods = self.evaluation.methods
        left = [name for name in methods if not self._find("mosaic", subject, layer, name)]
        made_of = {
            "tiles": [
                {"photo": path, "class_index": target}
                for path, target in zip(mosaic.paths, mosaic.targets, strict=True)
            ],
            "explained": TILES[mosaic.chosen],
        }
        for method, measures in measure_focus(subject.question, layer, left).items() if left else ():
            self.log.add({"kind": "mosaic", **subject.line(layer, method), **made_of, **measures})
        return [line for name in methods if (line := self._find("mosaic", subject, layer, name))]

    def _randomise(self, subjects: Sequence["_Subject"], layer: str) -> list[dict[str, Any]]:
        # The statistics under random weights are those of all these photographs together.
        together = _digest(*(subject.state for subject in subjects))
        subjects = [replace(subject, state=together) for subject in subjects]
        methods = self.evaluation.methods
        left = [
            name
            for name in methods
            if not all(self._find("randomised", subject, layer, name) for subject in subjects)
        ]
        if left:
            questions = [subject.question for subject in subjects]
            likeness = likeness_when_randomised(questions, layer, left, STAGES, self.evaluation.seed)
            for method, values in likeness.items():
                for subject, value in zip(subjects, values, strict=True):
                    self.log.add({"kind": "randomised", **subject.line(layer, method), "randomised": value})
        found = (self._find("randomised", subject, layer, name) for name in methods for subject in subjects)
        return [line for line in found if line]

    def _find(self, kind: str, subject: "_Subject", layer: str, method: str) -> dict[str, Any] | None:
        return self.log.find(kind, subject.path, layer, method, subject.state)

    def _subject(self, photograph: LabelledPhotograph) -> "_Subject":
        classifier, evaluation = self.classifier, self.evaluation
        pixels = read_file(photograph.path, evaluation.value_range).photograph
        inputs = classifier.inputs(pixels, evaluation.crop)
        target = photograph.target
        if target is None:
            with borrowed(classifier.module) as run:
                logits = finite_logits_of(run(inputs), classifier.output)
            target = int(logits.argmax())
        shape = (pixels.shape[0], pixels.shape[1])
        boxes = self.matches.boxes_of(photograph.path, target, classifier.labels, shape)
        region = region_of(boxes, shape, classifier.framing(evaluation.crop)) if boxes else None
        if region is not None and not region.any():  # no map could point at it
            self.matches.crop_away(photograph.path)
            region = None
        state = _digest(pixels.tobytes(), shape, target, b"" if region is None else region.numpy().tobytes())
        question = self._question(classifier.module, inputs, target, region)
        return _Subject(photograph.path, label_of(classifier.labels, target), state, question)

    def _mosaic_subject(self, number: int, mosaic: Mosaic) -> "_Subject":
        classifier, evaluation = self.classifier, self.evaluation
        target = mosaic.targets[mosaic.chosen]
        laid = lay(mosaic, classifier, evaluation.crop, evaluation.value_range)
        state = _digest(laid.pixels.tobytes(), target, laid.tile.numpy().tobytes())
        question = self._question(self.asked, classifier.inputs(laid.pixels), target, laid.tile)
        return _Subject(f"mosaic {number}", label_of(classifier.labels, target), state, question)

    def _question(self, model: nn.Module, inputs: Tensor, target: int, region: Tensor | None) -> Question:
        evaluation = self.evaluation
        return Question(
            model,
            inputs,
            target,
            self.classifier.output,
            region,
            evaluation.steps,
            evaluation.removed,
            evaluation.probability,
            evaluation.layout,
            self.asked,
        )


@dataclass(frozen=True)
class _Subject:
    """A photograph to measure. state: equal for the same pixels, class and region."""

    path: str
    class_name: str
    state: str
    question: Question

    def line(self, layer: str, method: str) -> dict[str, Any]:
        """The keys of a line of the log, but for its kind and its values."""
        named = {"class_index": self.question.target, "class_name": self.class_name}
        return {"photo": self.path, "layer": layer, "method": method, "state": self.state, **named}


def _digest(*parts: object) -> str:
    """A text that is equal for equal parts; bytes are taken as they are."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else json.dumps(part).encode())
    return digest.hexdigest()[:16]
