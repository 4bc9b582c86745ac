"""Small networks and photographs that the tests share."""

import os
import urllib.request
from pathlib import Path

# Threads that wait for each other on a busy machine take forty times as long as one; also for the commands.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor

from tests.support import EXAMPLES, TinyNet


@pytest.fixture(autouse=True)
def proxies_of_the_moment() -> None:
    """Let urllib look at the proxy variables anew: it remembers those of its first connection."""
    urllib.request.install_opener(None)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a new folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def net() -> TinyNet:
    return TinyNet().eval()


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def both() -> Path:
    """The photograph of a cat beside a cup of espresso."""
    return EXAMPLES / "cat-and-coffee.jpg"
