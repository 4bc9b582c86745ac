"""The photographs of a run, and the names of their results."""

import glob
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xgradcam.errors import XGradCamError, listed
from xgradcam.pictures.bands import Bands, read_bands
from xgradcam.pictures.decoding import Reading, decode
from xgradcam.pictures.levels import ValueRange
from xgradcam.pictures.photograph import content_of, decode_image, read_file, reading_of
from xgradcam.runs.held import Held, container_of
from xgradcam.runs.listing import Skip, matching, photographs_in, root_of

STDIN = "-"
# Limit on a name in bytes, below the 255 of file systems: a class and an ending are added.
LONGEST = 200


@dataclass(frozen=True, slots=True)
class Source:
    """A photograph to explain.

    path: of the file, or '-' for stdin. stem: how the names of its results begin, a relative path with
    forward slashes that no other photograph of the run has, as text: a `Path` takes 200 bytes more. reading:
    its pixels and notes, where they were read before the run.
    bands: those of a network of other than one or three channels. truth: its true class, if that is known.
    held: where its bytes are, if it is no file of its own; the path names it then.
    """

    path: str
    stem: str
    reading: Reading | None = field(default=None, compare=False, repr=False)
    bands: Bands | None = None
    truth: int | None = None
    held: Held | None = field(default=None, compare=False, repr=False)

    @property
    def file(self) -> str:
        """The file that is read: its own, or the one that holds it."""
        return self.path if self.held is None else self.held.place

    def read(
        self, value_range: ValueRange | None = None, before: Callable[[int], None] = lambda _pixels: None
    ) -> Reading:
        """The photograph and the notes on it; XGradCamError where it cannot be read.

        value_range: the values of black and white, where there are more than 8 bits. before: called with the
        number of pixels before they are decoded.
        """
        if self.reading is not None:
            return self.reading
        if self.held is None:
            return read_photograph(self.path, value_range, before, self.bands)
        content = self.held.content(self.path)
        if self.bands is not None:
            return read_bands(content, self.path, self.bands, value_range, before)
        return decode(content, self.path, value_range, before)


def find_photographs(
    places: Sequence[str],
    output_dir: Path,
    skip: Skip = lambda _kind: None,
    expand: Callable[[str], list[Source] | None] = lambda _place: None,
) -> list[Source]:
    """The photographs at these places: files, folders with their subfolders, patterns, '-' for stdin.

    They come in the order given, those of a folder or a pattern sorted, each once. Results keep the
    photographs' places in a folder. In folders, `output_dir` and results of earlier runs are skipped.
    skip: called with the kind of each file or folder that is passed over. expand: the photographs at a place
    that means others than these, such as those in an archive, else None. Raises XGradCamError for a place
    without a photograph.
    """
    found: dict[str, Source] = {}
    for place in places:
        expanded = None if place == STDIN else expand(place)
        for source in _at(place, output_dir, skip) if expanded is None else expanded:
            is_file = source.path != STDIN and source.held is None
            found.setdefault(os.path.realpath(source.path) if is_file else source.path, source)
    return _with_own_stems(list(found.values()))


def read_photograph(
    path: str,
    value_range: ValueRange | None = None,
    before: Callable[[int], None] = lambda _pixels: None,
    bands: Bands | None = None,
) -> Reading:
    """The photograph in a file, or on stdin for '-', as `Source.read` returns it."""
    if bands is not None and path == STDIN:
        raise XGradCamError(f"a photograph of {bands.count} bands is read from a file, not from stdin")
    if bands is not None:
        return reading_of(
            path, lambda file, name: read_bands(content_of(file), name, bands, value_range, before)
        )
    if path != STDIN:
        return read_file(path, value_range, before)
    return decode_image(sys.stdin.buffer, "stdin", value_range, before)


