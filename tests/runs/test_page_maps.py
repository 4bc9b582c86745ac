import base64
import json
import re
import zlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xgradcam.cam.explanation import Explanation, heatmap
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.outlines import Outline
from xgradcam.pictures.photograph import is_marked
from xgradcam.runs.page_maps import (
    COARSE,
    FINE,
    MARK,
    disagreement,
    facts_of_page,
    maps_script,
    page_pictures,
    quantised,
)

FRAMING = Framing((8, 8))


def explanation(**maps):
    """An explanation of one photograph with these signed maps (h, w)."""
    tensors = {name: torch.as_tensor(np.asarray(signed)[None]) for name, signed in maps.items()}
    return Explanation(tensors, torch.zeros(1), ((),))


def random_map(seed, height=5, width=7):
    return np.random.default_rng(seed).normal(size=(height, width))


def parts_of(script):
    """The header, the inflated planes and the small photograph of a script."""
    assert script.startswith(MARK)
    (inside,) = re.fullmatch(
        r"xgradcamMaps\((.*)\);\n", script.removeprefix(MARK).decode(), re.DOTALL
    ).groups()
    header, data, small = json.loads(f"[{inside}]")
    return header, zlib.decompress(base64.b64decode(data), -15), base64.b64decode(small)


def restored(entry, planes):
    """The map of an entry of the header, by the words of the module's docstrings."""
    height, width, bits, low, high, start = entry[:6]
    cells, most = height * width, 2 ** (bits - 1) - 1
    plane = np.frombuffer(planes[start : start + cells * bits // 8], np.int8).astype(float)
    if bits == 16:
        plane = 256 * plane[:cells] + plane[cells:] % 256
    base, top = max(low, 0), min(high, 0)
    return np.where(
        plane > 0, base + plane / most * (high - base), base + top + plane / most * (top - low)
    ).reshape(height, width)


def test_the_maps_come_back_at_their_own_size():
    maps = {"grad-cam": random_map(0), "xgrad-cam": random_map(1), "eigen-cam": random_map(2, 3, 2)}
    header, planes, small = parts_of(maps_script([[explanation(**maps)]], None, FRAMING, (40, 30), b"jpeg"))
    (view,) = header["views"]
    assert list(view["maps"]) == list(maps)
    for name, signed in maps.items():
        assert np.abs(restored(view["maps"][name], planes) - signed).max() <= np.abs(signed).max() / FINE
    assert (header["window"], header["size"], header["outline"], small) == ([0, 0, 1, 1], [8, 8], [], b"jpeg")


@pytest.mark.parametrize(
    "signed",
    [
        np.zeros((3, 4)),
        np.full((3, 4), 2.5),
        np.full((3, 4), -2.5),
        np.array([[1000.0, 1000.001]]),
        np.array([[-1e-30, 0, 1e30]]),
        -np.abs(random_map(3)),
        np.abs(random_map(3)),
        np.array([[5e-324, 0.0]]),
    ],
)
def test_a_map_of_any_range_comes_back(signed):
    header, planes, _ = parts_of(maps_script([[explanation(cam=signed)]], None, FRAMING, (8, 8), b""))
    found = restored(header["views"][0]["maps"]["cam"], planes)
    step = (signed.max() - signed.min()) / FINE
    assert np.abs(found - signed).max() <= step + 1e-12 * np.abs(signed).max()
    assert np.array_equal(np.sign(found), np.sign(signed)) or step > 0


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1e-9, 1.0, 1e9]),
    st.floats(-3, 3),
    st.sampled_from([FINE, COARSE]),
)
def test_no_value_is_off_by_more_than_half_a_step(seed, height, width, scale, middle, steps):
    signed = scale * (np.random.default_rng(seed).normal(size=(height, width)) + middle)
    whole, low, high = quantised(signed, steps)
    assert np.abs(whole).max(initial=0) <= steps
    base, top = max(low, 0), min(high, 0)
    found = np.where(
        whole > 0, base + whole / steps * (high - base), base + top + whole / steps * (top - low)
    )
    room = np.where(signed > 0, high - base, top - low)
    assert (np.abs(found - signed) <= room / (2 * steps) + 1e-12 * scale).all()


@pytest.mark.parametrize(("side", "most"), [(14, 2e-4), (80, 0.03)])
def test_heatmaps_of_what_is_stored_are_those_of_the_maps(side, most):
    signed = random_map(4, side, side)
    header, planes, _ = parts_of(maps_script([[explanation(cam=signed)]], None, FRAMING, (8, 8), b""))
    entry = header["views"][0]["maps"]["cam"]
    assert entry[2] == (16 if side == 14 else 8)
    stored, exact = (
        heatmap(torch.as_tensor(one)[None], (160, 160)) for one in (restored(entry, planes), signed)
    )
    assert float((stored - exact).abs().max()) < most


