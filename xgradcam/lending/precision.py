"""Precision of a network's arithmetic: exact float32, TF32 or bfloat16."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor

from xgradcam.errors import XGradCamError

FLOAT32, TF32, BF16 = "float32", "tf32", "bf16"


@contextmanager
def computing_in(precision: str, device: str) -> Iterator[None]:
    """Compute in this precision on a type of device, and restore the caller's settings at the end.

    `float32` is exact. In `tf32` a GPU rounds the factors of products to 10 bits; elsewhere it is `float32`.
    In `bf16` operations for which that suffices round to 7 bits (PyTorch's autocast).
    Raises XGradCamError where another thread computes on a GPU otherwise: TF32 is a setting of all threads.
    """
    thread, coarse = get_ident(), precision == TF32
    with ExitStack() as left:
        # A CPU has no TF32: there another thread may have it as it likes.
        if device == "cpu" and not _SWITCHES.is_free(thread, coarse):
            thread = -1
        if thread != -1:
            _SWITCHES.begin(thread, coarse)
            left.callback(_SWITCHES.end, thread, coarse)
        left.enter_context(torch.autocast(device, torch.bfloat16, enabled=precision == BF16))
        yield


class _Switches:
    """The settings of TF32 while threads need them; the caller's are back when the last one ends."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._users: list[tuple[int, bool]] = []
        self._callers: list[Any] = []

    def is_free(self, thread: int, coarse: bool) -> bool:
        """True if no other thread needs the other setting."""
        with self._lock:
            return not any(user != thread and other != coarse for user, other in self._users)

    def begin(self, thread: int, coarse: bool) -> None:
        """Switch TF32 on or off for a thread."""
        with self._lock:
            if not self.is_free(thread, coarse):
                raise XGradCamError(
                    "another thread computes in another precision, which is a setting of the whole process: "
                    "take the same precision in all threads, or do one after the other"
                )
            if not self._users:
                self._callers = [getattr(backend, name) for backend, name in tf32_switches()]
            self._users.append((thread, coarse))
            self._switch(coarse)

    def end(self, thread: int, coarse: bool) -> None:
        """Switch TF32 as it was before, if no other thread needs it now."""
        with self._lock:
            last = len(self._users) - 1 - self._users[::-1].index((thread, coarse))
            del self._users[last]
            if self._users:
                self._switch(self._users[-1][1])
                return
            for (backend, name), value in zip(tf32_switches(), self._callers, strict=True):
                setattr(backend, name, value)

    def _switch(self, coarse: bool) -> None:
        values = {"fp32_precision": "tf32" if coarse else "ieee", "allow_tf32": coarse}
        for backend, name in tf32_switches():
            setattr(backend, name, values[name])


_SWITCHES = _Switches()


def is_coarse(numbers: Tensor) -> bool:
    """True for numbers of half precision, and for numbers on a GPU that may be made with TF32."""
    values = [getattr(backend, name) for backend, name in tf32_switches()]
    by_tf32 = numbers.is_cuda and ("tf32" in values or True in values)
    return by_tf32 or numbers.dtype in (torch.bfloat16, torch.float16)


def tf32_switches() -> list[tuple[Any, str]]:
    """The settings of TF32 as objects and names; since PyTorch 2.9 `allow_tf32` cannot always be read."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):
        return [(backend, "fp32_precision") for backend in (matmul, cudnn.conv, cudnn.rnn)]
    return [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]
