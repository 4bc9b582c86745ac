"""Run the code that README.md and docs/ show.

    python .ci/docs_blocks.py --sh | bash -euxo pipefail    the ```sh blocks, in order
    python .ci/docs_blocks.py --python                      the ```python blocks, in order

README's commands run in the clone. Each page of docs/ has a scratch folder of its own, with a copy of
examples/ and scripts/; the Python blocks of a page share their names. A ```text block is output. Commands
after a line `<!-- needs PACKAGE -->` are skipped, with a line, where the package is not installed.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("examples", "scripts")
FENCE = re.compile(
    r"^(?:<!-- needs (?P<needs>\w+) -->\n)?(?P<fence>```+)(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block of a page. start: where its text begins in the page. needs: a package, or empty."""

    language: str
    text: str
    start: int
    needs: str = ""

    def commands(self) -> str:
        """The text, for bash; behind a question for the package that it needs."""
        if not self.needs:
            return self.text
        found = f'python -c "import importlib.util as u; exit(not u.find_spec({self.needs!r}))"'
        return f"if {found}; then\n{self.text}else echo 'skipped: {self.needs} is not installed'; fi"


def pages(root: Path = ROOT) -> list[Path]:
    """README.md, then the pages of docs/ by name."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [
        Block(match["language"].strip(), match["text"], match.start("text"), match["needs"] or "")
        for match in found
    ]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary working folder with copies of the folders that pages refer to."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            shutil.copytree(ROOT / name, Path(folder, name))
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def shell_script() -> str:
    """All ```sh blocks as one script for bash."""
    lines = [f"cd {shlex.quote(str(ROOT))}"]
    for page in pages():
        commands = [block.commands() for block in blocks_of(page) if block.language == "sh"]
        if not commands:
            continue
        if page.parent != ROOT:
            copied = " ".join(shlex.quote(str(ROOT / name)) for name in COPIED)
            lines += ["page=$(mktemp -d)", f'cp -r {copied} "$page"', 'cd "$page"']
        lines += [f": {shlex.quote(str(page.relative_to(ROOT)))}", *commands]
        if page.parent != ROOT:
            lines += [f"cd {shlex.quote(str(ROOT))}", 'rm -rf "$page"']
    return "\n".join(lines)


def run_python(page: Path) -> dict[str, Any]:
    """Execute the ```python blocks of a page in order; return the names that they define."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.language == "python":
            exec(compile(block.text, f"{page.name}, a Python block", "exec"), names)
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Print the shell blocks, or run the Python blocks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sh", action="store_true", help="print the ```sh blocks as a script")
    what.add_argument("--python", action="store_true", help="run the ```python blocks")
    if parser.parse_args(argv).sh:
        print(shell_script())
        return 0
    for page in pages():
        if not any(block.language == "python" for block in blocks_of(page)):
            continue
        with scratch():
            run_python(page)
        print(f"ran the Python blocks of {page.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
