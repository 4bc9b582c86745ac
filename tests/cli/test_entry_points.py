"""Each main also runs as a module."""

import subprocess
import sys

import pytest

import xgradcam


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("xgradcam", "xgrad-cam"),
        ("xgradcam.cli.xgrad_cam", "xgrad-cam"),
        ("xgradcam.cli.proof_verify", "proof-verify"),
    ],
)
def test_a_module_is_its_command(module, command):
    assert run(module, "--version").stdout == f"{command} {xgradcam.__version__}\n"
    refused = run(module)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"{command}: error: which photograph?")
    assert refused.stdout == ""
