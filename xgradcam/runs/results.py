"""The files made of one photograph: pictures and maps of each class, and the records that name them."""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xgradcam.cam.explanation import ClassExplanation, Explanation
from xgradcam.cam.guided import gradient_picture, guided_map
from xgradcam.cam.methods import title_of
from xgradcam.errors import XGradCamError
from xgradcam.figures.sizing import signed_heatmap_of
from xgradcam.files import make_folder, write_files
from xgradcam.models.labels import label_of, name_only
from xgradcam.pictures.paint import HeatmapOf
from xgradcam.pictures.panel import score_line
from xgradcam.pictures.photograph import Photograph
from xgradcam.runs.figures import in_format, overlay_file, panel_file, picture_file
from xgradcam.runs.packs import ARCHIVE, PARQUET, WEBDATASET, key_of
from xgradcam.runs.page_maps import PAGE_MAPS, PagePictures, facts_of_page, maps_script
from xgradcam.runs.run import Explained, Run, Writing
from xgradcam.runs.scoring import Shape
from xgradcam.runs.sources import Source
from xgradcam.runs.views import View, views_of
from xgradcam.scores.outlining import outline_of

# File names of the methods' pictures, as in the original scripts; CAM itself must not take Grad-CAM's.
STEMS: Mapping[str, str] = {"grad-cam": "cam", "xgrad-cam": "X_cam", "cam": "linear-cam"}
PANEL, MAPS, PHOTOGRAPH, GUIDED_FILE = "panel.jpg", "maps.npz", "photograph.jpg", "gb.jpg"
# Ending of a record in a tar.
JSON = "json"
# Keys of a record that name a file, beside the methods' pictures.
OTHER_FILES = ("panel", "maps", "photograph", "page_maps")
# Precedes a method's name in the keys of guided pictures.
GUIDED = "guided "
Announce: TypeAlias = Callable[[Sequence[str]], None]
# Numbers (h, w) float32.
Map: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Results:
    """Results of one photograph, not yet written.

    records: one for each class and layer. files: names relative to the run's folder, or of members of a tar,
    with their contents. maps: of each record, by method, (h, w), where they are written as numbers.
    """

    records: Sequence[dict[str, Any]]
    files: Mapping[str, bytes]
    maps: Sequence[Mapping[str, Map]] = ()


def results_of(
    run: Run,
    source: Source,
    canvas: Photograph,
    explained: Explained,
    index: int,
    notes: Sequence[str] = (),
    shape: Shape | None = None,
    page: PagePictures | None = None,
) -> Results:
    """The results of one photograph, as `write_results` writes them."""
    contents: dict[str, bytes] = {}
    records = []
    views = views_of(run, source, explained, index, shape or (canvas.shape[0], canvas.shape[1]))
    if run.writing.output_format == PARQUET:
        # A fused picture has no map of its own.
        views = [view for view in views if not view.is_fused]
        maps = [{name: of[0].float().cpu().numpy() for name, of in view.first.maps.items()} for view in views]
        return Results([_record(run, source, view, {}, notes) for view in views], {}, maps)
    for view in views:
        made = _contents(run, canvas, view)
        names = {key: _name(run, source, view, suffix) for key, (suffix, _) in made.items()}
        contents |= {names[key]: content for key, (_, content) in made.items()}
        records.append(_record(run, source, view, names, notes))
        if run.writing.output_format == WEBDATASET:
            contents[_name(run, source, view, JSON)] = json.dumps(records[-1]).encode()
    if run.writing.page:
        of_page, by_key = _of_page(run, source, views, page or run.page_of(canvas))
        contents |= of_page
        written = run.writing.path_of(by_key["page_maps"])
        records = [
            {**record, "written": record["written"] or [written], **by_key, **facts_of_page(view.samples)}
            for record, view in zip(records, views, strict=True)
        ]
    return Results(records, contents)


