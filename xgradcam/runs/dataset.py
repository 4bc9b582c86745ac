"""Photographs in the columns of a data set explained, batch by batch: Ray's, Spark's or Hugging Face's."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from xgradcam.cam.explain import DEFAULT_METHODS
from xgradcam.cam.explanation import ClassExplanation
from xgradcam.cam.methods import known_methods
from xgradcam.errors import XGradCamError, shown
from xgradcam.lending.precision import FLOAT32
from xgradcam.models.labels import label_of
from xgradcam.models.load import load_classifier
from xgradcam.pictures.photograph import Photograph, decode_image, require_photograph
from xgradcam.runs.pipeline import Prepared, explain_inputs
from xgradcam.runs.preparation import fold_norms
from xgradcam.runs.run import USUAL_BATCH, Explained, Explaining, Run, Writing
from xgradcam.runs.sources import Source
from xgradcam.runs.turns import MachineTurn

if TYPE_CHECKING:
    from ray.data import Dataset

# Names of columns -> a value for each row.
Columns: TypeAlias = Mapping[str, Sequence[Any]]
# Times that Ray starts a worker again that died, and gives it its batch.
RETRIES = 2
CUDA = "cuda"


class ExplainBatch:
    """Explains batches of a data set's rows; it is called with columns, and returns columns.

    column: of the photographs: the bytes of image files, structs with a field `bytes` of them, or arrays
    (H, W, 3) uint8. key: a column that is returned as it is. model, weights and load (num_classes, labels,
    size, mean, std, output): as in `load_classifier`. layer: None for the default one. target: a class index,
    None for that of the highest score. methods, augment, probability, layout: as in `explain`. crop: as the
    weights expect it, instead of stretching. precision: float32, tf32 or bf16.
    The columns returned are the key, `class_index`, `class_name`, `score`, `probability`, for each method a
    map (h, w) float32, signed, at the layer's size, `notes`, and `problem`: why a photograph was not
    explained, with class -1, NaNs as numbers and maps; '' of all others.
    It is made of plain values and pickles as these; the network is loaded at the first call.
    Raises XGradCamError for wrong arguments.
    """

    def __init__(
        self,
        column: str = "bytes",
        key: str = "path",
        *,
        model: str | None = None,
        weights: str = "default",
        layer: str | None = None,
        target: int | None = None,
        methods: str | Sequence[str] = DEFAULT_METHODS,
        augment: bool = False,
        probability: str | None = None,
        layout: str | None = None,
        crop: bool = False,
        precision: str = FLOAT32,
        device: str = "cpu",
        **load: Any,
    ) -> None:
        if model is not None and not isinstance(model, str):
            raise XGradCamError(
                f"the model is {shown(model)}: give a name of load_classifier, such as 'file.py:function', "
                "which each process can load"
            )
        unknown = load.keys() - {"num_classes", "labels", "size", "mean", "std", "output"}
        if unknown:
            raise XGradCamError(f"no argument {', '.join(sorted(unknown))} of explaining a data set")
        self.column, self.key, self.model, self.weights = column, key, model, weights
        self.layer, self.target, self.crop, self.device, self.load = layer, target, crop, device, load
        self.how = Explaining(
            methods=tuple(known_methods(methods)), augment=augment, precision=precision,
            probability=probability, layout=layout,
        )  # fmt: skip
        self._run: Run | None = None
        self._explain: Any = None
        self._shape: tuple[int, ...] = ()

    def __call__(self, batch: Columns) -> dict[str, Any]:
        """The results of a batch: a column is an array with a value for each row."""
        for name in (self.column, self.key):
            if name not in batch:
                raise XGradCamError(
                    f"no column {name!r} in the data set: it has {', '.join(map(repr, batch))}"
                )
        run = self._loaded()
        rows = [
            _read(value, str(name)) for value, name in zip(batch[self.column], batch[self.key], strict=True)
        ]
        prepared = [
            Prepared(Source("", ""), run.inputs(one), None, shape=(one.shape[0], one.shape[1]))
            for one, _, _ in rows
            if one is not None
        ]
        found = iter(explain_inputs(run, self._explain, prepared) if prepared else ())
        results = []
        for photograph, notes, problem in rows:
            explained, index, why = next(found) if photograph is not None else ((), 0, problem)
            results.append(self._row(run, explained, index, notes, why))
        columns = {name: np.array([row[name] for row in results]) for name in results[0]} if results else {}
        return {self.key: batch[self.key], **columns}

    def _row(
        self, run: Run, explained: Explained, index: int, notes: Sequence[str], problem: str
    ) -> dict[str, Any]:
        if problem:
            nothing = np.full(self._shape, np.nan, np.float32)
            maps = dict.fromkeys(run.explaining.methods, nothing)
            numbers = {"class_index": -1, "class_name": "", "score": np.nan, "probability": np.nan}
            return {**numbers, **maps, "notes": "", "problem": problem}
        # A run without a score of another kind explains classes.
        sample = cast(ClassExplanation, explained[0][0].sample(index))
        target = int(sample.targets[0])
        return {
            "class_index": target,
            "class_name": label_of(run.classifier.labels, target),
            "score": float(sample.score),
            "probability": float(sample.probability),
            **{method: signed[0].float().numpy() for method, signed in sample.maps.items()},
            "notes": "; ".join([*sample.notes[0], *notes]),
            "problem": "",
        }

    def _loaded(self) -> Run:
        """The run, with the network loaded once; one process of a machine at a time fetches its weights."""
        if self._run is None:
            import torch

            with MachineTurn("weights"):
                classifier = load_classifier(self.model, self.weights, **self.load)
            classifier = classifier.to(torch.device(self.device))
            layer = self.layer or classifier.default_layer()
            framing = classifier.framing(self.crop)
            run = Run([], classifier, framing, [layer], [self.target], self.how, Writing(Path()))
            fold_norms(run)
            self._run, self._explain = run, run.explainer()
            blank = self._explain(classifier.blank(), [classifier.size])
            self._shape = tuple(next(iter(blank[0][0].maps.values())).shape[1:])
        return self._run

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_run": None, "_explain": None, "_shape": ()}


def _read(value: Any, name: str) -> tuple[Photograph | None, Sequence[str], str]:
    """The photograph in a row with the notes on it, or the problem."""
    try:
        # As Hugging Face's data sets hold images, and read_parquet hands them on.
        value = value.get("bytes") if isinstance(value, Mapping) else value
        if isinstance(value, bytes | bytearray | memoryview):
            reading = decode_image(io.BytesIO(value), name)
            return reading.photograph, reading.notes, ""
        if isinstance(value, np.ndarray):
            require_photograph(value)
            return value, (), ""
    except XGradCamError as error:
        return None, (), str(error)
    return None, (), f"{name}: it is {shown(value)}, neither the bytes of an image nor an array (H, W, 3)"


def explain_dataset(
    ds: "Dataset",
    column: str = "bytes",
    key: str = "path",
    workers: int | None = None,
    num_gpus: float | None = None,
    **explainer_arguments: Any,
) -> "Dataset":
    """The results for a data set of Ray's with a photograph in each row: what `ExplainBatch` returns of it.

    workers: processes; None for as many as Ray can start. num_gpus: that each takes, none by default.
    explainer_arguments: of `ExplainBatch`; batch_size: rows at a time, 8 by default. As all of Ray's, the
    data set is computed when it is read or written. A worker that dies is started again twice.
    Raises XGradCamError for wrong arguments, and where Ray's Data is not installed.
    """
    try:
        from ray.data import ActorPoolStrategy
    except ImportError:
        raise XGradCamError("Ray's Data is not installed: pip install 'xgradcam[ray]'") from None
    batch_size = explainer_arguments.pop("batch_size", USUAL_BATCH)
    explainer_arguments.setdefault("device", CUDA if num_gpus else "cpu")
    # Wrong arguments are told here, not by a worker later.
    ExplainBatch(column, key, **explainer_arguments)
    if workers is not None and workers < 1:
        raise XGradCamError(f"the number of workers is {workers}: take 1 or more")
    pool = ActorPoolStrategy(min_size=1) if workers is None else ActorPoolStrategy(size=workers)
    with warnings.catch_warnings():
        # Ray has no other way yet to bound how often a worker is started again: by default, for ever.
        warnings.filterwarnings("ignore", ".*ray_remote_args.*")
        return ds.map_batches(
            ExplainBatch,
            fn_constructor_args=(column, key),
            fn_constructor_kwargs=explainer_arguments,
            batch_size=batch_size,
            batch_format="numpy",
            compute=pool,
            num_gpus=num_gpus,
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )
