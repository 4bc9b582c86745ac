"""Measure a run by many workers: what Ray costs, how the rate grows, how a million records are merged.

    python scripts/benchmark_scale.py [--photographs N] [--repeats N] [--workers N ...] [--records N]

Prints processor seconds of all processes of a command, with and without Ray, by the median of interleaved
repeats; the rate of photographs by the number of workers; and time and memory of planning and merging
records.
On Linux alone, by /proc. Needs Ray: pip install '.[ray]'.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from measuring import PEAK
from PIL import Image

from xgradcam.runs.merging import clear, left_to_do, merge
from xgradcam.runs.shards import FOLDER, Files, Plan, digest_of, shard_size
from xgradcam.runs.sources import Source

# Photographs of a run whose costs are the fixed ones.
FEW = 8
SHARD = 512
HEIGHT, WIDTH = 375, 500


class Cost(NamedTuple):
    """Processor seconds of all processes, those of the command's own, peak memory in bytes, and seconds."""

    every: float
    command: float
    memory: int
    wall: float


def make_photographs(folder: Path, count: int) -> None:
    """Photographs of smooth noise, as JPEG files of about 40 kB."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        small.resize((WIDTH, HEIGHT)).save(folder / f"{index:06}.jpg", quality=90)


def cost_of(photographs: Path, options: Sequence[str]) -> Cost:
    """The cost of the command on a folder, with these options, on the bundled network."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "xgradcam", "--image-path", str(photographs), "--output-dir", out]
        command += ["--model", "efficientnet-lite0", "--quiet", *options]
        begun, process = time.perf_counter(), subprocess.Popen(command)
        times: dict[int, float] = {}
        peak, ended = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, times, peak, ended))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        ended.set()
        watcher.join()
        if status:
            raise SystemExit(f"{' '.join(command)} ended with {status}")
    own = times[process.pid] = usage.ru_utime + usage.ru_stime
    return Cost(sum(times.values()), own, peak[0], wall)


def _watch(command: int, times: dict[int, float], peak: list[int], ended: threading.Event) -> None:
    """Note the processor seconds of the command and of each process below it, and the most memory of all.

    Ray's daemon does not wait for its workers, so that no process is told of their times when they end.
    """
    tick = os.sysconf("SC_CLK_TCK")
    while not ended.wait(0.1):
        stats: dict[int, list[str]] = {}
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                stats[int(place.name)] = (place / "stat").read_text().rpartition(")")[2].split()
        ours, before = {command}, 0
        while len(ours) > before:
            before = len(ours)
            ours |= {one for one, stat in stats.items() if int(stat[1]) in ours}
        for one in ours & stats.keys():
            times[one] = (int(stats[one][11]) + int(stats[one][12])) / tick
        peak[0] = max(peak[0], sum(map(_memory, ours)))


