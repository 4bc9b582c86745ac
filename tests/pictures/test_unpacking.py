import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from xgradcam.pictures import unpacking
from xgradcam.pictures.unpacking import rgb_of

# The last are in several blocks of Pillow's memory.
SIZES = [(1, 1), (1, 7), (7, 1), (2, 3), (375, 500), (3, 65_500), (65_500, 3), (2100, 2001)]


def pixels_of(size):
    return np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_the_image_and_their_own(size):
    pixels = pixels_of(size)
    image = Image.fromarray(pixels)
    found = rgb_of(image)
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels)
    assert found.flags.c_contiguous
    found[:] = 0
    assert np.array_equal(np.array(image), pixels)
    image.close()
    assert not found.any()


def test_pixels_of_a_file_are_read_without_packing(monkeypatch):
    content = io.BytesIO()
    Image.fromarray(pixels_of((40, 30))).save(content, "JPEG")
    image = Image.open(content)
    image.load()
    expected = np.array(image)
    monkeypatch.setattr(unpacking.np, "array", None)
    assert np.array_equal(rgb_of(image), expected)


@pytest.mark.parametrize("alignment", [1, 4, 16, 64, 128])
def test_padded_rows_are_not_taken_for_pixels(alignment):
    script = (
        "import numpy as np; from PIL import Image; from xgradcam.pictures.unpacking import rgb_of\n"
        "for width in (1, 3, 16, 17, 32):\n"
        "    pixels = np.random.default_rng(width).integers(0, 256, (5, width, 3), dtype=np.uint8)\n"
        "    image = Image.fromarray(pixels).transpose(Image.Transpose.FLIP_LEFT_RIGHT)\n"
        "    assert np.array_equal(rgb_of(image), pixels[:, ::-1]), width"
    )
    environment = {**os.environ, "PILLOW_ALIGNMENT": str(alignment)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
