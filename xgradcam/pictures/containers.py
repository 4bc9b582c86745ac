"""Strip image files to the parts that make their pixels: text and colour profiles reach no decoder."""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from xgradcam.pictures import formats
from xgradcam.pictures.bounds import UnreadableError, require_affordable, require_few, require_size
from xgradcam.pictures.orientation import UPRIGHT, orientation_of

# Of Exif, XMP or text that may hold an orientation, in bytes.
MAX_METADATA = 1_000_000
# Bytes of a file that are copied rather than read piece by piece.
COPIED = 2**24


@dataclass(frozen=True)
class Stripped:
    """An image without what does not make its pixels.

    stream: what to decode. orientation: 1 to 8. pages: pictures in the file, of which this is the first.
    white_is_0: grey values count from white. bits: of a value where the decoder takes them for 16.
    joined: 16-bit grey and its alpha are taken for four 8-bit values, high byte first. number: NumPy's type
    of grey values of a TIFF, where the decoder may take them for others. what: its kind, for a message where
    the decoder does not know it.
    """

    stream: io.IOBase
    orientation: int = UPRIGHT
    pages: int = 1
    white_is_0: bool = False
    bits: int = 16
    joined: bool = False
    number: str = ""
    what: str = ""


class Pieces(io.RawIOBase):
    """Pieces of bytes as one file that can be read, without a copy of them."""

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        super().__init__()
        self._pieces = [memoryview(piece) for piece in pieces if len(piece)]
        self._starts = [0]
        for piece in self._pieces:
            self._starts.append(self._starts[-1] + len(piece))
        self._place = self._index = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        place = max(0, base + offset)
        if place < self._place:
            self._index = 0
        self._place = place
        return place

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, at most `size` of them; all for a negative one."""
        end = self._starts[-1] if size is None or size < 0 else min(self._place + size, self._starts[-1])
        parts = []
        while self._place < end:
            while self._starts[self._index + 1] <= self._place:
                self._index += 1
            start = self._starts[self._index]
            part = self._pieces[self._index][self._place - start : end - start]
            parts.append(part)
            self._place += len(part)
        return b"".join(parts)


def as_file(pieces: Sequence[bytes | memoryview]) -> io.IOBase:
    """Pieces of bytes as one file: a copy of few bytes, which is read faster, and `Pieces` of many."""
    few = sum(map(len, pieces)) <= COPIED
    return io.BytesIO(b"".join(pieces)) if few else Pieces(pieces)


def _padded(content: bytes, start: int, kind: str) -> tuple[int, ...]:
    """Numbers at a place of the content; zeros where it has ended."""
    size = struct.calcsize(kind)
    return struct.unpack(kind, content[start : start + size].ljust(size, b"\0"))


# A marker that is no restart (D0 to D7), no stuffed byte (00) and no filler (FF).
JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
SOS, EOI = 0xDA, 0xD9
JPEG_BYTES = 500_000_000
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
# A segment of an application, or a comment; JFIF and Adobe's decide on colours.
JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}


def strip_jpeg(content: bytes) -> Stripped:
    """A JPEG without its metadata, and without further pictures behind the first."""
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    view = memoryview(content)
    exif, xmp = b"", b""
    frame: tuple[int, ...] = (0, 0, 0, 0, 0)
    scans, first_scan, end = 0, 0, len(content)
    for count, (marker, start, stop) in enumerate(_jpeg_segments(content)):
        require_few(count, "segments")
        if marker == EOI:
            end = stop
            break
        body = content[start + 4 : min(stop, start + 4 + MAX_METADATA)]
        if marker == SOS:
            scans += 1
            first_scan = first_scan or start
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = (marker, *_padded(body, 0, ">BHHB"))
        if first_scan:
            continue
        if marker not in JPEG_METADATA:
            kept.append(view[start:stop])
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif += body[6 if exif else 0 :]
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = body
    _require_read(frame)
    _, _, height, width, channels = frame
    require_size(len(content), JPEG_BYTES)
    # Of several scans the coefficients are kept, 2 bytes each.
    bytes_a_pixel = max(7, 4 + 2 * channels) if scans > 1 else 7
    require_affordable(width, height, bytes_a_pixel, len(content), scans)
    kept.append(view[first_scan or end : end])
    return Stripped(as_file(kept), orientation_of(exif, xmp))


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG; the data between them are passed over."""
    place = 2
    while match := JPEG_MARKER.search(content, place):
        marker, start = match[1][0], match.start()
        length = 0 if marker == EOI else max(2, _padded(content, match.end(), ">H")[0])
        place = min(match.end() + length, len(content))
        yield marker, start, place


