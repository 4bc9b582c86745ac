"""Scripts that let a shell complete options, their choices and files, made by shtab."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh")
# Metavars of options that take a file or a folder; other metavars that begin with FILE do too.
FILES, FOLDERS = ("PATH", "PHOTOGRAPH", "FOLDER"), ("DIR",)


class PrintCompletion(argparse.Action):
    """Prints the script for a shell, and ends."""

    def __call__(
        self, parser: argparse.ArgumentParser, _namespace: Any, shell: Any, _option: Any = ""
    ) -> None:
        """Print it; an error where shtab is missing, or too old to know the shell."""
        try:
            import shtab
        except ImportError:
            parser.error(f"the completion of {shell} needs shtab: pip install 'xgradcam[completion]'")
        if shell not in shtab.SUPPORTED_SHELLS:
            parser.error(f"this shtab does not know {shell}: pip install --upgrade shtab")
        for action in parser._actions:
            _describe(action, shtab)
        # Programs that a shell can complete have no spaces in their names.
        sys.stdout.write(f"{shtab.complete(parser, shell)}\n")
        parser.exit()


def _describe(action: argparse.Action, shtab: Any) -> None:
    """Tell shtab what the values of an option are."""
    metavar = str(action.metavar)
    choices = _choices(action.dest)
    if choices:
        action.choices = choices
    elif metavar in FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif metavar in FILES or metavar.startswith("FILE"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _choices(name: str) -> Sequence[str] | None:
    """The values of an option that is not restricted to them, as far as there is a list."""
    from xgradcam.cam.methods import METHODS
    from xgradcam.models.catalogue import all_models
    from xgradcam.pictures.paint import COLORMAPS

    if name in ("method", "without"):
        return [*METHODS, "all"]
    if name == "colormap":
        return list(COLORMAPS)
    if name == "device":
        return ["auto", "cpu", "cuda", "mps"]
    # timm's are too many for a script: it is read whenever a shell starts.
    return [model.name for model in all_models() if model.source != "timm"] if name == "model" else None
