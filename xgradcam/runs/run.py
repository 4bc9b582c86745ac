"""A run as one object: what is read, how it is explained, and where it is written."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from xgradcam.cam.evidence import Progress
from xgradcam.cam.explain import DEFAULT_METHODS, explain_score, require_compatible
from xgradcam.cam.explanation import Explanation
from xgradcam.cam.methods import METHODS, known_methods
from xgradcam.errors import XGradCamError
from xgradcam.files import KeptFiles
from xgradcam.lending.precision import FLOAT32, computing_in
from xgradcam.models.classifier import Classifier
from xgradcam.pictures.bands import framed
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.levels import ValueRange
from xgradcam.pictures.paint import DEFAULT_STYLE, Style
from xgradcam.pictures.photograph import Photograph, normalise
from xgradcam.runs.explainer import Explainer, explain_layers, unheard
from xgradcam.runs.mistakes import OfSome, explain_mistakes
from xgradcam.runs.packs import FILES
from xgradcam.runs.page_maps import PagePictures, page_pictures
from xgradcam.runs.scoring import Scoring, Shape
from xgradcam.runs.sources import Source
from xgradcam.scores.targets import Targets, top_classes

ABLATION_CAM = "ablation-cam"
COMPLETE_CAM = "complete-cam"
# Photographs at a time, unless more are worth it.
USUAL_BATCH = 8

# Formats of figures.
FIGURES = ("pdf", "svg")

# For each layer one explanation for each class, or that of a score.
Explained: TypeAlias = Sequence[Sequence[Explanation | OfSome]]
# True class of each photograph of a batch; None where it is not known.
Truths: TypeAlias = Sequence[int | None]


@dataclass(frozen=True)
class TopClasses:
    """The classes of a photograph's highest scores; count: how many, at least 1."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise XGradCamError(f"top{self.count} has no class: top1 is the class of the highest score")


# A class index, the class of the highest score (None), or the classes of several.
Target: TypeAlias = int | TopClasses | None


def why_not(method: str, precision: str, augment: bool) -> str:
    """The reason why a method makes no sense with these settings; empty if it does."""
    if method == ABLATION_CAM and precision != FLOAT32:
        return f"{precision} rounds differences of scores away"
    if METHODS[method].complete and precision != FLOAT32:
        return f"{precision} is too coarse for a map that adds up to the score"
    if METHODS[method].complete and augment:
        return "an average over augmentations does not add up to the score"
    return ""


@dataclass(frozen=True)
class Explaining:
    """The settings of explaining a photograph.

    methods: keys of `METHODS`. augment, axioms: see `explain`. guided: guided backpropagation too.
    precision: of the network's arithmetic, see `computing_in`. batch_size: photographs at a time; None for 8,
    or what `with_batch_size` chooses. probability, layout: see `explain`.
    Raises XGradCamError for a batch of none and for what makes no sense together.
    """

    methods: Sequence[str] = DEFAULT_METHODS
    augment: bool = False
    axioms: bool = False
    guided: bool = False
    precision: str = FLOAT32
    batch_size: int | None = None
    probability: str | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        require_compatible(self.augment, self.axioms, known_methods(self.methods))
        if self.precision != FLOAT32 and self.axioms:
            raise XGradCamError(
                f"the axioms are about differences of scores, which {self.precision} rounds away: compute in "
                f"{FLOAT32}"
            )
        for method in self.methods:
            if reason := why_not(method, self.precision, self.augment):
                raise XGradCamError(f"{method}: {reason}: compute in {FLOAT32}")
        if self.batch_size is not None and self.batch_size < 1:
            raise XGradCamError(f"the batch size is {self.batch_size}: take 1 or more")


@dataclass(frozen=True)
class Writing:
    """The place of the results, and which there are.

    style: how a heatmap is painted. original_names: `cam.jpg` and `X_cam.jpg`, as the original scripts name
    them, for one photograph, class and layer; otherwise a name begins with the photograph's and the class
    index, and holds the layer's name if there are several.
    panel: photograph and maps side by side, too. page: a page of the run, which needs the photograph and its
    maps. pictures: an overlay of each map. save_maps: signed maps and scores as .npz. kept: files that the
    run reads, which must stay. report: a page on where the evidence for each class lies, which needs the
    maps; boxes: around the objects, for it. output_format: of `FORMATS`: each result in a file of its own, or
    those of a shard in one.
    format: of the pictures, `jpg`, `png`, `pdf` or `svg`; the latter two are figures. dpi: of figures; None
    for 150. bar: pictures in `jpg` and `png` are figures with a colour bar, too.
    """

    folder: Path
    style: Style = DEFAULT_STYLE
    original_names: bool = False
    panel: bool = False
    page: bool = False
    pictures: bool = True
    save_maps: bool = False
    kept: KeptFiles = field(default_factory=KeptFiles)
    report: bool = False
    boxes: Path | None = None
    output_format: str = FILES
    format: str = "jpg"
    dpi: int | None = None
    bar: bool = False

    def path_of(self, name: str) -> str:
        """The path of a file in the folder by its name there: `str(folder / name)`, ten times as fast."""
        return self._start + (name if os.sep == "/" else name.replace("/", os.sep))

    @cached_property
    def _start(self) -> str:
        """The part of a path in front of a name; '' in the current folder."""
        return str(self.folder / "x")[:-1]

    @property
    def is_figure(self) -> bool:
        """True if pictures are figures, with a colour bar and text."""
        return self.bar or self.format in FIGURES

    @property
    def is_packed(self) -> bool:
        """True if the results of a shard are in one file."""
        return self.output_format != FILES


