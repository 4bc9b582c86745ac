"""Write the parts of README.md and docs/ that are generated.

    python scripts/make_docs.py            write them
    python scripts/make_docs.py --check    write nothing; exit code 1 if a part is out of date

Two parts are generated: docs/options.md, from the parsers of the commands, and every ```text block, which
shows what the ```sh or ```python block before it prints. Needs the package installed.
"""

import argparse
import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
TOOL = runpy.run_path(str(ROOT / ".ci" / "docs_blocks.py"))
OPTIONS = ROOT / "docs" / "options.md"
COMMANDS: Mapping[str, str] = {
    "xgrad-cam": "xgradcam.cli.xgrad_cam",
    "proof-verify": "xgradcam.cli.proof_verify",
    "python -m xgradcam.evaluation": "xgradcam.cli.evaluate",
}
HEADER = """# All options

This page is generated from the commands by `python scripts/make_docs.py`. [The command](command.md) explains
the options together.
"""


def options_page() -> str:
    """docs/options.md: each command's description and options, in the parser's groups."""
    return "\n".join([HEADER, *(_section(command) for command in COMMANDS)])


def parser_of(main: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    """The parser that a command's `--help` shows."""
    with (
        mock.patch.object(argparse.ArgumentParser, "print_help", autospec=True) as shown,
        contextlib.suppress(SystemExit),
    ):
        main(["--help"])
    parser: argparse.ArgumentParser = shown.call_args.args[0]
    return parser


def _section(command: str) -> str:
    parser = parser_of(import_module(COMMANDS[command]).main)
    lines = [f"## `{command}`", "", *_paragraphs(parser.description or "")]
    for group in parser._action_groups:
        if group._group_actions:
            title = (group.title or "").capitalize()
            lines += [
                f"### {title}",
                "",
                *(_entry(action, parser.prog) for action in group._group_actions),
                "",
            ]
    return "\n".join(lines)


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a description; what is indented is code."""
    for paragraph in text.strip("\n").split("\n\n"):
        yield textwrap.indent(paragraph, "  ") if paragraph.startswith("  ") else _plain(paragraph)
        yield ""


def _entry(action: argparse.Action, prog: str) -> str:
    """An option as an item of a list: its names, its values, what it does."""
    help_text = (action.help or "") % {**vars(action), "prog": prog}
    values = " ".join(_values(action))
    # The short name of an option that has a long one says nothing more.
    names = [name for name in action.option_strings if name.startswith("--")] or action.option_strings or [""]
    shown = ", ".join(f"`{f'{name} {values}'.strip()}`" for name in names)
    return f"- {shown}: {_plain(help_text)}"


def _values(action: argparse.Action) -> list[str]:
    if action.nargs == 0:
        return []
    if isinstance(action.metavar, tuple):
        return list(action.metavar)
    name = action.metavar or "|".join(map(str, action.choices or [action.dest.upper()]))
    if action.nargs == "?":
        return [f"[{name}]"]
    return [name, "..."] if action.nargs in ("+", "*") else [name]


def _plain(text: str) -> str:
    """Text without the marks that Markdown would read, in one line."""
    return re.sub(r"([*<_])", r"\\\1", " ".join(text.split()))


def with_outputs(page: Path) -> str:
    """The page with every ```text block as the block before it prints now."""
    text, parts, end = page.read_text(encoding="utf-8"), [], 0
    with TOOL["scratch"]():
        for block, printed in _outputs(TOOL["blocks_of"](page)):
            shown = block.text if without_last_bits(block.text) == without_last_bits(printed) else printed
            parts += [text[end : block.start], shown]
            end = block.start + len(block.text)
    return "".join([*parts, text[end:]])


def _outputs(blocks: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Each ```text block, and what the block before it prints."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed, commands = "", ""
    for block in blocks:
        if block.language == "python":
            printed, commands = _printed(partial(exec, block.text, names)), ""
        elif block.language == "sh":
            printed, commands = "", block.text
        elif block.language == "text":
            yield block, run_commands(commands) if commands else printed


def _printed(work: Callable[[], object]) -> str:
    """What is printed meanwhile, on stdout and stderr together."""
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        work()
    return stream.getvalue()


def run_commands(text: str) -> str:
    """What the commands of a ```sh block print, without those that install."""
    lines = text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(part) for line in lines for part in line.split("&&")]
    return "".join(_run(words) for words in commands if words and words[0] != "pip")


def _run(words: Sequence[str]) -> str:
    program, *arguments = words
    if program in COMMANDS:
        main = import_module(COMMANDS[program]).main
        return _printed(lambda: _require_success(main(arguments), words))
    if program != "python":
        raise SystemExit(f"make_docs: cannot show the output of {program!r}")
    done = subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    _require_success(done.returncode, words)
    return done.stdout


def _require_success(code: int, words: Sequence[str]) -> None:
    if code:
        raise SystemExit(f"make_docs: exit code {code} of {shlex.join(words)}")


def without_last_bits(text: str) -> str:
    """The text without digits that are rounding, which differs between machines."""
    text = re.sub(
        r"(class_score-gradients\*feature-bias_term= |residual\| |tolerance )[-0-9.e]+", r"\1", text
    )
    text = re.sub(r"-?\d\.\de-\d\d(?=  holds)|(?<=tolerance ), at [\w.]+", "", text)
    return re.sub(r"(\d+\.\d{3})\d+\b", r"\1", re.sub(r" +", " ", text))


def made() -> dict[Path, str]:
    """Page -> its text as it should be."""
    pages = [page for page in TOOL["pages"]() if page != OPTIONS]
    return {OPTIONS: options_page(), **{page: with_outputs(page) for page in pages}}


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the generated parts; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if out of date")
    check = parser.parse_args(argv).check
    os.environ.setdefault("COLUMNS", "80")
    stale = 0
    for page, text in made().items():
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if not check:
            page.write_text(text, encoding="utf-8")
        print(f"{'out of date' if check else 'wrote'}: {page.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
