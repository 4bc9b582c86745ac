"""What is written of a photograph: the pictures and maps of each class, and the record that names them."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xgradcam.cam.explanation import ClassExplanation, heatmap_of
from xgradcam.cam.guided import gradient_picture, guided_map
from xgradcam.errors import XGradCamError
from xgradcam.files import encode_jpeg, make_folder, write_files
from xgradcam.models.classifier import Classifier
from xgradcam.models.labels import label_of, name_only
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.paint import PLAIN, HeatmapOf, Style, draw, fused
from xgradcam.pictures.panel import draw_panel, score_line
from xgradcam.pictures.photograph import Photograph
from xgradcam.runs.sources import STDIN, Source

# As the original scripts name them; CAM itself must not take Grad-CAM's name.
STEMS: Mapping[str, str] = {"grad-cam": "cam", "xgrad-cam": "X_cam", "cam": "linear-cam"}
PANEL, MAPS, PHOTOGRAPH = "panel.jpg", "maps.npz", "photograph.jpg"
# What a record names beside the pictures of the methods.
ALSO = ("panel", "maps", "photograph")
FUSED = "fused"
# What precedes a method, or nothing, among the names of what is made.
GUIDED = "guided "


@dataclass(frozen=True)
class Results:
    """Where the results of a run go, and which there are.

    layers: those explained; of several the maps are fused too. framing, style: how the photograph got into
    the network, and how the maps are painted on it.
    plain: the original scripts' names, `cam.jpg` and `X_cam.jpg`, for one photograph and class; else each
    name begins with the photograph's and the class index, and has the layer's if there are several.
    panel: a picture of photograph and maps side by side too. page: the photograph as the maps show it too,
    for the page of the run. save_maps: the signed maps and scores as .npz.
    """

    classifier: Classifier
    layers: Sequence[str]
    folder: Path
    framing: Framing
    style: Style = PLAIN
    plain: bool = False
    panel: bool = False
    page: bool = False
    save_maps: bool = False

    def drawn_on(self, photograph: Photograph) -> Photograph:
        """What of a photograph has to be kept to draw on: no more than is shown of it."""
        return photograph if self.style.full_resolution or self.panel else self.framing.scene(photograph)

    def write(
        self,
        source: Source,
        photograph: Photograph,
        explanations: Sequence[Sequence[ClassExplanation]],
        index: int,
    ) -> list[dict[str, Any]]:
        """Write the files of one photograph; a record for each class and layer.

        photograph: what `drawn_on` gave, (H, W, 3). explanations: for each layer one for each class. index:
        the photograph's place in their batch. Raises XGradCamError where the files cannot be written.
        """
        contents: dict[Path, bytes] = {}
        records = []
        for view in self._views(explanations, index):
            made = self._contents(photograph, view)
            names = {key: self._name(source, view, suffix) for key, (suffix, _) in made.items()}
            contents |= {self.folder / names[key]: content for key, (_, content) in made.items()}
            records.append(self._record(source, view, names))
        if self.page:
            name = source.stem.with_name(f"{source.stem.name}_{PHOTOGRAPH}").as_posix()
            shown = photograph if self.style.full_resolution else self.framing.scene(photograph)
            contents[self.folder / name] = encode_jpeg(shown)
            records = [{**record, "photograph": name} for record in records]
        for path in contents:
            if path.exists() and source.path != STDIN and path.samefile(source.path):
                raise XGradCamError(f"{path} would be written over the photograph: choose an --output-dir")
        make_folder(self.folder / source.stem.parent)
        write_files(contents)
        return records

    def _views(self, explanations: Sequence[Sequence[ClassExplanation]], index: int) -> "list[_View]":
        """For each class each layer's maps, and those of several layers fused."""
        by_class: dict[int, list[ClassExplanation]] = {}
        for of_classes in zip(*explanations, strict=True):
            samples = [explanation.sample(index) for explanation in of_classes]
            by_class[int(samples[0].targets[0])] = samples
        views = []
        for samples in by_class.values():
            alone = [_View(layer, (sample,)) for layer, sample in zip(self.layers, samples, strict=True)]
            views += [*alone, _View(" + ".join(self.layers), tuple(samples))] if len(alone) > 1 else alone
        return views

    def _name(self, source: Source, view: "_View", suffix: str) -> str:
        """Relative to the folder, with forward slashes."""
        if self.plain:
            return suffix
        layer = f"{view.short}_" if len(self.layers) > 1 else ""
        return source.stem.with_name(f"{source.stem.name}_{view.target}_{layer}{suffix}").as_posix()

    def _contents(self, photograph: Photograph, view: "_View") -> dict[str, tuple[str, bytes]]:
        """What the files of a view are called and hold, by method, and `panel` and `maps`."""
        heatmaps = view.heatmaps()
        made = {
            method: (
                f"{stem_of(method)}.jpg",
                encode_jpeg(draw(photograph, heatmap, self.framing, self.style)),
            )
            for method, heatmap in heatmaps.items()
        }
        if view.first.guided is not None:
            made |= _guided(view.first.guided, heatmaps, self.framing.size)
        if self.panel:
            words = name_only(label_of(self.classifier.labels, view.target))
            detail = score_line(float(view.first.score), float(view.first.probability))
            detail = f"{view.short}, {detail}" if len(self.layers) > 1 else detail
            picture = draw_panel(photograph, heatmaps, self.framing, words, detail, self.style)
            made["panel"] = (PANEL, encode_jpeg(picture))
        if self.save_maps and not view.is_fused:
            made["maps"] = (MAPS, _npz(view.first))
        return made

    def _record(self, source: Source, view: "_View", names: Mapping[str, str]) -> dict[str, Any]:
        alone = view.first
        target, score = view.target, alone.score
        guided = {key[len(GUIDED) :]: name for key, name in names.items() if key.startswith(GUIDED)}
        axioms = {"conservation_error": alone.conservation, "sensitivity_error": alone.sensitivity}
        return {
            "image": source.path,
            "class_index": target,
            "class_name": label_of(self.classifier.labels, target),
            "score": float(score),
            "probability": float(alone.probability),
            "rank": int((alone.logits > score[:, None]).sum()) + 1,
            "classes": alone.logits.shape[1],
            "model": self.classifier.name,
            "layer": view.layer,
            "files": {key: name for key, name in names.items() if key in alone.maps},
            **{key: name for key, name in names.items() if key in ALSO},
            **({"guided": guided} if guided else {}),
            "written": [str(self.folder / name) for name in names.values()],
            **{
                axiom: {method: _finite(float(error)) for method, error in errors.items()}
                for axiom, errors in axioms.items()
                if errors and not view.is_fused
            },
            "notes": [] if view.is_fused else list(alone.notes[0]),
        }


