"""Threads that sleep while photographs are read and written."""

import json
import os
import subprocess
import sys

import pytest

from xgradcam.cli import waiting

# Runs the command without a network, and prints what it left for PyTorch's import.
COMMAND = """
import json, os, sys
from xgradcam.cli import waiting, xgrad_cam
waiting.usable_cores = lambda: int(sys.argv[1])
seen = []
def explaining_of(arguments):
    seen.append(["torch" in sys.modules, os.environ.get("OMP_WAIT_POLICY")])
    raise xgrad_cam.XGradCamError("enough")
xgrad_cam.explaining_of = explaining_of
xgrad_cam.main(["--image-path", *sys.argv[2:]])
print(json.dumps(seen))
"""


@pytest.mark.parametrize(
    ("cores", "places", "given", "expected"),
    [
        (2, ["."], None, "passive"),
        (4, ["a.jpg", "b.jpg"], None, "passive"),
        (2, ["*.jpg"], None, "passive"),
        (2, ["a.jpg"], None, None),
        (2, ["-"], None, None),
        (1, ["."], None, None),
        (16, ["."], None, None),
        (2, ["."], "active", "active"),
    ],
)
def test_threads_sleep_where_several_photographs_share_few_cores(tmp_path, cores, places, given, expected):
    environment = {key: value for key, value in os.environ.items() if key != waiting.SETTING}
    if given is not None:
        environment[waiting.SETTING] = given
    found = subprocess.run(
        [sys.executable, "-c", COMMAND, str(cores), *places],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(found.stdout) == [[False, expected]], found.stderr


def test_a_program_that_has_imported_pytorch_keeps_its_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(waiting.SETTING, raising=False)
    monkeypatch.setattr(waiting, "usable_cores", lambda: 2)
    waiting.sleep_when_idle([str(tmp_path)])
    assert waiting.SETTING not in os.environ
    monkeypatch.delitem(sys.modules, "torch")
    # Undone at the end of the test.
    monkeypatch.setenv(waiting.SETTING, "active")
    monkeypatch.delenv(waiting.SETTING)
    waiting.sleep_when_idle([str(tmp_path)])
    assert os.environ[waiting.SETTING] == "passive"
