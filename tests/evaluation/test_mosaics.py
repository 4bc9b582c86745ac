from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from xgradcam import Classifier, XGradCamError
from xgradcam.evaluation.mosaics import Mosaic, draw_mosaics, lay
from xgradcam.evaluation.photographs import LabelledPhotograph

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
LABELLED = [LabelledPhotograph(f"{target}-{count}.png", target) for target in range(6) for count in range(3)]


def classifier(size=(8, 10), resize=None):
    return Classifier("tiny", torch.nn.Identity(), size, (0.5,) * 3, (0.25,) * 3, None, resize=resize)


def test_a_mosaic_has_four_classes_and_its_places_are_random():
    mosaics = draw_mosaics([*LABELLED, LabelledPhotograph("unknown.png", None)], 300, seed=1)
    for mosaic in mosaics:
        assert len(set(mosaic.targets)) == len(mosaic.paths) == 4
        assert [int(path.split("-")[0]) for path in mosaic.paths] == list(mosaic.targets)
    for counts in (
        Counter(mosaic.chosen for mosaic in mosaics),
        Counter(mosaic.targets[0] for mosaic in mosaics),
        Counter(path for mosaic in mosaics for path in mosaic.paths),
    ):
        spread = max(counts.values()) / min(counts.values())
        assert len(counts) in (4, 6, 18)
        assert spread < 2


def test_the_first_mosaics_are_the_same_for_any_number_of_them():
    many = draw_mosaics(LABELLED, 20, seed=3)
    assert draw_mosaics(LABELLED, 5, seed=3) == many[:5]
    assert draw_mosaics(LABELLED, 20, seed=4) != many
    assert draw_mosaics(LABELLED, 0, seed=3) == []


def test_fewer_than_four_known_classes_are_refused():
    few = [LabelledPhotograph(f"{target}.png", target) for target in (0, 1, 2, 2, None)]
    with pytest.raises(XGradCamError, match=r"of 4 known classes, and here are 3: name more folders"):
        draw_mosaics(few, 1, seed=0)
    assert draw_mosaics(few, 0, seed=0) == []


@pytest.fixture
def plain(tmp_path):
    """Four photographs of one colour each; one is grey with alpha, and their shapes differ."""
    paths = []
    for index, colour in enumerate(COLOURS):
        pixels = np.full((20 + 7 * index, 30, 3), colour[::-1], np.uint8)
        paths.append(str(tmp_path / f"{index}.png"))
        cv2.imwrite(paths[-1], pixels)
    grey = np.dstack([np.full((9, 5, 3), 77, np.uint8), np.zeros((9, 5), np.uint8)])
    cv2.imwrite(paths[3], grey)
    return tuple(paths)


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("size", [(8, 10), (7, 9), (2, 3), (64, 32)])
def test_each_photograph_fills_its_tile(plain, size, crop):
    top, left = size[0] // 2, size[1] // 2
    for chosen in range(4):
        laid = lay(Mosaic(plain, (5, 6, 7, 8), chosen), classifier(size, resize=2 * max(size)), crop)
        assert laid.pixels.shape == (*size, 3)
        tiles = [laid.pixels[rows, columns] for rows in (slice(None, top), slice(top, None))
                 for columns in (slice(None, left), slice(left, None))]  # fmt: skip
        for tile, colour in zip(tiles, [*COLOURS[:3], (77, 77, 77)], strict=True):
            assert (tile == colour).all()
        expected = np.zeros(size, bool)
        rows, columns = ((slice(None, cut), slice(cut, None)) for cut in (top, left))
        expected[rows[chosen // 2], columns[chosen % 2]] = True
        assert laid.tile.numpy().tolist() == expected.tolist()


def test_a_tile_is_the_photograph_at_half_of_the_inputs_size(tmp_path):
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), (60, 40), interpolation=cv2.INTER_CUBIC)
    path = str(tmp_path / "photo.png")
    cv2.imwrite(path, pixels[..., ::-1])
    mosaic = Mosaic((path,) * 4, (0, 1, 2, 3), 0)
    whole, half = classifier((32, 48), resize=36), classifier((16, 24), resize=18)
    for crop in (False, True):
        laid = lay(mosaic, whole, crop)
        assert (laid.pixels[:16, :24] == half.framing(crop).pixels(pixels)).all()
        inputs = whole.inputs(laid.pixels)
        assert torch.equal(inputs[..., :16, :24], half.inputs(pixels, crop))


def test_an_input_without_room_is_refused(plain):
    with pytest.raises(XGradCamError, match="1 x 8 has no room for mosaics"):
        lay(Mosaic(plain, (0, 1, 2, 3), 0), classifier((1, 8)))
