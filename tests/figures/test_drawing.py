"""Figures of explanations, by their data: images, limits, labels; files by their content."""

import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import matplotlib.texmanager
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from xgradcam import BoxScore, Detection, explain
from xgradcam.cam.explanation import ClassExplanation, Explanation
from xgradcam.errors import XGradCamError
from xgradcam.figures.comparing import compare
from xgradcam.figures.figure import (
    Look,
    colour_table,
    content_of_figure,
    figure_of_picture,
    new_figure,
    pixels_of_figure,
)
from xgradcam.pictures.framing import Framing
from xgradcam.scores.regions import RegionMean
from xgradcam.scores.score import Contrast


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def explained(signed, methods=("xgrad-cam",), **more):
    maps = {method: (number + 1) * signed for number, method in enumerate(methods)}
    count = len(signed)
    return ClassExplanation(
        maps, torch.arange(count) + 1.5, ((),) * count, torch.zeros(count, 9), torch.arange(count) + 3, **more
    )


def photograph(height=12, width=20):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def axes():
    return Figure().add_subplot()


def values_of(ax):
    """The map's values in the axes, and its limits."""
    image = ax.images[-1]
    return np.ma.filled(image.get_array().astype(float), np.nan), image.get_clim()


def bar_of(ax):
    return ax.images[-1].colorbar


def by_hand(signed, height, width):
    """Bilinear interpolation of a map (h, w) with half-pixel centres, by loops."""
    rows, columns = signed.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            down = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            across = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(down), int(across)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            v, h = down - top, across - left
            out[y, x] = (
                (1 - v) * (1 - h) * signed[top, left] + (1 - v) * h * signed[top, right]
                + v * (1 - h) * signed[bottom, left] + v * h * signed[bottom, right]
            )  # fmt: skip
    return out


@pytest.mark.parametrize("signed", [False, True])
def test_the_figure_holds_the_map_in_the_units_of_the_score(signed):
    one = explained(seeded(2, 4, 5))
    ax = one.plot(photograph(), axes(), signed=signed, sample=1)
    values, limits = values_of(ax)
    given = one.maps["xgrad-cam"][1].numpy()
    np.testing.assert_allclose(values, by_hand(given if signed else given.clip(0), 12, 20), atol=1e-6)
    largest = np.abs(values).max()
    assert limits == pytest.approx((-largest, largest) if signed else (0, largest))
    assert ax.images[-1].get_extent() == [0, 20, 12, 0]
    label = bar_of(ax).ax.get_ylabel()
    assert label == "evidence for class 4\nlogit per cell" + ", below 0: against" * signed
    assert ax.get_title() == "XGrad-CAM"
    assert (bar_of(ax).vmin, bar_of(ax).vmax) == pytest.approx(limits)


def test_evidence_against_is_blue_evidence_for_is_red_and_none_is_clear():
    colours = Look(signed=True).colours()
    against, none, most = colours(0), colours(127), colours(255)
    assert against[2] > 0.7 > 0.1 > against[0]
    assert most[0] > 0.7 > 0.2 > most[2]
    assert none[3] < 0.01 < 0.8 < most[3] == against[3]
    assert Look().colours()(0)[3] == 0
    assert Look(alpha=0.5).colours()(0)[3] == 0.5


def test_the_photograph_lies_below_in_grey_and_large_ones_are_made_smaller():
    ax = explained(seeded(1, 3, 3)).plot(photograph(1500, 3000), axes())
    below = ax.images[0].get_array()
    assert below.shape == (500, 1000, 3)
    assert (below[..., 0] == below[..., 1]).all()
    assert values_of(ax)[0].shape == (500, 1000)
    assert ax.get_xlim() == (0, 3000)
    assert ax.get_ylim() == (1500, 0)
    coloured = explained(seeded(1, 3, 3)).plot(photograph(), axes(), grey=False)
    assert np.array_equal(coloured.images[0].get_array(), photograph())


def test_without_a_photograph_the_map_has_its_own_cells():
    one = explained(seeded(1, 3, 4))
    ax = one.plot(ax=axes())
    assert len(ax.images) == 1
    np.testing.assert_allclose(values_of(ax)[0], one.maps["xgrad-cam"][0].clamp(min=0).numpy(), atol=1e-7)


