"""What the tests of the commands share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import xgradcam
from tests.support import default_interrupts

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ("--model", "efficientnet-lite0")
OWN = ("--model", "tiny.py:Tiny", "--input-size", "32")
# A run that several processes may share.
SHARED_RUN = ["--image-path", "photos", "--save-maps", "--html", "--output-dir", "out", *OWN]
# A connection that is refused at once stands for a machine without network.
OFFLINE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def tree(folder):
    """Names and contents of all files in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def process(*arguments, **options):
    """The command running in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "xgradcam", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=default_interrupts, **options,
    )  # fmt: skip


def maps_in(folder):
    return {path.name: dict(np.load(path)) for path in sorted(Path(folder).rglob("*.npz"))}


def load_own():
    return xgradcam.load_classifier("tiny.py:Tiny", size=(32, 32)).module
