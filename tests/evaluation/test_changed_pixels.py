import pytest
import torch

from xgradcam.evaluation import metrics
from xgradcam.evaluation.changed_pixels import ROUNDING, ChangedPixels

STEPS, REMOVED = 5, (0.3, 0.6)


@pytest.fixture
def changed():
    inputs = torch.randn(1, 3, 9, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ChangedPixels(inputs, STEPS, REMOVED)


@pytest.fixture
def asked():
    """The batches that were asked for."""
    return []


@pytest.fixture
def score(asked):
    weights = torch.randn(3, 9, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def score(inputs):
        asked.append(inputs)
        return torch.sigmoid((weights * inputs).sum(dim=(1, 2, 3)) / 9)

    return score


def heat(seed):
    return torch.rand(9, 14, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_by_one(changed, score, heatmap):
    """The measures of a heatmap by the functions of each."""
    deletion = metrics.deletion(score, changed.inputs, heatmap, STEPS)
    insertion = metrics.insertion(score, changed.inputs, heatmap, STEPS)
    whole, faded = score(changed.inputs), score(metrics.fade(changed.inputs, heatmap))
    return {
        "drop": pytest.approx(float(metrics.average_drop(whole, faded))),
        "increase": float(metrics.increase_in_confidence(whole, faded)),
        "deletion": pytest.approx(deletion.area),
        "insertion": pytest.approx(insertion.area),
        "road": pytest.approx(metrics.road(score, changed.inputs, heatmap, REMOVED)),
        "curves": {
            "deletion": pytest.approx(deletion.scores.tolist()),
            "insertion": pytest.approx(insertion.scores.tolist()),
        },
    }


def test_heatmaps_that_share_batches_are_measured_as_if_alone(changed, score):
    heatmaps = [heat(seed) for seed in range(3)] + [torch.zeros(9, 14, dtype=torch.float64)]
    found = changed.measure(score, heatmaps)
    assert len(found) == 4
    for measures, heatmap in zip(found, heatmaps, strict=True):
        assert measures == one_by_one(changed, score, heatmap)
    assert len({measures["deletion"] for measures in found}) == 4


def test_one_step_has_only_ends(score, asked):
    changed = ChangedPixels(torch.ones(1, 3, 9, 14, dtype=torch.float64), 1, REMOVED)
    (found,) = changed.measure(score, [heat(0)])
    assert found["deletion"] == pytest.approx(metrics.deletion(score, changed.inputs, heat(0), 1).area)
    assert len(found["curves"]["insertion"]) == 2


def test_what_is_the_same_is_asked_for_once(changed, score, asked):
    assert changed.evaluations == 1 + 4 + 4 + 4
    close = heat(0) + ROUNDING * (heat(5) - 0.5)
    assert not torch.equal(close, heat(0))
    found = changed.measure(score, [heat(0), heat(1), close, heat(0)])
    assert sum(map(len, asked)) == 3 + 2 * changed.evaluations
    assert [len(batch) for batch in asked] == [metrics.BATCH, 3 + 2 * changed.evaluations - metrics.BATCH]
    assert found[0] == found[2] == found[3] != found[1]
    asked.clear()
    assert changed.measure(score, [heat(1), heat(0)]) == [found[1], found[0]]
    assert asked == []
    changed.measure(score, [heat(0) + 10 * ROUNDING])
    assert sum(map(len, asked)) == 3 + changed.evaluations