def _require_read(frame: Sequence[int]) -> None:
    """Raise UnreadableError for a kind of JPEG that is not read."""
    marker, bits, _, _, channels = frame
    if marker and marker not in SEQUENTIAL + PROGRESSIVE:
        raise UnreadableError("a lossless or hierarchical JPEG is not read: convert it to a PNG")
    if marker and bits != 8:
        raise UnreadableError(f"a JPEG of {bits} bits a channel is not read: convert it to a PNG")
    if marker and channels not in (1, 3, 4):
        raise UnreadableError(f"a JPEG of {channels} channels is not read: convert it to RGB")


PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def strip_png(content: bytes) -> Stripped:
    """A PNG with the chunks of its first picture alone."""
    kept: list[bytes | memoryview] = [content[:8]]
    view = memoryview(content)
    exif, xmp, pages, joined, place, count = b"", b"", 1, False, 8, 0
    while place + 8 <= len(content):
        require_few(count := count + 1, "chunks")
        length, kind = struct.unpack_from(">I4s", content, place)
        end = min(place + length + 12, len(content))
        body = view[place + 8 : max(place + 8, end - 4)]
        if kind == b"IHDR" and len(body) >= 13:
            width, height, depth, colour = struct.unpack_from(">IIBB", body)
            require_affordable(width, height, 4 + 4 * (depth == 16) + 3, len(content))
            if joined := (depth, colour) == (16, 4):
                # 16-bit grey with alpha, for which Pillow has no mode, has the bytes of 8-bit RGBA.
                body = memoryview(bytes(body[:8]) + b"\x08\x06" + bytes(body[10:13]))
                kept += [view[place : place + 8], body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))]
        if kind in PNG_PIXELS and not (kind == b"IHDR" and joined):
            kept.append(view[place:end])
        elif kind == b"eXIf":
            exif = bytes(body[:MAX_METADATA])
        elif kind == b"acTL" and len(body) == 8:
            pages = max(1, struct.unpack_from(">I", body)[0])
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            exif, xmp = _png_text(kind, bytes(body[:MAX_METADATA]), exif, xmp)
        place = end
        if kind == b"IEND":
            break
    return Stripped(as_file(kept), orientation_of(exif, xmp), pages, joined=joined)


def _png_text(kind: bytes, body: bytes, exif: bytes, xmp: bytes) -> tuple[bytes, bytes]:
    """Exif and XMP with what a chunk of text adds: ImageMagick writes Exif in hexadecimal digits."""
    key, _, rest = body.partition(b"\0")
    if key == b"Raw profile type exif" and kind != b"iTXt" and not exif:
        text = _inflated(rest[1:]) if kind == b"zTXt" else rest
        digits = b"".join(text.split(b"\n")[3:])
        exif = bytes.fromhex(digits.decode()) if re.fullmatch(rb"(?:[0-9a-fA-F]{2})*", digits) else exif
    elif key == b"XML:com.adobe.xmp" and kind == b"iTXt":
        text = rest[2:].split(b"\0", 2)[-1]
        xmp = _inflated(text) if rest[:1] == b"\x01" else text
    return exif, xmp


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_METADATA)
    except zlib.error:
        return b""


# A picture of a GIF is in blocks of at most 255 bytes, which are looked at one by one.
GIF_BYTES = 120_000_000


