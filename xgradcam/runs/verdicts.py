"""Right and wrong predictions of a run, counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias


class Verdict(NamedTuple):
    """The true class of a photograph and the predicted one, each as index and name."""

    true: tuple[int, str]
    predicted: tuple[int, str]

    @property
    def is_right(self) -> bool:
        """True if the prediction is the true class."""
        return self.true[0] == self.predicted[0]


Verdicts: TypeAlias = Counter[Verdict]


def verdict_on(records: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """The verdict on one photograph, by its records; None if its true class is not known."""
    if not records or "truth" not in records[0]:
        return None
    truth, predicted = records[0]["truth"], records[0]["prediction"]
    return Verdict((truth["index"], truth["name"]), (predicted["index"], predicted["name"]))


def verdicts_on(each: Sequence[Sequence[Mapping[str, Any]]]) -> Verdicts:
    """The verdicts on several photographs."""
    return Counter(verdict for records in each if (verdict := verdict_on(records)) is not None)


def right_of(verdicts: Verdicts) -> tuple[int, int]:
    """The number of right predictions, and of all."""
    return sum(count for verdict, count in verdicts.items() if verdict.is_right), verdicts.total()


def confusions(verdicts: Verdicts, most: int) -> list[tuple[Verdict, int]]:
    """The most frequent mistakes, at most so many, and how often each was made."""
    wrong = Counter({verdict: count for verdict, count in verdicts.items() if not verdict.is_right})
    return wrong.most_common(most)
