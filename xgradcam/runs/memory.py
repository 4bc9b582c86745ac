"""Memory that the C library keeps for the next batch."""

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
