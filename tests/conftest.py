"""Small networks and photographs that the tests share."""

import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Threads that wait for each other on a busy machine take forty times as long as one; also for the commands.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor

from tests.support import EXAMPLES, TinyNet

if TYPE_CHECKING:
    from playwright.sync_api import Playwright

    from tests.browsers import Browsers, Visitor


@pytest.fixture(autouse=True)
def proxies_of_the_moment() -> None:
    """Let urllib look at the proxy variables anew: it remembers those of its first connection."""
    urllib.request.install_opener(None)


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that tests write leave no __pycache__: folders are compared, and a file is soon another's."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


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


@pytest.fixture(scope="session")
def playwright() -> "Iterator[Playwright]":
    """The only one of a process: a second one beside it would not start."""
    from playwright.sync_api import sync_playwright

    from tests.browsers import OLD_FIREFOX

    with pytest.MonkeyPatch.context() as patch:
        before = os.environ.get("NODE_OPTIONS", "")
        patch.setenv("NODE_OPTIONS", f'{before} --require "{OLD_FIREFOX}"'.strip())
        with sync_playwright() as playwright:
            yield playwright


@pytest.fixture(scope="session", params=["Chromium", "Firefox"])
def browsers(request: pytest.FixtureRequest, playwright: "Playwright") -> "Iterator[Browsers]":
    from tests.browsers import Browsers

    browsers = Browsers(playwright, request.param)
    yield browsers
    browsers.close()


@pytest.fixture
def visit(browsers: "Browsers") -> "Iterator[Visitor]":
    from tests.browsers import Visitor

    visitor = Visitor(browsers)
    yield visitor
    visitor.close()
