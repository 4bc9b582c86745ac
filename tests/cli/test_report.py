"""--report as a user runs it: a planted shortcut is shown, and the page stands alone."""

import base64
import io
import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from tests.cli.support import tree
from xgradcam.cli.xgrad_cam import main
from xgradcam.evaluation import overview_page
from xgradcam.evaluation.overview import overview_of
from xgradcam.models.classifier import Classifier
from xgradcam.runs.outputs import REPORT
from xgradcam.runs.run import Explaining, Run, Writing

# Sees what is red anywhere, and what is green, as a dog; what is blue as a cat.
SHORTCUT = """
import torch
from torch import nn

class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.colours = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AvgPool2d(4))
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            self.colours[0].weight.copy_((1.5 * torch.eye(3) - 0.5)[:, :, None, None])
            self.colours[0].bias.fill_(-0.2)
            self.head.weight.copy_(torch.tensor([[0.0, 0, 9], [9, 9, 0], [0, 0, 0]]))
            self.head.bias.copy_(torch.tensor([0.1, 0.0, 0.05]))

    def forward(self, images):
        return self.head(self.colours(images).mean(dim=(2, 3)))
"""
MODEL = ["--model", "shortcut.py:Shortcut", "--input-size", "32", "--mean", "0", "--std", "1"]
OBJECTS, TAGS, WRONG = 24, 8, 4
HOSTILE = "<img src=x onerror=alert(1)> & \"quotes\" 'a' </section>"


def photograph(path, random, red=None, green=False):
    """Grey noise of 64 x 64 pixels, a red square around a place, a green tag in the upper right corner."""
    pixels = random.integers(90, 120, (64, 64, 3), dtype=np.uint8)
    if red is not None:
        row, column = red
        pixels[row - 8 : row + 8, column - 8 : column + 8] = (250, 40, 40)
    if green:
        pixels[:9, -9:] = (40, 250, 40)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def planted(own_folder, monkeypatch):
    """Dogs of red squares, dogs of a green tag alone, and cats with the tag, which are taken for dogs."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shortcut", raising=False)
    Path("shortcut.py").write_text(SHORTCUT)
    Path("names.txt").write_text(f"cat\ndog\n{HOSTILE}")
    random = np.random.default_rng(0)
    for number in range(OBJECTS):
        photograph(f"photos/dog/{number:02}.png", random, 32 + random.integers(-6, 7, 2))
    for number in range(TAGS):
        photograph(f"photos/dog/tag-{number}.png", random, green=True)
    for number in range(WRONG):
        photograph(f"photos/cat/{number}.png", random, green=True)
    return ["--image-path", "photos", "--labels", "names.txt", "--report", *MODEL]


class Page(HTMLParser):
    """The page taken apart: its tags and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_in(folder="out"):
    return Page(Path(folder, REPORT).read_text(encoding="utf-8"))


def test_the_two_ways_to_a_class_are_told_apart_and_the_shortcut_is_shown(planted, capsys):
    assert main([*planted, "--truth", "folder", "--output-dir", "out"]) == 0
    assert capsys.readouterr().out.endswith(f"wrote out/{REPORT}\n")
    page = page_in()
    dogs = OBJECTS + TAGS
    assert (
        f"{dogs + WRONG} photographs, {dogs} of {dogs + WRONG} right (88.9%) ; 2 classes explained"
        in page.text
    )
    assert (
        f"dog (class 1) {dogs + WRONG} maps; right: {dogs} of {dogs} photographs of it (100.0%)" in page.text
    )
    # The tag is in 12 of 36 maps, and in a third of these it is wrong.
    assert f"Group 1: {OBJECTS} of 36 maps, most at the centre; 24 of 24 right (100%)" in page.text
    assert "Group 2: 12 of 36 maps, most at the upper right; 8 of 12 right (67%)" in page.text
    assert "cat taken for dog, 4 times" in page.text
    assert "right: 0 of 4 photographs of it (0.0%); predicted 0 times" in page.text
    assert "The maps are those of XGrad-CAM" in page.text


def test_without_truth_it_is_about_the_classes_that_are_predicted(planted):
    assert main([*planted, "--output-dir", "out", "--method", "grad-cam", "complete-cam"]) == 0
    page = page_in()
    assert "36 photographs; 1 class explained." in page.text
    assert "Group 2: 12 of 36 maps, most at the upper right Mean map" in page.text
    assert "The maps are those of Complete CAM; with what is nowhere they add up to the score." in page.text
    assert "of the score is in the layer's features; " in page.text
    assert "in constants with a place and" in page.text
    assert "right:" not in page.text
    assert "Mistakes" not in page.text


