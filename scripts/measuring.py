"""What the benchmarks share."""

import ctypes
import platform
import statistics
from pathlib import Path

import torch

from xgradcam.runs.memory import MMAP_THRESHOLD, TRIM_THRESHOLD

# Appended to a script: prints the peak memory of its process in bytes. Not by getrusage, which counts what
# the process was before it became another program.
PEAK = """
import re
from pathlib import Path
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text()).group(1)))
"""


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def setting(device: str = "cpu") -> str:
    """What is measured with, in a line: versions, threads, and the processor or GPU."""
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {where}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {names[0] if names else platform.processor()}".strip()


def wait_for(device: str) -> None:
    """Wait until all that a device was asked for is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()


def give_memory_back() -> None:
    """Undo `keep_freed_memory`: the limits to which glibc raises its own in a process of large blocks."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_THRESHOLD, 2**25)
        library.mallopt(TRIM_THRESHOLD, 2**26)
        library.malloc_trim(0)