def write_results(
    run: Run,
    source: Source,
    canvas: Photograph,
    explained: Explained,
    index: int,
    announce: Announce = lambda _names: None,
    notes: Sequence[str] = (),
    shape: Shape | None = None,
    page: PagePictures | None = None,
) -> Sequence[dict[str, Any]]:
    """Write the files of one photograph and return a record for each class and layer.

    canvas: pixels to draw on, of `Run.canvas`, (H, W, 3). explained: of the photograph's batch; index: its
    place there. announce: is told of the files' names before they are written. notes: on what was assumed of
    the photograph. shape: the photograph's, if the canvas has another. page: pictures for the page of the
    run, if it has one and they are made already.
    Raises XGradCamError where the files cannot be written.
    """
    writing = run.writing
    results = results_of(run, source, canvas, explained, index, notes, shape, page)
    contents = {writing.path_of(name): content for name, content in results.files.items()}
    for path in filter(os.path.exists, contents):
        if os.path.exists(source.path) and os.path.samefile(path, source.path):
            raise XGradCamError(f"{path} would be written over the photograph: choose an --output-dir")
        if path in writing.kept:
            raise XGradCamError(f"{path} would be written over a file of this run: choose an --output-dir")
    announce(list(results.files))
    folder = os.path.dirname(writing.path_of(source.stem)) or os.curdir
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        make_folder(Path(folder))
    write_files(contents)
    return results.records


