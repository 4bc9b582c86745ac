"""The command's colours and picture formats, as a user runs it."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import EXAMPLES, TINY
from xgradcam import explain, load_classifier, overlay_heatmap, read_image
from xgradcam.cli.xgrad_cam import main
from xgradcam.figures.sizing import at_size
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.paint import EVEN, Style, draw
from xgradcam.pictures.signed import signed_shares

PHOTOGRAPH = EXAMPLES / "cat-and-coffee.jpg"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A small network of four classes in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(TINY)
    return [
        str(PHOTOGRAPH), "--model", "net.py:Tiny", "--input-size", "32", "--target", "1", "--quiet",
        "--target-layer", "features",
    ]  # fmt: skip


def classifier():
    return load_classifier("net.py:Tiny", size=(32, 32))


def explained(methods):
    one = classifier()
    return explain(one.module, one.inputs(read_image(PHOTOGRAPH)), "features", 1, methods)


def texts_of(path):
    return [found.text for found in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_the_originals_two_pictures_are_jet_and_all_else_is_even(tiny):
    assert main([*tiny, "--method", "grad-cam", "xgrad-cam", "layer-cam", "--format", "png"]) == 0
    scene, found = (
        Framing((32, 32)).scene(read_image(PHOTOGRAPH)),
        explained(["grad-cam", "xgrad-cam", "layer-cam"]),
    )
    names = {"cam": ("grad-cam", "jet"), "X_cam": ("xgrad-cam", "jet"), "layer-cam": ("layer-cam", EVEN)}
    for name, (method, colours) in names.items():
        expected = overlay_heatmap(scene, found.heatmap(method, (32, 32))[0].numpy(), colours)
        assert np.array_equal(np.asarray(Image.open(f"{name}.png")), expected), name


def test_a_colour_map_that_is_named_rules_for_all(tiny):
    assert main([*tiny, "--method", "xgrad-cam", "layer-cam", "--format", "png", "--colormap", "bone"]) == 0
    scene, found = Framing((32, 32)).scene(read_image(PHOTOGRAPH)), explained(["xgrad-cam", "layer-cam"])
    for name, method in {"X_cam": "xgrad-cam", "layer-cam": "layer-cam"}.items():
        expected = overlay_heatmap(scene, found.heatmap(method, (32, 32))[0].numpy(), "bone")
        assert np.array_equal(np.asarray(Image.open(f"{name}.png")), expected)


def test_signed_shows_evidence_against_in_blue(tiny):
    assert main([*tiny, "--method", "xgrad-cam", "--format", "png", "--signed"]) == 0
    photograph = read_image(PHOTOGRAPH)
    signed = explained(["xgrad-cam"]).maps["xgrad-cam"][0]

    def shares(size):
        return signed_shares(at_size(signed, size, (1.0, 1.0)))

    expected = draw(photograph, shares, Framing((32, 32)), Style(signed=True))
    assert np.array_equal(np.asarray(Image.open("X_cam.png")), expected)
    largest, smallest = (
        np.unravel_index(pick(shares((32, 32))), (32, 32)) for pick in (np.argmax, np.argmin)
    )
    assert expected[largest][0] > expected[largest][2]
    assert expected[smallest][0] < expected[smallest][2]


@pytest.mark.parametrize("more", [[], ["--signed"]])
def test_a_vector_file_has_its_words_as_text_and_a_colour_bar(tiny, more):
    Path("names.txt").write_text("a\nb $x$ <i>\nc\nd\n")
    options = ["--labels", "names.txt", "--format", "svg", "--panel"]
    assert main([*tiny, *options, *more]) == 0
    assert sorted(path.name for path in Path().glob("*.svg")) == ["X_cam.svg", "cam.svg", "panel.svg"]
    texts = texts_of("X_cam.svg")
    assert {"XGrad-CAM", "evidence for b $x$ <i>"} <= set(texts)
    assert f"logit per cell{', below 0: against' if more else ''}" in texts
    panel = texts_of("panel.svg")
    assert {"photograph", "Grad-CAM", "XGrad-CAM", "one scale for all maps"} <= set(panel)
    assert {"1.0", "1.00"} & set(panel)
    assert any(text.startswith("b $x$ <i>: score ") for text in panel)


def test_a_pdf_embeds_its_letters(tiny):
    assert main([*tiny, "--format", "pdf"]) == 0
    content = Path("X_cam.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content


def test_figures_can_be_jpg_and_png_with_a_resolution(tiny):
    sizes = []
    for dpi in ("50", "100"):
        assert main([*tiny, "--color-bar", "--dpi", dpi, "--output-dir", dpi]) == 0
        assert main([*tiny, "--color-bar", "--dpi", dpi, "--output-dir", dpi, "--format", "png"]) == 0
        for ending in ("jpg", "png"):
            with Image.open(f"{dpi}/X_cam.{ending}") as picture:
                sizes.append(picture.size)
    assert sizes[0] == sizes[1]
    assert sizes[2] == sizes[3]
    np.testing.assert_allclose(sizes[2], 2 * np.array(sizes[0]), atol=1)


def test_guided_pictures_have_the_format_too(tiny):
    for ending in ("png", "svg"):
        assert main([*tiny, "--guided", "--format", ending, "--method", "xgrad-cam"]) == 0
        names = sorted(path.name for path in Path().glob(f"*.{ending}"))
        assert names == sorted([f"X_cam.{ending}", f"X_cam_gb.{ending}", f"gb.{ending}"])


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_a_run_writes_over_its_own_pictures_and_over_no_others(tiny, ending, capsys):
    for _ in range(2):
        assert main([*tiny, "--format", ending, "--panel"]) == 0
    path = Path(f"cam.{ending}")
    path.write_bytes(path.read_bytes() + b"\n")
    before = path.read_bytes()
    assert main([*tiny, "--format", ending]) == 2
    assert f"cam.{ending} is there already, and not by xgrad-cam, or changed since" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_the_records_of_a_run_name_the_files(tiny, capsys):
    Path("photos").mkdir()
    for name in "ab":
        Image.fromarray(read_image(PHOTOGRAPH)[::4, ::4]).save(f"photos/{name}.png")
    options = [
        "photos",
        *tiny[1:-3],
        *tiny[-2:],
        "--format",
        "png",
        "--panel",
        "--json",
        "--output-dir",
        "out",
    ]
    assert main(options) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["files"]["xgrad-cam"] for line in lines] == ["a_1_X_cam.png", "b_1_X_cam.png"]
    assert lines[0]["panel"] == "a_1_panel.png"
    assert all((Path("out") / name).exists() for line in lines for name in line["files"].values())
    again = [*options, "--resume"]
    assert main(again) == 0
    assert main([*again, "--signed"]) == 2
    assert "signed" in capsys.readouterr().err
    # Results are no photographs of a later run.
    assert main(["out", *options[1:-1], "later"]) == 2


def settings(tiny, *more):
    Path("photos").mkdir(exist_ok=True)
    Image.fromarray(read_image(PHOTOGRAPH)[::8, ::8]).save("photos/a.png")
    assert main(["photos", *tiny[1:], "--output-dir", "out", *more]) == 0
    return json.loads(Path("out/xgrad-cam.jsonl").read_text().splitlines()[0])


def test_the_settings_of_a_run_as_before_are_recorded_as_before(tiny):
    found = str(settings(tiny))
    assert "'colormap': 'jet'" in found
    assert not re.search("format|dpi|color_bar|signed", found)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--panel"], "'colormap': 'jet and viridis'"),
        (["--method", "layer-cam"], "'colormap': 'jet and viridis'"),
        (["--colormap", "hot"], "'colormap': 'hot'"),
        (["--format", "pdf", "--dpi", "90"], "'format': 'pdf', 'dpi': 90"),
        (["--color-bar"], "'color_bar': True"),
        (["--signed"], "'signed': True"),
    ],
)
def test_settings_that_change_pictures_are_recorded(tiny, more, says):
    assert says in str(settings(tiny, *more))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--dpi", "100"], "--dpi is for figures: add --color-bar, or --format pdf or svg"),
        (["--dpi", "5", "--format", "pdf"], "5: give 30 to 1200"),
        (["--format", "gif"], "gif"),
        (["--signed", "--colormap", "virids"], "no colour map 'virids'; did you mean 'viridis'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(tiny, more, says, capsys):
    try:
        code = main([*tiny, *more])
    except SystemExit as end:
        code = end.code
    assert code == 2
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told
    assert not list(Path().glob("*cam*"))
