import numpy as np
import pytest

from xgradcam.errors import XGradCamError
from xgradcam.pictures import paint as pictures
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.paint import Style, overlay_heatmap
from xgradcam.pictures.panel import (
    LARGEST_HEIGHT,
    SMALLEST_HEIGHT,
    USUAL_HEIGHT,
    draw_panel,
    panel,
    score_line,
)

FRAMING = Framing((32, 32))
RED = np.zeros((224, 300, 3), np.uint8) + np.uint8([200, 0, 0])


def ramp(size):
    """A map that grows from the left to the right."""
    return np.tile(np.linspace(0, 1, size[1], dtype=np.float32), (size[0], 1))


def blank(size):
    return np.zeros(size, np.float32)


def dark(picture):
    return (picture < 128).all(axis=2)


def photograph_of(shape):
    return np.full((*shape, 3), 150, np.uint8)


def test_layout():
    """At 224 pixels: gaps of 8, a header of 40 and a band of 32, in which the text is 20 and 16 high."""
    row = panel({"photograph": RED, "Grad-CAM": RED[::-1]}, "espresso", "score 1.00")
    assert row.shape == (40 + 32 + 224 + 8, 3 * 8 + 2 * 300, 3)
    assert np.array_equal(row[72:296, 8:308], RED)
    assert np.array_equal(row[72:296, 316:616], RED)
    for part in (row[:40, :300], row[40:72, 8:308], row[40:72, 316:616]):
        assert 30 < dark(part).sum() < 0.3 * part.shape[0] * part.shape[1]
    assert (row[:40, 400:] < 160).any()
    white = np.ones(row.shape[:2], bool)
    white[:72], white[72:296, 8:308], white[72:296, 316:616] = False, False, False
    assert (row[white] == 255).all()


def test_text_names_what_it_stands_over():
    texts = [panel({name: RED}, "a", "")[40:72] for name in ("Grad-CAM", "XGrad-CAM")]
    assert not np.array_equal(*texts)
    assert not np.array_equal(panel({"a": RED}, "cat")[:40], panel({"a": RED}, "dog")[:40])


@pytest.mark.parametrize("height", [1, 30, 224, 500, 2048])
def test_text_is_legible_at_any_size(height):
    picture = np.full((height, max(1, height // 5), 3), 255, np.uint8)
    row = panel({"Grad-CAM": picture}, "Egyptian cat")
    lines = np.flatnonzero(dark(row).any(axis=1))
    tall = max(height, SMALLEST_HEIGHT)
    assert tall // 11 * 0.6 <= np.flatnonzero(np.diff(lines) > 1)[0] + 1 <= tall // 11 * 1.3
    assert row.shape[1] >= tall * 3 // 4


@pytest.mark.parametrize("shape", [(1, 1), (10, 10), (224, 1), (100, 40)])
def test_long_names_are_shortened(shape):
    name = "a class with a name of extraordinary length, " * 50
    row = panel(
        {name: photograph_of(shape), "b": photograph_of(shape)}, name, "score 12.34, probability 56.7%"
    )
    assert row.shape[1] == 2 * 168 + 3 * 8
    assert (row[:40, -20:-8] < 200).any()


def test_a_detail_without_room_beside_the_title_stands_below_it():
    pictures = {"a": photograph_of((224, 224)), "b": photograph_of((224, 224))}
    title, detail = "an Egyptian cat of the house", "score 12.34, probability 56.7%"
    beside, below = panel(pictures, "cat", detail), panel(pictures, title, detail)
    assert below.shape[0] == beside.shape[0] + 2 * (224 // 14)
    large, small = 2 * (224 // 11), 2 * (224 // 14)
    alone = panel(pictures, title)
    np.testing.assert_array_equal(below[:large], alone[:large])
    assert dark(below[large : large + small, :230]).any()
    np.testing.assert_array_equal(below[large + small :], alone[large:])


@pytest.mark.parametrize(
    ("shape", "usual", "full"),
    [
        ((300, 400), (300, 400), (300, 400)),
        ((100, 50), (224, 112), (224, 112)),
        ((3000, 4500), (USUAL_HEIGHT, 504), (LARGEST_HEIGHT, 3072)),
        ((400, 4000), (100, 1000), (120, 1200)),
        ((1, 100_000), (1, 3 * USUAL_HEIGHT), (1, 3 * LARGEST_HEIGHT)),
        ((5000, 1), (USUAL_HEIGHT, 1), (LARGEST_HEIGHT, 1)),
    ],
)
def test_pictures_have_the_photographs_aspect_and_a_handy_size(monkeypatch, shape, usual, full):
    painted = []

    def remembered(picture, *rest):
        painted.append(picture.shape[:2])
        return pictures.paint(picture, *rest)

    monkeypatch.setattr("xgradcam.pictures.panel.paint", remembered)
    draw_panel(photograph_of(shape), {"Grad-CAM": ramp}, FRAMING, "a")
    draw_panel(photograph_of(shape), {"Grad-CAM": ramp}, FRAMING, "a", style=Style(full_resolution=True))
    assert painted == [usual, full]


def test_photograph_and_maps_in_their_order():
    photograph = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    style = Style(colormap="viridis", alpha=0.5)
    row = draw_panel(photograph, {"Grad-CAM": ramp, "other": blank}, FRAMING, "cat", style=style)
    assert row.shape == (304, 4 * 8 + 3 * 224, 3)
    parts = [row[72:296, left : left + 224] for left in (8, 240, 472)]
    assert np.array_equal(parts[0], photograph)
    assert np.array_equal(parts[1], overlay_heatmap(photograph, ramp((224, 224)), "viridis", 0.5))
    assert np.array_equal(parts[2], photograph)


def test_captions_say_what_is_blank():
    photograph = photograph_of((224, 224))
    for heatmap, caption in ((ramp, "Grad-CAM"), (blank, "Grad-CAM (blank)")):
        row = draw_panel(photograph, {"Grad-CAM": heatmap}, FRAMING, "cat")
        expected = panel({"photograph": photograph, caption: photograph}, "cat")
        assert np.array_equal(row[:72], expected[:72])


def test_what_was_cropped_away_is_dimmed_in_the_maps_only():
    photograph = photograph_of((224, 448))
    row = draw_panel(photograph, {"Grad-CAM": ramp}, Framing((32, 32), 32), "cat")
    assert (row[72:296, 8:456] == 150).all()
    assert (row[72:296, 464 : 464 + 112] == round(150 * pictures.DIMMED)).all()
    assert (row[72:296, 464 + 336 : 464 + 448] == round(150 * pictures.DIMMED)).all()
    assert (row[72:296, 464 + 112 : 464 + 336] != round(150 * pictures.DIMMED)).any(axis=2).all()


def test_the_score_line():
    assert score_line(7.4374, 0.1109) == "score 7.44, probability 11.1%"


def test_wrong_pictures_are_refused():
    with pytest.raises(XGradCamError, match="no pictures for a panel: give at least one"):
        panel({}, "title")
    for wrong in (np.ones((4, 4, 3)), np.ones((4, 4), np.uint8), None):
        with pytest.raises(XGradCamError, match=r"a photograph is \(H, W, 3\) uint8 in RGB"):
            panel({"a": photograph_of((4, 4)), "b": wrong}, "title")
        with pytest.raises(XGradCamError, match=r"a photograph is \(H, W, 3\) uint8 in RGB"):
            draw_panel(wrong, {}, Framing((4, 4)), "title")
