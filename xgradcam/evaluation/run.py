"""A run of the evaluation: measure each photograph at each layer by each method, and report the means."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xgradcam.cam.methods import known_methods
from xgradcam.capture.borrowing import borrowed
from xgradcam.capture.scores import finite_logits_of
from xgradcam.errors import XGradCamError
from xgradcam.evaluation.boxes import Box, read_boxes, region_of
from xgradcam.evaluation.log import Log
from xgradcam.evaluation.measures import Question, likeness_when_randomised, measure
from xgradcam.evaluation.photographs import LabelledPhotograph
from xgradcam.evaluation.report import Report, report_on
from xgradcam.files import make_folder
from xgradcam.models.classifier import Classifier
from xgradcam.pictures.levels import ValueRange
from xgradcam.pictures.photograph import read_file

# Shares of the modules with random weights at which maps are compared.
STAGES = (0.0, 0.25, 0.5, 1.0)
# Not randomised: a forward pass for each channel at each stage would take longer than all else.
TOO_SLOW = ("score-cam",)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation to do: the measures and their settings.

    methods: their names. layers: their names; none for the model's default layer. crop: resize and crop the
    photographs as the weights expect it. boxes: file or folder of the objects' boxes. steps: of the curves.
    removed: shares of pixels for ROAD. randomise: photographs for the randomisation check. seed: of the
    random weights and the bootstrap. probability: as in `explain`. value_range: as in `read_image`.
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

    def __post_init__(self) -> None:
        known_methods(self.methods)
        if self.steps < 1:
            raise XGradCamError(f"steps is {self.steps}: a curve has at least 1")
        if self.randomise < 0:
            raise XGradCamError(f"randomise is {self.randomise}: give a number of photographs, 0 for none")
        for share in self.removed:
            if not 0 < share < 1:
                raise XGradCamError(f"removed has {share}: shares lie between 0 and 1")

    def settings(self) -> dict[str, Any]:
        """The values that a resumed run must share, as JSON has them."""
        return {
            "crop": self.crop,
            "steps": self.steps,
            "removed": list(self.removed),
            "randomise": self.randomise,
            "seed": self.seed,
            **({"probability": self.probability} if self.probability else {}),
            # A log of an earlier version has no such setting.
            **({"value_range": list(self.value_range)} if self.value_range is not None else {}),
            "boxes": None if self.boxes is None else str(self.boxes),
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
) -> Report:
    """Measure what the log in `folder` does not hold yet, and return the report on all of it.

    photographs: readable ones. settings: what else a resumed run must share, such as the model's name.
    progress: called with the number of steps done and of all steps; a step is one photograph at one layer.
    Raises XGradCamError if nothing can be measured.
    """
    layers = list(evaluation.layers) or [classifier.default_layer()]
    boxes = {} if evaluation.boxes is None else read_boxes(evaluation.boxes)
    make_folder(folder)
    log = Log(folder / "evaluation.jsonl", {**settings, **evaluation.settings()}, resume)
    _Run(evaluation, classifier, photographs, layers, boxes, log, progress).measure()
    return report_on(log.lines, layers, evaluation.methods, len(photographs), evaluation.seed)


@dataclass(frozen=True)
class _Run:
    """All that measuring needs. boxes: photograph's file name -> boxes."""

    evaluation: Evaluation
    classifier: Classifier
    photographs: Sequence[LabelledPhotograph]
    layers: Sequence[str]
    boxes: Mapping[str, list[Box]]
    log: Log
    progress: Callable[[int, int], None]

    def measure(self) -> None:
        """Log all measures that are not in the log."""
        randomised = self.photographs[: self.evaluation.randomise]
        total = len(self.photographs) * len(self.layers) + (len(self.layers) if randomised else 0)
        done = 0
        self.progress(done, total)
        for photograph in self.photographs:
            question = self._question(photograph)
            for layer in self.layers:
                self._measure_maps(photograph, question, layer)
                done += 1
                self.progress(done, total)
        for layer in self.layers if randomised else ():
            self._randomise(randomised, layer)
            done += 1
            self.progress(done, total)

    def _measure_maps(self, photograph: LabelledPhotograph, question: Question, layer: str) -> None:
        left = self._left("map", photograph, layer)
        for method, measures in measure(question, layer, left).items() if left else ():
            where = {"photo": photograph.path, "layer": layer, "method": method}
            self.log.add({"kind": "map", **where, **measures})

    def _randomise(self, photographs: Sequence[LabelledPhotograph], layer: str) -> None:
        left = [name for name in self._left("randomised", photographs[0], layer) if name not in TOO_SLOW]
        if not left:
            return
        questions = [self._question(photograph) for photograph in photographs]
        likeness = likeness_when_randomised(questions, layer, left, STAGES, self.evaluation.seed)
        for method, values in likeness.items():
            for photograph, value in zip(photographs, values, strict=True):
                where = {"photo": photograph.path, "layer": layer, "method": method}
                self.log.add({"kind": "randomised", **where, "randomised": value})

    def _left(self, kind: str, photograph: LabelledPhotograph, layer: str) -> list[str]:
        """The methods that are not yet measured for this photograph and layer."""
        names = self.evaluation.methods
        return [method for method in names if not self.log.has(kind, photograph.path, layer, method)]

    def _question(self, photograph: LabelledPhotograph) -> Question:
        classifier, evaluation = self.classifier, self.evaluation
        pixels = read_file(photograph.path, evaluation.value_range).photograph
        inputs = classifier.inputs(pixels, evaluation.crop)
        target = photograph.target
        if target is None:
            with borrowed(classifier.module) as run:
                logits = finite_logits_of(run(inputs), classifier.output)
            target = int(logits.argmax())
        region = None
        if (boxes := self.boxes.get(Path(photograph.path).name)) is not None:
            region = region_of(boxes, (pixels.shape[0], pixels.shape[1]), classifier.framing(evaluation.crop))
            if not region.any():  # cropped away: no map could point at it
                region = None
        return Question(
            classifier.module,
            inputs,
            target,
            classifier.output,
            region,
            evaluation.steps,
            evaluation.removed,
            evaluation.probability,
        )