@pytest.mark.parametrize(
    ("methods", "asked", "drawn"),
    [
        (("grad-cam", "xgrad-cam"), None, "XGrad-CAM"),
        (("layer-cam", "grad-cam"), None, "LayerCAM"),
        (("grad-cam", "xgrad-cam"), "grad-cam", "Grad-CAM"),
    ],
)
def test_the_method_is_the_one_asked_for_or_xgrad_cam_or_the_first(methods, asked, drawn):
    assert explained(seeded(1, 3, 3), methods).plot(ax=axes(), method=asked).get_title() == drawn


def test_a_map_that_is_no_part_of_the_score_has_no_unit():
    ax = explained(seeded(1, 3, 3), ["score-cam"]).plot(ax=axes())
    assert bar_of(ax).ax.get_ylabel() == "evidence for class 3\nno unit"
    probable = explained(seeded(1, 3, 3), probability_rule="none")
    assert "probability per cell" in bar_of(probable.plot(ax=axes())).ax.get_ylabel()


def test_a_cropped_photograph_has_no_map_outside_of_the_crop():
    framing = Framing((4, 4), resize=4)
    ax = explained(torch.ones(1, 2, 2)).plot(photograph(12, 20), axes(), framing=framing)
    values, _ = values_of(ax)
    seen = np.isfinite(values)
    # Resized to 4 x 6, of which the middle four columns are seen.
    assert seen.all(axis=0).tolist() == [3 <= column < 17 for column in range(20)]
    assert (values[seen] == 1).all()


@pytest.mark.parametrize("given", ["array", "path", "pillow", "tensor", "grey", "batch", "list"])
def test_a_photograph_is_taken_in_any_form(given, tmp_path):
    pixels = photograph()
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    form = {
        "array": pixels,
        "path": tmp_path / "photograph.png",
        "pillow": Image.fromarray(pixels),
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
        "grey": pixels[..., 0],
        "batch": np.stack([0 * pixels, pixels]),
        "list": [0 * pixels, pixels],
    }[given]
    ax = explained(seeded(2, 3, 3)).plot(form, axes(), sample=1, grey=False)
    expected = np.repeat(pixels[..., :1], 3, axis=2) if given == "grey" else pixels
    assert np.array_equal(ax.images[0].get_array(), expected)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (torch.rand(3, 8, 8), "a photograph is .* uint8"),
        (np.zeros((8, 8, 4), np.uint8), "a photograph is .* uint8"),
        (torch.zeros(3, 8, 3, dtype=torch.uint8), "channels first or last: give an array"),
        (7, "the photograph is 7: give a path"),
        ("no-such.jpg", "no such image: no-such.jpg"),
        (Image.new("I;16", (4, 4)), "more than 8 bits a channel"),
        ([photograph()] * 3, "3 photographs for a batch of 2: give one, or 2"),
    ],
)
def test_what_is_no_photograph_is_refused_in_a_line(given, says):
    with pytest.raises(XGradCamError, match=says) as error:
        explained(seeded(2, 3, 3)).plot(given, axes())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"method": "layer-cam"}, "no map of 'layer-cam' here; there are: xgrad-cam"),
        ({"sample": 2}, "the sample is 2: the batch has 2, give 0 to 1"),
        ({"sample": None}, "the sample is None"),
        ({"colormap": "virids"}, "no colour map 'virids'; did you mean 'viridis'"),
        ({"alpha": 2}, "alpha is 2: give a share"),
        ({"limits": (1, 0)}, r"the limits are \(1, 0\): give two numbers"),
        ({"ax": 3}, "ax is 3: give axes of matplotlib's"),
    ],
)
def test_a_wrong_argument_is_refused_in_a_line(how, says):
    before = pyplot.get_fignums()
    with pytest.raises(XGradCamError, match=says):
        explained(seeded(2, 3, 3)).plot(photograph(), **how)
    assert pyplot.get_fignums() == before


def test_colour_maps_of_opencv_and_of_matplotlib_are_known():
    assert np.array_equal(colour_table("deepgreen", False)[0], [0, 0, 0])
    np.testing.assert_allclose(
        colour_table("cubehelix", True), matplotlib.colormaps["cubehelix"](np.arange(256))[:, :3]
    )
    assert np.array_equal(
        colour_table(matplotlib.colormaps["gray"], False)[:, 0], colour_table("gray", False)[:, 1]
    )


def test_a_map_without_positive_evidence_says_so_and_has_no_scale():
    ax = explained(-torch.ones(1, 3, 3)).plot(photograph(), axes())
    assert ax.get_title() == "XGrad-CAM: no positive evidence"
    assert bar_of(ax) is None
    assert bar_of(explained(-torch.ones(1, 3, 3)).plot(photograph(), axes(), signed=True)) is not None


