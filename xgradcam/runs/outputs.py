"""The files that a run can write: each of a name of its own, and over no file but those of earlier runs."""

import os
import re
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePath
from typing import get_args

import cv2
import numpy as np

from xgradcam.cam.methods import METHODS
from xgradcam.errors import XGradCamError
from xgradcam.files import open_regular
from xgradcam.operations.constants import Kind
from xgradcam.pictures.marks import is_marked_picture
from xgradcam.pictures.photograph import JPEG_QUALITY
from xgradcam.runs.figures import in_format
from xgradcam.runs.gallery import PAGE
from xgradcam.runs.journal import names_in
from xgradcam.runs.packs import is_own_pack, packs_in
from xgradcam.runs.page_maps import MARK, PAGE_MAPS
from xgradcam.runs.results import GUIDED_FILE, MAPS, PANEL, PHOTOGRAPH, picture_of, stem_of
from xgradcam.runs.run import COMPLETE_CAM, Run
from xgradcam.runs.views import FUSED, layer_part

# The report on a run, in its folder.
REPORT = "report.html"
# Each run for one photograph writes them anew, as the original scripts do.
ORIGINAL_NAMES = ("cam.jpg", "X_cam.jpg")
# A class in a file's name.
CLASS = re.compile(r"_(\d+)_")
# The same, or the contrast of two classes.
MISTAKE = re.compile(r"_(\d+(?:-less-\d+)?)_")
GENERATOR = b'name="generator" content="xgradcam"'
# What is in our archives of maps: always the scores, perhaps other numbers, and maps by their methods.
SCORES = "scores.npy"
NUMBERS = {SCORES, "class_index.npy", *(f"constants_{kind}.npy" for kind in get_args(Kind))}
MAP_NAMES = {f"{method}.npy" for method in METHODS}
# Endings of the page's files of a photograph.
OF_PAGE = (f"_{PHOTOGRAPH}", f"_{PAGE_MAPS}")
PICTURES = (".jpg", ".png", ".pdf", ".svg")
OTHER_FOLDER = "choose an --output-dir"


