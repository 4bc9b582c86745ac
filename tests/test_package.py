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


def test_the_python_side_needs_no_picture_libraries():
    script = (
        "import sys; sys.modules['cv2'] = sys.modules['PIL'] = None\n"
        "from xgradcam import explain, explain_score, fuse, heatmap, record, verify, verify_layers\n"
        "import xgradcam.cam.guided, torch\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(108, 5))\n"
        "print(tuple(explain(model, torch.ones(2, 1, 8, 8), '0').maps['xgrad-cam'].shape))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(2, 6, 6)\n", "")


def test_importing_the_package_does_not_import_torch():
    script = "import sys, xgradcam; print('xgradcam' in sys.modules, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "True False\n"


def test_the_citation_and_the_changelog_name_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    (version,) = re.findall(r"^version: (.+)$", citation, re.MULTILINE)
    (released,) = re.findall(r'^date-released: "(.+)"$', citation, re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[?([^] \n]+)\]?(?: - (.+))?$", changelog, re.MULTILINE)
    assert version == xgradcam.__version__
    assert next(heading for heading in headings if heading[0] != "Unreleased") == (version, released)


def test_the_changelog_says_where_the_modules_are():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+`) \| (`.+`) \|$", changelog, re.MULTILINE)
    assert len(rows) > 30
    for row in rows[1:]:
        for name in re.findall(r"`([\w.]+)`", row[1]):
            assert (ROOT / "xgradcam" / f"{name.replace('.', '/')}.py").exists(), name
