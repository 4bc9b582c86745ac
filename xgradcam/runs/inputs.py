"""Places of photographs beside files and folders: archives, tables, lists, URLs and braces."""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from xgradcam.errors import XGradCamError, shown
from xgradcam.files import open_regular
from xgradcam.pictures.formats import HEAD, READ, kind_of
from xgradcam.runs.held import Fetched, Member, Refused, members_of, stem_in
from xgradcam.runs.listing import Skip, is_same_folder, matching, photographs_in, root_of
from xgradcam.runs.remote import is_url, local_path, name_of, path_of, reading, remote_files
from xgradcam.runs.sources import Source, source_below
from xgradcam.runs.tables import Row, rows_of

TAR, TABLES, LISTS = ".tar", (".parquet", ".pq"), (".txt", ".lst", ".list")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Braces as a shell expands them: {000..010}, or {a,b}.
BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
MOST = 1_000_000


@dataclass(frozen=True)
class Expansion:
    """Finds the photographs that a place means which is neither a photograph nor a folder.

    column: of the images in a table, or the ending of those in a tar, if it is said. skip: called with the
    kind of what is passed over. is_only: there is no other place. output_dir: passed over in patterns. An
    archive among other places that cannot be read is a photograph that fails; XGradCamError for an only one.
    """

    column: str | None
    skip: Skip
    is_only: bool = True
    output_dir: Path | None = None

    def __call__(self, place: str) -> list[Source] | None:
        """The photographs at a place; None for a plain file, folder or '-'."""
        if is_url(place):
            return self._or_refused(place, self._behind, self.is_only)
        if glob.has_magic(place) and not os.path.lexists(place):
            return self._matching(place)
        if os.path.isdir(place):
            return None
        return self._or_refused(place, self._within, self.is_only)

    def _matching(self, pattern: str) -> list[Source]:
        """The photographs that a pattern means: as a shell's expansion of it would."""
        paths = matching(pattern, self.skip, folders=True)
        is_only = self.is_only and len(paths) == 1
        root = root_of(pattern)
        sources: list[Source] = []
        for path in paths:
            if not os.path.isdir(path):
                sources += self._or_refused(path, self._within, is_only) or [source_below(root, path)]
            elif self.output_dir is None or not is_same_folder(path, self.output_dir):
                below = photographs_in(path, self.output_dir, self.skip)
                sources += [source_below(path, one) for one in below]
        if not sources:
            is_of_archives = os.path.splitext(pattern)[1].lower() in (TAR, *TABLES)
            raise XGradCamError(f"no {'file' if is_of_archives else 'photograph'} matches {pattern!r}")
        return sources

    def _within(self, place: str) -> list[Source] | None:
        """The photographs that a file holds or lists; None for any other file."""
        is_list = os.path.splitext(place)[1].lower() in LISTS and os.path.isfile(place)
        return self._in_list(place) if is_list else self._in_file(place)

    def _behind(self, url: str) -> list[Source]:
        """The photographs that a URL means."""
        urls = remote_files(url)
        if not urls:
            raise XGradCamError(f"no photographs at {url}")
        return self._in_each(urls, lambda one: _fetched(one, url))

    def _in_each(self, places: list[str], plain: Callable[[str], Source]) -> list[Source]:
        """The photographs in several files; plain: makes one of a file that is none of archives or tables."""
        is_only = self.is_only and len(places) == 1
        found = (self._or_refused(place, self._in_file, is_only) or [plain(place)] for place in places)
        return [source for sources in found for source in sources]

    def _or_refused(
        self, place: str, read: Callable[[str], list[Source] | None], is_only: bool
    ) -> list[Source] | None:
        """The photographs that `read` finds at the place; among other places one that fails, if it cannot."""
        try:
            return read(place)
        except XGradCamError as error:
            if is_only:
                raise
            return [
                Source(
                    place,
                    stem_in(os.path.basename(place), "photograph"),
                    held=Refused(place, str(error)),
                )
            ]

    def _in_file(self, place: str) -> list[Source] | None:
        """The photographs in an archive or a table; None for another file."""
        path = path_of(place) if is_url(place) else place
        suffix = os.path.splitext(path)[1].lower()
        if path.lower().endswith(COMPRESSED):
            raise XGradCamError(f"the archive {place} is compressed: unpack it, to a .tar or to files")
        if suffix == TAR:
            members = members_of(place, self.column, self.skip)
            return [
                Source(f"{place}/{safe}", stem_in(safe, "photograph"), held=member)
                for name, member in members
                for safe in [_safe(name)]
            ]
        if suffix in TABLES:
            first = os.path.splitext(os.path.basename(path))[0]
            return [
                Source(f"{place}#{number}", stem_in(name or "", f"{first}-{number:06}"), held=row)
                for number, (name, row) in enumerate(rows_of(place, self.column))
            ]
        return None

    def _in_list(self, place: str) -> list[Source] | None:
        """The photographs that a text file lists, a path or a URL a line; None for a photograph itself."""
        with reading(place), open_regular(place) as file:
            if kind_of(file.read(HEAD)) in READ:
                return None
            file.seek(0)
            content = file.read().removeprefix(b"\xef\xbb\xbf")
        lines = [os.fsdecode(line) for line in content.splitlines()]
        lines = [line for line in lines if line.strip()]
        first = lines[0] if lines else ""
        if not first or not (is_url(first) or os.path.exists(first)):
            raise XGradCamError(
                f"{place} is no list of photographs, with a path or a URL a line: its first line is "
                f"{shown(first[:60])}, where nothing is"
            )
        places = [local_path(line) for line in lines]
        return self._in_each(places, lambda one: _fetched(one, one) if is_url(one) else _plain(one))


