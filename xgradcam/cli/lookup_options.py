"""The options that show what there is, and end: models, layers, methods, help."""

import argparse

from xgradcam import __version__
from xgradcam.cli.help_pages import ShortPage, add_help_arguments
from xgradcam.cli.parsing import Parser

# With one of these no photograph is needed.
LISTINGS = ("--list-layers", "--list-methods")


def lists(arguments: argparse.Namespace) -> bool:
    """True if the command is only to list something."""
    return any(getattr(arguments, option[2:].replace("-", "_"), None) for option in LISTINGS)


def add_lookup_arguments(parser: Parser, short: ShortPage | None, *, methods: bool = False) -> None:
    """Add the options; short: the page of -h, if not that of --help. methods: for a command with methods."""
    group = parser.add_argument_group("to look up")
    group.add_argument("--list-layers", action="store_true", help="show the model's layers and end")
    if methods:
        group.add_argument("--list-methods", action="store_true", help="show the methods and end")
    add_help_arguments(group, short, f"%(prog)s {__version__}")
