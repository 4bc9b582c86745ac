"""Rate of the command for a folder on 1, 2, 4, 8 and 16 cores; prints a Markdown table.

    python scripts/benchmark_scaling.py [--network resnet50] [--device cuda] [--quick]

200 photographs as in `benchmark_folder.py` are explained by processes that are bound to so many cores, as by
`taskset`, as far as this one may use them; they take turns. Each is run over 8 photographs, too: their median
taken off is the time without start-up. Given are photographs a second by medians, and medians of the ratios
to the run on one core of the same round, with quartiles.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from benchmark_folder import COMMAND, NETWORKS, photographs, seconds
from measuring import setting, spread

from xgradcam.runs.cores import usable_cores

CORES = (1, 2, 4, 8, 16)
BIND = "import os\nos.sched_setaffinity(0, {})\n"


def rows(folders: tuple[Path, Path], network: str, device: str, rounds: int) -> list[str]:
    """A row for each number of cores; folders: of few photographs and of many."""
    mine = sorted(os.sched_getaffinity(0))
    counts = [count for count in CORES if count <= min(len(mine), usable_cores())]
    few: dict[int, list[float]] = {count: [] for count in counts}
    many: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            script = BIND.format(set(mine[:count])) + COMMAND
            for folder, times in zip(folders, (few, many), strict=True):
                times[count].append(seconds(script, folder, network, device))
    start = {count: statistics.median(times) for count, times in few.items()}
    rest = {count: [took - start[count] for took in times] for count, times in many.items()}
    number, started = (len(list(folder.iterdir())) for folder in reversed(folders))
    found = []
    for count in counts:
        cells = [f"{number / statistics.median(many[count]):.0f}"]
        if min(map(min, rest.values())) <= 0:  # so few photographs that the noise is larger
            cells += ["-", "-"]
        else:
            ratios = [one / other for one, other in zip(rest[counts[0]], rest[count], strict=True)]
            cells += [f"{(number - started) / statistics.median(rest[count]):.0f}", spread(ratios)]
        found.append(f"| {count} | {' | '.join(cells)} |")
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="efficientnet-lite0")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    parser.add_argument("--quick", action="store_true", help="16 photographs, once: shows that it works")
    arguments = parser.parse_args(argv)
    if not hasattr(os, "sched_setaffinity"):
        print("no process can be bound to cores here: take Linux", file=sys.stderr)
        return 2
    count, rounds = (16, 1) if arguments.quick else (200, 7)
    print(f"{setting(arguments.device)}, {usable_cores()} of {os.cpu_count()} cores can be used\n")
    print("| cores | photographs a second | without start-up | one core = 1 |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folders = Path(place, "few"), Path(place, "many")
        for folder, number in zip(folders, (8, count), strict=True):
            photographs(folder, number)
        print("\n".join(rows(folders, arguments.network, arguments.device, rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
