"""Explanations by class: their order, their numbers, and maps that cannot be read."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from xgradcam import XGradCamError
from xgradcam.evaluation.overview import overview_of
from xgradcam.evaluation.overview_words import facts, half, place_words
from xgradcam.models.classifier import Classifier
from xgradcam.runs.run import Explaining, Run, Writing

pytestmark = pytest.mark.usefixtures("own_folder")


def run_of(*methods):
    classifier = Classifier("m", SimpleNamespace(), (32, 32), (0,) * 3, (1,) * 3, None)
    explaining = Explaining(methods=methods or ("grad-cam", "xgrad-cam"))
    return Run([], classifier, classifier.framing(), ["last"], [None], explaining, Writing(Path()))


def record(image, index=0, signed=None, **more):
    """A record, whose maps are written beside it."""
    name = f"{image}_{index}{more.get('role', '')}_maps.npz"
    signed = np.eye(4, dtype=np.float32) if signed is None else signed
    np.savez(name, **{"grad-cam": -signed, "xgrad-cam": signed, "scores": np.zeros(1)})
    told = {"image": image, "class_index": index, "class_name": f"class {index}", "score": 2.0}
    return {**told, "layer": "last", "maps": name, **more}


def judged(image, index, truth, predicted, **more):
    named = [{"index": one, "name": f"class {one}"} for one in (truth, predicted)]
    return record(image, index, truth=named[0], prediction={**named[1], "probability": 0.5}, **more)


def test_classes_of_most_mistakes_come_first_then_those_of_most_photographs():
    records = [record("a", 3), record("b", 1), record("c", 1)]
    assert [one.index for one in overview_of(run_of(), records).classes] == [1, 3]
    records = [judged("a", 1, 1, 1), judged("b", 1, 1, 1), judged("c", 2, 5, 2), judged("c", 5, 5, 2)]
    view = overview_of(run_of(), records)
    assert [one.index for one in view.classes] == [5, 1, 2]
    assert [(one.right, one.predicted) for one in view.classes] == [((0, 1), 0), ((2, 2), 2), ((0, 0), 1)]
    assert view.photographs == 3


def test_only_records_of_the_first_layer_with_maps_count():
    records = [record("a"), {**record("b"), "layer": "other"}, {**record("c"), "layer": "last + other"}]
    (one,) = overview_of(run_of(), records).classes
    assert [each["image"] for each in one.records] == ["a"]


def test_contrasts_of_classes_of_one_name_are_told_apart():
    facts = {"role": "contrast", "what": "contrast", "interest": "crane in contrast to crane"}
    records = [
        judged("a", 6, 7, 6, **facts, score_of="contrast:7"),
        judged("b", 6, 8, 6, **facts, score_of="contrast:8"),
    ]
    view = overview_of(run_of(), records)
    assert (len(view.classes), len(view.contrasts)) == (0, 2)


def test_numbers_are_medians_of_what_is_known():
    budgets = [
        {"feature": 1.0, "nowhere": 0.5}, {"feature": 4.0, "nowhere": None}, {"feature": 3.0, "nowhere": 1.5}
    ]  # fmt: skip
    records = [
        record(f"{number}", budget=budget, conservation_error={"xgrad-cam": error, "grad-cam": 9.0})
        for number, (budget, error) in enumerate(zip(budgets, [0.1, None, 0.3], strict=True))
    ]
    (one,) = overview_of(run_of(), [*records, record("of no score", score=0.0)]).classes
    assert one.share("feature") == 1.5
    assert one.share("nowhere") == 0.5
    assert one.share("feature", "nowhere") == pytest.approx(1.5)
    assert one.share("bias") is None
    assert one.conservation == pytest.approx(0.2)


def test_blank_maps_are_in_no_mean():
    corner = np.zeros((4, 4), np.float32)
    corner[0, 3] = 8
    records = [record("a", signed=corner), record("b", signed=-corner)]
    (one,) = overview_of(run_of(), records).classes
    assert one.shown == [0]
    np.testing.assert_array_equal(one.mean(), one.maps[0])
    assert place_words(one.mean()) == "most at the upper right"
    assert "2 maps" in list(facts(one))


def test_the_mean_gives_each_photograph_the_same_weight():
    low, high = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    low[3, 0], high[0, 3] = 1e-3, 1e3
    (one,) = overview_of(run_of(), [record("a", signed=low), record("b", signed=high)]).classes
    assert one.mean()[:16].sum() == pytest.approx(0.5)
    assert one.mean().sum() == pytest.approx(1)


def test_half_of_the_evidence_is_in_half_of_an_even_map_and_in_a_cell_of_a_point():
    assert half(np.ones((32, 32), np.float32)) == "50%"
    point = np.zeros((32, 32), np.float32)
    point[5, 5] = 1
    assert half(point) == "0%"
    assert half(np.zeros((32, 32), np.float32)) == "-"


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04", b"\x93NUMPY"])
def test_maps_that_cannot_be_read_are_named(content):
    one = record("a")
    Path(one["maps"]).write_bytes(content)
    with pytest.raises(XGradCamError, match=r"read the maps in a_0_maps\.npz: .*: explain the run anew"):
        overview_of(run_of(), [one])


def test_maps_of_another_shape_are_refused():
    with pytest.raises(XGradCamError, match=r"are \(4,\): a report is about maps \(h, w\)"):
        overview_of(run_of(), [record("a", signed=np.ones(4, np.float32))])


def test_a_run_without_results_has_an_empty_overview():
    view = overview_of(run_of(), [])
    assert (view.classes, view.contrasts, view.photographs) == ([], [], 0)
