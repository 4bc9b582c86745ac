"""The finest layer whose maps can be trusted, by the budget of Eq. 5."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xgradcam.cam.explain import explain, explain_score
from xgradcam.cam.explanation import Explanation
from xgradcam.cam.methods import METHODS, known_methods
from xgradcam.capture.layers import Layer, default_layer, layers_of_maps, list_layers
from xgradcam.errors import XGradCamError
from xgradcam.layouts.layout import Layout
from xgradcam.lending.finding import at_run
from xgradcam.lending.inputs import Inputs, lent
from xgradcam.lending.precision import FLOAT32, computing_in
from xgradcam.lending.several import Place, for_sample
from xgradcam.lending.turns import in_turn
from xgradcam.proof.verification import Verification
from xgradcam.proof.verify import verify_together
from xgradcam.scores.score import Score
from xgradcam.scores.targets import Targets

# The part of the score that a map may leave out.
LEFT_OUT = 0.2
# Largest Σ|terms| / |score| of a layer for maps of its features. At more, features that happen to be as large
# as the score are a difference of large numbers: at most 2.8 at the bundled network's last layer, from 4.5 up
# at all others (25 photographs).
TERMS = 10.0
# Largest Σ|map| / |score| of a complete map: what speaks against the class is then at most half of what
# speaks for it. On mosaics of four photographs the share of the positive evidence in the right one is .72 to
# .74 where it is below 3, .63 at 6, .51 at 13 and .34 at 500, at the input (40 mosaics, bundled network).
MAP = 3.0


class ChosenLayer(str):
    """The name of a layer, and why it was chosen.

    reason: a line. trusted: False for the default layer, which is taken if no layer can be trusted.
    """

    reason: str
    trusted: bool


class _Trust(NamedTuple):
    """True if a layer's maps can be trusted, and the numbers that tell it, in words."""

    trusted: bool
    numbers: str


@in_turn
def choose_layer(
    model: nn.Module,
    inputs: Inputs,
    targets: Targets = None,
    methods: str | Sequence[str] = "xgrad-cam",
    output: str | int | None = None,
    *,
    score: Score | None = None,
    image: Place | None = None,
    run: int | None = None,
    frames: int | None = None,
) -> ChosenLayer:
    """The finest layer at which the methods' maps of all samples can be trusted; `reason` says why in a line.

    The finest is that of the most cells, and of several the latest. A map of a layer's features can be
    trusted if they are the score but for `LEFT_OUT` of it, and the layer's terms are at most `TERMS` times
    the score; one trace serves the layers that cut the network, and the others are not looked at. A complete
    map can be trusted if at most `LEFT_OUT` of the score has no place in it, and its absolute values are at
    most `MAP` times the score; the last layer of each size is looked at. Where no layer suits, the choice is
    that of `default_layer`, and the reason says so. The arguments are those of `explain` and `explain_score`.
    run: then only layers that have that run are looked at.
    Raises XGradCamError for a model, targets or a precision for which there are no such numbers.
    """
    methods, (model, inputs) = known_methods(methods), lent(model, inputs, image)
    complete = [name for name in methods if METHODS[name].complete]
    by_features = any(METHODS[name].needs_gradient and not METHODS[name].complete for name in methods)
    with computing_in(FLOAT32, inputs.device.type):
        layers = _at_run(list_layers(for_sample(model, 0), inputs[:1], frames=frames), run)
        maps, default = layers_of_maps(layers), default_layer(layers)
        if not by_features and not complete:
            return _chosen(default, f"{' and '.join(methods)} cannot be judged by a budget; the default")
        judge = _Judge(model, inputs, targets, output, score, complete, {"run": run, "frames": frames})
        if by_features:
            judge.verify(maps)
        # Within a size, a complete map cancels less the later the layer is.
        last = {_cells(layer): layer for layer in maps}
        candidates = [one for one in maps if one.name in judge.found] if by_features else [*last.values()]
        return _finest(judge, candidates, default)


