"""The time for which the command holds the interpreter's lock for a photograph; prints a Markdown table.

    python scripts/measure_lock.py [--device cuda] [--network efficientnet-lite0] [--quick]

One thread of a process at a time runs Python. So a process explains at most as many photographs a second as
these times fit into one, on any number of cores. Photographs as in `benchmark_folder.py` are explained in
batches of 32, as on a GPU, by a network so small that reading and writing are what counts, and all in one
thread: nothing waits for the lock, and other programs on the cores do not count. Meanwhile this process looks
some thousand times a second into the memory of that one: whether the lock is held, and for what. The share
of the looks, times the processor's time, is given in milliseconds a photograph, as medians of runs with
quartiles: for reading; for drawing and writing; and for the rest, which is the main thread's: it explains,
and keeps the record. Handing the lock from thread to thread comes on top. Linux and CPython alone.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark_folder import NETWORKS, photographs
from measuring import setting, spread

TINY = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.shrink, self.features, self.last = nn.AvgPool2d(32), nn.Conv2d(3, 64, 1), nn.Linear(64, 1000)

    def forward(self, inputs):
        return self.last(self.features(self.shrink(inputs)).relu().mean((2, 3)))

def make():
    return Tiny().eval()
"""
# Runs the command twice, and tells where its lock lies, where it notes what it does, and what the photographs
# of the second run took. In `_PyRuntime` the interval between switches precedes the thread that holds the
# lock, or held it last, and the lock itself follows.
CHILD = """
import ctypes, json, struct, sys, time
from concurrent.futures import Future
report, kinds = open(sys.argv[1], "w", buffering=1), sys.argv[2].split()

def tell(**what):
    report.write(json.dumps(what) + "\\n")

own = ctypes.pythonapi.PyThreadState_Get
own.restype = ctypes.c_void_p
start = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
for line in open("/proc/self/maps"):
    low, high = (int(edge, 16) for edge in line.split()[0].split("-"))
    if low <= start < high:
        break
pattern = struct.pack("@LP", round(sys.getswitchinterval() * 1e6), own())
place, kind = ctypes.string_at(start, high - start).find(pattern), ctypes.c_int(-1)
tell(lock=start + place + len(pattern) if place >= 0 else None, kind=ctypes.addressof(kind))

class Pool:
    def __init__(self, _threads, name):
        self.name = kinds.index(name)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def submit(self, work, *arguments):
        before, kind.value = kind.value, self.name
        future = Future()
        future.set_result(work(*arguments))
        kind.value = before
        return future

from xgradcam.runs import pipeline
pipeline._Pool, explained = Pool, pipeline.explain_photographs

def told(*arguments, **options):
    began, kind.value = time.process_time(), kinds.index("main")
    for count, outcome in enumerate(explained(*arguments, **options), 1):
        yield outcome
    kind.value = -1
    tell(took=time.process_time() - began, photographs=count)

from xgradcam.cli.xgrad_cam import main
few, many, out, *how = sys.argv[3:]
main(["--image-path", few, "--output-dir", out + "/few", *how])
pipeline.explain_photographs = told
sys.exit(main(["--image-path", many, "--output-dir", out + "/many", *how]))
"""
KINDS = {"read": "reading", "write": "drawing and writing", "main": "the rest, in the main thread"}
INT = struct.Struct("@i")
# Seconds between two looks.
EVERY = 5e-5


def held(arguments: list[str], report: Path) -> dict[str, float]:
    """Milliseconds a photograph for which the lock is held in a run, by kinds, and the processor's time."""
    report.touch()
    looks: Counter[tuple[bytes, bytes]] = Counter()
    command = [sys.executable, "-c", CHILD, str(report), " ".join(KINDS), *arguments]
    with subprocess.Popen(command) as child:
        while not (told := report.read_text().splitlines()) and child.poll() is None:
            time.sleep(0.05)
        places: dict[str, Any] = json.loads(told[0]) if told else {}
        if places.get("lock") is None:
            child.kill()
            raise SystemExit("the command did not start, or this version of Python keeps its lock elsewhere")
        memory = os.open(f"/proc/{child.pid}/mem", os.O_RDONLY)
        with suppress(OSError):  # it has ended
            while child.poll() is None:
                for _ in range(200):
                    kind, lock = (os.pread(memory, INT.size, places[name]) for name in ("kind", "lock"))
                    looks[kind, lock] += 1
                    time.sleep(EVERY)
        os.close(memory)
    end = json.loads(report.read_text().splitlines()[-1])
    if child.returncode or "took" not in end:
        raise SystemExit(f"the command ended with {child.returncode}")
    each = 1e3 * end["took"] / end["photographs"]
    whole = {
        (INT.unpack(kind)[0], INT.unpack(lock)[0] != 0): count
        for (kind, lock), count in looks.items()
        if len(kind) == len(lock) == INT.size
    }
    inside = sum(count for (kind, _), count in whole.items() if kind >= 0)
    times = {name: each * whole.get((index, True), 0) / inside for index, name in enumerate(KINDS)}
    return {**times, "all": sum(times.values()), "processor": each}


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, help="instead of the tiny one")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--quick", action="store_true", help="32 photographs, once: shows that it works")
    arguments = parser.parse_args(argv)
    count, runs = (32, 1) if arguments.quick else (256, 7)
    print(f"{setting(arguments.device)}\n")
    with tempfile.TemporaryDirectory() as place:
        folders, code = (Path(place, "few"), Path(place, "many")), Path(place, "tiny.py")
        for folder, number in zip(folders, (16, count), strict=True):
            photographs(folder, number)
        code.write_text(TINY)
        model = [f"{code}:make", "--target-layer", "features"]
        if arguments.network:
            layer, weights = NETWORKS[arguments.network]
            model = [arguments.network, "--target-layer", layer, "--weights", weights]
        how = ["--model", *model, "--batch-size", "32", "--device", arguments.device, "--quiet"]
        found = [
            held([*map(str, folders), str(Path(place, str(number))), *how], Path(place, f"{number}.report"))
            for number in range(runs)
        ]
    print("| the lock is held for | milliseconds a photograph |\n|---|---|")
    for kind, title in {**KINDS, "all": "all"}.items():
        print(f"| {title} | {spread([one[kind] for one in found])} |")
    print(f"| the processor's time of all | {spread([one['processor'] for one in found])} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
