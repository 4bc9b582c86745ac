"""The option of the score that is explained; nothing here imports torch."""

import argparse
from dataclasses import dataclass

from xgradcam.cli.parsing import Parser
from xgradcam.errors import XGradCamError, did_you_mean, shown

# Kinds of scores, and what follows the colon.
KINDS = {
    "class": "class",
    "contrast": "contrast:CLASS,...",
    "region": "region, region:CLASS or region:MASK.png",
    "pixel": "pixel:X,Y",
    "box": "box:RANK or box:X0,Y0,X1,Y1",
    "text": 'text:"a cat"',
    "similar": "similar:PHOTOGRAPH",
    "value": "value:INDEX",
}
SCORE_HELP = (
    "the score to explain, if not that of a class: contrast:282, the class less others; region:15, the mean "
    "of a segmentation's class where the model says that class (region: its largest), or region:mask.png, "
    "where a file is not black or transparent; pixel:X,Y; box:0, the detection of the highest score; "
    'box:X0,Y0,X1,Y1, the one that overlaps a box of the photograph most; text:"a cat", the likeness to a '
    "text; similar:FILE, to another photograph; value:0, an output that is no class. Default: by what the "
    "model returns, with a line. --target-index gives the class of contrast, region:mask.png, pixel and box"
)


@dataclass(frozen=True)
class Asked:
    """A value of --score: its kind, a key of `KINDS`, and what follows the colon."""

    kind: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind


def add_score_argument(parser: Parser, help_text: str = SCORE_HELP) -> argparse._ArgumentGroup:
    """Add the option of the score; its group."""
    group = parser.add_argument_group("another score")
    group.add_argument("--score", metavar="KIND:VALUE", help=help_text)
    return group


def asked_of(text: str) -> Asked:
    """The kind and the value that a text of --score has; XGradCamError for an unknown kind."""
    kind, colon, value = text.partition(":")
    asked = Asked(kind.strip().lower(), value.strip().strip("\"'").strip())
    if asked.kind not in KINDS:
        raise XGradCamError(
            f"no score {shown(text)}{did_you_mean(asked.kind, KINDS)} (--score takes "
            f"{'; '.join(KINDS.values())})"
        )
    optional = ("class", "region")
    if (not asked.value and asked.kind not in optional) or (colon and asked.kind == "class"):
        raise XGradCamError(f"--score {text}: give {KINDS[asked.kind]}")
    return asked


def numbers_in(asked: Asked, count: int) -> list[float] | None:
    """The numbers in the value, separated by commas; None if it does not hold so many."""
    try:
        numbers = [float(number) for number in asked.value.split(",")]
    except ValueError:
        return None
    return numbers if len(numbers) == count else None
