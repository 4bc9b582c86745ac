"""The proof of `proof-verify`: a score of one photograph, verified at layers of a classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from xgradcam.cli.proof_report import Row, grid_of
from xgradcam.errors import XGradCamError

if TYPE_CHECKING:
    from torch import Tensor

    from xgradcam.capture.layers import Layer, Layout
    from xgradcam.models.classifier import Classifier
    from xgradcam.runs.choice import ChosenLayer
    from xgradcam.scores.score import Score


@dataclass(frozen=True)
class Proof:
    """The score of a class, of its contrast to other classes, or another score, for inputs (1, ...).

    own: the other score, with what it takes from the model's prediction; record: what is said of it.
    """

    classifier: "Classifier"
    inputs: "Tensor"
    target: int
    others: tuple[int, ...] = ()
    own: "Score | None" = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> "Score":
        """The function from the model's output to the score."""
        import torch

        from xgradcam.scores.score import ClassScore, Contrast

        if self.own is not None:
            return self.own
        if self.others:
            return Contrast(self.target, self.others, output=self.classifier.output)
        return ClassScore(torch.tensor([self.target], device=self.inputs.device), self.classifier.output)

    @property
    def _scored(self) -> dict[str, Any]:
        """The arguments by which `verify` knows the score."""
        if self.others or self.own is not None:
            return {"score": self.score}
        return {"targets": self.target, "output": self.classifier.output}

    @cached_property
    def layers(self) -> "dict[str, Layer]":
        """The model's layers by name."""
        from xgradcam.capture.layers import list_layers

        return {layer.name: layer for layer in list_layers(self.classifier.module, self.inputs)}

    @property
    def _layouts(self) -> "dict[str, Layout | None]":
        return {name: layer.layout for name, layer in self.layers.items()}

    def default_layer(self) -> str:
        """The default layer; not `Classifier.default_layer`, whose blank photograph is float32."""
        from xgradcam.capture.layers import default_layer
        from xgradcam.cli.choosing import layer_reached

        if self.own is not None:
            return layer_reached(self.classifier, self.inputs, self.own)
        return self.classifier.layer or default_layer([*self.layers.values()])

    def choose(self, method: str) -> "ChosenLayer":
        """The finest layer at which the method can be trusted."""
        from xgradcam.runs.choice import choose_layer

        return choose_layer(self.classifier.module, self.inputs, methods=method, score=self.score)

    def verify(self, layer: str) -> Row:
        """The layer's row."""
        from xgradcam.proof.verify import verify

        result = verify(self.classifier.module, self.inputs, layer, layouts=self._layouts, **self._scored)
        return self._row(layer, result)

    def verify_all(self, layers: Sequence[str]) -> list[Row]:
        """A row for each layer; XGradCamError where none of them can be verified."""
        from tqdm import tqdm

        from xgradcam.proof.verify import verify_layers

        results = verify_layers(
            self.classifier.module, self.inputs, layers, layouts=self._layouts, **self._scored
        )
        found = dict(tqdm(results, total=len(layers), unit="layer", leave=False, delay=1, disable=None))
        rows = [self._row(layer, found[layer]) for layer in layers]
        if all(row.verification is None for row in rows):
            raise XGradCamError(f"none of these {len(rows)} layers can be verified: {rows[0].problem}")
        return rows

    def _row(self, layer: str, result: object) -> Row:
        from xgradcam.lending.finding import is_input

        if isinstance(result, XGradCamError):
            return Row(layer, None, str(result))
        grid = None
        if layer in self.layers:
            grid = grid_of(self.layers[layer])
        elif is_input(self.classifier.module, layer) and self.inputs.ndim == 4:
            grid = self.inputs.shape[2], self.inputs.shape[3]
        return Row(layer, result, grid=grid)  # type: ignore[arg-type]
