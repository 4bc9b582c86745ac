"""Files of many kinds, made by hand where no library makes them."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import PIL
from PIL import Image
from skimage import data

# A photograph without symmetry, as RGB and grey.
CAT = np.ascontiguousarray(data.chelsea()[20:200:5, 60:340:5])
GREY = np.asarray(Image.fromarray(CAT).convert("L"))
# The wheels of Pillow 11 cannot write it, and are damaged by the attempt.
ZSTD = ("zstd",) if int(PIL.__version__.split(".")[0]) > 11 else ()


def encoded(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """The content of a file of this kind, as Pillow writes it."""
    buffer = io.BytesIO()
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif_block(orientation: int | bytes, kind: int = 3, order: str = "<", count: int = 1) -> bytes:
    """A block of Exif with a tag that is odd, the orientation of this type, and another odd tag."""
    value = (
        orientation
        if isinstance(orientation, bytes)
        else struct.pack(order + {3: "H", 4: "I"}[kind], orientation)
    )
    entries = [
        struct.pack(order + "HHI4s", 0x100, 9, 1, b"\xfb\xff\xff\xff"),
        struct.pack(order + "HHI4s", 0x112, kind, count, value.ljust(4, b"\0")),
        struct.pack(order + "HHI4s", 0x8298, 2, 3, b"\xff\xfe\0\0"),
        struct.pack(order + "HHI4s", 0x8769, 4, 1, struct.pack(order + "I", 2**31)),
    ]
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + b"\0" * 4


def plain_exif(orientation: int) -> bytes:
    """Exif with the orientation and a maker, which Pillow can parse."""
    exif = Image.Exif()
    exif[0x10F] = "a maker"
    exif[0x112] = orientation
    return exif.tobytes()


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment behind its start."""
    return jpeg[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return png[:33] + chunk(kind, body) + png[33:]


def png_of(pixels: np.ndarray, colour: int) -> bytes:
    """A PNG of 16-bit values (H, W, C), of this type of colour."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def tiff_of(
    pixels: np.ndarray, photometric: int = 1, order: str = "<",
    tags: dict[int, tuple[str, list[int]]] | None = None,
    pages: int = 1, big: bool = False, planar: bool = False,
) -> bytes:  # fmt: skip
    """An uncompressed TIFF of values (H, W) or (H, W, C), in one strip, or one a channel.

    tags: further ones, or others. pages: so many, of which all are the first. big: a BigTIFF.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    bits = pixels.dtype.itemsize * 8
    raw = np.moveaxis(pixels, -1, 0) if planar else pixels
    content = np.ascontiguousarray(raw).astype(pixels.dtype.newbyteorder(order)).tobytes()
    start = 16
    strips = channels if planar else 1
    size = len(content) // strips
    entries = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits] * channels), 259: ("H", [1]),
        262: ("H", [photometric]), 273: ("I", [start + size * strip for strip in range(strips)]),
        277: ("H", [channels]), 278: ("I", [height]), 279: ("I", [size] * strips),
        284: ("H", [2 if planar else 1]), 339: ("H", [kind] * channels), **(tags or {}),
    }  # fmt: skip
    codes = {"H": 3, "I": 4, "s": 2, "f": 11}
    offset, room = ("Q", 8) if big else ("I", 4)
    out = bytearray(content)
    places = []
    for _ in range(pages):
        fields = []
        for tag, (letter, values) in sorted(entries.items()):
            packed = bytes(values) if letter == "s" else struct.pack(f"{order}{len(values)}{letter}", *values)
            if len(packed) > room:
                packed = struct.pack(order + offset, start + len(out)), out.extend(packed)
                packed = packed[0]
            fields.append(
                struct.pack(order + "HH" + offset, tag, codes[letter], len(values))
                + packed.ljust(room, b"\0")
            )
        places.append(start + len(out))
        out += struct.pack(order + ("Q" if big else "H"), len(fields)) + b"".join(fields)
        places.append(start + len(out))
        out += b"\0" * room
    for end, following in zip(places[1::2], places[2::2], strict=False):
        out[end - start : end - start + room] = struct.pack(order + offset, following)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, places[0]) if big else struct.pack(order + "I", places[0])
    return head.ljust(start, b"\0") + bytes(out)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Small whole files of every kind that is read, and of some that are not."""
    image = Image.fromarray(CAT[::2, ::2])
    exif = b"Exif\0\0" + exif_block(6)
    modes = {mode: image.convert(mode) for mode in ("L", "P", "RGBA", "1", "CMYK", "F", "LA", "LAB")}
    deep = np.asarray(modes["L"]).astype(np.uint16) * 200
    yield from (
        ("jpg", encoded(image, "JPEG")),
        ("progressive.jpg", encoded(image, "JPEG", progressive=True, exif=exif)),
        ("cmyk.jpg", encoded(modes["CMYK"], "JPEG")),
        ("grey.jpg", encoded(modes["L"], "JPEG", icc_profile=bytes(200))),
        ("mpo.jpg", encoded(image, "MPO", save_all=True, append_images=[image])),
        ("png", encoded(image, "PNG", exif=exif)),
        ("palette.png", encoded(modes["P"], "PNG", transparency=3)),
        ("deep.png", encoded(deep, "PNG")),
        ("bits.png", encoded(modes["1"], "PNG")),
        ("apng.png", encoded(image, "PNG", save_all=True, append_images=[image.rotate(90)])),
        ("deep-alpha.png", png_of(np.dstack([deep, deep]), 4)),
        ("webp", encoded(image, "WEBP", exif=exif)),
        ("lossless.webp", encoded(image, "WEBP", lossless=True)),
        ("animated.webp", encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)])),
        *(
            (f"{how}.tif", encoded(image, "TIFF", compression=how))
            for how in ("raw", "tiff_lzw", "tiff_deflate")
        ),
        *(
            (f"{how}.tif", encoded(image, "TIFF", compression=how))
            for how in ("jpeg", "packbits", "lzma", *ZSTD)
        ),
        ("fax.tif", encoded(modes["1"], "TIFF", compression="group4")),
        ("float.tif", encoded(modes["F"], "TIFF")),
        ("cmyk.tif", encoded(modes["CMYK"], "TIFF")),
        ("lab.tif", encoded(modes["LAB"], "TIFF")),
        ("big.tif", tiff_of(deep, order=">", big=True)),
        ("bmp", encoded(image, "BMP")),
        ("palette.bmp", encoded(modes["P"], "BMP")),
        ("gif", encoded(modes["P"], "GIF", save_all=True, append_images=[modes["P"].rotate(90)])),
        ("avif", encoded(image, "AVIF", exif=plain_exif(6))),
        ("jp2", encoded(image, "JPEG2000")),
        ("j2k.jp2", encoded(image, "JPEG2000", no_jp2=True, quality_layers=[20])),
        ("ppm", encoded(image, "PPM")),
        ("pgm", encoded(modes["L"], "PPM")),
        ("pbm", encoded(modes["1"], "PPM")),
        ("floats.pfm", encoded(modes["F"], "PPM")),
        (
            "text.ppm",
            b"P3\n# a comment\n4 4\n255\n" + b" ".join(b"%d" % (value % 256) for value in range(48)),
        ),
        ("psd", b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 60, 90, 8, 3) + bytes(16)),
        ("svg", b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
    )


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """The content with some of its bytes changed, cut off, repeated or taken out."""
    out = bytearray(content)
    how = random.random()
    first, second = sorted(int(place) for place in random.integers(0, len(out), 2))
    if how < 0.35:
        for place in random.integers(0, len(out), random.integers(1, 12)):
            out[place] = random.integers(0, 256)
    elif how < 0.65:
        for place in random.integers(0, min(len(out), 160), random.integers(1, 4)):
            out[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif how < 0.78:
        place = int(random.integers(0, max(1, min(len(out) - 4, 300))))
        number = random.choice([0xFFFFFFFF, 0x7FFFFFFF, 0, 0x10000, 0x4000, 1 << 24])
        out[place : place + 4] = struct.pack(random.choice(["<I", ">I"]), int(number))
    elif how < 0.88:
        del out[first:]
    elif how < 0.94:
        out[first:first] = out[first:second]
    else:
        del out[first:second]
    return bytes(out)
