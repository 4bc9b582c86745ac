"""Folders and models of the tests of the commands."""

import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.cli.support import OFFLINE, SHARED_RUN, tree
from tests.support import EXAMPLES, POOLED, TINY, noise
from xgradcam.cli.xgrad_cam import main


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Run in a new folder, without network and without cached weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def own_models(own_folder, monkeypatch):
    """tiny.py and pooled.py in the folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, code in {"tiny": TINY, "pooled": POOLED}.items():
        monkeypatch.delitem(sys.modules, name, raising=False)
        Path(f"{name}.py").write_text(code)


@pytest.fixture
def photos(own_folder):
    """Three photographs, one of them in a folder of its own, and a file that is none."""
    Path("photos", "below").mkdir(parents=True)
    shutil.copy(EXAMPLES / "cat.jpg", "photos/a.jpg")
    shutil.copy(EXAMPLES / "coffee.jpg", "photos/b.jpg")
    shutil.copy(EXAMPLES / "cat-and-coffee.jpg", "photos/below/a.jpg")
    Path("photos/broken.jpg").write_text("no picture")
    return "photos"


@pytest.fixture
def usual_handlers():
    """The handlers of signals that Python starts with; a shell's background jobs have SIGINT ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def whole(own_models):
    """128 photographs, of which one cannot be read, and what a single process makes of them."""
    noise("photos", 128)
    Path("photos/0077.png").write_text("no picture")
    assert main(SHARED_RUN) == 1
    files = tree("out")
    shutil.rmtree("out")
    return files
