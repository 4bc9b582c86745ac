"""What is written of a photograph: the pictures and maps of each class, and the record that names them."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xgradcam.axioms import conservation_error
from xgradcam.cam import ClassExplanation
from xgradcam.classifier import Classifier
from xgradcam.errors import XGradCamError
from xgradcam.files import encode_jpeg, make_folder, write_files
from xgradcam.framing import Framing
from xgradcam.images import Photograph
from xgradcam.labels import label_of, name_only
from xgradcam.panel import draw_panel, score_line
from xgradcam.photographs import STDIN, Source
from xgradcam.pictures import PLAIN, Style, draw, heatmap_of

PICTURES: Mapping[str, str] = {"grad-cam": "cam.jpg", "xgrad-cam": "X_cam.jpg"}
PANEL, MAPS, PHOTOGRAPH = "panel.jpg", "maps.npz", "photograph.jpg"
# What a record names beside the pictures of the methods.
ALSO = ("panel", "maps", "photograph")


@dataclass(frozen=True)
class Results:
    """Where the results of a run go, and which there are.

    framing, style: how the photograph got into the network, and how the maps are painted on it.
    plain: the original scripts' names, `cam.jpg` and `X_cam.jpg`, for one photograph and class; else each
    name begins with the photograph's and the class index.
    panel: a picture of photograph and maps side by side too. page: the photograph as the maps show it too,
    for the page of the run. save_maps: the signed maps and scores as .npz.
    """

    classifier: Classifier
    layer: str
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
        self, source: Source, photograph: Photograph, explanations: Sequence[ClassExplanation], index: int
    ) -> list[dict[str, Any]]:
        """Write the files of one photograph; a record for each class.

        photograph: what `drawn_on` gave, (H, W, 3). explanations: one for each class. index: the photograph's
        place in their batch. Raises XGradCamError where the files cannot be written.
        """
        samples = [_sample(explanation, index) for explanation in explanations]
        by_class = {int(alone.targets[0]): alone for alone in samples}
        contents: dict[Path, bytes] = {}
        records = []
        for target, alone in by_class.items():
            made = self._contents(photograph, alone)
            names = {key: self._name(source, target, suffix) for key, (suffix, _) in made.items()}
            contents |= {self.folder / names[key]: content for key, (_, content) in made.items()}
            records.append(self._record(source, alone, names))
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

    def _name(self, source: Source, target: int, suffix: str) -> str:
        """Relative to the folder, with forward slashes."""
        if self.plain:
            return suffix
        return source.stem.with_name(f"{source.stem.name}_{target}_{suffix}").as_posix()

    def _contents(self, photograph: Photograph, alone: ClassExplanation) -> dict[str, tuple[str, bytes]]:
        """What the class's files are called and hold, by method, and `panel` and `maps`."""
        heatmaps = {method: heatmap_of(alone, method) for method in alone.maps}
        made = {
            method: (PICTURES[method], encode_jpeg(draw(photograph, heatmap, self.framing, self.style)))
            for method, heatmap in heatmaps.items()
        }
        if self.panel:
            words = name_only(label_of(self.classifier.labels, int(alone.targets[0])))
            detail = score_line(float(alone.score), float(alone.probability))
            picture = draw_panel(photograph, heatmaps, self.framing, words, detail, self.style)
            made["panel"] = (PANEL, encode_jpeg(picture))
        if self.save_maps:
            made["maps"] = (MAPS, _npz(alone))
        return made

    def _record(self, source: Source, alone: ClassExplanation, names: Mapping[str, str]) -> dict[str, Any]:
        target, score = int(alone.targets[0]), alone.score
        return {
            "image": source.path,
            "class_index": target,
            "class_name": label_of(self.classifier.labels, target),
            "score": float(score),
            "probability": float(alone.probability),
            "rank": int((alone.logits > score[:, None]).sum()) + 1,
            "classes": alone.logits.shape[1],
            "model": self.classifier.name,
            "layer": self.layer,
            "files": {key: name for key, name in names.items() if key in alone.maps},
            **{key: name for key, name in names.items() if key in ALSO},
            "written": [str(self.folder / name) for name in names.values()],
            "conservation_error": {
                method: _finite(float(conservation_error(signed, score)))
                for method, signed in alone.maps.items()
            },
            "notes": list(alone.notes[0]),
        }


def files_of(record: Mapping[str, Any]) -> list[str]:
    """The files that a record names, relative to the run's folder."""
    return [*record["files"].values(), *(record[key] for key in ALSO if key in record)]


def _sample(explanation: ClassExplanation, index: int) -> ClassExplanation:
    """One sample of a batch, as a batch of its own."""
    chosen = slice(index, index + 1)
    maps = {method: signed[chosen] for method, signed in explanation.maps.items()}
    return ClassExplanation(
        maps,
        explanation.score[chosen],
        explanation.notes[chosen],
        explanation.logits[chosen],
        explanation.targets[chosen],
    )


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