def _of_page(
    run: Run, source: Source, views: Sequence[View], page: PagePictures
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The page's files of a photograph by their names, and their names by the records' keys."""
    outline, samples = outline_of(views[0].first.score_of, run.framing), [view.samples for view in views]
    script = maps_script(samples, outline, run.framing, views[0].shape, page.small)
    contents = {"photograph": (PHOTOGRAPH, page.large), "page_maps": (PAGE_MAPS, script)}
    named = {key: f"{source.stem}_{end}" for key, (end, _) in contents.items()}
    return {named[key]: content for key, (_, content) in contents.items()}, named


def _name(run: Run, source: Source, view: View, suffix: str) -> str:
    """A file's name, relative to the folder, with forward slashes; or a member's of a tar."""
    if run.writing.original_names:
        return suffix
    part = view.target if view.scoring is None else view.scoring.file_part
    if run.writing.output_format == WEBDATASET:
        layer = f"{view.file_part}." if len(run.layers) > 1 else ""
        return f"{key_of(source.stem, str(part))}.{layer}{suffix}"
    layer = f"{view.file_part}_" if len(run.layers) > 1 else ""
    return f"{source.stem}_{part}_{layer}{suffix}"


def _contents(run: Run, canvas: Photograph, view: View) -> dict[str, tuple[str, bytes]]:
    """Name endings and contents of a view's files: by method, and `panel` and `maps`."""
    heatmaps, outline = view.heatmaps(), outline_of(view.first.score_of, run.framing)
    if run.writing.style.signed:
        heatmaps = {method: signed_heatmap_of(_samples_of(view, method), method) for method in heatmaps}
    made = {}
    # Of a picture without a colour bar nothing is named.
    name = _header(run, view)[0] if run.writing.is_figure else ""
    for method, heatmap in heatmaps.items() if run.writing.pictures else ():
        about = canvas, _samples_of(view, method), method, heatmap, outline, name
        content = overlay_file(run.writing, run.framing, *about)
        made[method] = in_format(picture_of(method), run.writing), content
    if isinstance(view.first, ClassExplanation) and view.first.guided is not None:
        own = {method: heatmap for method, heatmap in view.heatmaps().items() if method in view.first.maps}
        made |= _guided(run.writing, run.drawn(view.first.guided), own, run.framing.size)
    if run.writing.panel:
        title, detail = _header(run, view)
        detail = f"{view.file_part}, {detail}" if len(run.layers) > 1 else detail
        layers = {} if view.finer is None else dict.fromkeys(view.finer.maps, f", {run.finer}")
        captioned = view.beside or {
            title_of(name) + layers.get(name, ""): heatmap for name, heatmap in heatmaps.items()
        }
        content = panel_file(run.writing, run.framing, canvas, captioned, (title, detail), outline)
        made["panel"] = in_format(PANEL, run.writing), content
    if run.writing.save_maps and not view.is_fused:
        made["maps"] = (MAPS, _npz(view.first))
    return made


def _samples_of(view: View, method: str) -> Sequence[Explanation]:
    """The explanations that a method's map is of: at the view's layers, or at the finer one."""
    return (view.finer,) if view.finer is not None and method in view.finer.maps else view.samples


def _header(run: Run, view: View) -> tuple[str, str]:
    """The title and the detail of a panel."""
    score = float(view.first.score)
    if view.scoring is not None:
        scoring = view.scoring
        if view.beside and scoring.labels is not None:
            scoring = replace(scoring, labels=[*map(name_only, scoring.labels)])
        return scoring.words(view.first.score_of, run.framing, view.shape), score_line(score)
    title = name_only(label_of(run.classifier.labels, view.target))
    return title, score_line(score, view.probability)


def _of_interest(run: Run, view: View) -> dict[str, Any]:
    """The part of a record on the class or the score that is explained."""
    score = view.first.score
    if view.scoring is not None:
        return {**view.scoring.record(view.first.score_of, run.framing, view.shape), "score": float(score)}
    logits = view.of_class.logits
    return {
        "class_index": view.target,
        "class_name": label_of(run.classifier.labels, view.target),
        "score": float(score),
        "probability": view.probability,
        "rank": int((logits > score[:, None]).sum()) + 1,
        "classes": logits.shape[1],
    }


def _record(
    run: Run, source: Source, view: View, names: Mapping[str, str], notes: Sequence[str]
) -> dict[str, Any]:
    explanation, finer = view.first, () if view.finer is None else view.finer.maps
    guided = {key[len(GUIDED) :]: name for key, name in names.items() if key.startswith(GUIDED)}
    budget = {term: _finite(float(value)) for term, value in explanation.budget.items()}
    axioms = {"conservation_error": explanation.conservation, "sensitivity_error": explanation.sensitivity}
    return {
        "image": source.path,
        **_of_interest(run, view),
        **view.about,
        "model": run.classifier.name,
        "layer": view.layer,
        "files": {key: name for key, name in names.items() if key in explanation.maps or key in finer},
        **({"finer_layer": {method: run.finer for method in finer}} if finer else {}),
        **{key: name for key, name in names.items() if key in OTHER_FILES},
        **({"guided": guided} if guided else {}),
        **({} if run.writing.is_packed else {"written": [*map(run.writing.path_of, names.values())]}),
        **{
            axiom: {method: _finite(float(error)) for method, error in errors.items()}
            for axiom, errors in axioms.items()
            if errors and not view.is_fused
        },
        **({"budget": budget} if budget and not view.is_fused else {}),
        **({"depth": _depth(explanation)} if explanation.depth and not view.is_fused else {}),
        "notes": [] if view.is_fused else [*explanation.notes[0], *_notes_on(view.finer), *notes],
    }


def _notes_on(finer: Explanation | None) -> Sequence[str]:
    return () if finer is None else finer.notes[0]


def _depth(explanation: Explanation) -> dict[str, dict[str, float | None]]:
    return {
        method: {block: _finite(float(share)) for block, share in of.items()}
        for method, of in explanation.depth.items()
    }


def files_of(record: Mapping[str, Any]) -> list[str]:
    """The files that a record names, relative to the run's folder."""
    if ARCHIVE in record:
        return [record[ARCHIVE]]
    guided = record.get("guided", {})
    return [
        *record["files"].values(),
        *guided.values(),
        *(record[key] for key in OTHER_FILES if key in record),
    ]


def picture_of(method: str) -> str:
    """The file name of a method's picture, as it is for one photograph, class and layer."""
    return f"{stem_of(method)}.jpg"


def stem_of(method: str) -> str:
    """The file name of a method's picture, without its ending."""
    return STEMS.get(method, method)


def _guided(
    writing: Writing, gradient: Tensor, heatmaps: Mapping[str, HeatmapOf], size: tuple[int, int]
) -> dict[str, tuple[str, bytes]]:
    """Pictures of guided backpropagation (1, 3, h, w), and of each heatmap times it."""
    made = {GUIDED: (in_format(GUIDED_FILE, writing), picture_file(writing, gradient_picture(gradient[0])))}
    for method, heatmap in heatmaps.items():
        hot = torch.from_numpy(heatmap(size)).to(gradient)[None]
        picture = gradient_picture(guided_map(gradient, hot)[0])
        name = in_format(f"{stem_of(method)}_{GUIDED_FILE}", writing)
        made[GUIDED + method] = name, picture_file(writing, picture)
    return made


def _npz(explanation: Explanation) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        **{method: signed[0].cpu().numpy() for method, signed in explanation.maps.items()},
        **{f"constants_{kind}": of[0].cpu().numpy() for kind, of in explanation.constants_by_kind.items()},
    }
    if isinstance(explanation, ClassExplanation):
        arrays["scores"] = explanation.logits[0].cpu().numpy()
        arrays["class_index"] = int(explanation.targets[0])
    else:
        arrays["scores"] = explanation.score.cpu().numpy()
    # NumPy before 2.1 takes `allow_pickle` for one of the arrays.
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it: a score of 0 has no relative error."""
    return value if np.isfinite(value) else None
