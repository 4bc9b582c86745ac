"""Groups of maps: planted ones are found, chance gives none, and the same maps give the same groups."""

import sys

import numpy as np
import pytest

from xgradcam import XGradCamError
from xgradcam.evaluation import clusters
from xgradcam.evaluation.clusters import SIDE, group, kept_map, require_clustering, typical, unusual

GRID = np.arange(7)


def blob(row, column, width=1.2):
    return np.exp(-((GRID[:, None] - row) ** 2 + (GRID[None] - column) ** 2) / (2 * width**2))


def maps_of(objects, tags, spread=0.7, seed=0):
    """Maps of evidence around the centre, and of evidence in the upper right corner."""
    random = np.random.default_rng(seed)
    signed = [blob(*(3 + spread * random.normal(size=2))) for _ in range(objects)]
    signed += [blob(*(np.array([0, 6]) + 0.3 * random.normal(size=2)), 0.8) for _ in range(tags)]
    return np.stack([kept_map(one + 0.05 * random.normal(size=one.shape)) for one in signed])


def test_a_kept_map_is_the_positive_evidence_as_shares():
    kept = kept_map(np.array([[3.0, -5.0], [0.0, 1.0]]))
    assert kept.shape == (SIDE, SIDE)
    assert kept.dtype == np.float32
    assert kept.sum() == pytest.approx(1, rel=1e-5)
    assert kept.min() >= 0
    np.testing.assert_allclose(kept[0, 0] / kept[-1, -1], 3, rtol=1e-5)
    # Larger maps are averaged: one cell of 64 in a corner is one of 32.
    large = np.zeros((64, 64))
    large[:2, :2] = 7
    assert kept_map(large)[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("signed", [np.zeros((3, 3)), -np.ones((3, 3)), np.full((2, 2), np.nan)])
def test_without_positive_evidence_a_kept_map_is_blank(signed):
    assert not kept_map(signed).any()


def test_the_largest_numbers_do_not_overflow():
    assert kept_map(np.full((50, 50), 3e38, np.float32)).sum() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("objects", "tags"), [(40, 10), (20, 20), (12, 4), (200, 20)])
def test_a_planted_group_is_found_and_the_largest_comes_first(objects, tags):
    groups = group(maps_of(objects, tags, spread=0.6))
    assert groups.count == 2
    assert groups.silhouette > 0.35
    assert groups.members(0) == list(range(objects))
    assert groups.members(1) == list(range(objects, objects + tags))


@pytest.mark.parametrize("spread", [0.3, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_evidence_around_one_place_is_one_group(spread, seed):
    groups = group(maps_of(60, 0, spread, seed))
    assert (groups.count, groups.silhouette) == (1, None)


def test_few_maps_are_one_group():
    assert group(maps_of(10, 5)).count == 1
    assert group(np.zeros((0, SIDE, SIDE), np.float32)).count == 0


def test_equal_maps_are_one_group():
    assert group(np.repeat(maps_of(1, 0), 30, axis=0)).count == 1


def test_the_order_of_the_maps_does_not_matter():
    maps = maps_of(40, 10, spread=0.6)
    order = np.random.default_rng(1).permutation(len(maps))
    np.testing.assert_array_equal(group(maps[order]).of, group(maps).of[order])
    np.testing.assert_array_equal(group(maps).of, group(maps).of)


def test_of_many_maps_some_are_compared_and_the_others_join_them(monkeypatch):
    monkeypatch.setattr(clusters, "MOST_COMPARED", 50)
    groups = group(maps_of(120, 40, spread=0.6))
    assert groups.count == 2
    assert groups.members(1) == list(range(120, 160))


def test_typical_maps_are_the_nearest_to_the_mean_and_unusual_ones_the_farthest():
    maps = np.stack([kept_map(blob(3, 3 + shift)) for shift in (0.5, 0.1, 0.0, -0.1, -0.6, 3.0)])
    members = [0, 1, 2, 3, 4]
    assert typical(maps, members, 2) == [2, 3]
    assert unusual(maps, 1) == [5]
    assert unusual(maps[:1], 3) == []
    assert len(unusual(maps, 9)) == 6


def test_without_scikit_learn_a_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(clusters, "find_spec", lambda _name: None)
    with pytest.raises(XGradCamError, match=r"pip install 'xgradcam\[report\]'"):
        require_clustering()


def test_the_module_itself_needs_no_scikit_learn(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert kept_map(np.ones((2, 2))).sum() == pytest.approx(1)
