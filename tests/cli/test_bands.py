"""Networks of two, four or more channels, and photographs of as many bands."""

import json
import struct
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xgradcam import explain, load_classifier
from xgradcam.cli.proof_verify import main as proof_verify
from xgradcam.cli.xgrad_cam import main as xgrad_cam
from xgradcam.errors import XGradCamError
from xgradcam.pictures.bands import Bands, framed, read_bands
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.photograph import read_image

OWN = """
import torch
from torch import nn

def network(channels):
    torch.manual_seed(0)
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), *pooled)

def two(): return network(2)
def four(): return network(4)
def five(): return network(5)
def grey(): return network(1)
"""
FIVE = ("--model", "own.py:five", "--input-size", "28")


@pytest.fixture(autouse=True)
def own(own_folder):
    Path("own.py").write_text(OWN)


def bands(count=5, dtype=np.uint8, size=(40, 50)):
    top = 256 if dtype == np.uint8 else 65536
    return np.random.default_rng(0).integers(0, top, (*size, count)).astype(dtype)


def tiff(values, *, order="<", planes=False, deflate=False, predictor=1, rows=7, tile=None, orientation=1):
    """A TIFF of (H, W, C) values, written from the specification."""
    height, width, count = values.shape
    item = values.dtype.itemsize
    parts = []
    size = tile or (rows, width)
    for plane in range(count) if planes else [slice(None)]:
        for top, left in product(range(0, height, size[0]), range(0, width, size[1])):
            part = values[top : top + size[0], left : left + size[1], plane]
            part = part[..., None] if planes else part
            if tile:
                rest = [(0, side - had) for side, had in zip(tile, part.shape, strict=False)]
                part = np.pad(part, [*rest, (0, 0)])
            if predictor == 2:
                part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1]))
            data = part.astype(part.dtype.newbyteorder(order)).tobytes()
            parts.append(zlib.compress(data) if deflate else data)
    starts = np.cumsum([8, *map(len, parts)])
    format_of = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: ("H", [width]), 257: ("H", [height]), 258: ("H", [8 * item] * count),
        259: ("H", [8 if deflate else 1]), 262: ("H", [1]),
        274: ("H", [orientation]), 277: ("H", [count]), 284: ("H", [2 if planes else 1]),
        317: ("H", [predictor]), 339: ("H", [format_of] * count),
    }  # fmt: skip
    tags |= (
        {
            322: ("H", [tile[1]]),
            323: ("H", [tile[0]]),
            324: ("I", starts[:-1]),
            325: ("I", [*map(len, parts)]),
        }
        if tile
        else {273: ("I", starts[:-1]), 278: ("H", [rows]), 279: ("I", [*map(len, parts)])}
    )
    place, aside, entries = int(starts[-1]) + 2 + 12 * len(tags) + 4, b"", b""
    for tag, (letter, numbers) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(numbers)}{letter}", *map(int, numbers))
        field = data.ljust(4, b"\0")
        if len(data) > 4:
            field = struct.pack(order + "I", place + len(aside))
            aside += data
        entries += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[letter], len(numbers)) + field
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, int(starts[-1]))
    return head + b"".join(parts) + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4 + aside


FORMS = {
    "strips": {},
    "big-endian": {"order": ">"},
    "planes": {"planes": True},
    "tiles": {"tile": (16, 32)},
    "deflate": {"deflate": True, "predictor": 2},
    "planes of tiles": {"planes": True, "tile": (16, 16), "deflate": True},
}


def read(content, count=5, value_range=None):
    return read_bands(content, "a.tif", Bands(count, (2, 1, 0)), value_range, lambda _pixels: None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("form", FORMS)
def test_a_tiff_of_bands_is_read(form, dtype):
    values = bands(dtype=dtype) if dtype != np.float32 else (bands() / 255).astype(np.float32)
    # The predictor is for whole numbers.
    how = {**FORMS[form], "predictor": 1} if dtype == np.float32 else FORMS[form]
    found = read(tiff(values, **how))
    expected = {np.uint8: lambda: values, np.uint16: lambda: values >> 8, np.float32: bands}[dtype]()
    # 256 steps of [0, 1]: 255 levels may round down by one.
    assert np.abs(found.bands.astype(int) - expected.astype(int)).max() <= (dtype == np.float32)
    np.testing.assert_array_equal(found.photograph, found.bands[..., [2, 1, 0]])


def test_an_oriented_tiff_is_turned_upright():
    values = bands()
    np.testing.assert_array_equal(read(tiff(values, orientation=3)).bands, values[::-1, ::-1])


def test_a_range_is_that_of_all_bands():
    values = bands(dtype=np.uint16) // 16
    found = read(tiff(values), value_range=(0, 4095))
    np.testing.assert_array_equal(found.bands, values // 16)
    assert any("12 bits" in line for line in read(tiff(values)).notes)


@pytest.mark.parametrize("count", [2, 4, 5])
def test_arrays_and_transparency_are_bands(count, tmp_path):
    values = bands(count)
    for name, array in {"last.npy": values, "first.npy": values.transpose(2, 0, 1)}.items():
        np.save(name, array)
        np.testing.assert_array_equal(
            read(Path(name).read_bytes(), count).bands if count > 2 else values, values
        )
    if count < 5:
        Image.fromarray(values, "LA" if count == 2 else "RGBA").save("a.png")
        found = read_bands(
            Path("a.png").read_bytes(), "a.png", Bands(count, (0, 0, 1)), None, lambda _pixels: None
        )
        np.testing.assert_array_equal(found.bands, values)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: tiff(bands(4)), r"it has 4 channels; give TIFF or \.npy with 5 bands"),
        (lambda: tiff(bands())[:3000], r"is the file complete\?"),
        (lambda: tiff(bands(), deflate=True).replace(b"\x78\x9c", b"\x00\x00"), "cannot read the 5 bands"),
        (lambda: b"\x93NUMPY\x01\x00", "cannot read the 5 bands"),
        (lambda: b"\x93NUMPY" + bytes([1, 0, 118, 0]) + HUGE, r"is the file complete\?"),
        (lambda: b"GIF8", "cannot read the 5 bands"),
        (lambda: b"", "cannot read the 5 bands"),
    ],
)
def test_what_holds_no_such_bands_is_refused_in_one_line(content, reason):
    with pytest.raises(XGradCamError, match=reason) as error:
        read(content())
    assert "\n" not in str(error.value)