@dataclass(frozen=True)
class Run:
    """One run: what is read, how it is explained, and where it is written.

    sources: the photographs. framing: how they are fitted to the network's input. layers: those explained;
    the maps of several are fused, too. classes: explained for each photograph. scoring: explained instead.
    settings: what must be the same for an interrupted run to go on, as JSON. value_range: the values of black
    and white, of photographs of more than 8 bits. mistakes: explain the class of the highest score, and of
    photographs of another true class that class and the contrast of the two. finer: a layer whose complete
    map is drawn beside the maps.
    """

    sources: Sequence[Source]
    classifier: Classifier
    framing: Framing
    layers: Sequence[str]
    classes: Sequence[Target]
    explaining: Explaining
    writing: Writing
    settings: Mapping[str, Any] = field(default_factory=dict)
    value_range: ValueRange | None = None
    scoring: Scoring | None = None
    mistakes: bool = False
    finer: str | None = None

    def inputs(self, photograph: Photograph) -> Tensor:
        """The network's input for a photograph (H, W, 3): (1, 3, h, w) float32, on the CPU."""
        return self.prepared(photograph)[0]

    def canvas(self, photograph: Photograph) -> Photograph:
        """Pixels needed for drawing: the photograph, or no more of it than the network's scale shows."""
        return photograph if self.draws_all else self.framing.scene(photograph)

    def prepared(self, photograph: Photograph, bands: Photograph | None = None) -> tuple[Tensor, Photograph]:
        """Input and canvas of a photograph, which is resized once for both; bands: the input's, if others."""
        scene = self.framing.scene(photograph)
        pixels = self.framing.seen(scene) if bands is None else framed(self.framing, bands)
        inputs = normalise(pixels, self.classifier.mean, self.classifier.std)
        return inputs, photograph if self.draws_all else scene

    def drawn(self, gradient: Tensor) -> Tensor:
        """The channels that are drawn, of gradients (N, C, h, w) by the input."""
        bands = self.sources[0].bands if self.sources else None
        return gradient if bands is None else gradient[:, list(bands.drawn)]

    def page_of(self, photograph: Photograph) -> PagePictures:
        """The photograph's pictures for the page."""
        return page_pictures(photograph, self.writing.style.full_resolution)

    @property
    def draws_all(self) -> bool:
        """True if the whole photograph is drawn, not only what the network's scale shows of it."""
        return self.writing.style.full_resolution or self.writing.panel or self.writing.is_figure

    def explain(self, inputs: Tensor, progress: Progress = unheard) -> Explained:
        """For each layer, the finer one last, one explanation for each class of inputs (N, 3, h, w)."""
        return self.explainer(progress)(inputs, (), ())

    def explainer(
        self, progress: Progress = unheard
    ) -> Callable[[Tensor, Sequence[Shape], Truths], Explained]:
        """The same for many batches, with the photographs' shapes and true classes.

        It keeps what can be kept between them.
        """
        how, classifier = self.explaining, self.classifier
        if self.scoring is not None:
            return partial(self._explain_score, self.scoring, progress)
        explainers = [
            Explainer(
                classifier.module, layer, how.methods, classifier.output,
                augment=how.augment, axioms=how.axioms,
                probability=how.probability, layout=how.layout, progress=progress,
            )
            for layer in self.layers
        ]  # fmt: skip
        if self.finer is not None:
            explainers.append(
                Explainer(
                    classifier.module, self.finer, [COMPLETE_CAM], classifier.output,
                    probability=how.probability, progress=progress,
                )
            )  # fmt: skip

        def explain(inputs: Tensor, _shapes: Sequence[Shape] = (), truths: Truths = ()) -> Explained:
            with computing_in(how.precision, inputs.device.type):
                if self.mistakes:
                    known = truths or [None] * len(inputs)
                    return explain_mistakes(explainers, inputs, known, how.guided)
                return explain_layers(explainers, inputs, self._targets, how.guided)

        return explain

    def _explain_score(
        self,
        scoring: Scoring,
        progress: Progress,
        inputs: Tensor,
        shapes: Sequence[Shape] = (),
        _truths: Truths = (),
    ) -> Explained:
        how = self.explaining
        score = scoring.make(self.framing, shapes or [self.framing.size] * len(inputs))
        with computing_in(how.precision, inputs.device.type):
            return [
                [
                    explain_score(
                        self.classifier.module, inputs, layer, score, how.methods, progress, how.layout,
                        axioms=how.axioms,
                    )
                ]
                for layer in self.layers
            ]  # fmt: skip

    def _targets(self, logits: Tensor) -> list[Targets]:
        """The classes to explain, given all scores (N, classes)."""
        targets: list[Targets] = []
        for target in self.classes:
            targets += top_classes(target.count)(logits) if isinstance(target, TopClasses) else [target]
        return targets