def _memory(process: int) -> int:
    """The bytes of a process's memory, its share of what it shares with others."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def print_overhead(folder: Path, photographs: int, repeats: int) -> None:
    """Print what a photograph costs with Ray and without, and what Ray costs once."""
    few, many = folder / "few", folder / "many"
    runs = {
        "plain": [],
        "ray": ["--workers", "1"],
        "small shards": ["--workers", "1", "--shard-size", str(FEW)],
    }
    pairs = [("plain", few), ("plain", many), ("ray", few), ("ray", many), ("small shards", many)]
    costs: dict[tuple[str, Path], list[Cost]] = {pair: [] for pair in pairs}
    for _ in range(repeats):
        for name, place in pairs:
            costs[name, place].append(cost_of(place, runs[name]))

    def of(name: str, place: Path, part: str) -> float:
        return float(median(getattr(cost, part) for cost in costs[name, place]))

    each = {
        name: (of(name, many, "every") - of(name, few, "every")) / (photographs - FEW)
        for name in ("plain", "ray")
    }
    # Of the same photographs: the command's other work, such as Ray's threads, takes the same time in both.
    more = -(-photographs // FEW) - -(-photographs // shard_size(photographs, FEW, 1))
    driver = (of("small shards", many, "command") - of("ray", many, "command")) / more
    print(f"processor, a photograph: plain {1e3 * each['plain']:.1f} ms, Ray {1e3 * each['ray']:.1f} ms "
          f"({each['ray'] / each['plain'] - 1:+.1%})")  # fmt: skip
    for label, part, unit in (("processor", "every", 1), ("memory", "memory", 1e9)):
        extra = (of("ray", few, part) - of("plain", few, part)) / unit
        print(f"{label} that Ray costs once: {extra:.2f} {'s' if unit == 1 else 'GB'}")
    print(f"processor of the command itself, each of {more} more shards: {1e3 * driver:.1f} ms")


def print_rates(folder: Path, photographs: int, workers: Sequence[int]) -> None:
    """Print the photographs a second by workers, without the time of a run of a few."""
    for count in workers:
        options = ["--workers", str(count)]
        long, short = (cost_of(folder / name, options).wall for name in ("many", "few"))
        print(f"{count} workers: {(photographs - FEW) / (long - short):.1f} photographs a second")


def print_merging(folder: Path, records: int) -> None:
    """Print time and memory of planning and merging; the parts are written before, and not measured."""
    sources = [Source(f"photographs/{index:08}.jpg", f"{index:08}") for index in range(records)]
    plan = Plan({"model": "m"}, 8, SHARD, records, digest_of(sources), 0)
    (folder / FOLDER).mkdir(parents=True)
    for index in range(plan.count):
        lines = [json.dumps({"model": "m"})]
        lines += [
            json.dumps({"image": source.path, "stem": source.stem, "records": [_record(source)]})
            for source in plan.of(index, sources)
        ]
        Files(folder, index).part.write_text("\n".join(lines) + "\n")
    del sources, lines
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        f"import benchmark_scale; benchmark_scale.merge_measured(*sys.argv[2:])\n{PEAK}"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder), str(records)]
    seconds, memory = map(float, subprocess.run(command, check=True, capture_output=True).stdout.split())
    print(f"{records:,} records planned and merged: {seconds:.1f} s, {memory / 1e9:.2f} GB")


def merge_measured(folder: str, records: str) -> None:
    """Plan and merge in a process of its own, and print the seconds that it took."""
    begun, count, place = time.perf_counter(), int(records), Path(folder)
    sources = [Source(f"photographs/{index:08}.jpg", f"{index:08}") for index in range(count)]
    plan = Plan({"model": "m"}, 8, SHARD, count, digest_of(sources), 0)
    plan.write(place)
    if left_to_do(place, plan):
        raise SystemExit("not all shards are done")
    merge(place, plan)
    clear(place)
    print(time.perf_counter() - begun)


def _record(source: Source) -> dict[str, object]:
    """A record of the usual length."""
    return {
        "image": source.path, "class_index": 285, "class_name": "Egyptian cat", "score": 12.3456789,
        "probability": 0.987654321, "rank": 1, "classes": 1000, "model": "m", "layer": "features.30",
        "files": {name: f"{source.stem}_285_{name}.jpg" for name in ("cam", "X_cam")},
        "written": [f"out/{source.stem}_285_{name}.jpg" for name in ("cam", "X_cam")], "notes": [],
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=int, default=512, help="in a run (default: 512; 0: no runs)")
    parser.add_argument("--repeats", type=int, default=5, help="of each run (default: 5)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="for the rates (default: 1 2)")
    parser.add_argument("--records", type=int, default=1_000_000, help="to merge (default: 1000000; 0: none)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.photographs > FEW:
            make_photographs(Path(folder, "few"), FEW)
            make_photographs(Path(folder, "many"), arguments.photographs)
            print_overhead(Path(folder), arguments.photographs, arguments.repeats)
            print_rates(Path(folder), arguments.photographs, arguments.workers)
        if arguments.records:
            print_merging(Path(folder, "records"), arguments.records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
