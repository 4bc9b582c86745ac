"""A run cut into shards: whole batches of its photographs, which any process can do on its own.

In the run's folder, `.xgrad-cam.shards` holds what is known of them until they are merged into the journal:
the plan, and of each shard a journal of its own while it is being done, its part of the run's when it is
done.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xgradcam.errors import XGradCamError
from xgradcam.files import open_regular, write_files
from xgradcam.runs.run import USUAL_BATCH, Run
from xgradcam.runs.settings import differing
from xgradcam.runs.sources import STDIN, Source

FOLDER, PLAN = ".xgrad-cam.shards", "plan.json"
# Photographs in a shard, at most, unless it is said: seconds to minutes of work.
USUAL_SHARD = 512
# Shards for each process, if there are enough photographs: so the last to end is not waited for long.
SHARDS_EACH = 4
# Key that begins the line of a photograph without results, in a shard's part of the journal.
PROBLEM = "problem"


@dataclass(frozen=True)
class Plan:
    """The facts that all processes of a run must know alike.

    settings: of the run's journal. batch: photographs in a batch; size: in a shard, whole batches.
    photographs: of the run; digest: of their paths and stems. folded: how many batch norms are folded.
    """

    settings: Mapping[str, Any]
    batch: int
    size: int
    photographs: int
    digest: str
    folded: int

    @cached_property
    def count(self) -> int:
        """The number of shards."""
        return -(-self.photographs // self.size)

    def of(self, index: int, sources: Sequence[Source]) -> Sequence[Source]:
        """The photographs of a shard, out of all."""
        return sources[index * self.size : (index + 1) * self.size]

    def shard_of(self, position: int) -> int:
        """The shard of a photograph, by its position in the run."""
        return position // self.size

    def require_same(self, other: "Plan", folder: Path) -> None:
        """Raise XGradCamError, naming the options, for another plan than this one, with which a run began."""
        named = differing(self.settings, other.settings)
        named += [name for name in ("batch", "size") if getattr(self, name) != getattr(other, name)]
        if not named and self.digest != other.digest:
            named = [f"photographs ({self.photographs} then, {other.photographs} now, or other ones)"]
        if named:
            names = {"batch": "batch_size", "size": "shard_size"}
            all_named = ", ".join(dict.fromkeys(names.get(name, name) for name in named))
            raise XGradCamError(
                f"a run in {folder} is not finished, which had other settings for {all_named}: give the same "
                f"options, choose another --output-dir, or delete {folder / FOLDER} to begin anew"
            )

    def write(self, folder: Path) -> None:
        """Write the plan into the run's folder."""
        write_files({folder / FOLDER / PLAN: json.dumps(asdict(self)).encode()})


def plan_of(run: Run, folded: int, size: int) -> Plan:
    """The plan of a run with a batch size, in shards of so many photographs."""
    batch = run.explaining.batch_size or USUAL_BATCH
    settings = json.loads(json.dumps(dict(run.settings)))
    return Plan(settings, batch, size, len(run.sources), digest_of(run.sources), folded)


def plan_in(folder: Path) -> Plan | None:
    """The plan of an unfinished run in the folder; None if there is none."""
    path = folder / FOLDER / PLAN
    try:
        with open_regular(path) as file:
            found = json.loads(file.read())
        plan = Plan(**found)
        whole = [plan.batch, plan.size, plan.photographs, plan.folded]
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError, XGradCamError) as error:
        reason = getattr(error, "strerror", None) or "it is no plan of this version"
        raise XGradCamError(f"cannot read {path}: {reason}; delete its folder to begin anew") from None
    if not isinstance(plan.settings, dict) or any(type(one) is not int or one < 0 for one in whole):
        raise XGradCamError(f"cannot read {path}: it is damaged; delete its folder to begin anew")
    return plan


def shard_size(photographs: int, batch: int, processes: int, asked: int | None = None) -> int:
    """Photographs in a shard: as many as asked for, rounded up to whole batches.

    Otherwise a few shards for each process, of at most 512 photographs.
    """
    if asked is not None and asked < 1:
        raise XGradCamError(f"the shard size is {asked}: take 1 or more photographs")
    each = -(-photographs // (SHARDS_EACH * processes))
    size = min(USUAL_SHARD, max(1, each)) if asked is None else asked
    return -(-size // batch) * batch


def digest_of(sources: Sequence[Source]) -> str:
    """A digest of the photographs' paths and of the names of their results."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.path}\0{source.stem.rpartition('/')[2]}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def require_files(sources: Sequence[Source]) -> None:
    """Raise XGradCamError for a photograph on stdin, which a single process can read."""
    if any(source.path == STDIN for source in sources):
        raise XGradCamError("- reads a photograph from stdin, which one process alone can: save it as a file")


@dataclass(frozen=True)
class Files:
    """Paths of a shard's files: its own journal, what is announced, its tries, and the finished part."""

    folder: Path
    index: int

    def _path(self, ending: str) -> Path:
        return self.folder / FOLDER / f"{self.index:06}.{ending}"

    @property
    def journal(self) -> Path:
        """The journal of the shard alone, while it is being done."""
        return self._path("journal")

    @property
    def names(self) -> Path:
        """Names of files that are going to be written."""
        return self._path("names")

    @property
    def tries(self) -> Path:
        """A line for what was begun and not ended, so that who kills its process is found."""
        return self._path("tries")

    @property
    def lock(self) -> Path:
        """The file that is locked while the shard is being done."""
        return self._path("lock")

    @property
    def part(self) -> Path:
        """The shard's part of the run's journal, once all its photographs are done."""
        return self._path("part")


def lines_in(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines of a journal that are whole: the bytes, and what they hold."""
    with open_regular(path) as file:
        for line in file:
            try:
                found = json.loads(line)
            except (RecursionError, ValueError):
                continue
            if isinstance(found, dict):
                yield line if line.endswith(b"\n") else line + b"\n", found