def test_a_few_values_far_above_the_others_lie_beyond_the_bar_which_says_so():
    signed = torch.ones(1, 60, 60)
    signed[0, 0, 0] = 100
    ax = explained(signed).plot(ax=axes())
    assert values_of(ax)[1] == (0, 1)
    assert bar_of(ax).extend == "max"
    assert bar_of(explained(torch.eye(3)[None]).plot(ax=axes())).extend == "neither"


def test_infinities_and_nans_are_left_out():
    signed = torch.tensor([[[1.0, torch.nan], [torch.inf, 2.0]]])
    ax = explained(signed).plot(ax=axes())
    assert values_of(ax)[1] == (0, 2)


def test_a_signal_is_drawn_as_a_curve_over_its_map():
    one = explained(seeded(2, 6))
    signal = seeded(2, 2, 12)
    ax = one.plot(signal, axes(), sample=1, signed=True)
    assert values_of(ax)[0].shape == (1, 12)
    assert len(ax.lines) == 2
    assert ax.get_xlabel() == "place in the signal"
    assert ax.get_xlim() == (0, 12)
    assert len(one.plot(signal[0, 0], axes()).lines) == 1
    with pytest.raises(XGradCamError, match=r"the signal is .*: give finite numbers"):
        one.plot(torch.full((12,), torch.nan), axes())


def test_of_a_volume_the_middle_slice_is_drawn_or_the_one_asked_for():
    signed = torch.zeros(1, 2, 3, 3)
    signed[0, 0], signed[0, 1] = 1, 5
    volume = np.random.default_rng(0).random((8, 6, 6))
    ax = explained(signed).plot(volume, axes())
    assert ax.get_title() == "XGrad-CAM, slice 4 of 0 to 7"
    # Halfway between the two layers' centres: 1 + 0.625 * 4.
    assert values_of(ax)[0] == pytest.approx(np.full((6, 6), 3.5))
    assert values_of(explained(signed).plot(volume, axes(), depth=0))[0] == pytest.approx(np.full((6, 6), 1))
    assert explained(signed).plot(ax=axes(), depth=1).get_title() == "XGrad-CAM, slice 1 of 0 to 1"
    with pytest.raises(XGradCamError, match="the depth is 8: there are 8 slices, give 0 to 7"):
        explained(signed).plot(volume, axes(), depth=8)


def test_what_lies_over_a_detectors_padding_is_left_out():
    signed = torch.zeros(1, 4, 4)
    signed[0, :, 3] = 8
    signed[0, :, 0] = 1
    ax = explained(signed, share=(1.0, 0.5)).plot(photograph(8, 8), axes())
    # The photograph is the left half of the map: columns 0 and 1, each four pixels wide.
    expected = by_hand(signed[0].numpy(), 8, 16)[:, :8]
    np.testing.assert_allclose(values_of(ax)[0], expected, atol=1e-6)


def score_of_a_box(box, relative=False):
    found = (Detection(box, 5, 0.9, 1.0, 0, relative),)
    return Explanation(
        {"xgrad-cam": torch.ones(1, 3, 3)}, torch.ones(1), ((),), score_of=BoxScore(detections=found)
    )


def test_the_box_of_a_detection_is_outlined():
    ax = score_of_a_box((2, 3, 10, 9)).plot(photograph(), axes())
    (box,) = (patch for patch in ax.patches if isinstance(patch, Rectangle))
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (2, 3, 8, 6)
    assert bar_of(ax).ax.get_ylabel() == "evidence for detection of class 5\nscore per cell"
    ax = score_of_a_box((0.5, 0.25, 1, 0.75), relative=True).plot(photograph(), axes())
    (box,) = (patch for patch in ax.patches if isinstance(patch, Rectangle))
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (10, 3, 10, 6)


def test_a_box_of_an_input_of_another_size_needs_the_framing():
    one = score_of_a_box((100, 100, 200, 180))
    with pytest.raises(XGradCamError, match=r"the box ends at 200, 180, outside .* 20 x 12: .* framing="):
        one.plot(photograph(), axes())
    ax = one.plot(photograph(), axes(), framing=Framing((240, 400)))
    (box,) = (patch for patch in ax.patches if isinstance(patch, Rectangle))
    assert (*box.get_xy(), box.get_width(), box.get_height()) == pytest.approx((5, 5, 5, 4))


