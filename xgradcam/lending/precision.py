"""Precision of a network's arithmetic: exact float32, TF32 or bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

FLOAT32, TF32, BF16 = "float32", "tf32", "bf16"


@contextmanager
def computing_in(precision: str, device: str) -> Iterator[None]:
    """Compute in this precision on a type of device, and restore the caller's settings at the end.

    `float32` is exact. In `tf32` a GPU rounds the factors of products to 10 bits; elsewhere it is `float32`.
    In `bf16` operations for which that suffices round to 7 bits (PyTorch's autocast).
    """
    switches = tf32_switches()
    before = [getattr(backend, name) for backend, name in switches]
    coarse = precision == TF32
    values = {"fp32_precision": "tf32" if coarse else "ieee", "allow_tf32": coarse}
    try:
        for backend, name in switches:
            setattr(backend, name, values[name])
        with torch.autocast(device, torch.bfloat16, enabled=precision == BF16):
            yield
    finally:
        for (backend, name), value in zip(switches, before, strict=True):
            setattr(backend, name, value)


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
