"""Turns that threads and processes of a machine take."""

import os
import tempfile
from pathlib import Path
from threading import RLock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class MachineTurn:
    """A lock of one thread of one process on this machine, of those of this user; it waits, and is reentrant.

    name: of what is done in turn. Where files cannot be locked, it is a lock of this process's threads.
    """

    def __init__(self, name: str) -> None:
        user = os.getuid() if hasattr(os, "getuid") else ""
        self._path = Path(tempfile.gettempdir(), f"xgrad-cam-{user}-{name}.lock")
        self._threads = RLock()
        self._depth = 0
        self._descriptor: int | None = None

    def __enter__(self) -> None:
        self._threads.acquire()
        self._depth += 1
        if self._depth == 1 and fcntl is not None:
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            except OSError:
                self._close()

    def __exit__(self, *_error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._close()
        self._threads.release()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
