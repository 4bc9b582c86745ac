"""The two pages of help: `-h`, a screen for the first minutes, and `--help`, all options."""

import argparse
import copy
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Longest line of a page in characters: longer ones are hard to read in a wide terminal.
WIDEST = 100


class Formatter(argparse.HelpFormatter):
    """Help with paragraphs filled to the terminal's width, examples as they are, and short invocations."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, WIDEST + 2) - 2
        super().__init__(prog, max_help_position=24, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            _examples(one, width) if one.startswith(" ") else "\n".join(self._split_lines(one, width))
            for one in paragraphs
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        # The names of options and methods have hyphens.
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs in ("+", "*"):
            return f"{self._metavar_formatter(action, default_metavar)(1)[0]} ..."
        return super()._format_args(action, default_metavar)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return self._format_args(action, self._get_default_metavar_for_positional(action))
        values = ""
        if action.nargs != 0:
            values = f" {self._format_args(action, self._get_default_metavar_for_optional(action))}"
        return ", ".join(action.option_strings) + values


def _examples(text: str, width: int) -> str:
    """Lines of examples, each with what it does beside it, or below it where the terminal is too narrow."""
    lines = text.split("\n")
    if max(map(len, lines)) <= width:
        return text
    return "\n".join("\n      ".join(re.split(r"(?<=\S) {2,}", line)) for line in lines)


@dataclass(frozen=True)
class ShortPage:
    """The page of `-h`: what the command does, examples, and the options that a first run needs.

    options: name of an option, or the metavar of the photographs -> its line. more: the last lines.
    """

    description: str
    options: Mapping[str, str]
    more: str

    def text(self, parser: argparse.ArgumentParser) -> str:
        """The page for a parser that has all these options."""
        page = argparse.ArgumentParser(
            parser.prog, parser.usage, self.description, self.more,
            formatter_class=Formatter, add_help=False,
        )  # fmt: skip
        group = page.add_argument_group("options")
        known = {str(action.metavar): action for action in parser._actions if not action.option_strings}
        known.update(parser._option_string_actions)
        for name, line in self.options.items():
            action = copy.copy(known[name])
            action.help = line
            action.option_strings = [name] if action.option_strings else []
            group._group_actions.append(action)
        return page.format_help()


class _ShortHelp(argparse.Action):
    """Prints the short page, which is `const`, and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: ShortPage, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, const=const, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser._print_message(self.const.text(parser), sys.stdout)
        parser.exit()


def add_help_arguments(group: argparse._ActionsContainer, short: ShortPage | None, version: str) -> None:
    """Add -h, --help and --version; short: the page of -h, None for that of --help."""
    if short is None:
        group.add_argument("-h", "--help", action="help", help="show this page and end")
    else:
        group.add_argument(
            "-h", action=_ShortHelp, const=short, help="show the options of a first run and end"
        )
        group.add_argument("--help", action="help", help="show all options and end")
    group.add_argument("--version", action="version", version=version, help="show the version and end")
