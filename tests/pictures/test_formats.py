"""Files are told by their first bytes, and those that are not read by their kind."""

import pytest

from tests.pictures.support import seeds
from xgradcam.errors import XGradCamError
from xgradcam.pictures.decoding import decode
from xgradcam.pictures.formats import HEAD, READ, kind_by_name, kind_of


def ftyp(*brands: bytes) -> bytes:
    return b"\0\0\0\x20ftyp" + brands[0] + b"\0\0\0\0" + b"".join(brands[1:])


@pytest.mark.parametrize(("name", "content"), list(seeds()))
def test_every_format_is_known_by_its_content(name, content):
    assert (kind_of(content[:HEAD]) in READ) == (name not in ("psd", "svg"))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (ftyp(b"heic", b"mif1"), "HEIC"), (ftyp(b"mif1", b"heic"), "HEIC"),
        (ftyp(b"isom", b"mp42"), "video"),
        (ftyp(b"crx "), "RAW"), (b"%PDF-1.7", "PDF"), (b"%!PS-Adobe", "PostScript"),
        (b"PK\3\4", "ZIP archive"),
        (b'<?xml version="1.0"?><svg>', "SVG"), (b"RIFF\0\0\0\0AVI ", "video"), 
        (bytes(128) + b"DICM", "DICOM"),
        ("Grüße, 猫\n".encode() * 40, "text"), (b"\0\1\2\3", ""),
        (b"", ""), (b"\xff\xd8", ""), (b"P9\n", "text"),
    ],
)  # fmt: skip
def test_kinds_of_files_that_are_not_read(content, kind):
    assert kind_of(content[:HEAD]) == kind
    with pytest.raises(XGradCamError, match="not an image: photograph: "):
        decode(content, "photograph")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.HEIC", "HEIC"), ("b.cr2", "RAW"), ("c.tar.gz", "archive"), ("d", ""), ("e.jpg", "")],
)
def test_kinds_by_name(name, kind):
    assert kind_by_name(name) == kind
