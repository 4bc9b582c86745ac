"""The page's own maps: their colours and legends against what the package computes."""

import base64

import cv2
import numpy as np
import pytest
import torch

from tests.runs.page_support import FUSED, LAYERS, METHODS, ONLY_IN_CHROMIUM, SIZE, live_run
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.outlines import Outline
from xgradcam.pictures.paint import Style, colours_of, fused, levels_of
from xgradcam.pictures.signed import signed_shares
from xgradcam.runs.gallery import COLORMAPS


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    return live_run(tmp_path_factory.mktemp("live"))


PIXELS = """new Promise((done) => {
  const look = () => {
    const picture = document.querySelector("WHERE .compare"), canvas = picture?.querySelector("canvas.map");
    if (!canvas || !picture.classList.contains("live")) return setTimeout(look, 20);
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let letters = "";
    for (const value of data) letters += String.fromCharCode(value);
    done([canvas.height, canvas.width, btoa(letters)]);
  };
  setTimeout(look, 60);
})"""


def pixels(page, where=".card"):
    """The pixels drawn over a photograph: (h, w, 4)."""
    height, width, data = page.evaluate(PIXELS.replace("WHERE", where))
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4).astype(int)


def heatmap_of(layer, method, size=SIZE):
    """The package's heatmap of a layer, or of all fused."""
    chosen = LAYERS.values() if layer == FUSED else [LAYERS[layer]]
    return fused([lambda size, one=one: one.heatmap(method, size)[0].numpy() for one in chosen])(size)


def table_of(colormap):
    return colours_of(colormap).astype(int)


def levels_in(drawn):
    """The levels of colours of viridis, which has 256 different ones: (h, w)."""
    level_of = {tuple(colour): level for level, colour in enumerate(table_of("viridis"))}
    return np.array([[level_of[tuple(pixel[:3])] for pixel in row] for row in drawn])


@pytest.mark.parametrize("layer", [*LAYERS, FUSED])
def test_heatmaps_are_those_of_the_package(visit, live, layer):
    state = f"colours=viridis&opacity=100&layer={layer.replace(' + ', '+%2B+')}"
    page = visit(live, state=state)
    for method in METHODS:
        drawn, heat = pixels(page), heatmap_of(layer, method)
        assert drawn.shape == (*SIZE, 4)
        blank = page.locator(".card .badge").first
        if heat.any():
            assert (drawn[..., 3] == 255).all()
            # Maps of many cells are stored in steps of two levels, others in small parts of one.
            coarse = layer == FUSED or LAYERS[layer].maps[method][0].numel() > 4096
            assert np.abs(levels_in(drawn) - levels_of(heat).astype(int)).max() <= (3 if coarse else 1)
            assert blank.is_hidden()
        else:
            assert not drawn.any()
            assert blank.inner_text() == "blank"
        page.keyboard.press("m")
    assert visit.complaints == []


def test_colours_opacity_and_threshold_are_live(visit, live):
    page = visit(live, state="method=grad-cam")
    heat = heatmap_of("late", "grad-cam")
    levels = levels_of(heat).astype(int)
    assert page.evaluate("document.querySelector('#colormap').value") == "inferno"
    for colormap in ("jet", "cividis"):
        page.select_option("#colormap", colormap)
        page.locator("#opacity").fill("100")
        drawn = pixels(page)
        near = [table_of(colormap)[np.clip(levels + by, 0, 255)] for by in (-1, 0, 1)]
        assert np.min([np.abs(drawn[..., :3] - one).max(axis=-1) for one in near], axis=0).max() == 0
    page.locator("#opacity").fill("40")
    assert (pixels(page)[..., 3] == 102).all()
    page.locator("#threshold").fill("50")
    hidden = pixels(page)[..., 3] == 0
    sure = np.abs(heat - 0.5) > 1e-3
    assert np.array_equal(hidden[sure], (heat < 0.5)[sure])
    assert "opacity=40&threshold=50" in wait_for_address(page, "threshold=50")


