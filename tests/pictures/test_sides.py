"""Pictures of volumes and signals."""

import numpy as np
import pytest
import torch

from xgradcam import XGradCamError, draw_signal, draw_volume, overlay_heatmap
from xgradcam.pictures import sides
from xgradcam.pictures.paint import EVEN


@pytest.fixture
def captions(monkeypatch):
    """The captions of the panel that is drawn, and its pictures."""
    drawn = {}

    def panel(pictures, title, detail):
        drawn.clear()
        drawn.update(pictures)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(sides, "panel", panel)
    return drawn


def heat_at(shape, place):
    heat = np.random.default_rng(0).random(shape).astype(np.float32) / 2
    heat[place] = 1
    return heat


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (0, ["depth 1", "depth 4", "depth 7", "depth 11 (strongest)", "depth 14"]),
        (1, ["row 2 (strongest)", "row 7", "row 12", "row 16", "row 21"]),
        (2, ["column 2", "column 8", "column 14", "column 19 (strongest)", "column 27"]),
    ],
)
def test_a_row_of_slices_through_the_strongest_place(captions, axis, expected):
    heat = heat_at((16, 24, 30), (11, 2, 19))
    draw_volume(np.zeros((16, 24, 30)), heat, axis=axis)
    names = list(captions)
    assert [name for name in names if "strongest" in name] == [
        name for name in expected if "strongest" in name
    ]
    assert len(names) == 5
    numbers = [int(name.split()[1]) for name in names]
    assert numbers == sorted(numbers)
    assert np.diff(numbers).max() <= 8


def test_a_slice_is_the_overlay_of_its_values(captions):
    volume = np.random.default_rng(1).random((3, 224, 224)).astype(np.float32)
    heat = heat_at((3, 224, 224), (1, 5, 6))
    draw_volume(torch.from_numpy(volume), torch.from_numpy(heat), slices=3)
    share = (volume - volume.min()) / (volume.max() - volume.min())
    grey = np.repeat((255 * share).astype(np.uint8)[1, ..., None], 3, axis=2)
    expected = overlay_heatmap(grey, heat[1], EVEN)
    np.testing.assert_allclose(captions["depth 1 (strongest)"].astype(int), expected.astype(int), atol=1)


def test_a_blank_heatmap_shows_the_volume_itself_and_colours_stay(captions):
    volume = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    draw_volume(volume, np.zeros((2, 224, 224)))
    assert list(captions) == ["depth 0", "depth 1"]
    np.testing.assert_array_equal(captions["depth 1"], volume[1])


def test_a_signal_is_drawn_where_its_heat_is(captions):
    heat = np.zeros(100, np.float32)
    heat[80:84] = 1
    draw_signal(np.sin(np.arange(100.0)), heat)
    ((caption, picture),) = captions.items()
    assert caption == "strongest at 80 of 100"
    hot, cold = picture[:, int(8.96 * 82)].astype(int), picture[:, int(8.96 * 20)].astype(int)
    assert (hot[:, 0] - hot[:, 2]).mean() > 50  # yellow
    assert (cold[:, 2] - cold[:, 1]).mean() > 30  # purple
    assert (picture == 0).all(axis=2).any()  # the curve
    draw_signal(np.stack([np.zeros(100), np.arange(100.0)]), heat, "two channels")


def test_pictures_have_headers():
    volume, heat = np.zeros((4, 20, 30)), heat_at((4, 20, 30), (2, 3, 4))
    picture = draw_volume(volume, heat, "title", "detail")
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.shape[1] > 4 * 300
    assert draw_signal(np.arange(50.0), np.zeros(50)).shape[1] > 800


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (
            lambda: draw_volume(np.zeros((2, 3, 4)), np.zeros((2, 3, 5))),
            r"a volume \(2, 3, 4\) with a heatmap",
        ),
        (lambda: draw_volume(np.zeros((2, 3, 4)), np.zeros((1, 2, 3, 4))), r"as in heatmap\[0\]"),
        (lambda: draw_volume(np.zeros((2, 3, 4)), np.full((2, 3, 4), 7)), r"in \[0, 1\]"),
        (lambda: draw_volume(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), axis=3), "take axis 0, 1 or 2"),
        (lambda: draw_volume("brain.nii", np.zeros((2, 3, 4))), "give an array or a tensor"),
        (lambda: draw_signal(np.zeros(5), np.zeros(6)), r"a signal \(5,\) with a heatmap \(6,\)"),
        (lambda: draw_signal(np.full(5, np.nan), np.zeros(5)), "finite numbers"),
    ],
)
def test_arrays_of_other_shapes_are_refused(call, reason):
    with pytest.raises(XGradCamError, match=reason):
        call()
