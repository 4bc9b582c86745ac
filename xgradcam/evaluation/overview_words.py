"""Words and numbers of the report of a run, as HTML."""

import html
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from xgradcam.evaluation.clusters import Maps
from xgradcam.evaluation.overview import PLACED, Explained, Record
from xgradcam.models.labels import name_only
from xgradcam.runs.verdicts import right_of, verdict_on, verdicts_on

ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


def text(words: object) -> str:
    """The words as HTML text."""
    return html.escape(str(words))


def class_words(one: Explained) -> str:
    """The name of a class and its index; not escaped."""
    name = name_only(one.name)
    number = "" if one.index is None else f"class {one.index}"
    return name if number in ("", name) else f"{name} ({number})"


def first_name(label: str) -> str:
    """The first of the names in a label; not escaped."""
    return name_only(label).partition(",")[0]


def facts(one: Explained) -> Iterator[str]:
    """Numbers on a class in words."""
    count = len(one.records)
    yield f"{count:,} map{'s' * (count != 1)}"
    if one.right is not None and one.right[1]:
        rate = one.right[0] / one.right[1]
        yield f"right: {one.right[0]:,} of {one.right[1]:,} photographs of it ({rate:.1%})"
    if one.predicted is not None:
        yield f"predicted {one.predicted:,} time{'s' * (one.predicted != 1)}"
    if one.shown:
        yield f"half of the evidence lies in {half(one.mean())} of the picture, {place_words(one.mean())}"
    if one.inside:
        inside = percent(mean_of(one.inside))
        yield f"{inside} of the evidence lies in boxes of it ({len(one.inside):,} maps)"
    if (features := one.share("feature")) is not None:
        yield f"{percent(features)} of the score is in the layer's features"
    if (placed := one.share(*PLACED)) is not None:
        nowhere = percent(one.share("nowhere"))
        yield f"{percent(placed)} in constants with a place and {nowhere} nowhere (medians)"
    if one.groups.silhouette is not None:
        yield f"{one.groups.count} groups of maps (silhouette {one.groups.silhouette:.2f})"


def group_words(one: Explained, members: Sequence[int]) -> str:
    """The number of a group's maps, and how many of its photographs are right."""
    words = f"{len(members):,} of {len(one.shown):,} maps, {place_words(one.mean(members))}"
    known = verdicts_on([[one.records[place]] for place in members])
    if not known:
        return words
    right, count = right_of(known)
    return f"{words}; {right:,} of {count:,} right ({right / count:.0%})"


def wrong(record: Record) -> str:
    """The mistake in words; empty for a right prediction, and where that is not known."""
    verdict = verdict_on([record])
    if verdict is None or verdict.is_right:
        return ""
    truth, taken = (text(first_name(record[key]["name"])) for key in ("truth", "prediction"))
    return f" <strong>wrong: {truth} taken for {taken} ({confidence(record):.0%})</strong>"


def confidence(record: Record) -> float:
    """The probability of the predicted class."""
    return float(record["prediction"]["probability"])


def right(one: Explained) -> str:
    """The right photographs of a class, of all of it."""
    return "-" if one.right is None or not one.right[1] else f"{one.right[0]:,} of {one.right[1]:,}"


def half(mean: Maps) -> str:
    """The smallest part of the picture that holds half of the evidence; half of it if it lies everywhere."""
    if not mean.any():
        return "-"
    sums = np.sort(mean.flatten().astype(np.float64))[::-1].cumsum()
    cells = int(np.searchsorted(sums, sums[-1] / 2)) + 1
    return f"{cells / mean.size:.0%}"


def place_words(mean: Maps) -> str:
    """The place of the highest values in words: `at the upper right`."""
    row, column = divmod(int(cv2.blur(mean, (5, 5)).argmax()), mean.shape[1])
    words = [ROWS[3 * row // mean.shape[0]], COLUMNS[3 * column // mean.shape[1]]]
    return "most at the centre" if words == ["middle", "centre"] else f"most at the {' '.join(words)}"


def mean_of(shares: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(shares) / len(shares) if shares else None


def percent(share: float | None) -> str:
    """A share in words; one that rounds to 0 has no sign."""
    return "-" if share is None else f"{round(share, 2) + 0:.0%}"


def number(value: float | None) -> str:
    """A number in words."""
    return "-" if value is None else f"{value:.3g}"
