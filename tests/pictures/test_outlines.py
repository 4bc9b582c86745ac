"""Outlines of boxes and regions, where they belong on the picture."""

import numpy as np
import pytest

from xgradcam.pictures.framing import Framing
from xgradcam.pictures.outlines import Outline, outlined

GREY = np.full((40, 60, 3), 100, np.uint8)


def white(picture):
    """Rows and columns of the first and the last white pixel: top, left, bottom, right."""
    rows, columns = np.nonzero((picture == 255).all(axis=2))
    return int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max())


def test_a_box_is_outlined_and_the_picture_left_as_it_was():
    drawn = outlined(GREY, Outline(box=(0.25, 0.25, 0.75, 0.5)), Framing((16, 16)), (40, 60))
    assert white(drawn) == (10, 15, 19, 44)
    assert (drawn[13:17, 20:40] == 100).all()  # thin: what is inside stays
    assert (drawn[9, 15:45] == 0).all()  # black around white
    assert (GREY == 100).all()
    assert outlined(GREY, None, Framing((16, 16)), (40, 60)) is GREY


def test_a_region_is_outlined_at_any_resolution():
    region = np.zeros((4, 4), bool)
    region[1:3, 2:] = True
    for scale in (1, 4):
        picture = np.full((40 * scale, 60 * scale, 3), 100, np.uint8)
        top, left, bottom, right = white(
            outlined(picture, Outline(region=region), Framing((16, 16)), (40, 60))
        )
        expected = np.array([10, 30, 29, 59]) * scale
        assert abs(np.array([top, left, bottom, right]) - expected).max() <= scale


def test_of_a_crop_the_part_that_the_network_sees_counts():
    # Half of the scale, of which the middle 16 x 16 is seen: rows 4 to 36, columns 14 to 46 of 40 x 60.
    framing = Framing((16, 16), 20)
    drawn = outlined(GREY, Outline(box=(0, 0, 1, 1)), framing, (40, 60))
    assert white(drawn) == (4, 14, 35, 45)
    region = np.ones((2, 2), bool)
    assert white(outlined(GREY, Outline(region=region), framing, (40, 60))) == (4, 14, 35, 45)


@pytest.mark.parametrize("box", [(-1, -1, 0.5, 0.5), (0.9, 0.9, 3, 3), (0.5, 0.5, 0.5, 0.5)])
def test_a_box_beyond_the_edge_is_drawn_as_far_as_it_is_seen(box):
    drawn = outlined(GREY, Outline(box=box), Framing((16, 16)), (40, 60))
    assert drawn.shape == GREY.shape
    assert (drawn == 255).any()


@pytest.mark.parametrize("resize", [None, 20])
def test_points_of_the_photograph_and_of_the_input_are_each_others(resize):
    framing = Framing((16, 32), resize)
    points = np.array([[0.0, 0.0], [30, 20], [59.5, 7.25]])
    there = framing.in_input(points, (40, 60))
    np.testing.assert_allclose(framing.in_photograph(there, (40, 60)), points)
    if resize is None:
        np.testing.assert_allclose(there, points * [32 / 60, 16 / 40])
    else:
        np.testing.assert_allclose(there[1], [16, 8])  # the middle is the middle
        np.testing.assert_allclose(there[1] - there[0], [15, 10])  # half the scale
