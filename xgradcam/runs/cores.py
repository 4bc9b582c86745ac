"""The processor cores that this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Where Linux shows the control groups of processes, which limit those in containers, and this one's.
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The number of cores that this process may use, at least 1.

    Fewer than the machine has where the process is bound to some (`taskset`), and where a control group
    limits its time on them, as that of a container does. A part of a core counts as one.
    """
    limits = [math.ceil(limit) for limit in _limits(GROUPS, OWN_GROUPS)]
    return max(1, min([_cores(), *limits]))


def _cores() -> int:
    """The number of cores that the process may run on."""
    if count := getattr(os, "process_cpu_count", None):  # since Python 3.13
        return count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limits(groups: Path, own: Path) -> Iterator[float]:
    """The times on cores, in cores, that the control groups of this process and those above allow.

    groups: the folder of all groups. own: the file that names this process's, a line `number:kinds:path` for
    each kind; that of version 2 has no kinds.
    """
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds and "cpu" not in kinds.split(","):
            continue
        roots = [groups / "cpu", groups / kinds] if kinds else [groups, groups / "unified"]
        for root in roots:
            for folder in _with_those_above(root, path):
                yield from _limit(folder)


def _with_those_above(root: Path, path: str) -> list[Path]:
    """The folder of a group and of those above it; a container may see the topmost alone."""
    parts = PurePosixPath(path).parts[1:]
    parts = () if ".." in parts else parts
    return [root.joinpath(*parts[:count]) for count in range(len(parts) + 1)]


def _limit(folder: Path) -> Iterator[float]:
    """The limit that a group has of itself, if any: time over the period in which it may be used."""
    names = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # versions 2 and 1
    for files in names:
        try:
            words = [word for name in files for word in (folder / name).read_text("ascii").split()]
            time, period = map(int, words)
        except (OSError, ValueError):  # no such file, or 'max': no limit
            continue
        if time > 0 and period > 0:
            yield time / period