def test_it_holds_its_pictures_and_names_are_text(planted):
    shutil.copy("photos/dog/00.png", "photos/dog/<b>&'\".png")
    Path("names.txt").write_text(f"cat\n{HOSTILE}\nbird")
    assert main([*planted, "--output-dir", "out"]) == 0
    page = page_in()
    assert HOSTILE in " ".join(page.words)
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) > 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "b"})
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
    links = [attrs["href"] for tag, attrs in page.tags if tag in ("a", "link")]
    assert all(link.startswith(("#", "data:")) for link in links)
    identities = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identities) == len(set(identities))
    assert {link[1:] for link in links if link.startswith("#")} <= set(identities)


def test_resume_writes_it_for_a_run_that_is_done(planted, capsys):
    plain = [one for one in planted if one != "--report"]
    assert main([*plain, "--truth", "folder", "--save-maps", "--output-dir", "out"]) == 0
    before = tree("out")
    assert REPORT not in before
    assert main([*planted, "--truth", "folder", "--resume", "--output-dir", "out"]) == 0
    after = tree("out")
    report = after.pop(REPORT)
    assert after == before
    assert "0 photographs explained" in capsys.readouterr().err
    # Again, over its own.
    assert main([*planted, "--truth", "folder", "--resume", "--output-dir", "out"]) == 0
    assert tree("out")[REPORT] == report


def test_a_run_without_maps_cannot_be_reported_on(planted, capsys):
    plain = [one for one in planted if one != "--report"]
    assert main([*plain, "--output-dir", "out"]) == 0
    assert main([*planted, "--resume", "--output-dir", "out"]) == 2
    assert "had other settings for save_maps" in capsys.readouterr().err


def test_processes_that_share_a_run_write_the_same_report(planted):
    options = [*planted, "--truth", "folder", "--batch-size", "8"]
    assert main([*options, "--output-dir", "whole"]) == 0
    for share in ("1/2", "2/2"):
        assert main([*options, "--shard", share, "--output-dir", "out"]) == 0
    assert tree("out")[REPORT] == tree("whole")[REPORT]