def wait_for_address(page, words):
    page.wait_for_function("(words) => location.hash.includes(words)", arg=words)
    return page.evaluate("location.hash")


def test_signed_maps_are_red_for_and_blue_against(visit, live):
    page = visit(live, state="signed=1&opacity=60")
    drawn = pixels(page)
    values = LAYERS["late"].maps["grad-cam"][0].numpy()
    sized = torch.nn.functional.interpolate(
        torch.as_tensor(values)[None, None], SIZE, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    full = np.percentile(np.abs(sized), 99.5)
    expected = 255 * 0.9 * np.clip(np.abs(sized) / full, 0, 1)
    assert np.abs(drawn[..., 3] - expected).max() <= 2
    strong = np.abs(sized) > 0.1 * full
    assert np.array_equal((drawn[..., 0] > drawn[..., 2])[strong], (sized > 0)[strong])
    assert page.evaluate("document.querySelector('.compare').classList.contains('signed')")
    scale = page.locator(".card .scale").first
    low, high = scale.locator(".low").inner_text(), scale.locator(".high").inner_text()
    assert (float(low), float(high)) == pytest.approx((-full, full), rel=5e-3)
    assert scale.get_attribute("title").startswith("evidence against (blue) and for (red) class 285")


def shown_first(page):
    look = "['colormap', 'opacity'].map((id) => document.getElementById(id).value)"
    signed = "document.querySelector('[data-switch=sign] input:checked').value"
    return [*page.evaluate(look), page.evaluate(signed)]


def test_the_page_begins_in_the_colours_that_the_run_was_told(visit, tmp_path):
    page = visit(live_run(tmp_path, style=Style(colormap="twilight", alpha=1.0)))
    assert shown_first(page) == ["twilight", "100", "positive"]
    drawn, levels = pixels(page), levels_of(heatmap_of("late", "grad-cam")).astype(int)
    near = [table_of("twilight")[np.clip(levels + by, 0, 255)] for by in (-1, 0, 1)]
    assert np.min([np.abs(drawn[..., :3] - one).max(axis=-1) for one in near], axis=0).max() == 0
    options = page.evaluate("[...document.querySelectorAll('#colormap option')].map((one) => one.value)")
    assert options == [*COLORMAPS, "twilight"]
    # Others can be chosen, and are in the address; what the run was told is not.
    page.select_option("#colormap", "inferno")
    assert "colours=inferno" in wait_for_address(page, "colours=inferno")
    assert "opacity" not in page.evaluate("location.hash")
    assert visit.complaints == []


def test_the_page_of_a_signed_run_begins_with_evidence_for_and_against(visit, tmp_path):
    page = visit(live_run(tmp_path, style=Style(signed=True, alpha=0.45)))
    assert shown_first(page) == ["inferno", "30", "signed"]
    drawn = pixels(page)
    strong = drawn[drawn[..., 3] > 60]
    assert len(strong)
    assert np.abs(strong[:, 0] - strong[:, 2]).min() > 100
    page.evaluate("document.querySelector('[data-switch=sign] input[value=positive]').click()")
    assert "signed=0" in wait_for_address(page, "signed=0")
    page = visit(tmp_path, state="signed=0")
    assert shown_first(page)[2] == "positive"
    assert visit.complaints == []


def test_signed_maps_have_the_colour_map_that_the_run_was_told(visit, tmp_path):
    page = visit(
        live_run(tmp_path, style=Style(colormap="twilight_shifted", signed=True)), state="opacity=100"
    )
    drawn = pixels(page)
    values = torch.as_tensor(LAYERS["late"].maps["grad-cam"][0])[None, None]
    sized = torch.nn.functional.interpolate(values, SIZE, mode="bilinear", align_corners=False)[0, 0].numpy()
    levels = np.rint(127.5 + 127.5 * signed_shares(sized)).astype(int)
    near = [table_of("twilight_shifted")[np.clip(levels + by, 0, 255)] for by in range(-2, 3)]
    strong = drawn[..., 3] > 250
    assert strong.any()
    # The browser keeps colours times opacity, in whole steps.
    far = np.min([np.abs(drawn[..., :3] - one).max(axis=-1) for one in near], axis=0)
    assert far[strong].max() <= 3
    assert page.locator(".card .scale").first.get_attribute("title").startswith("evidence against and for")
    assert visit.complaints == []


def test_the_legend_says_from_which_value_to_which(visit, live):
    page = visit(live, state="method=xgrad-cam")
    pixels(page)
    values = LAYERS["late"].maps["xgrad-cam"].clamp(min=0)[:, None]
    large = torch.nn.functional.interpolate(values, SIZE, mode="bilinear", align_corners=False)
    scale = page.locator(".card .scale").first
    ends = [float(scale.locator(f".{end}").inner_text()) for end in ("low", "high")]
    assert ends == pytest.approx([float(large.min()), float(large.max())], rel=5e-3)
    page.locator(".card .open").first.click()
    words = page.locator("#large-scale")
    page.wait_for_function("document.querySelector('#large-scale .told').textContent")
    assert words.locator(".told").inner_text() == "evidence for class 285"
    assert words.locator(".unit").inner_text() == "in units of the logit, each cell of 7 × 5"


@ONLY_IN_CHROMIUM
def test_a_crop_dims_what_the_network_did_not_see(visit, tmp_path):
    page = visit(live_run(tmp_path, Framing((40, 40), 50)), state="colours=viridis&opacity=100&map=100")
    pixels(page)
    box = page.locator(".card .compare").first.bounding_box()
    canvas = page.locator(".card canvas.map").first.bounding_box()
    # The shorter side, 60 pixels, becomes 50, and 40 in the middle are seen.
    assert canvas["width"] / box["width"] == pytest.approx(40 / 50, abs=0.01)
    assert canvas["height"] / box["height"] == pytest.approx(40 / 70, abs=0.01)
    assert (canvas["x"] - box["x"]) / box["width"] == pytest.approx(0.1, abs=0.01)
    seen = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    corner = seen[int(box["y"] + 8), int(box["x"] + box["width"] / 2)]
    assert corner[1] == pytest.approx(128 * 0.35, abs=4)


@ONLY_IN_CHROMIUM
def test_an_outline_is_drawn(visit, tmp_path):
    outline = Outline(box=(10.5 / 40, 0.25, 0.75, 0.75))
    page = visit(live_run(tmp_path, outline=outline), state="colours=viridis&opacity=100")
    drawn = pixels(page)
    left = drawn[28, 5:15, :3].sum(axis=-1)
    assert left.max() > 700
    assert left.min() < 60


def test_a_photograph_without_its_script_says_so(visit, tmp_path):
    live_run(tmp_path)
    (tmp_path / "cat_maps.js").unlink()
    page = visit(tmp_path)
    lacking = page.locator(".card .lacking").first
    lacking.wait_for(state="visible")
    assert "cannot be loaded" in lacking.inner_text()


@ONLY_IN_CHROMIUM
@pytest.mark.parametrize("content", ["", "xgradcamMaps({}, '', '')", "throw 1", "xgradcamMaps("])
def test_a_damaged_script_says_so(visit, tmp_path, content):
    live_run(tmp_path)
    (tmp_path / "cat_maps.js").write_text(content)
    page = visit(tmp_path)
    lacking = page.locator(".card .lacking").first
    lacking.wait_for(state="visible")
    assert "cannot be loaded" in lacking.inner_text()


@ONLY_IN_CHROMIUM
def test_every_colour_map_has_its_colours(visit, live):
    page = visit(live)
    options = page.evaluate("[...document.querySelector('#colormap').options].map((option) => option.value)")
    assert options == list(COLORMAPS)
    ramp = "getComputedStyle(document.documentElement).getPropertyValue('--ramp')"
    before = page.evaluate(ramp)
    page.select_option("#colormap", "jet")
    page.wait_for_function(f"{ramp} !== {before!r}")
    first, last = table_of("jet")[[0, 255]]
    said = page.evaluate(ramp)
    assert "rgb({} {} {})".format(*first) in said
    assert "rgb({} {} {})".format(*last) in said
