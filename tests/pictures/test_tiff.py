"""TIFFs of every depth, photometric interpretation and byte order, and the reasons for those not read."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.pictures.support import CAT, GREY, ZSTD, encoded, tiff_of
from xgradcam.errors import XGradCamError
from xgradcam.pictures.decoding import decode

RGB_GREY = np.repeat(GREY[..., None], 3, axis=2)


def reading(content: bytes, value_range=None):
    return decode(content, "photograph", value_range)


def deep(pixels, dtype):
    """8-bit values in the full range of another type."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (pixels / 255).astype(kind)
    return pixels.astype(kind) * kind.type(257 if kind.itemsize == 2 else 1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(
    ("dtype", "values", "kind"),
    [
        ("i1", [-128, -1, 0, 127], "8-bit signed values"),
        ("i2", [-32768, -1, 0, 32767], "16-bit signed values"),
        ("i4", [-(2**31), -1, 0, 2**31 - 1], "32-bit values"),
        ("u4", [0, 2**31 - 1, 2**31, 2**32 - 1], "32-bit values"),
    ],
)
def test_values_below_0_and_from_2_to_the_31_are_those_of_the_file(dtype, values, kind, photometric, order):
    content = tiff_of(np.array([values], dtype), photometric, order)
    low, high = values[0], values[-1]
    wanted = [int((value - low) * 256 / (high - low + (high - low >= 255))) for value in values]
    if dtype == "u4" and order == ">":
        with pytest.raises(XGradCamError, match=r"a TIFF of 32-bit whole values .* is not read"):
            reading(content)
        return
    for value_range in (None, (low, high)):
        found = reading(content, value_range)
        grey = found.photograph[0, :, 0].tolist()
        assert grey == (wanted if photometric else [255 - level for level in wanted])
        assert [note.startswith(kind) for note in found.notes] == ([True] if value_range is None else [])


def test_eight_bit_signed_values_from_0_keep_their_levels():
    values = np.array([[0, 5, 100, 127]], "i1")
    found = reading(tiff_of(values))
    assert found.photograph[0, :, 0].tolist() == [0, 5, 100, 127]
    assert len(found.notes) == 1


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4"])
def test_grey_of_every_depth_counts_from_the_end_that_it_says(dtype, photometric, order, big):
    values = deep(GREY if photometric else 255 - GREY, dtype)
    found = reading(tiff_of(values, photometric, order, big=big))
    assert np.array_equal(found.photograph, RGB_GREY)
    assert len(found.notes) == (dtype in ("i4", "f4"))


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fewer_bits_than_eight(bits, photometric):
    levels = GREY >> (8 - bits)
    stored = levels if photometric else 2**bits - 1 - levels
    each = stored.reshape(len(stored), -1, 8 // bits)
    packed = sum(each[..., place].astype(np.uint8) << (8 - bits * (place + 1)) for place in range(8 // bits))
    tags = {256: ("I", [GREY.shape[1]]), 258: ("H", [bits])}
    found = reading(tiff_of(packed.astype(np.uint8), photometric, tags=tags))
    assert np.array_equal(found.photograph[..., 0], levels * (255 // (2**bits - 1)))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_fax_of_both_interpretations(compression, photometric):
    bits = Image.fromarray(GREY).convert("1")
    content = encoded(bits, "TIFF", compression=compression, tiffinfo={262: photometric})
    white = np.asarray(bits.convert("L"))
    assert np.array_equal(reading(content).photograph[..., 0], white)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_colour_and_transparency(dtype, channels, order):
    values = deep(CAT if channels == 3 else np.dstack([CAT, GREY]), dtype)
    tags = {} if channels == 3 else {338: ("H", [2])}
    assert np.array_equal(reading(tiff_of(values, 2, order, tags)).photograph, CAT)
    if dtype == "u2":
        limited = reading(tiff_of(values >> 4, 2, order, tags), (0, 4095))
        assert np.array_equal(limited.photograph, CAT)
        assert limited.notes == ()


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", *ZSTD])
def test_twelve_bits_in_sixteen_are_told_and_read_by_the_range(compression):
    values = GREY.astype(np.uint16) << 4
    content = encoded(values, "TIFF", **({"compression": compression} if compression else {}))
    found = reading(content)
    assert np.array_equal(found.photograph[..., 0], GREY >> 4)
    assert ["12 bits" in note for note in found.notes] == [True]
    found = reading(content, (0, 4095))
    assert np.array_equal(found.photograph, RGB_GREY)
    assert found.notes == ()


def test_twelve_packed_bits_have_a_range_of_their_own():
    values = GREY.astype(np.uint16) << 4
    pairs = values.reshape(len(values), -1, 2).astype(np.uint32)
    packed = (
        (pairs[..., 0] << 12 | pairs[..., 1])
        .astype(">u4")
        .view(np.uint8)
        .reshape(*pairs.shape[:2], 4)[..., 1:]
    )
    tags = {256: ("I", [GREY.shape[1]]), 258: ("H", [12])}
    found = reading(tiff_of(packed.reshape(len(values), -1), tags=tags))
    assert np.array_equal(found.photograph, RGB_GREY)
    assert found.notes == ()


def test_cmyk_lab_ycbcr_and_palettes_become_rgb():
    image = Image.fromarray(CAT)
    lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    ).apply(image)
    for mode, content in (
        ("CMYK", encoded(image.convert("CMYK"), "TIFF")),
        ("LAB", encoded(lab, "TIFF")),
        ("palette", encoded(image.quantize(256), "TIFF")),
        ("YCbCr", encoded(image, "TIFF", compression="jpeg", quality=95)),
    ):
        assert np.abs(reading(content).photograph.astype(int) - CAT).mean() < 4, mode
    with pytest.raises(XGradCamError, match="--range is not for CMYK"):
        reading(tiff_of(deep(np.dstack([CAT, GREY]), "u2"), 5), (0, 4095))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (tiff_of(deep(CAT, "f4"), 2), "a TIFF of 3 channels of 32-bit floating-point values"),
        (tiff_of(deep(GREY, "f8")), "a TIFF of 64-bit floating-point values"),
        (tiff_of(deep(GREY, "f2")), "a TIFF of 16-bit floating-point values"),
        (tiff_of(np.dstack([CAT] * 2)[..., :5], tags={338: ("H", [0] * 4)}), "a TIFF of 5 channels of 8-bit"),
        (tiff_of(np.dstack([CAT] * 6), 2, tags={338: ("H", [0] * 15)}), "a TIFF of 18 channels of 8-bit"),
        (tiff_of(GREY, 32803), r"a TIFF of 8-bit whole values \(photometric interpretation 32803"),
        (tiff_of(GREY, tags={259: ("H", [34712])}), r"a TIFF of 8-bit whole values \(.*compression 34712"),
        (tiff_of(deep(CAT, "i2"), 2), "a TIFF of 3 channels of 16-bit signed values"),
    ],
)  # fmt: skip
def test_a_kind_that_is_not_read_is_named(content, kind):
    with pytest.raises(
        XGradCamError, match=kind + ".* is not read: convert it to grey or RGB of 8 or 16 bits"
    ):
        reading(content)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_channels_in_planes_are_read_or_refused(dtype):
    content = tiff_of(deep(CAT, dtype), 2, planar=True)
    if dtype == "u1":
        assert np.array_equal(reading(content).photograph, CAT)
    else:
        with pytest.raises(XGradCamError, match=r"16-bit whole values .* in planes is not read"):
            reading(content)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_deflated_planes_are_read(dtype):
    values = deep(CAT, dtype)
    planes = [zlib.compress(np.ascontiguousarray(values[..., channel]).tobytes()) for channel in range(3)]
    content = tiff_of(values, 2, planar=True)
    starts = [len(content) + sum(map(len, planes[:index])) for index in range(3)]
    tags = {259: ("H", [8]), 273: ("I", starts), 279: ("I", list(map(len, planes)))}
    rewritten = tiff_of(values, 2, planar=True, tags=tags)
    assert len(rewritten) == len(content)
    found = reading(rewritten + b"".join(planes))
    assert np.array_equal(found.photograph, CAT)
    if dtype == "u2":
        assert np.array_equal(reading(rewritten + b"".join(planes), (0, 65535)).photograph, CAT)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({256: ("I", [0])}, "gives no width and height"),
        ({256: ("I", [2**31])}, "over the limit of 100 megapixels"),
        ({322: ("I", [100_000]), 323: ("I", [100_000]), 324: ("I", [8]), 259: ("H", [5])}, "over the limit"),
        ({273: ("I", [8] * 500_001)}, "more than 500000"),
    ],
)
def test_what_would_cost_too_much_is_refused(tags, reason):
    with pytest.raises(XGradCamError, match=reason):
        reading(tiff_of(GREY, tags=tags))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_a_file_that_ends_early_is_called_so(compression, share):
    content = encoded(CAT, "TIFF", compression=compression)
    with pytest.raises(XGradCamError, match=r"is the file complete\?"):
        reading(content[: 8 + int(share * (len(content) - 8))])


def test_a_raw_photograph_is_not_read_as_its_thumbnail():
    with pytest.raises(XGradCamError, match="it is of the kind RAW, which is not read"):
        decode(tiff_of(CAT, 2), "photograph.dng")


def test_the_oldest_byte_orders_of_the_magic_number_are_read():
    content = tiff_of(CAT, 2)
    assert np.array_equal(reading(content[:2] + b"\0*" + content[4:]).photograph, CAT)
    assert struct.unpack("<H", content[2:4]) == (42,)
