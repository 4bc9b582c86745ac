"""No file takes more than 2 GB or 10 seconds: each is read in a process of its own, which is measured."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc")

# Makes each file in a child process, reads it in another, and prints its peak memory in MB and seconds.
MEASURE = """
import os, re, resource, struct, sys, time, zlib
import numpy as np
from PIL import Image
from tests.pictures.support import chunk, encoded, plain_exif, tiff_of
from xgradcam.pictures.photograph import decode_image, read_image

Image.MAX_IMAGE_PIXELS = None

def png(width, height, depth, colour, rows):
    deflate = zlib.compressobj(1)
    row = bytes(1 + width * depth * {0: 1, 2: 3, 6: 4}[colour] // 8)
    data = b"".join(deflate.compress(row) for _ in range(rows)) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

def scans(side, count):
    jpeg = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    start = jpeg.rfind(b"\\xff\\xda")
    return jpeg[:start] + jpeg[start:-2] * count + jpeg[-2:]

def flat(mode, side):
    return Image.new(mode, (side, side))

def noise(side):
    part = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    return Image.fromarray(np.tile(part, (side // 500, side // 500, 1)))

def stream(side):
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, 1, 1, 0, 0, 1) + b"\\7\\1\\1"
    return b"\\xff\\x4f\\xff\\x51" + struct.pack(">H", len(size) + 2) + size + b"\\xff\\xd9"

def rle(size):
    head = struct.pack("<IIIIiiHHIIiiII", 1078, 0, 1078, 40, 10000, 10000, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + head + bytes(1024) + b"\\1\\2" * size

QUICK = {
    "a pixel wide": lambda: png(1, 10**8, 8, 0, 0),
    "a pixel high": lambda: png(10**8, 1, 8, 0, 1),
    "a million high": lambda: png(1, 10**6, 8, 0, 10**6),
    "a million wide": lambda: png(10**6, 1, 8, 0, 1),
    "many scans": lambda: scans(3000, 600),
    "empty PPM": lambda: b"P6\\n9999 9999\\n255\\n",
    "large tiles": lambda: tiff_of(np.zeros((8, 8), np.uint8), tags={
        322: ("I", [60_000]), 323: ("I", [60_000]), 324: ("I", [16]), 325: ("I", [64]), 259: ("H", [8])}),
    "many strips": lambda: tiff_of(np.zeros((8, 8), np.uint8), tags={273: ("I", [16] * 499_000)}),
    "tiny tiles of JPEG 2000": lambda: stream(9999),
    "tags without end": lambda: (
        b"II*\\0\\x08\\0\\0\\0\\xff\\xff" + struct.pack("<HHII", 270, 2, 9**9, 8) * 65535),
    "empty chunks": lambda: png(8, 8, 8, 0, 8)[:33] + chunk(b"IDAT", b"") * 600_000,
    "runs of one": lambda: rle(10**6),
    "blocks of one": lambda: (
        encoded(flat("P", 8), "GIF")[:-1] + b"\\x21\\xfe" + b"\\1x" * (2 * 10**7) + b"\\0;"),
    "empty chunks of WebP": lambda: encoded(flat("RGB", 8), "WEBP") + b"none\\0\\0\\0\\0" * 600_000,
    "tags of a BigTIFF": lambda: (
        b"II+\\0\\x08\\0\\0\\0" + struct.pack("<QQ", 16, 9**9) + bytes(20) * 10**6),
    "floats": lambda: encoded(flat("F", 3000), "TIFF", compression="tiff_deflate"),
}
FULL = {
    "JPEG": lambda: encoded(noise(10000), "JPEG", quality=90),
    "JPEG turned": lambda: encoded(noise(10000), "JPEG", quality=50, exif=plain_exif(6)),
    "CMYK": lambda: encoded(noise(10000).convert("CMYK"), "JPEG", quality=50, progressive=True),
    "progressive": lambda: encoded(flat("RGB", 10000), "JPEG", progressive=True, subsampling=0),
    "40 scans": lambda: scans(9999, 40),
    "PNG": lambda: encoded(noise(10000), "PNG", compress_level=1),
    "PNG of 64 bits": lambda: png(10000, 10000, 16, 6, 10000),
    "WebP": lambda: encoded(noise(8000), "WEBP", method=0, quality=50),
    "AVIF": lambda: encoded(flat("RGB", 8000), "AVIF", speed=10),
    "JPEG 2000": lambda: encoded(flat("L", 9999), "JPEG2000"),
    "JPEG 2000 of noise": lambda: encoded(noise(2500), "JPEG2000"),
    "TIFF of floats": lambda: encoded(flat("F", 10000), "TIFF", compression="tiff_deflate"),
    "TIFF of JPEG": lambda: encoded(noise(10000), "TIFF", compression="jpeg"),
    "fax": lambda: encoded(flat("1", 10000), "TIFF", compression="group4"),
    "GIF": lambda: encoded(noise(10000).convert("P"), "GIF"),
    "PPM of 10 bits": lambda: b"P6\\n8000 8000\\n1023\\n" + bytes(6 * 8000**2),
    "runs of one": lambda: rle(3_990_000),
}

def in_child(work):
    reader, writer = os.pipe()
    if not os.fork():
        os.dup2(writer, 1)
        try:
            work()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        text = said.read().decode()
    os.wait()
    return text

def make(name, path):
    with open(path, "wb") as file:
        file.write(CASES[name]())

def read(path, value_range):
    started = time.process_time()
    try:
        outcome = "x".join(map(str, read_image(path, value_range, note=lambda line: None).shape))
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    peak = int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) // 1024
    print(peak, time.process_time() - started, outcome, flush=True)

# With a range of values, those of more than 8 bits, where it costs something, and one of 8 bits.
RANGED = ("PNG of 64 bits", "TIFF of floats", "PPM of 10 bits", "GIF")

CASES = {"quick": QUICK, "full": FULL}[sys.argv[1]]
for name in CASES:
    in_child(lambda: make(name, sys.argv[2]))
    for value_range in (None, (0, 1023)) if name in RANGED else (None,):
        print(name, in_child(lambda: read(sys.argv[2], value_range)), sep="|", end="")
"""
# Refused for their cost, or because there is nothing in them.
SHOWN = {
    "many strips": "8x8x3",
    "blocks of one": "8x8x3",
    "a million high": "1000000x1x3",
    "a million wide": "1x1000000x3",
    "floats": "3000x3000x3",
}


def measured(which, folder):
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, which, str(folder / "file")],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for line in run.stdout.splitlines():
        name, said = line.split("|", 1)
        peak, seconds, outcome = said.split(" ", 2)
        yield name, int(peak), float(seconds), outcome


def test_small_files_that_ask_for_much_get_little(tmp_path):
    found = list(measured("quick", tmp_path))
    assert len(found) == 16
    for name, peak, seconds, outcome in found:
        assert peak < 500, (name, peak)
        assert seconds < 5, (name, seconds)
        assert outcome.startswith(SHOWN.get(name, "XGradCamError: ")), (name, outcome)


@pytest.mark.slow
def test_the_largest_files_are_read_in_2_gb_and_10_seconds(tmp_path):
    found = list(measured("full", tmp_path))
    assert len(found) == 17 + 4
    for name, peak, seconds, outcome in found:
        # PyTorch and a network take 0.4 GB beside it.
        assert peak < 1600, (name, peak)
        assert seconds < 10, (name, seconds)
        assert "Error" not in outcome or name in ("runs of one", "40 scans", "CMYK"), (name, outcome)
    assert {name for name, *_, outcome in found if outcome == "10000x10000x3"} >= {
        "JPEG",
        "JPEG turned",
        "PNG",
    }
