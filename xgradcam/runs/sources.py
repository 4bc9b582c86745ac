"""The photographs of a run, and the names of their results."""

import glob
import hashlib
import io
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xgradcam.errors import XGradCamError
from xgradcam.pictures.photograph import Photograph, decode_image, read_image

STDIN = "-"
# Limit on a name in bytes, below the 255 of file systems: a class and an ending are added.
LONGEST = 200
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .avif .jp2".split()
)
# Names of results: those of an earlier run are not photographs of this one.
MADE = re.compile(
    r"_\d+_(.+_)?(panel|gb|[a-z-]*cam[a-z+-]*(_gb)?)\.jpg$|_photograph\.jpg$|^(X_)?cam(_gb)?\.jpg$"
)


@dataclass(frozen=True)
class Source:
    """A photograph to explain.

    path: of the file, or '-' for stdin. stem: how the names of its results begin, a relative path that no
    other photograph of the run has. photograph: its pixels, where they were read before the run.
    """

    path: str
    stem: Path
    photograph: Photograph | None = field(default=None, compare=False, repr=False)

    def read(self) -> Photograph:
        """The photograph, (H, W, 3) uint8; XGradCamError where it cannot be read."""
        return read_photograph(self.path) if self.photograph is None else self.photograph


def find_photographs(places: Sequence[str], output_dir: Path) -> list[Source]:
    """The photographs at these places: files, folders with their subfolders, patterns, '-' for stdin.

    They come in the order given, those of a folder or a pattern sorted, each once. Results keep the
    photographs' places in a folder. In folders, `output_dir` and results of earlier runs are skipped.
    Raises XGradCamError for a place without a photograph.
    """
    found: dict[str, Source] = {}
    for place in places:
        for source in _at(place, output_dir):
            found.setdefault(source.path if source.path == STDIN else os.path.realpath(source.path), source)
    return _with_own_stems(list(found.values()))


def read_photograph(path: str) -> Photograph:
    """The photograph in a file, or on stdin for '-': (H, W, 3) uint8 RGB; XGradCamError for anything else."""
    if path != STDIN:
        return read_image(path)
    return decode_image(io.BytesIO(sys.stdin.buffer.read()), "stdin")


def state_of(path: str) -> dict[str, int]:
    """A file's size in bytes and time of change in nanoseconds; -1 where there is no file."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return {"bytes": -1, "modified": -1}
    return {"bytes": state.st_size, "modified": state.st_mtime_ns}


def _at(place: str, output_dir: Path) -> list[Source]:
    if place == STDIN:
        return [Source(STDIN, Path("stdin"))]
    if os.path.isdir(place):
        sources = [_within(place, path) for path in _walk(place, output_dir)]
        if not sources:
            raise XGradCamError(f"no photographs in the folder {place}")
        return sources
    if glob.has_magic(place) and not os.path.lexists(place):
        paths = sorted(path for path in glob.glob(place, recursive=True) if os.path.isfile(path))
        if not paths:
            raise XGradCamError(f"no photograph matches {place!r}")
        root = re.split(r"[*?[]", place)[0].rpartition("/")[0]
        return [_within(root, path) for path in paths]
    return [Source(place, Path(Path(place).stem))]


def _within(root: str, path: str) -> Source:
    below = Path(os.path.relpath(path, root or os.curdir))
    # A pattern such as 'a*/../../x.jpg' leaves its own folder.
    return Source(path, Path(Path(path).stem) if ".." in below.parts else below.with_suffix(""))


def _walk(folder: str, output_dir: Path) -> Iterator[str]:
    skipped = os.path.realpath(output_dir)
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != skipped
        )
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            path = os.path.join(parent, name)
            # A broken link is listed, so that its error is reported; a pipe would block.
            is_pipe = os.path.exists(path) and not os.path.isfile(path)
            if suffix in SUFFIXES and not name.startswith(".") and not MADE.search(name) and not is_pipe:
                yield path


def _with_own_stems(sources: list[Source]) -> list[Source]:
    """The sources with unique stems: where several share one, it gets the ending, or the folders too."""
    sources = [replace(source, stem=_short(source.stem)) for source in sources]
    sources = _where_shared(sources, lambda source: source.stem.with_name(os.path.basename(source.path)))
    sources = _where_shared(sources, lambda source: Path(_below_all(source.path, sources)))
    taken: set[str] = set()
    unique = []
    for source in sources:
        stem, number = source.stem, 1
        while _key(stem) in taken:
            number += 1
            stem = source.stem.with_name(f"{source.stem.name}-{number}")
        taken.add(_key(stem))
        unique.append(replace(source, stem=stem))
    return unique


def _short(stem: Path) -> Path:
    """The stem, shortened to leave room for a class and an ending in a file's name."""
    if len(os.fsencode(stem.name)) <= LONGEST:
        return stem
    digest = hashlib.sha256(os.fsencode(stem.name)).hexdigest()[:8]
    return stem.with_name(f"{stem.name[: LONGEST // 4]}-{digest}")


def _where_shared(sources: list[Source], stem_of: Callable[[Source], Path]) -> list[Source]:
    count: defaultdict[str, int] = defaultdict(int)
    for source in sources:
        count[_key(source.stem)] += 1
    return [
        replace(source, stem=stem_of(source))
        if count[_key(source.stem)] > 1 and source.path != STDIN
        else source
        for source in sources
    ]


def _below_all(path: str, sources: Iterable[Source]) -> str:
    """The path relative to the folder that holds all photographs."""
    paths = [os.path.abspath(source.path) for source in sources if source.path != STDIN]
    try:
        return os.path.relpath(os.path.abspath(path), os.path.commonpath([os.path.dirname(p) for p in paths]))
    except ValueError:  # on several drives
        return os.path.basename(path)


def _key(stem: Path) -> str:
    """A key that is equal for names which some file systems do not tell apart."""
    return str(stem).casefold()
