"""Explain many batches by one model, and keep what can be kept between them."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field, replace
from operator import is_

import torch
from torch import Tensor, nn

from xgradcam.cam.class_maps import ClassMaps, finished
from xgradcam.cam.evidence import Progress
from xgradcam.cam.explain import DEFAULT_METHODS, require_compatible
from xgradcam.cam.explanation import ClassExplanation
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.cam.methods import METHODS, known_methods
from xgradcam.cam.score_explainer import FoundLayout, ScoreExplainer
from xgradcam.layouts.layout import Said, with_frames
from xgradcam.lending.finding import at_run, find_layer
from xgradcam.lending.inputs import Inputs, lent
from xgradcam.lending.precision import FLOAT32, computing_in
from xgradcam.lending.several import Place, for_sample, with_model
from xgradcam.lending.turns import in_turn
from xgradcam.models.folding import fold_batch_norms
from xgradcam.runs.graphs import CudaGraphs, Graphs, Repeater, State
from xgradcam.runs.memory import keep_freed_memory
from xgradcam.scores.probability import require_rule
from xgradcam.scores.targets import Classes, Targets, parse_targets, require_list


def unheard(_done: int, _total: int) -> None:
    """A progress that nobody hears of."""


@dataclass(eq=False)
class Explainer:
    """Explains batches as `explain` does, by the same model, layer and methods.

    model, layer, methods, output, augment, axioms, probability, layout, image, run, frames, progress: as in
    `explain`.
    fold: fold batch norms into the convolutions before them, in a copy of the model; the same but for
    rounding. The copy is made anew when the model has changed, for which each call reads all of its numbers.
    keep_memory: have the C library keep the memory that PyTorch frees, in the whole process and for good. On
    a CPU batches of large maps take a tenth less time; only with glibc.
    graphs: None to run the model at every call. Otherwise, after three calls with inputs of one shape on a
    GPU, a CUDA graph does the work where it computes the same, which is checked. It takes the memory of
    another forward, and is made anew when anything in the model has changed. It sees neither global variables
    nor what a module's forward prints or counts elsewhere. `problem` says why there is none.
    A context manager: at the end, or after `close`, the copy and the graphs are gone. The model is borrowed,
    as by `explain`. Threads take turns. It can be pickled if the model and the layout can: a lambda cannot.
    """

    model: nn.Module
    layer: str | nn.Module
    methods: Sequence[str] = DEFAULT_METHODS
    output: str | int | None = None
    _: KW_ONLY
    augment: bool = False
    axioms: bool = False
    probability: str | None = None
    layout: Said | None = None
    image: Place | None = None
    run: int | None = None
    frames: int | None = None
    fold: bool = False
    keep_memory: bool = False
    progress: Progress = unheard
    graphs: Graphs | None = field(default_factory=CudaGraphs)

    def __post_init__(self) -> None:
        self.methods = tuple(known_methods(self.methods))
        require_compatible(self.augment, self.axioms, self.methods)
        require_rule(self.probability)
        find_layer(self.model, self.layer)
        self._folded: tuple[nn.Module, str | nn.Module] | None = None
        self._found: dict[torch.Size, FoundLayout] = {}
        # What the copy, the layouts and the graphs are kept for.
        self._state: State | None = None
        self._settings: tuple[object, ...] = ()
        more = any(METHODS[method].asks_again or METHODS[method].complete for method in self.methods)
        self._repeater = None if self.graphs is None or self.axioms or more else Repeater(self.graphs)

    def __call__(self, inputs: Inputs, targets: Targets = None) -> ClassExplanation:
        """Explain a class score of each sample, as `explain` does."""
        return self.explain_classes(inputs, [targets])[0]

    @in_turn
    def explain_classes(self, inputs: Inputs, classes: Classes) -> tuple[ClassExplanation, ...]:
        """Explain several class scores of each sample: one explanation for each of `classes`.

        classes: several `targets` as in `explain`, or a function from the class scores (N, classes) to them;
        for the same function a graph can be used again.
        """
        model, inputs = lent(self.model, inputs, self.image)
        if self.keep_memory and inputs.device.type == "cpu":
            keep_freed_memory()
        self._begin_anew_after_a_change()
        if self._repeater is None or not inputs.ndim or model is not self.model:
            return finished(self._maps(model, inputs, classes), classes)
        if not callable(classes):
            require_list(classes)
        parsed = [] if callable(classes) else [parse_targets(one, len(inputs)) for one in classes]
        given = tuple(one is not None for one in parsed)

        def work(inputs: Tensor, *targets: Tensor) -> ClassMaps:
            left = iter(targets)
            own = classes if callable(classes) else [next(left) if one else None for one in given]
            return self._maps(model, inputs, own, late=True)

        how = (
            self.methods,
            self.augment,
            self.output,
            self.probability,
            classes if callable(classes) else given,
        )
        tensors = (inputs, *(one for one in parsed if one is not None))
        return finished(self._repeater.run(how, self.model, work, tensors), classes)

    def _maps(self, model: nn.Module, inputs: Tensor, classes: Classes, late: bool = False) -> ClassMaps:
        if not self.fold and not self._is_unchanged():
            self._found.clear()
        model, layer = self._network(model, inputs)
        place, layout = at_run(layer, self.run), with_frames(self.layout, self.frames)
        explainer = ScoreExplainer(
            model, place, self.methods, self.progress, self.axioms, layout, self._found
        )
        return explainer.classes(inputs, classes, self.output, self.augment, self.probability, late)

    @property
    def problem(self) -> str:
        """Why the last kind of call that came often enough is not done by a graph; empty if it is."""
        return "" if self._repeater is None else self._repeater.problem

    def _network(self, model: nn.Module, inputs: Tensor) -> tuple[nn.Module, str | nn.Module]:
        """The model and its layer, or those of the copy with folded norms, of the model as it is now."""
        if not self.fold:
            return model, self.layer
        if self._folded is None:
            name, _ = find_layer(self.model, self.layer)
            copy = deepcopy(self.model)
            with computing_in(FLOAT32, inputs.device.type):
                folded = fold_batch_norms(for_sample(with_model(model, copy), 0), inputs[:1], [name])
            self._folded = copy, name
            if inputs.device.type == "cuda":
                copy.to(memory_format=torch.channels_last)
            elif not folded:  # no copy then, nor a look at all numbers of the model
                self._folded, self._state = (self.model, self.layer), State(self.model)
        own, layer = self._folded
        return with_model(model, own), layer

    def _begin_anew_after_a_change(self) -> None:
        settings = self.layer, self.layout, self.fold, self.run, self.frames
        if len(self._settings) != len(settings) or not all(map(is_, self._settings, settings)):
            self.close()
            self._settings = settings
        # A graph of the model itself reads its memory as it is now; of the copy, it would not see a change.
        if self.fold and not self._is_unchanged():
            self.close()
            self._is_unchanged()

    def _is_unchanged(self) -> bool:
        """True if the model is as it was when this was last asked."""
        if self._state is not None and self._state.is_that_of(self.model):
            return True
        self._state = State(self.model, by_value=self.fold)
        return False

    def close(self) -> None:
        """Free the memory that was kept. A later call begins anew."""
        self._folded = self._state = None
        self._found.clear()
        if self._repeater is not None:
            self._repeater.close()

    def __enter__(self) -> "Explainer":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_folded": None, "_found": {}, "_state": None, "_settings": ()}


def explain_layers(
    explainers: Sequence[Explainer], inputs: Inputs, classes: Classes, guided: bool = False
) -> list[tuple[ClassExplanation, ...]]:
    """Explain the same classes at several layers: for each explainer an explanation for each class.

    guided: add guided backpropagation to the explanations, the same at every layer. Each layer takes a
    forward. A function chooses the classes once, at the first layer.
    """
    first = explainers[0].explain_classes(inputs, classes)
    targets = [one.targets for one in first]
    layers = [first, *(explainer.explain_classes(inputs, targets) for explainer in explainers[1:])]
    if not guided:
        return layers
    one = explainers[0]
    gradients = [
        guided_backpropagation(one.model, inputs, target, one.output, one.image) for target in targets
    ]
    return [
        tuple(replace(one, guided=gradient) for one, gradient in zip(explained, gradients, strict=True))
        for explained in layers
    ]
