"""What the benchmarks share."""

import statistics

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
