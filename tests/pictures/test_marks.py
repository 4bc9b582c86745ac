import io

import numpy as np
import pytest
from PIL import Image

from xgradcam.errors import XGradCamError
from xgradcam.figures.figure import content_of_figure, new_figure
from xgradcam.pictures.marks import ENCODERS, encode_png, is_marked_picture, marked

KINDS = ("jpg", "png", "pdf", "svg")


def picture():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def content_of(kind):
    if kind in ENCODERS:
        return ENCODERS[kind](picture())
    figure = new_figure(2, 1)
    figure.text(0.5, 0.5, "text")
    return marked(content_of_figure(figure, kind), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_ours_is_known_until_anything_in_it_changes(kind):
    content = content_of(kind)
    assert is_marked_picture(content)
    for place in range(0, len(content), max(1, len(content) // 40)):
        changed = bytearray(content)
        changed[place] ^= 1
        assert not is_marked_picture(bytes(changed)), place
    for changed in (
        content + b" ",
        content[:-1],
        content[:40],
        b"",
        b"%PDF-",
        b"<?xml",
        b"\x89PNG\r\n\x1a\n",
    ):
        assert not is_marked_picture(changed)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_picture_without_a_mark_is_not_ours(kind):
    figure = new_figure(2, 1)
    plain = encode_png(picture()) if kind == "png" else content_of_figure(figure, kind)
    assert not is_marked_picture(plain)
    assert is_marked_picture(marked(plain, kind))


def test_a_png_holds_the_very_pixels_and_a_comment():
    with Image.open(io.BytesIO(content_of("png"))) as opened:
        assert np.array_equal(np.asarray(opened), picture())
        assert opened.text["Comment"].startswith("xgradcam ")


def test_a_marked_svg_is_still_xml_and_a_pdf_ends_as_one():
    import xml.etree.ElementTree as ElementTree

    assert ElementTree.fromstring(content_of("svg")).tag.endswith("svg")
    assert content_of("pdf").endswith(b"%%EOF\n")


def test_what_is_too_large_for_a_jpeg_is_refused():
    with pytest.raises(XGradCamError, match="does not fit into a JPEG file"):
        ENCODERS["jpg"](np.zeros((1, 70_000, 3), np.uint8))
