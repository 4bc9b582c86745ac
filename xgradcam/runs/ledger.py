"""A folder of results, for one run at a time: its lock, and the names of what runs have made in it."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from time import monotonic, sleep

from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.files import lock, open_regular, write_files

NAME, LOCK = ".xgrad-cam.names", ".xgrad-cam.lock"
# Seconds to wait for a lock that is shared: for a moment, the last to leave holds it alone.
PATIENCE = 2.0
# Neither through a link, nor waiting for the other end of a pipe.
FLAGS = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Ledger:
    """Names of the files in a folder that runs have made and that the journal does not name.

    Kept in `.xgrad-cam.names`, which is there during a run, after one that was killed, and where the files of
    several runs lie: a line of JSON for each name. known: the names of files that are there. earlier: what
    the journal names. path: where the names are kept instead.
    """

    def __init__(self, folder: Path, earlier: Iterable[str], path: Path | None = None) -> None:
        self.path = folder / NAME if path is None else path
        self._folder = folder
        self.known = {name for name in {*earlier, *self._read()} if os.path.lexists(folder / name)}
        self._descriptor: int | None = None
        self._turn = Lock()

    def announce(self, names: Iterable[str]) -> None:
        """Note the names of files that are going to be written; may be called by several threads."""
        with self._turn:
            try:
                if self._descriptor is None:
                    self._descriptor = self._begun()
                os.write(self._descriptor, _lines(names))
            except OSError as error:
                raise CannotWriteError(f"cannot write {self.path}: {error.strerror}") from None

    def _begun(self) -> int:
        """The descriptor of the file, after what is known was written to it: the journal may forget it."""
        if self.known:
            write_files({self.path: _lines(sorted(self.known))})
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | FLAGS, 0o666)

    def end(self, named: Iterable[str]) -> None:
        """Keep only the names that are not in `named`, those of the journal; without one the file goes."""
        if self._descriptor is None:
            return
        os.close(self._descriptor)
        left = {name for name in self._read() if os.path.lexists(self._folder / name)} - set(named)
        with suppress(OSError, XGradCamError):
            if left:
                write_files({self.path: _lines(sorted(left))})
            else:
                self.path.unlink()

    def _read(self) -> list[str]:
        try:
            with open_regular(self.path) as file:
                lines = file.read().splitlines()
        except (OSError, XGradCamError):
            return []
        names = []
        for line in lines:
            # The last line may be cut off; its files were not written then.
            with suppress(ValueError, RecursionError):
                names.append(json.loads(line))
        return [name for name in names if isinstance(name, str) and "\0" not in name]


def _lines(names: Iterable[str]) -> bytes:
    return "".join(json.dumps(name) + "\n" for name in names).encode()


@contextmanager
def alone_in(
    folder: Path,
    note: Callable[[str], None],
    name: str = LOCK,
    *,
    shared: bool = False,
    patience: float = 0,
    what: str = "",
) -> Iterator[None]:
    """The folder, locked against another run; XGradCamError where one is at work.

    note: is told where locks do not work, as on some network drives. name: of the file that is locked, which
    is there within the block only. shared: together with others that share it. patience: seconds to wait for
    another run. what: the other one is doing, for the error. A lock ends with its process.
    """
    path = folder / name
    descriptor, works = _locked(path, shared, max(patience, PATIENCE if shared else 0), what)
    try:
        if not works:
            note(f"{folder} takes no locks: start no second run in it before this one has ended")
        yield
    finally:
        with suppress(OSError):
            # Nobody else may remove it while it is locked. An earlier file of that name stays, and so does
            # one that others share.
            if os.fstat(descriptor).st_size == 0 and not (shared and lock(descriptor) is False):
                path.unlink()
        os.close(descriptor)


def _locked(path: Path, shared: bool, patience: float, what: str) -> tuple[int, bool]:
    """The descriptor of the file, and whether it could be locked: on some file systems nothing can."""
    until = monotonic() + patience
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | FLAGS, 0o666)
        except OSError as error:
            raise XGradCamError(f"cannot lock {path}: {error.strerror}; move it away") from None
        held = lock(descriptor, shared)
        # Its owner may have removed it between the two calls.
        if held is not False and os.fstat(descriptor).st_nlink:
            return descriptor, held is not None
        os.close(descriptor)
        if held is False and monotonic() < until:
            sleep(0.05)
        elif held is False:
            what = what or f"another run is writing into {path.parent}"
            raise XGradCamError(f"{what}: wait for it, or choose another --output-dir")
