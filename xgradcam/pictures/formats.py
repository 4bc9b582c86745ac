"""Formats of files, told by their first bytes or by the ending of their name."""

import os

# Formats that are read. Not every format that Pillow knows: some of its readers start other programs.
JPEG, PNG, WEBP, BMP, TIFF, GIF = "JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF"
NETPBM, AVIF, JPEG2000 = "PPM", "AVIF", "JPEG 2000"
READ = (JPEG, PNG, WEBP, BMP, TIFF, GIF, NETPBM, AVIF, JPEG2000)
# Kinds that are not read, and have words of their own.
TEXT, RAW = "text", "RAW"
# Endings of photographs in folders.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm .avif .jp2".split()
)
# As many first bytes as tell a format.
HEAD = 512
MAGIC = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"BM", BMP),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II\x2a\x00", TIFF),
    (b"MM\x00\x2a", TIFF),
    (b"MM\x2a\x00", TIFF),
    (b"II\x00\x2a", TIFF),
    (b"II\x2b\x00", TIFF),
    (b"MM\x00\x2b", TIFF),
    (b"\xff\x4f\xff\x51", JPEG2000),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", JPEG2000),
)
# First bytes of files that are not read, and what they are.
OTHER_MAGIC = (
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x93NUMPY", "NumPy array"),
    (b"\x89HDF", "HDF5"),
    (b"SIMPLE  =", "FITS"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\x00\x00\x01\x00", "icon"),
    (b"FUJIFILM", RAW),
    (b"IIU\x00", RAW),
    (b"IIRO", RAW),
    (b"\x1aE\xdf\xa3", "video"),
    (b"{\\rtf", TEXT),
)
# Brands of ISO media files, which begin with a box 'ftyp'.
BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    b"crx ": RAW,
}
OTHER_SUFFIXES = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys(".cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .dng .raf .orf .rw2 .pef .raw".split(), RAW),
    **dict.fromkeys(".txt .md .csv .tsv .json .jsonl .xml .yaml .yml .html .log .py .ini .xmp".split(), TEXT),
    **dict.fromkeys(".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .3gp".split(), "video"),
    **dict.fromkeys(".mp3 .wav .m4a .flac .ogg".split(), "sound"),
    **dict.fromkeys(".zip .tar .gz .tgz .bz2 .xz .7z .rar".split(), "archive"),
    **dict.fromkeys((".psd", ".psb"), "PSD"),
    **dict.fromkeys((".svg", ".svgz"), "SVG"),
    **dict.fromkeys((".eps", ".ps"), "PostScript"),
    **dict.fromkeys((".npy", ".npz"), "NumPy array"),
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    **dict.fromkeys((".nii", ".mha", ".nrrd"), "volume"),
    ".pdf": "PDF",
    ".jxl": "JPEG XL",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".ico": "icon",
}


def kind_of(head: bytes) -> str:
    """The format or kind of a file that begins with these bytes; '' if it is not known."""
    for magic, kind in (*MAGIC, *OTHER_MAGIC):
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF":
        return {b"WEBP": WEBP, b"AVI ": "video", b"WAVE": "sound"}.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[start : start + 4] for start in range(16, 64, 4))]
        return next((BRANDS[brand] for brand in brands if brand in BRANDS), "video")
    if head[:1] == b"P" and head[1:2] in b"123456f" and head[2:3] in b" \t\n\r\v\f#" and len(head) > 2:
        return NETPBM
    if head[128:132] == b"DICM":
        return "DICOM"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"<svg", b"<!DOCTYPE svg")) or (text.startswith(b"<?xml") and b"<svg" in text):
        return "SVG"
    return TEXT if head and _is_text(head) else ""


def kind_by_name(name: str) -> str:
    """The kind of a file that is not read by the ending of its name; '' if it is not known."""
    return OTHER_SUFFIXES.get(os.path.splitext(name)[1].lower(), "")


def _is_text(head: bytes) -> bool:
    try:
        # The last character may be cut.
        text = head[: max(1, len(head) - 3)].decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
