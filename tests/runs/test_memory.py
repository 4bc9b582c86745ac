import ctypes
import resource
import subprocess
import sys

import pytest

from xgradcam.runs.memory import give_freed_memory_back, keep_freed_memory

FAULTS = """
import resource
import torch
from xgradcam.runs.memory import keep_freed_memory
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_is_not_asked_for_anew():
    def faults(call):
        run = subprocess.run(
            [sys.executable, "-c", FAULTS.format(call=call)], capture_output=True, text=True, check=True
        )
        return int(run.stdout)

    pages = 20 * 40_000_000 / resource.getpagesize()
    assert faults("assert keep_freed_memory()") < pages / 20 < pages / 2 < faults("")


HELD = """
import torch
from xgradcam.runs.memory import give_freed_memory_back, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1])
assert keep_freed_memory()
before = resident()
torch.ones(50_000_000)
kept = resident() - before
give_freed_memory_back()
print(kept, resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_kept_memory_is_given_back():
    run = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    kept, left = map(int, run.stdout.split())
    assert kept > 0.9 * 200_000_000 / resource.getpagesize() > 10 * left


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert keep_freed_memory() is False
    give_freed_memory_back()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
