import re
import subprocess
import sys
from pathlib import Path

import pytest

import xgradcam

ROOT = Path(__file__).resolve().parents[1]


def test_every_public_name_is_there_documented_and_typed():
    exported = re.findall(
        r"import \w+ as (\w+)$", (ROOT / "xgradcam" / "__init__.py").read_text(), re.MULTILINE
    )
    assert sorted(exported) == sorted(xgradcam.__all__)
    for name in xgradcam.__all__:
        value = getattr(xgradcam, name)
        assert name == "METHODS" or value.__doc__
        assert name in dir(xgradcam)
    assert (ROOT / "xgradcam" / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = xgradcam.nonsense


def test_importing_the_package_does_not_import_torch():
    script = "import sys, xgradcam; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_the_lower_modules_know_no_command_and_print_nothing():
    for path in (ROOT / "xgradcam").glob("*.py"):
        text = path.read_text()
        assert "print(" not in text, path
        assert path.name == "__main__.py" or "xgradcam.cli" not in text, path