def _finest(judge: "_Judge", candidates: Sequence[Layer], default: str) -> ChosenLayer:
    """The finest of the candidates that can be trusted, or the default layer."""
    problem = None
    for layer in sorted(reversed(candidates), key=lambda layer: -_cells(layer)):
        try:
            if (trust := judge(layer.name)).trusted:
                return _chosen(layer.name, f"the finest layer that suits: {trust.numbers}", trusted=True)
        except XGradCamError as error:
            problem = error
    try:
        return _chosen(default, f"no layer suits, so the default: {judge(default).numbers}")
    except XGradCamError as error:
        raise problem or error from None


def _at_run(layers: Sequence[Layer], run: int | None) -> Sequence[Layer]:
    """The layers as if they had this run alone; None leaves them as they are."""
    at_run("", run)
    return layers if run is None else [replace(layer, runs=int(layer.runs > run)) for layer in layers]


def _chosen(name: str, reason: str, trusted: bool = False) -> ChosenLayer:
    chosen = ChosenLayer(name)
    chosen.reason, chosen.trusted = reason, trusted
    return chosen


def _cells(layer: Layer) -> int:
    return layer.layout.cells if layer.layout else 0


@dataclass
class _Judge:
    """Judges layers; see `choose_layer`.

    complete: the complete methods asked for. found: the verifications at layers that one trace serves, if a
    method shows features alone. which: the run and the frames, as `verify` and `explain` take them.
    """

    model: nn.Module
    inputs: Tensor
    targets: Targets
    output: str | int | None
    score: Score | None
    complete: Sequence[str]
    which: Mapping[str, Any]
    found: Mapping[str, Verification] = field(default_factory=dict)

    def verify(self, layers: Sequence[Layer]) -> None:
        """Verify the layers that one trace serves, from the first layer on for which there is one."""
        names = [layer.name for layer in layers]
        layouts = {layer.name: layer.layout for layer in layers}
        first_of_size = {_cells(layer): index for index, layer in reversed([*enumerate(layers)])}
        problem = None
        for start in sorted(first_of_size.values()):
            try:
                self.found = self._verified(names[start:], layouts)
                return
            except XGradCamError as error:
                problem = problem or error
        raise problem or XGradCamError("no layer gives feature maps")

    def _verified(
        self, names: Sequence[str], layouts: Mapping[str, Layout | None]
    ) -> Mapping[str, Verification]:
        return verify_together(
            self.model, self.inputs, names, self.targets, self.output,
            score=self.score, layouts=layouts, **self.which,
        )  # fmt: skip

    def __call__(self, layer: str) -> _Trust:
        each = []
        if self.found:
            if layer not in self.found:
                return _Trust(False, "it does not cut the network")
            each.append(_of_features(self.found[layer]))
        if self.complete and all(one.trusted for one in each):
            each.append(_of_maps(self._explained(layer)))
        return _Trust(all(one.trusted for one in each), "; ".join(one.numbers for one in each))

    def _explained(self, layer: str) -> Explanation:
        if self.score is not None:
            return explain_score(self.model, self.inputs, layer, self.score, self.complete, **self.which)
        about = self.targets, self.complete, self.output
        return explain(self.model, self.inputs, layer, *about, **self.which)


def _of_features(found: Verification) -> _Trust:
    shares = found.budget["feature"] / found.score
    terms = found.budget["cancellation"].max()
    trusted = bool(((shares - 1).abs() <= LEFT_OUT).all() and terms <= TERMS)
    low, high = f"{float(shares.min()):.0%}", f"{float(shares.max()):.0%}"
    share = low if low == high else f"{low} to {high}"
    return _Trust(
        trusted, f"its features are {share} of the score, its terms {float(terms):.2f} times its size"
    )


def _of_maps(found: Explanation) -> _Trust:
    size = found.score.abs()
    left_out = torch.stack([found.nowhere.abs() / size, *found.conservation.values()]).max()
    values = torch.stack([one.abs().flatten(1).sum(dim=1) / size for one in found.maps.values()]).max()
    return _Trust(
        bool(left_out <= LEFT_OUT and values <= MAP),
        f"its complete map leaves out {float(left_out):.1%} of the score, its values without sign sum to "
        f"{float(values):.2f} times the score",
    )
