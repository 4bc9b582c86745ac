import hashlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.pictures.support import mutated, seeds
from xgradcam.errors import XGradCamError
from xgradcam.pictures import bounds
from xgradcam.pictures.photograph import (
    decode_image,
    encode_jpeg,
    is_marked,
    read_image,
    require_photograph,
    stretch,
    to_input,
)

CAT = data.chelsea()


def saved(tmp_path, picture, name, **options):
    path = tmp_path / name
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.ppm"])
def test_lossless_formats_give_the_pixels(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, Image.fromarray(CAT), name, **options)
    assert np.array_equal(read_image(path), CAT)
    assert np.array_equal(read_image(str(path)), CAT)


def test_jpeg_gives_nearly_the_pixels(tmp_path):
    path = saved(tmp_path, Image.fromarray(CAT), "a.jpg", quality=98)
    assert np.abs(read_image(path).astype(int) - CAT).mean() < 2


def test_the_content_counts_not_the_name(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(CAT).save(path, format="PNG")
    assert np.array_equal(read_image(path), CAT)


def test_grey_palette_alpha_and_two_colours_become_rgb(tmp_path):
    grey = Image.fromarray(CAT).convert("L")
    expected = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    assert np.array_equal(read_image(saved(tmp_path, grey, "grey.png")), expected)
    assert np.array_equal(read_image(saved(tmp_path, grey.convert("LA"), "grey-alpha.png")), expected)
    palette = Image.fromarray(CAT).quantize(64)
    assert np.array_equal(
        read_image(saved(tmp_path, palette, "palette.png")), np.asarray(palette.convert("RGB"))
    )
    transparent = Image.fromarray(CAT)
    transparent.putalpha(0)
    assert np.array_equal(read_image(saved(tmp_path, transparent, "alpha.png")), CAT)
    bits = Image.fromarray(CAT).convert("1")
    assert set(np.unique(read_image(saved(tmp_path, bits, "bits.png")))) == {0, 255}


def test_sixteen_bits_become_eight(tmp_path):
    deep = (CAT[..., 0].astype(np.uint16) << 8) + 77
    for name in ("deep.png", "deep.tiff"):
        photograph = read_image(saved(tmp_path, Image.fromarray(deep), name))
        assert np.array_equal(photograph, np.repeat(CAT[..., :1], 3, axis=2))


def test_sixteen_bit_colour_becomes_eight(tmp_path):
    import cv2

    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), (CAT[:, :, ::-1].astype(np.uint16) << 8) + 9)
    assert np.array_equal(read_image(path), CAT)


def test_cmyk_keeps_its_colours(tmp_path):
    path = saved(tmp_path, Image.fromarray(CAT).convert("CMYK"), "a.jpg", quality=98)
    assert np.abs(read_image(path).astype(int) - CAT).mean() < 3


@pytest.mark.parametrize(("orientation", "turn"), [(1, None), (3, 2), (6, 1), (8, 3)])
def test_exif_rotation_is_undone(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = CAT if turn is None else np.rot90(CAT, turn)
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(turned)), "a.png", exif=exif)
    assert np.array_equal(read_image(path), CAT)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200)]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"a.gif: page 1 of 2"):
        assert (read_image(path) == 10).all()
    notes = []
    read_image(path, note=notes.append)
    assert notes == ["page 1 of 2: the others are not looked at"]


def test_one_pixel(tmp_path):
    path = saved(tmp_path, Image.fromarray(CAT[:1, :1]), "a.png")
    assert np.array_equal(read_image(path), CAT[:1, :1])


def test_names_beyond_ascii(tmp_path):
    path = saved(tmp_path, Image.fromarray(CAT), "Katze – 猫 🐈.png")
    assert np.array_equal(read_image(path), CAT)


