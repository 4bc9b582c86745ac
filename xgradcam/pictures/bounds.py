"""Bounds on what a file may cost to read: sides, pixels, memory and work."""

from xgradcam.errors import XGradCamError

# Of a photograph; a row takes memory too, however short it is.
MAX_PIXELS = 100_000_000
MAX_SIDE = 1_000_000
# Of a file.
MAX_BYTES = 1_000_000_000
# Bytes while a photograph is read: with PyTorch and a network a run stays under 2 GB.
MEMORY = 1_500_000_000
# A photograph of this many pixels is decoded scan by scan in about six seconds.
WORK = 4_000_000_000
# Parts of a file that are looked at one by one.
MAX_PARTS = 500_000


class TooLargeError(XGradCamError):
    """A file that costs too much to read; the reason, without its name."""


class UnreadableError(XGradCamError):
    """A file that is no image, or of a kind that is not read; the reason, without its name."""


def require_affordable(width: int, height: int, bytes_a_pixel: float, size: int = 0, passes: int = 1) -> None:
    """Raise TooLargeError if an image would take too much memory or time.

    bytes_a_pixel: while it is decoded. size: of its file in bytes. passes: over all pixels.
    """
    extent = f"{width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise TooLargeError(f"{extent} are over the limit of {MAX_PIXELS // 10**6} megapixels")
    if max(width, height) > MAX_SIDE:
        raise TooLargeError(f"{extent} are over the limit of {MAX_SIDE} a side")
    if (memory := width * height * bytes_a_pixel + size) > MEMORY:
        raise TooLargeError(f"{extent} of this format take {memory / 1e9:.1f} GB while they are decoded")
    if passes > 1 and width * height * passes > WORK:
        raise TooLargeError(f"{extent} in {passes} scans take too long to decode")


def require_size(size: int, most: int = MAX_BYTES) -> None:
    """Raise TooLargeError if a file has more bytes than `most`."""
    if size > most:
        raise TooLargeError(f"a file of {size / 1e6:.0f} MB of this format takes too long to decode")


def require_few(parts: int, what: str) -> None:
    """Raise TooLargeError if a file has too many parts of a kind."""
    if parts > MAX_PARTS:
        raise TooLargeError(f"more than {MAX_PARTS} {what}")
