"""Parts of shards merged into the one journal that a single process would have written, and the reverse."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.files import make_folder, open_regular, remove_parts, write_files
from xgradcam.runs.journal import ANEW, NAME, names_in_line, require_same
from xgradcam.runs.ledger import Ledger
from xgradcam.runs.shards import FOLDER, PLAN, PROBLEM, Files, Plan, lines_in
from xgradcam.runs.sources import Source

# Lines of earlier runs that belong to no shard, in the folder of shards.
REST = "rest.journal"
OURS = re.compile(r"\d{6,}\.(journal|names|tries|lock|part)")
# How the line of a photograph that failed begins.
FAILED = f'{{"{PROBLEM}": '.encode()


def left_to_do(folder: Path, plan: Plan) -> list[int]:
    """The shards that are not done."""
    there = set(os.listdir(folder / FOLDER))
    return [index for index in range(plan.count) if Files(folder, index).part.name not in there]


def merge(folder: Path, plan: Plan) -> None:
    """Write the run's journal from the parts of all shards, whole or not at all; the parts stay.

    One line at a time is in memory. Raises XGradCamError where a part is missing.
    """
    write_files({folder / NAME: _merged(folder, plan, [files.part for files in _all(folder, plan)])})


def gather(folder: Path, plan: Plan) -> None:
    """Write the run's journal from what there is of an unfinished run, and delete its shards."""
    begun = [files.part if files.part.exists() else files.journal for files in _all(folder, plan)]
    write_files({folder / NAME: _merged(folder, plan, [path for path in begun if path.exists()])})
    clear(folder)


def split(folder: Path, plan: Plan, sources: Sequence[Source]) -> None:
    """Give each shard the lines of its photographs in the run's journal; the journal stays.

    Those of other photographs, and of a photograph whose results were called otherwise, are kept apart.
    """
    path = folder / NAME
    if not path.exists():
        return
    lines = lines_in(path)
    _, settings = next(lines, (b"", {"image": ""}))
    if "image" in settings:
        raise XGradCamError(f"cannot read {path}: its first line holds no settings; {ANEW}")
    require_same(settings, plan.settings, path)
    shards = {source.path: (index, source.stem) for index, source in enumerate(sources)}

    def target(line: tuple[bytes, Mapping[str, Any]]) -> Path:
        position, stem = shards.get(str(line[1].get("image")), (0, None))
        if stem is None or stem != line[1].get("stem"):
            return folder / FOLDER / REST
        return Files(folder, plan.shard_of(position)).journal

    first = json.dumps(plan.settings).encode() + b"\n"
    of_photographs = (line for line in lines if isinstance(line[1].get("image"), str))
    for place, of_place in groupby(of_photographs, target):
        with place.open("ab") as file:
            if not file.tell() and place.name != REST:
                file.write(first)
            file.writelines(line for line, _ in of_place)


def begin(folder: Path, plan: Plan, sources: Sequence[Source], resume: bool) -> None:
    """Make the folder of shards, with what a resumed run has done, and last the plan."""
    clear(folder)
    make_folder(folder / FOLDER)
    try:
        if resume:
            split(folder, plan, sources)
    except OSError as error:
        raise CannotWriteError(f"cannot write into {folder / FOLDER}: {error.strerror}") from None
    plan.write(folder)


def clear(folder: Path) -> None:
    """Delete the folder of shards, the plan first; other files in it stay."""
    place = folder / FOLDER
    if not place.exists():
        return
    try:
        (place / PLAN).unlink(missing_ok=True)
        remove_parts(place)
        for name in os.listdir(place):
            if name == REST or OURS.fullmatch(name):
                (place / name).unlink(missing_ok=True)
    except OSError as error:
        raise XGradCamError(f"cannot delete {place}: {error.strerror}; delete it by hand") from None
    with suppress(OSError):
        place.rmdir()


def names_of_shards(folder: Path) -> set[str]:
    """Names of files that an unfinished run has announced or made."""
    place, names = folder / FOLDER, set[str]()
    for path in sorted(place.glob("*.names")):
        names |= Ledger(folder, (), path).known
    for path in sorted([*place.glob("*.part"), *place.glob("*.journal")]):
        for _, line in lines_in(path):
            names |= names_in_line(line)
    return names


def _all(folder: Path, plan: Plan) -> list[Files]:
    return [Files(folder, index) for index in range(plan.count)]


def _merged(folder: Path, plan: Plan, parts: Sequence[Path]) -> Iterator[bytes]:
    """The lines of the run's journal: the settings, those of no shard, and those of the shards."""
    yield json.dumps(plan.settings).encode() + b"\n"
    rest = folder / FOLDER / REST
    if rest.exists():
        with open_regular(rest) as file:
            yield from file
    for part in parts:
        try:
            with open_regular(part) as file:
                yield from (line for line in islice(file, 1, None) if not line.startswith(FAILED))
        except FileNotFoundError:
            raise XGradCamError(f"{part} has gone: was the run merged by another process?") from None
