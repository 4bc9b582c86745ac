"""Check what is in the sdist and the wheel of a folder, and how large they are.

python -m build && python .ci/check_packages.py dist
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

LARGEST = 3_000_000
GENERATED = {"PKG-INFO"}
NEEDED = ("docs/", "examples/", "scripts/", "tests/", "xgradcam/")
PAGE = "xgradcam/runs/page/"  # the parts of the page of a run
DATA = {
    "xgradcam/evaluation/overview.css",
    "xgradcam/evaluation/overview.html",
    "xgradcam/models/imagenet_classes.md",
    "xgradcam/models/imagenet_classes.txt",
    "xgradcam/py.typed",
}


def main(folder: Path) -> int:
    """Print the packages' sizes and every complaint; 1 if there is one."""
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    tracked = set(subprocess.check_output(["git", "ls-files", "-z"], text=True).split("\0")) - {""}
    found = check_sdist(sdist, tracked) + check_wheel(wheel, tracked)
    for package in (sdist, wheel):
        print(f"{package.name}: {package.stat().st_size:,} bytes")
        if package.stat().st_size > LARGEST:
            found.append(f"{package.name} is larger than {LARGEST:,} bytes")
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def check_sdist(sdist: Path, tracked: set[str]) -> list[str]:
    """Complaints about an sdist: all that it holds is tracked, and the package and its tests are whole."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    needed = {name for name in tracked if name.startswith(NEEDED)}
    extra = [f"{sdist.name} holds {name}, which git does not track" for name in names - tracked - GENERATED]
    return extra + [f"{sdist.name} lacks {name}" for name in needed - names]


def check_wheel(wheel: Path, tracked: set[str]) -> list[str]:
    """Complaints about a wheel: it holds the tracked modules and the data of the package, and no more."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    needed = DATA | {name for name in tracked if name.startswith("xgradcam/") and name.endswith(".py")}
    needed |= {name for name in tracked if name.startswith(PAGE)}
    extra = [f"{wheel.name} holds {name}" for name in names - needed]
    return extra + [f"{wheel.name} lacks {name}" for name in needed - names]


sys.exit(main(Path(sys.argv[1])))
