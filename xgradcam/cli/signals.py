"""Signals that stop a command: once it cleans up and ends, by a second Ctrl-C at once."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType

INTERRUPTED = 130
# The last two are sent when a system shuts down or a terminal is closed.
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """A signal that stops the command; number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """The exit code of a command that a signal stopped: 128 and the signal's number."""
    return 128 + interrupt.number if isinstance(interrupt, Stopped) else INTERRUPTED


@contextmanager
def stoppable(prog: str, ends: bool) -> Iterator[None]:
    """Within the block the first signal raises Stopped, and a second Ctrl-C ends the process at once.

    Signals that are ignored (by nohup) or that the caller handles are left alone. ends: the process ends with
    the block, after which they are ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    codes: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if codes and number == signal.SIGINT:
            _end(prog, codes[0], once)
        if not codes:
            codes.append(128 + number)
            raise Stopped(number)

    once = threading.Lock()
    usual = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler in usual}
    for number in before:
        signal.signal(number, stop)
    try:
        with _second_interrupt(prog, once) if signal.SIGINT in before else nullcontext():
            yield
    finally:
        for number, handler in before.items():
            # Python puts back the system's own handlers when it ends, and would die by a signal.
            signal.signal(number, signal.SIG_IGN if ends else handler)


@contextmanager
def _second_interrupt(prog: str, once: threading.Lock) -> Iterator[None]:
    """Within the block a second Ctrl-C ends the process even while Python waits for a library.

    Python runs its handlers between its own instructions; a backward pass is one of them, however long.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        count = 0
        while received := reader.recv(64):
            count += received.count(signal.SIGINT)
            if count > 1:
                _end(prog, INTERRUPTED, once)

    thread = threading.Thread(target=watch, name="interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join(1)
        reader.close()


def _end(prog: str, code: int, once: threading.Lock) -> None:
    """End the process without waiting for anything; of two threads that do, one says so."""
    if once.acquire(blocking=False):
        with suppress(OSError):
            os.write(2, f"{prog}: interrupted\n".encode())
        os._exit(code)
    time.sleep(1)
    os._exit(code)
