"""Memory that the C library keeps for the next batch, or gives back."""

import ctypes
import sys

# Numbers of glibc's mallopt: from <malloc.h>.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
BYTES = 2**30


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next batch; False where it is not glibc.

    By default large blocks are given back to the system and asked for again in every layer of every batch;
    filling their pages with zeros takes a quarter of a small network's time.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, BYTES) for option in (TRIM_THRESHOLD, MMAP_THRESHOLD))


def give_freed_memory_back() -> None:
    """Have the C library give freed memory back to the system, where it is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