def test_the_region_of_a_score_is_outlined_and_other_scores_are_named():
    region = torch.zeros(1, 4, 4)
    region[:, 1:3, 1:3] = 1
    maps = {"xgrad-cam": torch.ones(1, 3, 3)}
    ax = Explanation(maps, torch.ones(1), ((),), score_of=RegionMean(2, region, targets=(2,))).plot(
        photograph(), axes()
    )
    assert len(ax.collections) == 1
    contrast = Explanation(maps, torch.ones(1), ((),), score_of=Contrast(3, (7,), targets=(3,)))
    assert "class 3 in contrast to 7\nscore" in bar_of(contrast.plot(ax=axes())).ax.get_ylabel()
    assert (
        "evidence for the score"
        in bar_of(Explanation(maps, torch.ones(1), ((),)).plot(ax=axes())).ax.get_ylabel()
    )


HOSTILE = "$\\frac $5 & <script>x</script> \x1b[31m\n_^ 漢字"


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_a_file_holds_its_text_and_names_are_no_formulas(ending, tmp_path):
    path = tmp_path / f"figure.{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of Pillow, for what old versions of matplotlib do
        explained(seeded(1, 3, 3)).save(path, photograph(), name=HOSTILE)
        explained(seeded(1, 3, 3)).save(path, photograph(), name=HOSTILE)  # over the first one
    content = path.read_bytes()
    if ending == "svg":
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", content.decode())
        assert "evidence for $\\frac $5 &amp; &lt;script&gt;x&lt;/script&gt; [31m _^ 漢字" in texts
        assert {"XGrad-CAM", "logit per cell"} <= set(texts)
    if ending == "pdf":
        assert content.startswith(b"%PDF")
        assert b"/FontFile2" in content  # TrueType: text that can be searched
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_map_gives_the_same_file(tmp_path):
    for ending in ("svg", "pdf", "png"):
        one, other = tmp_path / f"1.{ending}", tmp_path / f"2.{ending}"
        for path in (one, other):
            explained(seeded(1, 3, 3)).save(path, photograph())
        assert one.read_bytes() == other.read_bytes()


def test_the_resolution_is_that_asked_for(tmp_path):
    sizes = []
    for dpi in (50, 100):
        explained(seeded(1, 3, 3)).save(tmp_path / "a.png", photograph(), dpi=dpi)
        with Image.open(tmp_path / "a.png") as picture:
            sizes.append(picture.size)
    assert sizes[1] == (2 * sizes[0][0], 2 * sizes[0][1])