def state_of(path: str) -> dict[str, int]:
    """A file's size in bytes and time of change in nanoseconds; -1 where there is no file.

    Of a photograph in an archive or a table they are those of the archive. A URL's are not known.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        container = container_of(path)
        return {"bytes": -1, "modified": -1} if container is None else state_of(container)
    return {"bytes": state.st_size, "modified": state.st_mtime_ns}


def _at(place: str, output_dir: Path, skip: Skip) -> list[Source]:
    if place == STDIN:
        return [Source(STDIN, "stdin")]
    if os.path.isdir(place):
        passed: Counter[str] = Counter()
        sources = [
            source_below(place, path) for path in photographs_in(place, output_dir, _both(skip, passed))
        ]
        if not sources:
            kinds = [f"{count} {kind}" for kind, count in passed.most_common()]
            others = f" (skipped: {listed(kinds, 5)})" if kinds else ""
            raise XGradCamError(f"no photographs in the folder {place}{others}")
        return sources
    if glob.has_magic(place) and not os.path.lexists(place):
        paths = matching(place, skip)
        if not paths:
            raise XGradCamError(f"no photograph matches {place!r}")
        return [source_below(root_of(place), path) for path in paths]
    return [Source(place, os.path.splitext(os.path.basename(place))[0] or "photograph")]


def _both(skip: Skip, counter: Counter[str]) -> Skip:
    """Tell `skip`, and count."""

    def tell(kind: str) -> None:
        counter[kind] += 1
        skip(kind)

    return tell


def source_below(root: str, path: str) -> Source:
    """A photograph in a file, whose results keep its place below a folder."""
    below = os.path.relpath(path, root or os.curdir)
    # A pattern such as 'a*/../../x.jpg' leaves its own folder.
    below = os.path.basename(path) if ".." in Path(below).parts else below
    # Not by `Path.with_suffix`: '..jpg' has no name in front of its ending.
    return Source(path, Path(os.path.splitext(below)[0]).as_posix())


def _with_own_stems(sources: list[Source]) -> list[Source]:
    """The sources with unique stems: where several share one, it gets the ending, or the folders too."""
    sources = [replace(source, stem=_short(source.stem)) for source in sources]
    sources = _where_shared(sources, lambda source: _with_name(source.stem, os.path.basename(source.path)))
    shared = _shared_folder(sources)
    sources = _where_shared(sources, lambda source: Path(_below(shared, source.path)).as_posix())
    numbers: dict[str, int] = {}
    unique = []
    for source in sources:
        first = stem = _short(source.stem)
        while _key(stem) in numbers:
            numbers[_key(first)] += 1
            stem = f"{first}-{numbers[_key(first)]}"
        numbers[_key(stem)] = 1
        unique.append(replace(source, stem=stem))
    return unique


def _short(stem: str) -> str:
    """The stem, shortened to leave room for a class and an ending in a file's name."""
    return _with_name(stem, short_name(stem.rpartition("/")[2], LONGEST))


def _with_name(stem: str, name: str) -> str:
    """The stem with another last part."""
    above, slash, _ = stem.rpartition("/")
    return f"{above}{slash}{name}"


def short_name(name: str, most: int) -> str:
    """The name if it has at most so many bytes; else its beginning, and a digest of it all."""
    encoded = os.fsencode(name)
    if len(encoded) <= most:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    # A letter has at most 4 bytes.
    return f"{name[: most // 4]}-{digest}"


def _where_shared(sources: list[Source], stem_of: Callable[[Source], str]) -> list[Source]:
    count = Counter(_key(source.stem) for source in sources)
    return [
        replace(source, stem=stem_of(source))
        if count[_key(source.stem)] > 1 and source.path != STDIN
        else source
        for source in sources
    ]


def _shared_folder(sources: Iterable[Source]) -> str:
    """The folder that holds all photographs; '' where there is none."""
    folders = {os.path.dirname(os.path.abspath(source.path)) for source in sources if source.path != STDIN}
    try:
        return os.path.commonpath(folders)
    except ValueError:  # on several drives
        return ""


def _below(folder: str, path: str) -> str:
    """The path relative to a folder above it; its last part where there is none."""
    return os.path.relpath(os.path.abspath(path), folder) if folder else os.path.basename(path)


def _key(stem: str) -> str:
    """A key that is equal for names which some file systems do not tell apart."""
    return stem.casefold()