@dataclass(frozen=True)
class Outputs:
    """The names that the files of a run can have.

    Raises XGradCamError, naming both, where two results would have one name.
    """

    run: Run

    def __post_init__(self) -> None:
        for stem, photograph in self.stems.items():
            if PurePath(stem).is_absolute() or ".." in PurePath(stem).parts:
                raise XGradCamError(f"results of {photograph} would lie outside of the folder: name it alone")
        self._require_layers_apart()
        self._require_stems_apart()

    @cached_property
    def endings(self) -> frozenset[str]:
        """The endings that can follow stem and class in a name."""
        run = self.run
        pictures = [stem_of(method) for method in run.explaining.methods]
        endings = [f"{picture}.jpg" for picture in pictures] + [PANEL] * run.writing.panel
        endings += [picture_of(COMPLETE_CAM)] * (run.finer is not None)
        if run.explaining.guided:
            endings += [GUIDED_FILE, *(f"{picture}_{GUIDED_FILE}" for picture in pictures)]
        endings = [in_format(ending, run.writing) for ending in endings]
        maps = [MAPS] * run.writing.save_maps
        if len(run.layers) == 1:
            return frozenset([*endings, *maps])
        found = {f"{layer_part(layer)}_{ending}" for layer in run.layers for ending in [*endings, *maps]}
        return frozenset(found | {f"{FUSED}_{ending}" for ending in endings})

    @cached_property
    def _part(self) -> re.Pattern[str]:
        """The class, or the score, in a file's name."""
        if self.run.scoring is not None:
            return re.compile(f"_({re.escape(self.run.scoring.file_part)})_")
        return MISTAKE if self.run.mistakes else CLASS

    @cached_property
    def stems(self) -> dict[str, str]:
        """Stem -> photograph."""
        return {source.stem: source.path for source in self.run.sources}

    def is_result(self, name: str, stem: str) -> bool:
        """True if this can be the name of a result whose stem is this one."""
        rest = name.removeprefix(stem)
        found = self._part.match(rest)
        of_class = found is not None and rest[found.end() :] in self.endings
        return name.startswith(stem) and (of_class or rest in OF_PAGE)

    def require_free(self, known: Collection[str]) -> None:
        """Raise XGradCamError for a file in the way: one that is read, or that no earlier run has made.

        known: names of files that earlier runs made, relative to the folder. Others are told by their
        content.
        """
        for name in self._in_the_way():
            path = self.run.writing.folder / name
            kept = path in self.run.writing.kept
            # A picture of an earlier run may be a photograph of this one. It is kept when it is its turn.
            if kept and (self.run.writing.is_packed or not (name in known and self._classes is None)):
                raise XGradCamError(f"{path} would be written over {_role(path, self.run)}: {OTHER_FOLDER}")
            is_ours = is_own_pack(path) if self.run.writing.is_packed else is_own(path)
            if kept or name in known or is_ours or (self._is_unmarked and is_unmarked(path)):
                continue
            raise XGradCamError(
                f"{path} is there already, and not by xgrad-cam, or changed since: move it, or choose "
                "another --output-dir"
            )

    @cached_property
    def _is_unmarked(self) -> bool:
        """True if the folder's record names pictures of an earlier version, which did not mark them."""
        folder = self.run.writing.folder
        return any(is_unmarked(folder / name) for name in names_in(folder)[0])

    def _in_the_way(self) -> Iterator[str]:
        """Names of files in the folder that the run can write over, but those that each run writes anew."""
        folder, writing = self.run.writing.folder, self.run.writing
        if writing.is_packed:
            yield from (name for name, _ in packs_in(folder, writing.output_format))
            return
        if writing.original_names:
            for name in sorted(self.endings):
                path = folder / name
                there = os.path.lexists(path) and not path.is_dir()
                if there and (name not in ORIGINAL_NAMES or path in writing.kept):
                    yield name
            return
        for parent in sorted({PurePath(stem).parent.as_posix() for stem in self.stems}):
            for name in _files_in(folder / parent):
                if self._can_be(name := PurePath(parent, name).as_posix()):
                    yield name
        for name in [PAGE] * writing.page + [REPORT] * writing.report:
            page = folder / name
            if os.path.lexists(page) and (page in writing.kept or not is_own(page)):
                yield name

    def _can_be(self, name: str) -> bool:
        """True if this can be the name of a result of any photograph and a class that is asked for."""
        if self.run.writing.page and name.endswith(OF_PAGE):
            return any(name.removesuffix(ending) in self.stems for ending in OF_PAGE)
        return any(
            name[: found.start()] in self.stems
            and name[found.end() :] in self.endings
            and self._is_asked(found[1])
            for start, sign in enumerate(name)
            if sign == "_" and (found := self._part.match(name, start))
        )

    def _is_asked(self, part: str) -> bool:
        return self.run.scoring is not None or self._classes is None or int(part) in self._classes

    @cached_property
    def _classes(self) -> set[int] | None:
        """The classes asked for; None if they depend on the photograph."""
        classes = {index for index in self.run.classes if isinstance(index, int)}
        return classes if all(isinstance(index, int) for index in self.run.classes) else None

    def _require_layers_apart(self) -> None:
        """Raise XGradCamError for layers that are one in a file's name."""
        if len(self.run.layers) == 1:
            return
        fold = str.casefold if _ignores_case(self.run.writing.folder) else str
        parts = {fold(FUSED): "the fused map"}
        for layer in self.run.layers:
            other = parts.setdefault(fold(layer_part(layer)), f"layer {layer!r}")
            if other != f"layer {layer!r}":
                raise XGradCamError(
                    f"the files of layer {layer!r} and of {other} would have the same names: "
                    "explain them one by one (--target-layer)"
                )

    def _require_stems_apart(self) -> None:
        """Raise XGradCamError where a class and a layer read as a part of another photograph's name."""
        for ending in self.endings:
            for found in self._part.finditer(f"_{ending}"):
                if f"_{ending}"[found.end() :] not in self.endings:
                    continue
                between = f"_{ending}"[: found.start()]
                for stem, photograph in self.stems.items():
                    longer = re.fullmatch(f"(.+){self._part.pattern[:-1]}{re.escape(between)}", stem)
                    other = self.stems.get(longer[1]) if longer and self._is_asked(longer[2]) else None
                    if other is not None and self._is_asked(found[1]):
                        raise XGradCamError(
                            f"results of {other} and of {photograph} would have the same names, ending in "
                            f"{ending}: explain them one by one, or into folders of their own"
                        )


def _role(path: Path, run: Run) -> str:
    """The kind of file that must stay: the photograph, or another one that the run reads."""
    is_photograph = any(os.path.exists(source.path) and path.samefile(source.path) for source in run.sources)
    return "the photograph" if is_photograph else "a file that this run reads"


def _files_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.is_dir())
    except OSError:
        return []


def _ignores_case(folder: Path) -> bool:
    """True if the folder, or its parent that is there, has the same name in the other case."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    other = place.with_name(place.name.swapcase()) if place.name else place
    return other != place and other.exists() and other.samefile(place)


def is_own(path: Path) -> bool:
    """True if a file is what this package writes: a marked picture, maps, or the page of a run."""
    try:
        with open_regular(path) as file:
            if path.suffix == ".npz":
                with zipfile.ZipFile(file) as archive:
                    names = set(archive.namelist())
                return SCORES in names and not MAP_NAMES.isdisjoint(names) and names - NUMBERS <= MAP_NAMES
            if path.suffix == ".js":
                return file.read(len(MARK)) == MARK
            if path.suffix in PICTURES:
                return is_marked_picture(file.read())
            return GENERATOR in file.read(4096)
    except (OSError, ValueError, XGradCamError, zipfile.BadZipFile):
        return False


def is_unmarked(path: Path) -> bool:
    """True if a picture can be of an earlier version of this package, which compressed it as OpenCV does."""
    try:
        with open_regular(path) as file:
            return path.suffix == ".jpg" and file.read(4096).startswith(_picture_header())
    except (OSError, ValueError, XGradCamError):
        return False


@cache
def _picture_header() -> bytes:
    """The begin of each picture of OpenCV's in our quality, up to its size: how it is compressed."""
    black = np.zeros((8, 8, 3), np.uint8)
    picture = cv2.imencode(".jpg", black, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()
    return picture[: picture.index(b"\xff\xc0")]
