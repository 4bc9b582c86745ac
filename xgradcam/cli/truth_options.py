"""The option of the true classes, and the lines on right and wrong; nothing here imports torch."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xgradcam.cli.parsing import Parser
from xgradcam.errors import XGradCamError, short

if TYPE_CHECKING:
    from xgradcam.models.classifier import Classifier
    from xgradcam.runs.sources import Source
    from xgradcam.runs.truth import Table
    from xgradcam.runs.verdicts import Verdicts

FOLDER = "folder"
# Mistakes of a kind that the last lines of a run name, at most.
MOST_CONFUSIONS = 3


def add_truth_argument(parser: Parser) -> None:
    """Add the option of the true classes."""
    parser.add_argument_group("right or wrong").add_argument(
        "--truth", metavar=f"{FOLDER}|FILE.csv|LABEL",
        help=f"the photographs' true classes: {FOLDER}, where each one's folder has the index, the id "
        "(n02123045) or a whole name of its class; a table with a line for each, file and class; or labels "
        "beside them: of tars the ending (cls, txt, json, json:KEY), of Parquet tables the column. It has "
        "the predicted class explained and, of mistakes, the true one and the contrast of the two: why this "
        "and not that. --target-index explains other classes. At the end it is said how many are right",
    )  # fmt: skip


def truth_files(arguments: argparse.Namespace) -> list[str]:
    """The file that --truth names."""
    path = None if getattr(arguments, "truth", None) is None else _path(arguments)
    return [] if path is None else [str(path)]


def truth_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The part of a run's settings on the true classes; not there unless they are given."""
    if arguments.truth is None:
        return {}
    path = _path(arguments)
    return {"truth": arguments.truth if path is None else {"file": str(path), "sha256": _table(path).digest}}


def explains_mistakes(arguments: argparse.Namespace) -> bool:
    """True if the predicted and the true class are explained, and no classes that are asked for."""
    return arguments.truth is not None and arguments.target_index == ["-1"]


def with_truth(
    arguments: argparse.Namespace,
    sources: "Sequence[Source]",
    classifier: "Classifier",
    score: str | None,
    say: Callable[[str], None],
) -> "Sequence[Source]":
    """The photographs with their true classes, if --truth gives them; `say` is told what is left over.

    score: explained instead of a class. Raises XGradCamError as `by_folder`, `by_table` and `by_labels`.
    """
    if arguments.truth is None:
        return sources
    if score is not None:
        raise XGradCamError(f"--truth is about classes, and this explains {score}: leave it out")
    # Workers get photographs that have theirs.
    if not sources:
        return sources
    from xgradcam.runs.held_truth import by_labels
    from xgradcam.runs.truth import by_folder, by_table

    count, labels = classifier.class_count(), classifier.labels
    if count == 1:
        raise XGradCamError(
            f"--truth needs a model of several classes: {classifier.name} has one output, which alone is "
            "never wrong"
        )
    if arguments.truth == FOLDER:
        return by_folder(sources, labels, count)
    if (path := _path(arguments)) is None:
        return by_labels(arguments.truth, sources, labels, count, say)
    return by_table(_table(path), sources, arguments.image_path, labels, count, say)


def _path(arguments: argparse.Namespace) -> Path | None:
    """The table that --truth names; None for the word, and for a name of labels: no file is called so."""
    given = arguments.truth
    is_name = os.path.basename(given) == given and not os.path.isfile(given)
    return None if is_name or given == FOLDER else Path(given)


def require_labels(arguments: argparse.Namespace, sources: "Sequence[Source]") -> None:
    """Raise XGradCamError for a name of labels where no photograph can have one beside it."""
    from xgradcam.runs.held_truth import is_held

    given = arguments.truth
    if given in (None, FOLDER) or _path(arguments) is not None or any(map(is_held, sources)):
        return
    what = "a folder" if os.path.isdir(given) else "no file"
    raise XGradCamError(
        f"--truth {given} is {what}: give the word {FOLDER}, or a table of file and class; labels of such a "
        "name are in tars and Parquet tables, of which none is given"
    )


def read_truth(arguments: argparse.Namespace) -> None:
    """Read the table of --truth, if there is one; XGradCamError where it cannot be read."""
    if arguments.truth is not None and (path := _path(arguments)) is not None:
        _table(path)


def _table(path: Path) -> "Table":
    from xgradcam.runs.sources import state_of

    state = state_of(str(path))
    if state["bytes"] < 0 or path.is_dir():
        what = "a folder" if path.is_dir() else "no file"
        raise XGradCamError(f"--truth {path} is {what}: give the word {FOLDER}, or a table of file and class")
    return _table_as_it_is(path.absolute(), path, *state.values())


@lru_cache(maxsize=1)
def _table_as_it_is(_place: Path, path: Path, _bytes: int, _modified: int) -> "Table":
    """The table, which is read once for all that ask for it."""
    from xgradcam.runs.truth import read_table

    return read_table(path)


def right_or_wrong(record: Mapping[str, Any]) -> str:
    """The words on a photograph's prediction, or on the class explained; empty where there are none."""
    if "truth" not in record or record.get("role") == "contrast":
        return ""
    truth = record["truth"]
    if record.get("role") == "true":
        return "the true class"
    if truth["index"] == record["prediction"]["index"]:
        return "right"
    number = f"class {truth['index']}"
    return f"wrong: true is {truth['name']}" + (f" ({number})" if truth["name"] != number else "")


def accuracy_lines(verdicts: "Verdicts") -> list[str]:
    """The share of right predictions of a run, and its most frequent mistakes; nothing without a verdict."""
    from xgradcam.models.labels import name_only
    from xgradcam.runs.verdicts import confusions, right_of

    def words(name: str) -> str:
        return short(name_only(name), 40)

    if not verdicts:
        return []
    right, count = right_of(verdicts)
    lines = [f"correct: {right:,} of {count:,} ({right / count:.1%})"]
    mistakes = [
        f"{words(verdict.true[1])} taken for {words(verdict.predicted[1])} ({times})"
        for verdict, times in confusions(verdicts, MOST_CONFUSIONS)
    ]
    return lines + [f"most frequent mistakes: {'; '.join(mistakes)}"] * bool(mistakes)
