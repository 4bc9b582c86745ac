"""The options that show what there is, and end: models, layers, methods, colours, help."""

import argparse

from xgradcam import __version__
from xgradcam.cli.completion import SHELLS, PrintCompletion
from xgradcam.cli.help_pages import ShortPage, add_help_arguments
from xgradcam.cli.parsing import Parser

# With one of these no photograph is needed.
LISTINGS = ("--list-models", "--list-layers", "--list-methods", "--list-colormaps")


def lists(arguments: argparse.Namespace) -> bool:
    """True if the command is only to list something."""
    values = (getattr(arguments, option[2:].replace("-", "_"), None) for option in LISTINGS)
    return any(value not in (None, False) for value in values)


def add_lookup_arguments(
    parser: Parser, short: ShortPage | None, *, methods: bool = False, colormaps: bool = False
) -> None:
    """Add the options of a command with methods, or colour maps; short: the page of -h, if it has its own."""
    group = parser.add_argument_group("to look up")
    group.add_argument(
        "--list-models", metavar="FILTER", nargs="?", const="",
        help="show the models and end; FILTER: a part of their names (resnet), or a pattern ('timm/*vit*')",
    )  # fmt: skip
    group.add_argument("--list-layers", action="store_true", help="show the model's layers and end")
    if methods:
        group.add_argument("--list-methods", action="store_true", help="show the methods and end")
    if colormaps:
        group.add_argument(
            "--list-colormaps",
            action="store_true",
            help="show the colour maps, in colour on a terminal, and end",
        )
    # What a module's name follows is no command to a shell.
    if " " not in parser.prog:
        group.add_argument(
            "--print-completion", metavar="SHELL", choices=SHELLS, action=PrintCompletion,
            default=argparse.SUPPRESS,
            help=f"print a script that lets a shell ({', '.join(SHELLS)}) complete the options, and end",
        )  # fmt: skip
    add_help_arguments(group, short, f"%(prog)s {__version__}")
