"""The C library's memory allocator, told that a network asks for the same large blocks again and again."""

import ctypes
import sys

# Numbers of glibc's mallopt: from <malloc.h>.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
BYTES = 2**30


def keep_freed_memory() -> bool:
    """Have memory that is freed kept for the next batch; whether the C library (glibc) takes to that.

    By default large blocks are given back to the system and asked for anew in every layer of every batch; to
    have their pages filled with zeros again takes a quarter of a small network's time.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(which, BYTES) for which in (TRIM_THRESHOLD, MMAP_THRESHOLD))
