import cv2
import numpy as np
import pytest

from xgradcam.pictures import lettering
from xgradcam.pictures.lettering import fitted, line, writable

BLACK = (0, 0, 0)
TEXTS = [
    "espresso",
    "caffè, Käse, Żubr",
    "猫",
    "🐈",
    "Ελλάδα кот",
    "עברית",
    "a\tb\n c",
    "\x00\x07",
    "\uffff",
    "",
]


@pytest.fixture(params=["opencv 5", "opencv 4"])
def fonts(request, monkeypatch):
    if request.param == "opencv 4":
        monkeypatch.setattr(lettering, "_FONT", None)
    elif not hasattr(cv2, "FontFace"):
        pytest.skip("OpenCV 4 has no such font")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [8, 16, 146])
def test_any_text_is_a_line_of_the_height_and_at_most_the_width(fonts, text, size):
    for width in (1, 40, 3000):
        picture = line(text, size, BLACK, width, 2 * size)
        assert picture.dtype == np.uint8
        assert picture.shape[0] == 2 * size
        assert 1 <= picture.shape[1] <= width
    # What is drawn touches neither the upper edge nor the lower one.
    assert (picture[0] == 255).all()
    assert (picture[-1] == 255).all()
    assert (picture < 128).any() or not "".join(character for character in text if character > " ")


def test_letters_with_accents_are_drawn_as_such(fonts):
    if lettering._FONT is None:
        assert writable("caffè, Żubr 猫") == "caffe, Zubr ?"
        assert np.array_equal(line("é", 20, BLACK, 99, 40), line("e", 20, BLACK, 99, 40))
    else:
        assert writable("caffe\u0300") == "caffè"
        accented, plain = line("é", 40, BLACK, 99, 80), line("ę", 40, BLACK, 99, 80)
        assert (accented < 128).any(axis=1).argmax() < (plain < 128).any(axis=1).argmax()


@pytest.mark.parametrize("text", ["espresso machine", "caffè ristretto", "x" * 5000])
@pytest.mark.parametrize("width", [30, 60, 100])
def test_the_longest_beginning_that_fits(fonts, text, width):
    text = writable(text)
    short = fitted(text, 16, width)
    assert short.endswith("…")
    assert text.startswith(short[:-1])
    assert lettering._width(short, 16) <= width
    longer = text[: len(short) + 1].rstrip()
    assert lettering._width(longer + "…", 16) > width or text[len(short) - 1] == " "


def test_what_fits_is_not_shortened(fonts):
    assert fitted("espresso", 16, 200) == "espresso"


def test_colours_and_spaces(fonts):
    red = line("I  I\n", 20, (255, 0, 0), 200, 40)
    assert np.array_equal(red, line(" I I", 20, (255, 0, 0), 200, 40))
    assert (red[..., 0] == 255).all()
    assert red[..., 1].min() < 30
