"""Right and wrong predictions, counted."""

from collections import Counter

from xgradcam.runs.verdicts import Verdict, confusions, right_of, verdict_on, verdicts_on

CAT, DOG = (0, "cat"), (1, "dog")


def record(truth, predicted, **more):
    told = {"truth": dict(zip(("index", "name"), truth, strict=True))}
    told["prediction"] = {**dict(zip(("index", "name"), predicted, strict=True)), "probability": 0.5}
    return {**told, **more}


def test_a_photograph_is_judged_once_by_all_its_records():
    wrong = record(CAT, DOG, role="predicted"), record(CAT, DOG, role="true"), record(CAT, DOG)
    assert verdict_on(wrong) == Verdict(CAT, DOG)
    assert not verdict_on(wrong).is_right
    assert verdict_on([record(DOG, DOG)]).is_right
    assert verdict_on([{"image": "a.jpg"}]) is None
    assert verdict_on([]) is None


def test_classes_of_one_name_are_told_apart_by_their_index():
    assert not Verdict((6, "crane"), (7, "crane")).is_right


def test_verdicts_are_counted():
    photographs = [[record(CAT, CAT)]] * 3 + [[record(CAT, DOG)]] * 2 + [[record(DOG, CAT)], [{"image": "x"}]]
    verdicts = verdicts_on(photographs)
    assert right_of(verdicts) == (3, 6)
    assert confusions(verdicts, 9) == [(Verdict(CAT, DOG), 2), (Verdict(DOG, CAT), 1)]
    assert confusions(verdicts, 1) == [(Verdict(CAT, DOG), 2)]
    assert (right_of(Counter()), confusions(Counter(), 3)) == ((0, 0), [])