def test_the_share_in_boxes_is_that_of_the_positive_evidence(planted):
    boxes = Path("boxes")
    boxes.mkdir()
    # Of the first photograph the left half is the box; the map's part there is known from the archive.
    name = "00"
    (boxes / f"{name}.xml").write_text(
        f"<annotation><filename>{name}.png</filename><size><width>64</width><height>64</height></size><object>"
        "<name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>32</xmax><ymax>64</ymax></bndbox></object>"
        "</annotation>"
    )
    layer = ["--target-layer", "colours.2"]
    assert main([*planted, *layer, "--boxes", "boxes", "--output-dir", "out"]) == 0
    page = page_in()
    signed = np.load("out/dog/00_1_maps.npz")["xgrad-cam"].clip(0)
    columns = (np.arange(32) + 0.5) / 4 - 0.5
    # Bilinear, by hand: between the cells' centres, and as the first and the last outside of them.
    along = np.stack([np.interp(columns, np.arange(8), row) for row in signed])
    large = np.stack([np.interp(columns, np.arange(8), column) for column in along.T]).T
    share = large[:, :16].sum() / large.sum()
    assert f"{share:.0%} of the evidence lies in boxes of it (1 maps)" in page.text
    assert "Boxes: 1 of 36 photographs have boxes of their class." in page.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--boxes", "none"], "boxes are a COCO .json, a VOC .xml or a folder of them, not none"),
        (["--boxes", "none.xml"], "cannot read none.xml"),
    ],
)
def test_boxes_that_cannot_be_read_are_told_before_the_run(planted, options, message, capsys):
    assert main([*planted, *options, "--output-dir", "out"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_boxes_are_for_a_report(planted, capsys):
    plain = [one for one in planted if one != "--report"]
    assert main([*plain, "--boxes", "boxes", "--output-dir", "out"]) == 2
    assert "--boxes are for the report of a run: give --report, too" in capsys.readouterr().err


def test_without_scikit_learn_the_run_does_not_begin(planted, monkeypatch, capsys):
    monkeypatch.setattr("xgradcam.evaluation.clusters.find_spec", lambda _name: None)
    assert main([*planted, "--output-dir", "out"]) == 2
    assert "the report needs scikit-learn: pip install 'xgradcam[report]'" in capsys.readouterr().err
    assert not Path("out").exists()


def test_another_file_of_its_name_stays(planted, capsys):
    Path("out").mkdir()
    Path("out", REPORT).write_text("mine")
    assert main([*planted, "--output-dir", "out"]) == 2
    assert f"out/{REPORT} is there already, and not by xgrad-cam" in capsys.readouterr().err
    assert Path("out", REPORT).read_text() == "mine"


def test_an_only_photograph_and_several_layers_have_one_too(planted):
    one = [*planted[:1], "photos/dog/00.png", *planted[2:]]
    layers = ["--target-layer", "colours.1", "colours.2"]
    assert main([*one, *layers, "--html", "--output-dir", "out"]) == 0
    page = page_in()
    assert "1 photograph; 1 class explained." in page.text
    assert "The maps are those of XGrad-CAM at colours.1, the first of 2 layers" in page.text
    assert ("a", {"href": "index.html"}) in page.tags


def pictures_in(page):
    """Words and pixels of the pictures of examples."""
    found = []
    for tag, attributes in page.tags:
        if tag == "img" and attributes["alt"].startswith(("Photograph", "Its map")):
            content = base64.b64decode(attributes["src"].partition(",")[2])
            found.append((attributes["alt"], np.asarray(Image.open(io.BytesIO(content)), int)))
    return found


def test_examples_show_the_maps_of_all_layers_in_their_order(planted):
    layers = ["--target-layer", "colours.1", "colours.2"]
    assert main([*planted, *layers, "--truth", "folder", "--output-dir", "out"]) == 0
    page = page_in()
    assert "Beside each photograph are its maps at colours.1, colours.2 (--target-layer gives" in page.text
    found = pictures_in(page)
    assert [words.partition(",")[0] for words, _ in found[1:3]] == [
        "Its map at colours.1",
        "Its map at colours.2",
    ]
    assert len(found) % 3 == 0
    for (name, photograph), (_, first), (_, second) in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert name.startswith("Photograph ")
        assert photograph.shape == first.shape == second.shape
    assert any(
        np.abs(one - other).max() > 40 for (_, one), (_, other) in zip(found[1::3], found[2::3], strict=True)
    )


def test_the_report_has_the_colours_that_the_run_was_told(planted):
    looks = {
        "out": [], "bone": ["--colormap", "bone"], "signed": ["--signed"], "alpha": ["--alpha", "1"],
        "both": ["--signed", "--colormap", "bone"],
    }  # fmt: skip
    # Taken for dogs by the green tag, with evidence against that.
    for number in range(WRONG):
        mixed = np.asarray(Image.open(f"photos/cat/{number}.png")).copy()
        mixed[:16, -16:], mixed[-8:, :8] = (40, 250, 40), (40, 40, 250)
        Image.fromarray(mixed).save(f"photos/cat/{number}.png")
    drawn = {}
    for folder, more in looks.items():
        assert main([*planted, *more, "--truth", "folder", "--output-dir", folder, "--quiet"]) == 0
        page = Page(Path(folder, REPORT).read_text())
        drawn[folder] = [picture for words, picture in pictures_in(page) if words.startswith("Its map")]
        (scale,) = [attributes for tag, attributes in page.tags if attributes.get("class") == "scale"]
        assert ("style" in scale) == ("bone" in more)
        colours = "in the colours of the bar below" if "bone" in more else "blue is against, red for"
        told = f"The maps beside photographs show evidence for and against: {colours}" in page.text
        assert told == ("--signed" in more)
    plain = drawn.pop("out")
    for others in drawn.values():
        assert any(np.abs(one - other).max() > 40 for one, other in zip(plain, others, strict=True))
    # Evidence against is blue over grey, and bone has no red.
    assert any((one[..., 2] - one[..., 0]).max() > 60 for one in drawn["signed"])
    assert all((one[..., 0] - one[..., 2]).max() < 40 for one in drawn["both"])


def test_its_size_is_bounded(planted, monkeypatch):
    monkeypatch.setattr(overview_page, "MOST_PAIRS", 3)
    monkeypatch.setattr(overview_page, "MOST_CLASSES", 1)
    assert main([*planted, "--target-index", "1", "0", "--output-dir", "out"]) == 0
    page = page_in()
    pairs = [attrs for tag, attrs in page.tags if attrs.get("class") == "pair"]
    assert len(pairs) == 3
    assert sum(attrs.get("id", "").startswith("class-") for _, attrs in page.tags) == 1
    assert "cat (class 0)" in page.text


def test_a_photograph_that_has_gone_is_said(planted):
    assert main([*planted, "--output-dir", "out"]) == 0
    lines = Path("out/xgrad-cam.jsonl").read_text().splitlines()[1:]
    records = [record for line in lines for record in json.loads(line)["records"]]
    classifier = Classifier("m", SimpleNamespace(), (32, 32), (0,) * 3, (1,) * 3, None)
    layers, writing = [records[0]["layer"]], Writing(Path("out"))
    run = Run([], classifier, classifier.framing(), layers, [1], Explaining(), writing)
    page = Page(overview_page.render_report(overview_of(run, records), "Run"))
    assert page.text.count("not to be read now") == 3 * 3


@pytest.mark.parametrize("browsers", ["Chromium"], indirect=True)
def test_in_a_browser_it_asks_for_nothing_and_anyone_can_read_it(visit, planted):
    assert main([*planted, "--truth", "folder", "--output-dir", "out"]) == 0
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 320)):
        page = visit(Path("out"), width, 900, scheme, name=REPORT)
        assert Axe().run(page).response["violations"] == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
    assert {url.partition(":")[0] for url in visit.requests} <= {"file", "data"}
    assert len([url for url in visit.requests if url.startswith("file:")]) == 3
    assert visit.complaints == []
