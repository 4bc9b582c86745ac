import ctypes
import resource
import subprocess
import sys

import pytest

from xgradcam.runs.memory import keep_freed_memory

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


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
