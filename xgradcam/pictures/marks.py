"""Marks by which pictures of ours are known again, if nobody has changed them: a digest of all else."""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

from xgradcam.pictures.photograph import DIGEST, MARK, Photograph, encode_jpeg, is_marked

PNG = b"\x89PNG\r\n\x1a\n"
# The mark in a PNG stands behind its header, which has 13 bytes between length, kind and checksum.
PNG_HEADER, KEYWORD = len(PNG) + 25, b"Comment\0"


class _Frame(NamedTuple):
    """The bytes around a mark at the end of a file. start: of a file of this kind."""

    start: bytes
    before: bytes
    after: bytes


# Behind the end of both, where their readers take a comment.
FRAMES = {"pdf": _Frame(b"%PDF-", b"% ", b"\n%%EOF\n"), "svg": _Frame(b"<?xml", b"<!-- ", b" -->\n")}


def encode_png(picture: Photograph) -> bytes:
    """The picture (H, W, 3) as the content of a PNG file, without its mark."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()


def marked(content: bytes, kind: str) -> bytes:
    """The content of a picture file of a kind, `png`, `jpg`, `pdf` or `svg`, with our mark."""
    if kind == "png":
        return content[:PNG_HEADER] + _png_chunk(content) + content[PNG_HEADER:]
    frame = FRAMES[kind]
    return content + frame.before + _text(content) + frame.after


def is_marked_picture(content: bytes) -> bool:
    """True for the content of a picture file that has been marked, and that nobody has changed since."""
    if content.startswith(PNG):
        length = len(_png_chunk(b""))
        plain = content[:PNG_HEADER] + content[PNG_HEADER + length :]
        return marked(plain, "png") == content
    for kind, frame in FRAMES.items():
        if content.startswith(frame.start):
            length = len(frame.before) + len(_text(b"")) + len(frame.after)
            return len(content) > length and marked(content[:-length], kind) == content
    return is_marked(content)


def _text(content: bytes) -> bytes:
    return MARK + hashlib.sha256(content).hexdigest()[:DIGEST].encode()


def _png_chunk(content: bytes) -> bytes:
    body = b"tEXt" + KEYWORD + _text(content)
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


# Of pictures as they are, without a colour bar.
ENCODERS: dict[str, Callable[[Photograph], bytes]] = {
    "jpg": encode_jpeg,
    "png": lambda picture: marked(encode_png(picture), "png"),
}
