"""The parser of all commands: errors in one line, and @FILEs of arguments."""

import argparse
import os
import re
import sys
from collections.abc import Container, Sequence
from typing import NoReturn

from xgradcam.cli.argument_files import expanded
from xgradcam.cli.terminal import COULD_NOT_RUN, shown
from xgradcam.errors import XGradCamError

# Options that take as many numbers as the input has channels.
COLOURS = ("--mean", "--std")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports errors in one line and reads @FILEs as a shell reads a line."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments and those of their @FILEs, whose names are `argument_files` of the result."""
        given = sys.argv[1:] if args is None else list(args)
        try:
            arguments, files = expanded(given)
        except XGradCamError as error:
            self.error(str(error))
        if any("\0" in argument for argument in arguments):
            self.error("an argument holds a NUL character, which no name can")
        self._given = arguments
        namespace = argparse.Namespace() if namespace is None else namespace
        namespace.argument_files = files
        return super().parse_known_args(_colours_last(arguments), namespace)

    def error(self, message: str) -> NoReturn:
        """Report a wrong command line and end with the exit code for 'could not run'."""
        message += _dash_advice(getattr(self, "_given", ()), self._option_string_actions)
        self.exit(
            COULD_NOT_RUN, f"{self.prog}: error: {shown(message)} ({self.prog} --help shows the options)\n"
        )


def _dash_advice(arguments: Sequence[str], options: Container[str]) -> str:
    """Advice on the name of a file that begins with a dash, if an argument looks like one."""
    for argument in arguments:
        is_name = re.fullmatch(r"-[^-].*\.[A-Za-z]\w{1,4}", argument) or os.path.isfile(argument)
        if argument.startswith("-") and is_name and argument not in options:
            return f"; for the file {argument} write ./{argument}"
    return ""


def _colours_last(arguments: Sequence[str]) -> list[str]:
    """The arguments with --mean, --std and their numbers at the end: what follows them may be a folder."""
    rest: list[str] = []
    last: list[str] = []
    group = rest
    for argument in arguments:
        if argument in COLOURS:
            group = last
        elif group is last and not _is_number(argument):
            group = rest
        group.append(argument)
    return [*rest, *last] if "--" not in rest else list(arguments)


def _is_number(argument: str) -> bool:
    try:
        float(argument)
    except ValueError:
        return False
    return True