@dataclass(frozen=True)
class _View:
    """The maps of one photograph and class at a layer, or those of several layers, to be fused."""

    layer: str
    samples: tuple[ClassExplanation, ...]

    @property
    def first(self) -> ClassExplanation:
        return self.samples[0]

    @property
    def target(self) -> int:
        return int(self.first.targets[0])

    @property
    def is_fused(self) -> bool:
        return len(self.samples) > 1

    @property
    def short(self) -> str:
        """The layer, as a part of a file's name."""
        return FUSED if self.is_fused else re.sub(r"[^\w.-]", "-", self.layer)

    def heatmaps(self) -> dict[str, HeatmapOf]:
        """Method -> heatmap."""
        return {
            method: fused([heatmap_of(sample, method) for sample in self.samples])
            for method in self.first.maps
        }


def files_of(record: Mapping[str, Any]) -> list[str]:
    """The files that a record names, relative to the run's folder."""
    guided = record.get("guided", {})
    return [*record["files"].values(), *guided.values(), *(record[key] for key in ALSO if key in record)]


def stem_of(method: str) -> str:
    """What the file of a method's picture is called, without its ending."""
    return STEMS.get(method, method)


def _guided(
    gradient: Tensor, heatmaps: Mapping[str, HeatmapOf], size: tuple[int, int]
) -> dict[str, tuple[str, bytes]]:
    """The pictures of guided backpropagation (1, 3, h, w), and of each map guided by it."""
    made = {GUIDED: ("gb.jpg", encode_jpeg(gradient_picture(gradient[0])))}
    for method, heatmap in heatmaps.items():
        hot = torch.from_numpy(heatmap(size)).to(gradient)[None]
        picture = gradient_picture(guided_map(gradient, hot)[0])
        made[GUIDED + method] = (f"{stem_of(method)}_gb.jpg", encode_jpeg(picture))
    return made


def _npz(alone: ClassExplanation) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        **{method: signed[0].cpu().numpy() for method, signed in alone.maps.items()},
        scores=alone.logits[0].cpu().numpy(),
        class_index=int(alone.targets[0]),
    )
    return buffer.getvalue()


def _finite(value: float) -> float | None:
    """What JSON can hold: a score of 0 has no relative error."""
    return value if np.isfinite(value) else None
