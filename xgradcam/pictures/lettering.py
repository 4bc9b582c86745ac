"""Draw a line of text, in any script that the installed libraries can write."""

import unicodedata
from bisect import bisect_right
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xgradcam.pictures.photograph import Photograph

ELLIPSIS = "…"
WHITE = 255
# Not a character: the font draws it as it draws every character that it lacks.
_LACKING = "\uffff"
# OpenCV 5 has a font with far more characters than Pillow's; OpenCV 4 has none.
_FONT = "sans" if hasattr(cv2, "FontFace") else None


def line(text: str, size: int, colour: tuple[int, int, int], width: int, height: int) -> Photograph:
    """A line of text on white, shortened with an ellipsis to fit: (height, at most width, 3) uint8 RGB.

    size: the font's, in pixels. Characters that no font here has lose their accents, or become `?`.
    """
    text = fitted(writable(" ".join(text.split())), size, width)
    picture = np.full((height, max(1, min(width, _width(text, size))), 3), WHITE, np.uint8)
    baseline = (height + 7 * size // 10) // 2
    if _in_pillow(text) or _FONT is None:
        canvas = Image.fromarray(picture)
        ImageDraw.Draw(canvas).text((0, baseline), text, fill=colour, font=_font(size), anchor="ls")
        return np.asarray(canvas)
    cv2.putText(picture, text, (0, baseline), colour, cv2.FontFace(_FONT), size, 400)
    return picture


def fitted(text: str, size: int, width: int) -> str:
    """The text, or the longest beginning that fits with an ellipsis into `width` pixels."""
    if _width(text, size) <= width:
        return text
    length = bisect_right(range(1, len(text)), width, key=lambda end: _width(text[:end] + ELLIPSIS, size))
    return text[:length].rstrip() + ELLIPSIS


def writable(text: str) -> str:
    """The text with only characters that can be drawn."""
    text = unicodedata.normalize("NFC", text)
    if _FONT is not None:
        return text
    return "".join(character if _in_pillow(character) else _without_accents(character) for character in text)


def _without_accents(character: str) -> str:
    """The letter without its accents, or `?`."""
    letter = unicodedata.normalize("NFD", character)[0]
    return letter if _in_pillow(letter) else "?"


def _width(text: str, size: int) -> int:
    if _in_pillow(text) or _FONT is None:
        return int(np.ceil(_font(size).getlength(text)))
    # OpenCV starts a new line if the text comes too near to the edge: leave it some room.
    return int(cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace(_FONT), size, 400)[2]) + size // 4


def _in_pillow(text: str) -> bool:
    return all(map(_has, text))


@cache
def _has(character: str) -> bool:
    font = _font(20)
    return bytes(font.getmask(character)) != bytes(font.getmask(_LACKING))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