def test_a_map_of_long_sides_is_stored_as_means():
    signed = random_map(5, 512, 1024)
    header, planes, _ = parts_of(maps_script([[explanation(cam=signed)]], None, FRAMING, (8, 8), b""))
    entry = header["views"][0]["maps"]["cam"]
    assert (entry[:3], entry[6]) == ([256, 256, 8], [512, 1024])
    means = signed.reshape(256, 2, 256, 4).mean(axis=(1, 3))
    assert np.abs(restored(entry, planes) - means).max() <= np.abs(means).max() / COARSE


def test_equal_maps_are_stored_once_and_fused_ones_not_at_all():
    early, late = explanation(cam=random_map(6)), explanation(cam=random_map(7))
    same = explanation(cam=random_map(6))
    header, planes, _ = parts_of(
        maps_script([[early], [late], [early, late], [same]], None, FRAMING, (8, 8), b"")
    )
    assert header["views"][2] == {"fused": [0, 1]}
    assert header["views"][3] == header["views"][0]
    assert len(planes) == 2 * 2 * 35


def test_a_map_that_is_not_finite_is_not_stored():
    broken = random_map(8)
    broken[0, 0] = np.nan
    script = maps_script([[explanation(cam=broken, other=random_map(9))]], None, FRAMING, (8, 8), b"")
    header, _, _ = parts_of(script)
    assert header["views"][0]["maps"]["cam"] is None
    assert header["views"][0]["maps"]["other"][:2] == [5, 7]


def test_the_window_of_a_crop_is_in_shares_of_the_photograph():
    header, _, _ = parts_of(
        maps_script([[explanation(cam=random_map(0))]], None, Framing((8, 8), 10), (100, 200), b"")
    )
    top, left, bottom, right = header["window"]
    assert (top, bottom) == pytest.approx((0.1, 0.9))
    assert (left, right) == pytest.approx((0.3, 0.7))


def test_outlines_are_lines_in_shares_of_the_input():
    def lines(outline):
        script = maps_script([[explanation(cam=random_map(0))]], outline, FRAMING, (8, 8), b"")
        return parts_of(script)[0]["outline"]

    assert lines(Outline(box=(0.1, 0.2, 0.3, 0.4))) == [[0.1, 0.2, 0.3, 0.2, 0.3, 0.4, 0.1, 0.4]]
    region = np.zeros((10, 20), bool)
    region[2:5, 4:11] = True
    (line,) = lines(Outline(region=region))
    corners = set(zip(line[::2], line[1::2], strict=True))
    assert corners == {(0.225, 0.25), (0.525, 0.25), (0.225, 0.45), (0.525, 0.45)}


@pytest.mark.parametrize(
    ("shape", "large", "small"),
    [
        ((30, 20), (30, 20), (30, 20)),
        ((3200, 800), (1600, 400), (400, 100)),
        ((2, 4000), (1, 1600), (1, 400)),
    ],
)
def test_pictures_for_the_page_are_bounded(shape, large, small):
    random = np.random.default_rng(0)
    photograph = np.full((*shape, 3), random.integers(0, 256, 3, dtype=np.uint8), np.uint8)
    pictures = page_pictures(photograph)
    assert is_marked(pictures.large)
    for content, expected in ((pictures.large, large), (pictures.small, small)):
        seen = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert seen.shape[:2] == expected
        assert np.abs(seen[..., ::-1].astype(int) - photograph[0, 0]).max() <= 3
    whole = cv2.imdecode(np.frombuffer(page_pictures(photograph, True).large, np.uint8), cv2.IMREAD_COLOR)
    assert whole.shape[:2] == shape


def test_disagreement_is_the_mean_difference_of_heatmaps():
    ramp = np.array([[0.0, 1.0], [2.0, 4.0]])
    same = explanation(**{"grad-cam": ramp, "xgrad-cam": 3 * ramp, "random-cam": random_map(0, 2, 2)})
    assert disagreement(same) == 0
    opposed = explanation(**{"grad-cam": ramp, "xgrad-cam": 4 - ramp, "cam": np.zeros((2, 2))})
    by_hand = np.abs(ramp / 4 - (4 - ramp) / 4).mean()
    assert disagreement(opposed) == pytest.approx(by_hand)
    three = explanation(**{"grad-cam": ramp, "xgrad-cam": 4 - ramp, "layer-cam": ramp})
    assert disagreement(three) == pytest.approx(2 * by_hand / 3)
    assert disagreement(explanation(**{"grad-cam": ramp, "cam": np.zeros((2, 2))})) is None


def test_the_facts_of_a_view_name_its_methods():
    view = explanation(**{"grad-cam": random_map(0), "xgrad-cam": random_map(1)})
    facts = facts_of_page([view])
    assert facts["methods"] == ["grad-cam", "xgrad-cam"]
    assert facts["disagreement"] == pytest.approx(disagreement(view), abs=5e-5)
    assert facts_of_page([view, view]) == {"methods": ["grad-cam", "xgrad-cam"]}