def require_any(sources: Sequence[Source], column: str | None) -> None:
    """Raise the XGradCamError of the first place, if none of them could be read.

    And one for a column where there is neither a table nor a tar.
    """
    reasons = [source.held.reason if isinstance(source.held, Refused) else "" for source in sources]
    if reasons and all(reasons):
        raise XGradCamError(reasons[0])
    if column is not None and not any(isinstance(source.held, Member | Row) for source in sources):
        raise XGradCamError(f"--column {column} is about tars and Parquet tables, of which none is given")


def _safe(name: str) -> str:
    """A member's name, without what leads out of the archive."""
    return name.rpartition("/")[2] if name.startswith("/") or ".." in name.split("/") else name


def _plain(path: str) -> Source:
    return Source(path, os.path.splitext(os.path.basename(path))[0] or "photograph")


def _fetched(url: str, root: str) -> Source:
    """A photograph behind a URL; root: the pattern or the folder that it was found by."""
    start = re.split(r"[*?[]", root)[0]
    start = start if root != url and start.endswith("/") else f"{start.rpartition('/')[0]}/"
    if root != url and start == f"{root.rpartition('/')[0]}/" and url.startswith(f"{root}/"):
        start = f"{root}/"
    below = url[len(start) :] if root != url and url.startswith(start) else name_of(url)
    return Source(url, stem_in(below, "photograph"), held=Fetched(url))


def places_in(places: Iterable[str]) -> list[str]:
    """The places with braces expanded as a shell does, which WebDataset's names have in quotes or URLs."""
    return [one for place in places for one in ([place] if os.path.lexists(place) else _braces(place))]


def _braces(place: str) -> Iterator[str]:
    """The places that braces mean."""
    pieces: list[list[str]] = []
    end = 0
    count = 1
    for found in BRACES.finditer(place):
        low, high, words = found.groups()
        count *= words.count(",") + 1 if words else max(0, int(high) - int(low) + 1)
        if not 0 < count <= MOST:
            raise XGradCamError(f"{place} means {count:,} files: give from 1 to {MOST:,}")
        choices = words.split(",") if words else [f"{n:0{len(low)}}" for n in range(int(low), int(high) + 1)]
        pieces += [[place[end : found.start()]], choices]
        end = found.end()
    return ("".join(one) for one in product(*pieces, [place[end:]]))
