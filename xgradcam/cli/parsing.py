"""The parser of all commands: photographs anywhere, errors in one line, and @FILEs of arguments."""

import argparse
import os
import re
import sys
from collections.abc import Container, Sequence
from typing import Any, NoReturn

from xgradcam.cli.argument_files import expanded
from xgradcam.cli.arranging import IMAGE_PATH, adds_up, arranged, paths_among
from xgradcam.cli.help_pages import Formatter
from xgradcam.cli.terminal import COULD_NOT_RUN, note, shown
from xgradcam.errors import XGradCamError, did_you_mean

# Attribute of the options' values while they are parsed.
GIVEN = " given"


class _Store(argparse._StoreAction):
    """Stores an option's value; one of several values that is given again adds to them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if adds_up(self):
            # Not to the default.
            before = namespace.__dict__.setdefault(GIVEN, {}).setdefault(self.dest, [])
            before += values
            values = list(before)
        super().__call__(parser, namespace, values, option_string)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports errors in one line and reads @FILEs as a shell reads a line.

    prog, usage, description: see ArgumentParser. instead: options with which no photograph is needed.
    """

    def __init__(self, prog: str, usage: str, description: str, instead: Sequence[str]) -> None:
        super().__init__(
            prog, usage, description, formatter_class=Formatter, add_help=False, allow_abbrev=False
        )
        self.register("action", None, _Store)
        self.instead = tuple(instead)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments and those of their @FILEs, whose names are `argument_files` of the result."""
        given = sys.argv[1:] if args is None else list(args)
        try:
            arguments, files = expanded(given)
            self._given = arguments
            if any("\0" in argument for argument in arguments):
                self.error("an argument holds a NUL character, which no name can")
            arguments, lines = arranged(arguments, self._option_string_actions, self.instead)
        except XGradCamError as error:
            self.error(str(error))
        namespace = argparse.Namespace() if namespace is None else namespace
        namespace.argument_files = files
        found, unknown = super().parse_known_args(arguments, namespace)
        found.__dict__.pop(GIVEN, None)
        for line in lines if not getattr(found, "quiet", False) else ():
            note(self.prog, line)
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), choices)
            said = f"invalid choice: {value!r}{hint} (choose from {', '.join(choices)})"
            raise argparse.ArgumentError(action, said)

    def error(self, message: str) -> NoReturn:
        """Report a wrong command line and end with the exit code for 'could not run'."""
        message += _dash_advice(getattr(self, "_given", ()), self._option_string_actions)
        self.exit(
            COULD_NOT_RUN, f"{self.prog}: error: {shown(message)} ({self.prog} --help shows the options)\n"
        )


def paths_taken(parser: Parser, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The paths that options of several values have taken for values, by option."""
    several = [one for one in parser._actions if one.nargs == "+" and one.option_strings[0] != IMAGE_PATH]
    values = {one.option_strings[0]: getattr(arguments, one.dest) or [] for one in several}
    return paths_among({option: value for option, value in values.items() if _is_text(value)})


def _is_text(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _dash_advice(arguments: Sequence[str], options: Container[str]) -> str:
    """Advice on the name of a file that begins with a dash, if an argument looks like one."""
    for argument in arguments:
        is_name = re.fullmatch(r"-[^-].*\.[A-Za-z]\w{1,4}", argument) or os.path.isfile(argument)
        if argument.startswith("-") and is_name and argument not in options:
            return f"; for the file {argument} write ./{argument}"
    return ""
