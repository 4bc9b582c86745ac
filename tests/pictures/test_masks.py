"""Masks of any kind of file are True where a pixel is neither black nor transparent."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from xgradcam.errors import XGradCamError
from xgradcam.pictures.masks import read_mask

INSIDE = np.zeros((20, 30), np.bool_)
INSIDE[4:16, 7:25] = True
WHITE = np.uint8(255) * INSIDE


def palette(colours, **options):
    image = Image.fromarray(INSIDE.astype(np.uint8), "P")
    image.putpalette(colours)
    return image, {"format": "PNG", **options}


def with_alpha(grey, alpha, form="PNG", **options):
    return Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), {"format": form, **options}


BLANK = np.full_like(WHITE, 255)
SAVED = {
    "white on black": (Image.fromarray(WHITE), {"format": "PNG"}),
    "one bit": (Image.fromarray(WHITE).convert("1"), {"format": "PNG"}),
    "labels": (Image.fromarray(INSIDE.astype(np.uint8)), {"format": "PNG"}),
    "labels of 16 bits": (Image.fromarray(INSIDE.astype(np.uint16)), {"format": "PNG"}),
    "labels of 32 bits": (Image.fromarray(INSIDE.astype(np.int32)), {"format": "TIFF"}),
    "small weights": (Image.fromarray(np.float32(1e-3) * INSIDE), {"format": "TIFF"}),
    "colours": palette([0, 0, 0, 128, 0, 0]),
    "a transparent colour": palette([255, 255, 255, 128, 0, 0], transparency=0),
    "white, else transparent": with_alpha(BLANK, WHITE),
    "white, else transparent, WebP": with_alpha(BLANK, WHITE, "WEBP", lossless=True),
    "white, else black, opaque": with_alpha(WHITE, BLANK),
    "JPEG": (Image.fromarray(WHITE), {"format": "JPEG", "quality": 95}),
}


@pytest.mark.parametrize("case", SAVED)
def test_the_inside_is_neither_black_nor_transparent(tmp_path, case):
    image, options = SAVED[case]
    path = tmp_path / f"mask.{options['format'].lower()}"
    image.save(path, **options)
    assert np.array_equal(read_mask(str(path)), INSIDE)


def test_transparency_of_16_bits_and_of_turned_files(tmp_path):
    deep = np.dstack([np.full(INSIDE.shape, 65535, np.uint16)] * 3 + [np.uint16(65535) * INSIDE])
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert np.array_equal(read_mask(str(tmp_path / "deep.png")), INSIDE)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right of the file
    Image.merge("LA", [Image.fromarray(BLANK), Image.fromarray(WHITE)]).save(tmp_path / "t.png", exif=exif)
    assert np.array_equal(read_mask(str(tmp_path / "t.png")), np.rot90(INSIDE, -1))


def test_what_is_no_image_is_told(tmp_path):
    np.save(tmp_path / "mask.npy", INSIDE)
    with pytest.raises(XGradCamError, match="NumPy array"):
        read_mask(str(tmp_path / "mask.npy"))
    with pytest.raises(XGradCamError, match="no such image"):
        read_mask(str(tmp_path / "none.png"))
    whole = io.BytesIO()
    Image.fromarray(WHITE).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:60])
    with pytest.raises(XGradCamError, match=r"cut\.png"):
        read_mask(str(tmp_path / "cut.png"))