HUGE = b"{'descr': '|u1', 'fortran_order': False, 'shape': (90000, 90000, 5), }".ljust(117) + b"\n"


def test_bands_are_fitted_one_as_the_other():
    values = bands(5)
    for framing in (Framing((28, 28)), Framing((20, 20), 24)):
        found = framed(framing, values)
        for band in range(5):
            alone = framing.pixels(np.repeat(values[..., [band]], 3, axis=2))
            np.testing.assert_array_equal(found[..., band], alone[..., 0])


def test_the_command_explains_a_network_of_five_bands(capsys):
    values = bands()
    Path("a.tif").write_bytes(tiff(values))
    np.save("a.npy", values)
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5,) * 5
    how = [*FIVE, "--mean", *map(str, mean), "--std", "0.5", "--target-index", "1"]
    for path in ("a.tif", "a.npy"):
        assert xgrad_cam(["--image-path", path, *how, "--save-maps", "--bands", "3", "2", "1"]) == 0
        classifier = load_classifier("own.py:five", size=28, mean=mean, std=std)
        inputs = classifier.inputs(values)
        pixels = torch.from_numpy(framed(Framing((28, 28)), values)).float().movedim(2, 0)[None] / 255
        expected = (pixels - torch.tensor(mean).view(1, 5, 1, 1)) / torch.tensor(std).view(1, 5, 1, 1)
        torch.testing.assert_close(inputs, expected)
        maps = explain(classifier.module, inputs, "1", 1).maps["xgrad-cam"]
        saved = np.load("maps.npz")
        np.testing.assert_allclose(saved["xgrad-cam"], maps[0], rtol=1e-5, atol=1e-7)
    assert "bands" not in capsys.readouterr().err
    assert proof_verify(["--image-path", "a.tif", *how]) == 0
    out, err = capsys.readouterr()
    assert "verdict: Eq. 5 holds" in out
    assert "photographs of 5 bands are drawn by bands 1, 2, 3 (--bands gives others)" in err


def test_the_picture_is_of_the_chosen_bands():
    values = np.zeros((28, 28, 5), np.uint8)
    values[..., 4] = 200
    np.save("a.npy", values)
    how = ["--image-path", "a.npy", *FIVE, "--html", "--panel", "--guided", "--bands", "5", "1", "2"]
    assert xgrad_cam([*how, "--output-dir", "out"]) == 0
    photograph = read_image("out/a_photograph.jpg")
    assert (photograph[10, 10] > [150, -1, -1]).all()
    assert photograph[10, 10, 1:].max() < 60
    assert Path("out/index.html").exists()


def test_rgba_and_defaults_are_said(capsys):
    Image.fromarray(bands(4), "RGBA").save("a.png")
    assert xgrad_cam(["--image-path", "a.png", "--model", "own.py:four", "--input-size", "28"]) == 0
    err = capsys.readouterr().err
    assert "own.py:four takes 4 channels, each with mean 0.459 and deviation 0.226" in err
    assert "photographs of 4 bands are drawn by bands 1, 2, 3" in err
    # A photograph of three colours stays one for networks of colours, transparent or not.
    assert xgrad_cam(["--image-path", "a.png", "--model", "own.py:grey", "--input-size", "28"]) == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([*FIVE, "--bands", "5", "1", "6"], "--bands 5 1 6: own.py:five has bands 1 to 5"),
        (["--model", "own.py:grey", "--input-size", "28", "--bands", "1", "1", "1"], "own.py:grey takes 1"),
        (["--model", "own.py:four", "--input-size", "28"], "cannot read the 4 bands of a.npy"),
        (["--model", "own.py:grey", "--input-size", "28"], "not an image: a.npy"),
    ],
)
@pytest.mark.parametrize("command", [xgrad_cam, proof_verify])
def test_wrong_bands_are_refused(command, options, reason, capsys):
    np.save("a.npy", bands())
    assert command(["--image-path", "a.npy", *options]) == 2
    assert reason in capsys.readouterr().err


def test_many_photographs_of_bands_are_recorded_with_them(capsys):
    for name in ("a", "b"):
        np.save(f"{name}.npy", bands())
    how = ["--image-path", "a.npy", "b.npy", *FIVE, "--output-dir", "out", "--bands", "5", "1", "2"]
    assert xgrad_cam([*how, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["image"] for one in records] == ["a.npy", "b.npy"]
    assert xgrad_cam([*how, "--resume"]) == 0
    assert xgrad_cam([*how[:-1], "3", "--resume"]) == 2
    assert "other settings for bands" in capsys.readouterr().err