@pytest.mark.parametrize(
    ("name", "how", "says"),
    [
        ("figure", {}, "has no ending: give one"),
        ("figure.docx", {}, "no picture of the kind 'docx': take .*pdf.*svg"),
        ("figure.png", {"dpi": 0}, "the resolution is 0: give dots per inch"),
        ("no/folder/figure.png", {}, "cannot write .*figure.png"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(name, how, says, tmp_path):
    with pytest.raises(XGradCamError, match=says):
        explained(seeded(1, 3, 3)).save(tmp_path / name, photograph(), **how)
    assert list(tmp_path.iterdir()) == []


def test_the_users_figures_and_settings_stay_as_they_are(tmp_path):
    pyplot.close("all")
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    figure, (left, right) = pyplot.subplots(1, 2)
    pyplot.sca(left)
    one = explained(seeded(1, 3, 3))
    assert one.plot(photograph(), right) is right
    assert pyplot.gca() is left
    one.save(tmp_path / "a.pdf", photograph())
    assert pyplot.get_fignums() == [figure.number]
    made = one.plot(photograph())
    assert pyplot.gcf() is made.figure is not figure
    assert pyplot.gca() is made
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend
    pyplot.close("all")


def test_show_draws_and_shows(monkeypatch):
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.gcf().axes[0].get_title()))
    explained(seeded(1, 3, 3)).show(photograph(), title="mine")
    assert shown == ["mine"]
    pyplot.close("all")


def test_an_explanation_does_not_import_matplotlib_until_it_is_drawn():
    script = (
        "import sys, torch; from xgradcam import explain, compare\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(108, 5))\n"
        "repr(explain(model, torch.ones(2, 1, 8, 8), '0'))\n"
        "print('matplotlib' in sys.modules, 'cv2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_explanations_of_models_are_drawn_as_they_come(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(108, 5)
    )
    one = explain(model, torch.rand(2, 3, 8, 8), "1", [1, 2], ["grad-cam", "xgrad-cam"])
    ax = one.sample(1).plot(photograph(8, 8), axes(), name="a cat")
    assert "evidence for a cat" in bar_of(ax).ax.get_ylabel()
    expected = one.maps["xgrad-cam"][1].double().numpy().clip(0)
    np.testing.assert_allclose(values_of(ax)[0], by_hand(expected, 8, 8), atol=1e-6)


@pytest.mark.parametrize("settings", [{"image.origin": "lower"}, {"image.aspect": "auto"}])
@pytest.mark.parametrize("drawn", [False, True])
def test_no_settings_turn_a_photograph_upside_down_or_stretch_it(settings, drawn):
    explanation, below = explained(seeded(1, 3, 4)), photograph(40, 30)

    def picture():
        if drawn:
            return compare(explanation, below)._repr_png_()
        figure = new_figure(3, 3)
        explanation.plot(below, figure.add_subplot())
        return content_of_figure(figure, "png")

    expected = picture()
    with matplotlib.rc_context(settings):
        assert picture() == expected


def test_no_settings_turn_a_picture_in_a_figure_upside_down():
    below = photograph(40, 30)
    with matplotlib.rc_context({"image.origin": "lower"}):
        found = pixels_of_figure(figure_of_picture(below, 100), 100)
    assert np.array_equal(found, below)


def contrast_of(path, below, dpi):
    """The spread of a file's grey levels, in the middle of a map over a photograph."""
    explained(-torch.ones(1, 2, 3)).save(path, below, dpi=dpi)
    levels = np.asarray(Image.open(path).convert("L"), float)
    height, width = levels.shape
    return levels[height // 2 - 20 : height // 2 + 20, width // 3 : width // 2].std()


def test_a_figure_shows_the_pixels_of_a_photograph_that_its_resolution_has_space_for(tmp_path):
    stripes = np.zeros((1200, 2000, 3), np.uint8)
    stripes[:, ::2] = 255
    assert contrast_of(tmp_path / "a.png", stripes, None) < 5
    assert contrast_of(tmp_path / "b.png", stripes, 600) > 30
    grid = compare(explained(seeded(1, 3, 4)), stripes)
    few, many = (grid.figure(dpi).axes[0].images[0].get_array().shape[1] for dpi in (100, 900))
    assert few == 1000
    assert many == 2000


@pytest.mark.parametrize("kind", ["volumes", "inputs", "list", "own", "own channel"])
def test_of_several_volumes_the_samples_own_is_drawn(kind):
    signed, volumes = seeded(2, 2, 3, 3), torch.rand(2, 8, 6, 5, generator=torch.Generator().manual_seed(1))
    forms = {
        "volumes": volumes, "inputs": volumes[:, None], "list": list(volumes), "own": volumes[1],
        "own channel": volumes[1:],
    }  # fmt: skip
    ax = explained(signed).plot(forms[kind], axes(), sample=1, depth=3, grey=False)
    expected = explained(signed).plot(volumes[1].numpy(), axes(), sample=1, depth=3, grey=False)
    assert np.array_equal(ax.images[0].get_array(), expected.images[0].get_array())
    assert np.array_equal(values_of(ax)[0], values_of(expected)[0])


@pytest.mark.parametrize("shape", [(3, 8, 6, 5), (8, 6, 5, 3), (2, 2, 8, 6, 5), (6, 5)])
def test_other_volumes_are_refused(shape):
    with pytest.raises(XGradCamError, match=r"the volume is|3 photographs for a batch of 2"):
        explained(seeded(2, 2, 3, 3)).plot(torch.rand(shape), axes())


def test_settings_by_which_matplotlib_cannot_draw_are_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no LaTeX
    monkeypatch.setattr(matplotlib.texmanager.TexManager, "_cache_dir", tmp_path, raising=False)
    with (
        matplotlib.rc_context({"text.usetex": True}),
        pytest.raises(
            XGradCamError, match=r"matplotlib cannot draw the figure: .* \(its settings: "
        ) as error,
    ):
        explained(seeded(1, 3, 3)).save(tmp_path / "figure.pdf", photograph())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "figure.pdf").exists()


def test_threads_that_save_figures_leave_matplotlibs_settings_as_they_were():
    def content(_number):
        figure = new_figure(2, 1)
        figure.add_subplot().plot([0, 1])
        return content_of_figure(figure, "svg")

    before, interval = dict(matplotlib.rcParams), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            each = list(threads.map(content, range(12)))
    finally:
        sys.setswitchinterval(interval)
    assert set(each) == {content(0)}
    assert dict(matplotlib.rcParams) == before