def test_what_is_no_image_is_named_with_the_reason(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "odd.jpg").write_bytes(bytes(range(256)))
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    for name, reason in (
        ("missing.jpg", "no such image"),
        ("", "a folder, not an image"),
        ("empty.jpg", "the file is empty"),
        ("text.jpg", "it is text"),
        ("drawing.eps", "it is of the kind PostScript, which is not read"),
        ("odd.jpg", "it is not a complete JPEG"),
        ("x" * 5000 + ".jpg", "cannot read image"),
        ("zero\0.jpg", "cannot read image"),
    ):
        with pytest.raises(XGradCamError, match=reason):
            read_image(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("phto.jpg", "photo.jpg"),
        ("photo.jpeg", "photo.jpg"),
        ("PHOTO.JPG", "photo.jpg"),
        ("photo", "photo.jpg"),
        ("below/Cat.png", "below/cat.png"),
        ("belwo", "below"),
        ("notes.tx", None),
        ("else.jpg", None),
        ("*.jpg", None),
        ("nowhere/photo.jpg", None),
    ],
)
def test_a_missing_file_gets_the_nearest_photograph_beside_it(tmp_path, monkeypatch, name, hint):
    monkeypatch.chdir(tmp_path)
    Path("below").mkdir()
    for there in ("photo.jpg", "notes.txt", "below/cat.png"):
        Path(there).touch()
    for path in (name, str(tmp_path / name)):
        with pytest.raises(XGradCamError) as caught:
            read_image(path)
        nearest = hint and str(Path(path).parents[name.count("/")] / hint)
        meant = f"; did you mean {nearest!r}?" if hint else ""
        assert str(caught.value) == f"no such image: {path}{meant}"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "tiff", "gif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_files_are_refused(tmp_path, kind, share):
    buffer = io.BytesIO()
    Image.fromarray(CAT).save(buffer, format=kind)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(XGradCamError, match=r"(cannot decode|not an) image"):
        read_image(path)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(CAT), "a.png")
    monkeypatch.setattr(bounds, "MAX_PIXELS", CAT.shape[0] * CAT.shape[1] - 1)
    with pytest.raises(XGradCamError, match="451 x 300 pixels are over the limit"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_taken_for_8_or_16_where_the_values_are(tmp_path, dtype):
    grey = CAT[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    notes = []
    for scale in (1, 256):
        path = saved(tmp_path, Image.fromarray(grey.astype(dtype) * dtype(scale)), "a.tiff")
        assert np.array_equal(read_image(path, note=notes.append), expected)
    black = saved(tmp_path, Image.fromarray(np.zeros((4, 4), dtype)), "black.tiff")
    assert not read_image(black, note=notes.append).any()
    assert len(notes) == 3


@pytest.mark.parametrize(
    "wrong", [CAT / 255, CAT[..., 0], np.zeros((4, 4, 4), np.uint8), CAT[:0], CAT.tolist()[:2]]
)
def test_what_is_no_photograph_is_told_what_one_is(wrong):
    with pytest.raises(XGradCamError, match=r"a photograph is \(H, W, 3\) uint8"):
        to_input(wrong, (4, 4), (0, 0, 0), (1, 1, 1))


def test_2000_damaged_files_of_every_format_end_in_a_picture_or_one_line(recwarn):
    random = np.random.default_rng(7)
    whole = list(seeds())
    messages, shown, started = [], 0, time.process_time()
    for index in range(2000):
        name, content = whole[index % len(whole)]
        try:
            photograph = decode_image(io.BytesIO(mutated(content, random)), name).photograph
        except XGradCamError as error:
            messages.append(str(error))
        else:
            shown += 1
            require_photograph(photograph)
    assert 500 < shown < 1500
    assert all("\n" not in message and len(message) < 300 for message in messages)
    assert time.process_time() - started < 15
    assert not recwarn.list


def test_input_is_the_stretched_photograph_normalised():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    inputs = to_input(CAT, (20, 30), mean, std)
    assert inputs.shape == (1, 3, 20, 30)
    small = stretch(CAT, (20, 30))
    for channel in range(3):
        expected = (small[5, 7, channel] / 255 - mean[channel]) / std[channel]
        assert inputs[0, channel, 5, 7].item() == pytest.approx(expected, abs=1e-6)


def test_jpeg_is_rgb():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    decoded = np.asarray(Image.open(io.BytesIO(encode_jpeg(red))))
    assert decoded[8, 8, 0] > 250
    assert decoded[8, 8, 2] < 5


def test_a_jpeg_is_that_of_opencv_with_a_comment_behind_its_header():
    picture = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    content = encode_jpeg(picture)
    plain = cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()
    assert content[:20] + content[49:] == plain
    assert content[20:33] == b"\xff\xfe\x00\x1bxgradcam "
    assert content[33:49].decode() == hashlib.sha256(plain).hexdigest()[:16]
    assert is_marked(content)
    assert not any(map(is_marked, (plain, b"", content[:40], content[:-1], content[:21] + content)))


def test_a_picture_that_no_jpeg_holds_is_refused():
    widest = Image.open(io.BytesIO(encode_jpeg(np.full((1, 65_500, 3), 77, np.uint8))))
    assert widest.size == (65_500, 1)
    assert np.unique(np.asarray(widest)).tolist() == [77]
    with pytest.raises(XGradCamError, match="a picture of 65501 x 1 pixels does not fit into a JPEG file"):
        encode_jpeg(np.zeros((1, 65_501, 3), np.uint8))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes in folders")
def test_a_pipe_and_a_device_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", "/dev/zero"):
        with pytest.raises(XGradCamError, match="not a regular file"):
            read_image(path)


def test_a_range_is_checked_and_used(tmp_path):
    path = saved(tmp_path, Image.fromarray(CAT[..., 0].astype(np.uint16) << 4), "deep.png")
    assert np.array_equal(read_image(path, value_range=(0, 4095))[..., 0], CAT[..., 0])
    with pytest.raises(XGradCamError, match="the range is 9 to 1: give the value of black"):
        read_image(path, value_range=(9, 1))


def test_a_pipe_on_stdin_is_read_to_its_end():
    content = io.BytesIO()
    Image.fromarray(CAT).save(content, format="PNG")
    reader, writer = os.pipe()
    with ThreadPoolExecutor(1) as pool, os.fdopen(reader, "rb") as source:
        with os.fdopen(writer, "wb") as sink:
            reading = pool.submit(decode_image, source, "stdin")
            sink.write(content.getvalue())
        assert np.array_equal(reading.result().photograph, CAT)
