"""The photographs of an evaluation, and the class that each one is measured for."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from xgradcam.errors import XGradCamError
from xgradcam.models.labels import label_of
from xgradcam.models.stated import classes_of_folders
from xgradcam.pictures.levels import ValueRange
from xgradcam.pictures.photograph import read_image
from xgradcam.runs.sources import find_photographs


@dataclass(frozen=True)
class LabelledPhotograph:
    """The path of a photograph and its class; target: None for the class of the highest score."""

    path: str
    target: int | None


def photographs_at(
    places: Sequence[str], output_dir: Path, labels: Sequence[str] | None, count: int | None
) -> list[LabelledPhotograph]:
    """The photographs in files and folders, each with the class that its folder is named after.

    output_dir: a folder to skip. labels: the model's class names. count: of its classes; None if unknown.
    Raises XGradCamError for a place without any, and for a folder with the name of several classes.
    """
    sources = find_photographs(places, output_dir) if places else []
    folders = {Path(source.path).parent for source in sources}
    targets = classes_of_folders(sorted(folders), labels, count)
    return [LabelledPhotograph(source.path, targets[Path(source.path).parent]) for source in sources]


class FolderClass(NamedTuple):
    """The class of the photographs in a folder, in words, and the number of these photographs."""

    folder: str
    name: str
    photographs: int


def by_folder(photographs: Iterable[LabelledPhotograph], labels: Sequence[str] | None) -> list[FolderClass]:
    """The classes of the photographs of each folder, in the order of the photographs."""
    count = Counter((str(Path(photograph.path).parent), photograph.target) for photograph in photographs)
    return [FolderClass(folder, _in_words(target, labels), many) for (folder, target), many in count.items()]


def _in_words(target: int | None, labels: Sequence[str] | None) -> str:
    if target is None:
        return "the class of the highest score"
    label = label_of(labels, target)
    return label if label == f"class {target}" else f"class {target} ({label})"


def installed_photographs() -> Iterator[LabelledPhotograph]:
    """Photographs that come with foolbox (20, with ImageNet classes), scikit-image (3) and scikit-learn (2).

    Raises XGradCamError if one of these packages is not installed.
    """
    for path in sorted(_folder("foolbox", "data").glob("imagenet_*.jpg")):
        yield LabelledPhotograph(str(path), int(path.stem.rpartition("_")[2]))
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        yield LabelledPhotograph(str(_folder("skimage", "data") / name), None)
    for name in ("china.jpg", "flower.jpg"):
        yield LabelledPhotograph(str(_folder("sklearn", "datasets/images") / name), None)


def _folder(package: str, below: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise XGradCamError(f"the package {package} is not installed: pip install 'xgradcam[test]'")
    return Path(found.origin).parent / below


def readable(
    photographs: Sequence[LabelledPhotograph],
    skipped: Callable[[str], None],
    value_range: ValueRange | None = None,
    note: Callable[[str], None] = lambda _line: None,
) -> list[LabelledPhotograph]:
    """The photographs that can be read. skipped: called with the reason for each of the others.

    value_range: values of black and white, see `read_image`. note: called with each line on what was assumed.
    All are read before the first is measured: measuring takes hours, and a bad file should not end it.
    """
    good = []
    for photograph in photographs:
        try:
            read_image(photograph.path, value_range, note)
        except XGradCamError as error:
            skipped(str(error))
        else:
            good.append(photograph)
    return good