def strip_gif(content: bytes) -> Stripped:
    """A GIF with its first picture alone."""
    require_size(len(content), GIF_BYTES)
    view, place = memoryview(content), 13
    place += 3 << (content[10] & 7) + 1 if len(content) > 10 and content[10] & 0x80 else 0
    kept: list[bytes | memoryview] = [view[:place]]
    pages = odd = 0
    while place < len(content):
        require_few(pages + odd, "parts")
        start, kind = place, content[place]
        if kind == 0x2C:
            flags = content[place + 9] if place + 9 < len(content) else 0
            place = _behind_blocks(content, place + 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
            if not pages:
                kept.append(view[start:place])
            pages += 1
        elif kind == 0x21:
            place = _behind_blocks(content, place + 2)
            # A comment can be long; the graphic control says which colour is transparent.
            if not pages and content[start + 1 : start + 2] == b"\xf9":
                kept.append(view[start:place])
        elif kind == 0x3B:
            break
        else:
            place, odd = place + 1, odd + 1
    kept.append(view[place : place + 1])
    return Stripped(as_file(kept), pages=max(1, pages))


def _behind_blocks(content: bytes, place: int) -> int:
    """The place behind a chain of blocks of a GIF."""
    while place < len(content) and content[place]:
        place += content[place] + 1
    return min(place + 1, len(content))


def strip_webp(content: bytes) -> Stripped:
    """A WebP with its orientation; its decoder makes nothing of other metadata."""
    place, pages, count, found = 12, 0, 0, {b"EXIF": b"", b"XMP ": b""}
    while place + 8 <= len(content):
        require_few(count := count + 1, "chunks")
        kind, length = struct.unpack_from("<4sI", content, place)
        if kind in found:
            found[kind] = content[place + 8 : place + 8 + min(length, MAX_METADATA)]
        elif kind == b"ANMF":
            pages += 1
        place += 8 + length + length % 2
    require_affordable(*_webp_size(content), 17, len(content))
    orientation = orientation_of(found[b"EXIF"], found[b"XMP "])
    return Stripped(io.BytesIO(content), orientation, max(1, pages))


def _webp_size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X":
        low, high, low2, high2 = _padded(content, 24, "<HBHB")
        return low + (high << 16) + 1, low2 + (high2 << 16) + 1
    if kind == b"VP8L":
        bits = _padded(content, 21, "<I")[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = _padded(content, 26, "<HH")
    return width & 0x3FFF, height & 0x3FFF


# AV1 decodes at least so many bytes a second, and EBCOT, of JPEG 2000, so many.
AVIF_BYTES, JPEG2000_BYTES = 64_000_000, 24_000_000
EXTENTS = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)
CODECS = re.compile(rb"av1C\x81.(.)", re.DOTALL)


def strip_avif(content: bytes) -> Stripped:
    """An AVIF without its Exif: its own properties, not that, say how it is turned."""
    require_size(len(content), AVIF_BYTES)
    codecs = [match[1][0] for match in CODECS.finditer(content)]
    deep = 1 + any(flags & 0x40 for flags in codecs)
    planes = 1.5 if all(flags & 0x0C == 0x0C or flags & 0x10 for flags in codecs) else 3
    for count, match in enumerate(EXTENTS.finditer(content)):
        require_few(count, "extents")
        width, height = int.from_bytes(match[1], "big"), int.from_bytes(match[2], "big")
        require_affordable(width, height, 14 + deep * (planes + (b"auxC" in content)), len(content))
    return Stripped(io.BytesIO(re.sub(rb"(infe.{8})Exif", rb"\1none", content, flags=re.DOTALL)))


def strip_jpeg2000(content: bytes) -> Stripped:
    """A JPEG 2000 file, if its code stream is of the size that it may have."""
    require_size(len(content), JPEG2000_BYTES)
    if (start := content.find(b"\xff\x4f\xff\x51")) < 0:
        raise UnreadableError("it has no code stream: is the file complete?")
    width, height, left, top = _padded(content, start + 8, ">IIII")
    channels = _padded(content, start + 40, ">H")[0]
    require_affordable(max(0, width - left), max(0, height - top), 5 + 5 * max(1, channels), len(content))
    return Stripped(io.BytesIO(content))


# Pillow decodes runs of this format one by one.
RLE_BYTES = 8_000_000


def strip_bmp(content: bytes) -> Stripped:
    """A BMP, which has no metadata."""
    width, height = _padded(content, 18, "<ii")
    if _padded(content, 30, "<I")[0] in (1, 2):
        require_size(len(content), RLE_BYTES)
    if _padded(content, 14, "<I")[0] >= 40:
        require_affordable(abs(width), abs(height), 7, len(content))
    return Stripped(io.BytesIO(content))


CONTAINERS: Mapping[str, Callable[[bytes], Stripped]] = {
    formats.JPEG: strip_jpeg,
    formats.PNG: strip_png,
    formats.GIF: strip_gif,
    formats.WEBP: strip_webp,
    formats.AVIF: strip_avif,
    formats.JPEG2000: strip_jpeg2000,
    formats.BMP: strip_bmp,
}
