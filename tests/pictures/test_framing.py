import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torchvision.transforms import InterpolationMode, functional
from torchvision.transforms._presets import ImageClassification

from xgradcam.errors import XGradCamError
from xgradcam.pictures.framing import Framing, PixelWindow, visible
from xgradcam.pictures.photograph import normalise, stretch, to_input

CAT = data.chelsea()
SHAPES = [(300, 451), (451, 300), (300, 300), (256, 256), (1, 1), (7, 3), (3, 20), (257, 255), (600, 201)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photograph_of(shape):
    return np.asarray(Image.fromarray(CAT).resize(shape[::-1]))


def spot(shape, row, column, radius):
    """A photograph that is black but for a white square about a point."""
    photograph = np.zeros((*shape, 3), np.uint8)
    photograph[row - radius : row + radius + 1, column - radius : column + radius + 1] = 255
    return photograph


def centre(weights):
    """Centre of mass in pixels from the upper left corner."""
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return np.array([(rows * weights).sum(), (columns * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (224, 232), (240, 255), (288, 288), (7, 9)])
def test_a_crop_is_torchvisions(shape, interpolation, crop, resize):
    preset = ImageClassification(
        crop_size=crop, resize_size=resize, mean=MEAN, std=STD, interpolation=InterpolationMode(interpolation)
    )
    photograph = photograph_of(shape)
    pixels = Framing((crop, crop), resize, interpolation).pixels(photograph)
    assert torch.equal(normalise(pixels, MEAN, STD)[0], preset(Image.fromarray(photograph)))


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.5,), (0.1, 0.2, 0.3)), ((0.0,), (1.0,))])
def test_looked_up_values_are_those_of_the_formula_to_the_last_bit(mean, std):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    seen = pixels if len(std) == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    expected = (seen.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    assert np.array_equal(normalise(pixels, mean, std)[0].numpy(), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50), (1, 1)])
@pytest.mark.parametrize("size", [(25, 31), (31, 25), (20, 40), (41, 20), (24, 16)])
def test_a_crop_larger_than_the_photograph_is_padded_as_by_torchvision(shape, size):
    photograph = photograph_of(shape)
    expected = functional.center_crop(functional.resize(Image.fromarray(photograph), 20), list(size))
    assert np.array_equal(Framing(size, 20).pixels(photograph), np.asarray(expected))


def test_stretching_is_the_originals_and_shows_all():
    framing = Framing((20, 30))
    assert np.array_equal(framing.pixels(CAT), stretch(CAT, (20, 30)))
    assert torch.equal(normalise(framing.pixels(CAT), MEAN, STD), to_input(CAT, (20, 30), MEAN, STD))
    assert framing.window((300, 451)) == (0, 0, 300, 451)


def test_the_box_of_a_crop():
    # 200 x 400 becomes 100 x 200, of which rows 10 to 90 and columns 60 to 140 are seen.
    assert Framing((80, 80), 100).window((200, 400)) == (20, 120, 180, 280)
    assert Framing((80, 80), 100).window((400, 200)) == (120, 20, 280, 180)
    # 10 x 10 grows to 20 x 20, and 5 rows are added on both sides.
    assert Framing((30, 20), 20).window((10, 10)) == (-2.5, 0, 12.5, 10)


@pytest.mark.parametrize("shape", [(300, 451), (451, 300), (90, 400)])
@pytest.mark.parametrize("framing", [Framing((64, 64)), Framing((48, 80)), Framing((64, 64), 73)])
def test_what_the_network_sees_at_a_point_is_put_back_there(shape, framing):
    """A white square, through the network's input as a heatmap, comes back to where it was."""
    top, left, bottom, right = framing.window(shape)
    for share in (0.3, 0.5, 0.8):
        row, column = int(top + share * (bottom - top)), int(left + (1 - share) * (right - left))
        photograph = spot(shape, row, column, 6)
        seen = (framing.pixels(photograph)[..., 0] / 255).astype(np.float32)
        for resolution in (shape, (200, 300)):
            scale = np.array(resolution) / shape
            placed = framing.put_back(seen, shape, resolution)
            assert placed.shape == resolution
            found = centre(placed) / scale
            assert np.abs(found - (row + 0.5, column + 0.5)).max() < 2


def test_a_heatmap_is_zero_outside_of_the_window():
    framing = Framing((80, 80), 100)
    placed = framing.put_back(np.ones((5, 5), np.float32), (200, 400), (50, 100))
    expected = np.zeros((50, 100), np.float32)
    expected[5:45, 30:70] = 1
    assert np.array_equal(placed, expected)


def test_of_a_padded_input_only_the_photographs_part_is_put_back():
    heatmap = np.arange(30 * 20, dtype=np.float32).reshape(30, 20)
    placed = Framing((30, 20), 20).put_back(heatmap, (10, 10), (20, 20))
    assert np.array_equal(placed, heatmap[5:25])


@pytest.mark.parametrize("shape", [*SHAPES, (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("resize", [None, 7, 9, 20])
def test_a_window_has_pixels_at_every_resolution(shape, resize):
    for resolution in (shape, (1, 1), (13, 29)):
        window = Framing((8, 8), resize).pixel_window(shape, resolution)
        rows, columns = visible(window, resolution)
        assert 0 <= rows.start < rows.stop <= resolution[0]
        assert 0 <= columns.start < columns.stop <= resolution[1]
        assert min(window.size) > 0


def centred(shape, side):
    """Edges of a square in the middle of a picture, as torchvision rounds them."""
    top, left = (round((length - side) / 2) for length in shape)
    return top, left, top + side, left + side


def test_at_the_inputs_scale_the_window_is_the_input():
    framing = Framing((224, 224), 256)
    for shape in SHAPES:
        photograph = photograph_of(shape)
        scene = framing.scene(photograph)
        window = framing.pixel_window(shape, scene.shape[:2])
        assert window.size == (224, 224)
        assert window == PixelWindow(*centred(scene.shape[:2], 224))
        assert np.array_equal(scene[visible(window, scene.shape[:2])], framing.pixels(photograph))


def test_a_ribbon_is_refused_before_it_takes_all_memory():
    with pytest.raises(XGradCamError, match="too long and narrow for a centre crop: 100000 x 1 pixels"):
        Framing((224, 224), 256).pixels(np.zeros((1, 100_000, 3), np.uint8))
