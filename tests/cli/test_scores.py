"""--score of both commands, on small models of each kind."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.cli.support import ROOT
from tests.support import noise
from xgradcam import (
    BoxScore,
    Contrast,
    PixelScore,
    PredictedRegion,
    Regression,
    Similarity,
    explain_score,
    image_encoder,
    load_classifier,
    read_image,
)
from xgradcam.cli import proof_verify
from xgradcam.cli.score_options import Asked, asked_of
from xgradcam.cli.xgrad_cam import main
from xgradcam.errors import XGradCamError

MODELS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from tests.scores.support import Contrastive, Detr, Listing, Segmenter, Trunk, Yolo, seeded

class Clip(Contrastive):
    def tokenizer(self, texts):
        return torch.tensor([[ord(letter) % 30 for letter in text] for text in texts])

class Pooled(Trunk):
    def forward(self, images):
        return self.planes(images).amax((2, 3))

class Out(Segmenter):
    def forward(self, images):
        return {{"out": super().forward(images), "aux": images}}

def listing():
    model = seeded(Listing).float()
    model.least = 0.55
    return model

def nothing():
    model = listing()
    model.least = 2.0
    return model

def yolo(): return seeded(Yolo).float()
def detr(): return seeded(Detr).float()
def segmenter(): return seeded(Segmenter).float()
def out(): return seeded(Out).float()
def clip(): return seeded(Clip).float()
def untold(): return seeded(Contrastive).float()
def single(): return seeded(lambda: Pooled(1)).float()
def classes(): return seeded(lambda: Pooled(4)).float()

def four():
    model = classes()
    model.features[0] = torch.nn.Conv2d(4, model.features[0].out_channels, 3)
    return model
"""
SIZE = (16, 16)


@pytest.fixture
def command(own_folder, capsys):
    """Run xgrad-cam on a photograph 60 x 40 by a model of kinds.py; the records and the text on stderr."""
    Path("kinds.py").write_text(MODELS)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    cv2.imwrite("photo.png", cv2.GaussianBlur(pixels, (9, 9), 0))

    def run(model, *options, code=0, image="photo.png"):
        given = ["--image-path", image, "--model", f"kinds.py:{model}", "--input-size", "16", "--json"]
        assert main([*given, *map(str, options)]) == code
        printed = capsys.readouterr()
        return [json.loads(line) for line in printed.out.splitlines()], printed.err

    return run


def inputs_of(photo="photo.png"):
    return load_classifier("kinds.py:classes", size=SIZE).inputs(read_image(photo))


def models():
    return sys.modules["kinds"]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "kinds", raising=False)


def saved():
    with np.load("maps.npz") as maps:
        return {name: torch.from_numpy(maps[name]) for name in maps}


CASES = {
    "detection": ("listing", ["--score", "box:0"], BoxScore()),
    "detection of a class": ("listing", ["--score", "box:1", "--target-index", 2], BoxScore(1, 2)),
    "yolo": ("yolo", ["--score", "box:2"], BoxScore(2)),
    "detr": ("detr", ["--score", "box:1"], BoxScore(1)),
    # A photograph of 60 x 40 pixels.
    "box": ("listing", ["--score", "box:6,5,30,35"], BoxScore((1.6, 2, 8, 14))),
    "relative box": ("detr", ["--score", "box:6,4,54,36"], BoxScore((0.1, 0.1, 0.9, 0.9))),
    "largest region": ("segmenter", ["--score", "region"], PredictedRegion()),
    "region": ("segmenter", ["--score", "region:2"], PredictedRegion(2)),
    "region in a mapping": ("out", ["--score", "region:2"], PredictedRegion(2, "out")),
    "pixel": ("segmenter", ["--score", "pixel:59,0"], PixelScore(None, (0, 7))),
    "pixel of a class": ("segmenter", ["--score", "pixel:0,39", "--target-index", 3], PixelScore(3, (7, 0))),
    "value": ("classes", ["--score", "value:2"], Regression(2)),
    "contrast": ("classes", ["--score", "contrast:2,3", "--target-index", 1], Contrast(1, (2, 3))),
}


@pytest.mark.parametrize("case", CASES)
def test_the_score_is_that_of_python(command, case):
    model, options, score = CASES[case]
    (record,), _ = command(model, *options, "--target-layer", "features.2", "--save-maps")
    module = getattr(models(), model)()
    expected = explain_score(module, inputs_of(), "features.2", score)
    assert record["score"] == pytest.approx(float(expected.score), rel=1e-4)
    maps = saved()
    for method, signed in expected.maps.items():
        torch.testing.assert_close(maps[method], signed[0], rtol=1e-3, atol=1e-5)
    assert record["score_of"] == options[1]
    assert "probability" not in record


def test_the_box_found_is_told_in_the_photographs_pixels(command):
    (record,), printed = command("listing", "--score", "box:6,5,30,35", "--target-layer", "features.2")
    module = models().listing()
    found = BoxScore((1.6, 2, 8, 14)).settled(module(inputs_of())).detections[0]
    expected = [found.box[0] * 60 / 16, found.box[1] * 2.5, found.box[2] * 60 / 16, found.box[3] * 2.5]
    assert record["detection"]["box"] == pytest.approx(expected, abs=0.01)
    assert record["detection"]["overlap"] == pytest.approx(found.overlap, abs=1e-4)
    assert record["class_index"] == found.target
    corners = " ".join(f"{edge:.0f}" for edge in expected)
    said = f"class {found.target}, at {corners}, overlap {found.overlap:.2f}"
    assert f"detection of interest:  {said}\nscore {record['score']:.4f}\n" in printed


def outline_in(path, plain):
    """True where a picture is nearly white and the one without an outline is not."""
    one, other = (cv2.imread(name).astype(int) for name in (path, plain))
    return (one.min(axis=2) > 200) & (abs(one - other).max(axis=2) > 40)


def test_boxes_and_regions_are_outlined_on_both_pictures(command, monkeypatch):
    layer = ["--target-layer", "features.2", "--full-resolution"]
    for model, score in (("detr", "box:6,4,54,36"), ("segmenter", "region:mask.png")):
        mask = np.zeros((40, 60), np.uint8)
        mask[5:35, 10:50] = 255
        cv2.imwrite("mask.png", mask)
        (record,), _ = command(model, *layer, "--score", score, "--output-dir", "drawn")
        with monkeypatch.context() as patch:
            patch.setattr("xgradcam.runs.results.outline_of", lambda *_: None)
            command(model, *layer, "--score", score, "--output-dir", "plain")
        if model == "detr":
            x0, y0, x1, y1 = record["detection"]["box"]
        else:
            # The outline of the network's 8 x 8 pixels that are at least in part in the mask.
            x0, y0, x1, y1 = 7.5, 5, 52.5, 35
        for name in ("cam.jpg", "X_cam.jpg"):
            rows, columns = np.nonzero(outline_in(f"drawn/{name}", f"plain/{name}"))
            edges = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
            clipped = np.clip([x0, y0, x1, y1], 0, [59, 39, 59, 39])
            assert abs(edges - clipped).max() <= 2.5, (model, edges, clipped)


def test_the_mean_over_a_mask_of_a_file(command):
    mask = np.zeros((40, 60), np.uint8)
    mask[:20, 30:] = 1  # as a map of labels has it
    cv2.imwrite("mask.png", mask)
    region = torch.zeros(8, 8)
    region[:4, 4:] = 1
    for target in (None, 2):
        given = [] if target is None else ["--target-index", target]
        (record,), _ = command("segmenter", "--score", "region:mask.png", *given)
        planes = models().segmenter()(inputs_of()).detach()
        means = (planes[0] * region).sum((1, 2)) / 16
        chosen = int(means.argmax()) if target is None else target
        assert record["score"] == pytest.approx(float(means[chosen]), rel=1e-4)
        assert record["interest"] == f"class {chosen}, in mask.png"
    _, printed = command("segmenter", "--score", "region:nowhere.png", code=2)
    assert "nowhere.png" in printed
    cv2.imwrite("small.png", mask[:9])
    _, printed = command("segmenter", "--score", "region:small.png", code=2)
    assert (
        "the mask is 60 x 9 pixels, the photograph 60 x 40: give a mask of the photograph's size" in printed
    )


def test_texts_and_photographs_are_compared(command):
    cv2.imwrite("other.png", np.full((30, 30, 3), 90, np.uint8))
    (text,), printed = command("clip", "--score", 'text:"a cat"', "--target-layer", "features.2")
    encoder = image_encoder(models().clip())
    with torch.no_grad():
        own, other = encoder(inputs_of()), encoder(inputs_of("other.png"))
        words = encoder.words(encoder.tokenizer(["a cat"])).mean(dim=1)
    assert text["score"] == pytest.approx(float(torch.cosine_similarity(own, words)), rel=1e-4)
    assert "text of interest:  a cat\n" in printed
    (similar,), printed = command("clip", "--score", "similar:other.png", "--target-layer", "features.2")
    assert similar["score"] == pytest.approx(float(Similarity(other[0])(own)), rel=1e-4)
    assert "likeness of interest:  to other.png\n" in printed


@pytest.mark.parametrize(
    ("model", "said", "score"),
    [
        ("listing", "the model returns detections: explaining the best one (--score box:0)", "box:0"),
        ("detr", "the model returns detections: explaining the best one (--score box:0)", "box:0"),
        ("segmenter", "the model returns a segmentation: explaining its largest class where", "region"),
        ("out", "the model returns a segmentation: explaining its largest class where", "region"),
        ("single", "the model returns one number: explaining it (--score value:0;", "value:0"),
        ("classes", "class of interest:  class ", None),
    ],
)
def test_the_default_is_by_what_the_model_returns_and_is_said(command, model, said, score):
    (record,), printed = command(model)
    assert said in printed
    assert record.get("score_of") == score
    # Not the output itself, where it is a class's already, or a single place.
    layers = {"listing": "features.2", "detr": "features.4", "segmenter": "features.4", "out": "features.4"}
    assert record["layer"] == layers.get(model, "head")


def test_one_number_is_a_class_where_that_is_asked_for(command):
    for options in (["--score", "class"], ["--target-index", 0], ["--probability", "sigmoid"]):
        (record,), printed = command("single", *options)
        assert record["class_index"] == 0
        assert "class of interest:  class 0\n" in printed


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("yolo", [], "returns shape (1, 7, 64): if these are boxes and class scores"),
        ("clip", [], 'compares photographs and texts: give --score text:"a cat", or similar:FILE'),
        (
            "untold",
            ["--score", "text:a cat"],
            "has no tokenizer: set one as the model's attribute `tokenizer`",
        ),
        ("classes", ["--score", "text:a cat"], "encodes no texts"),
        ("classes", ["--score", "boxes:0"], "no score 'boxes:0'; did you mean 'box'? (--score takes class;"),
        ("classes", ["--score", "box"], "--score box: give box:RANK or box:X0,Y0,X1,Y1"),
        ("listing", ["--score", "box:1,2,3"], "--score box:1,2,3: give box:RANK"),
        ("listing", ["--score", "box:5,2,3,9"], "with x0 < x1 and y0 < y1"),
        ("listing", ["--score", "box:99"], "no detection 99: there are"),
        ("listing", ["--score", "box:0", "--target-index", "top2"], "takes one class by --target-index"),
        ("listing", ["--score", "box:0", "--target-index", 1, 2], "takes one class by --target-index"),
        ("listing", ["--guided"], "--guided is for classes, and this explains box:0: leave it out"),
        ("segmenter", ["--score", "region", "--augment"], "--augment is for classes"),
        ("segmenter", ["--target-index", 1], "give the class by --score region:CLASS"),
        ("segmenter", ["--score", "region:9"], "no class 9"),
        ("segmenter", ["--score", "region:2", "--target-index", 1], "--target-index is for classes"),
        ("segmenter", ["--score", "pixel:60,0"], "sees no such pixel of a photograph of 60 x 40"),
        ("segmenter", ["--score", "pixel:60"], "--score pixel:60: give pixel:X,Y"),
        ("classes", ["--score", "box:0"], "not detections: boxes, labels and scores"),
        ("classes", ["--score", "value:7"], "no output 7: this model has 0 to 3"),
        ("classes", ["--score", "value:last"], "give value:INDEX, such as value:0"),
        ("classes", ["--score", "contrast:1", "--target-index", 1], "has the class of interest, 1"),
        ("classes", ["--score", "contrast:cat"], "the names of this model's classes are not known"),
        ("classes", ["--score", "similar:none.png"], "none.png"),
        ("nothing", ["--score", "box:0"], "the model detects nothing: ask for another"),
        ("classes", ["--score", "region:photo.png"], "needs a segmentation, class scores (N, classes, H, W)"),
        ("listing", ["--score", "pixel:1,1"], "needs a segmentation, class scores (N, classes, H, W)"),
        ("listing", ["--score", "box:1,1,inf,9"], "with x0 < x1 and y0 < y1"),
        ("listing", ["--score", "box:90,9,99,10"], "outside of a photograph of 60 x 40 pixels"),
        ("detr", ["--score", "box:9,90,91,91"], "outside of a photograph of 60 x 40 pixels"),
        ("detr", ["--score", "box:9,9,910,910"], "outside of a photograph of 60 x 40 pixels"),
        ("detr", ["--score", "box:-9,-9,0,0"], "outside of a photograph of 60 x 40 pixels"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line(command, model, options, message):
    _, printed = command(model, *options, code=2)
    last = printed.splitlines()[-1]
    assert last.startswith("xgrad-cam: error: ")
    assert message in last


def test_a_folder_of_photographs_with_a_page(command):
    noise("many", 3, side=24)
    (records, printed) = command(
        "listing", "--score", "box:2,2,20,20", "--html", "--output-dir", "out", image="many"
    )
    assert [record["score_of"] for record in records] == ["box:2,2,20,20"] * 3
    for index, record in enumerate(records):
        assert record["files"]["xgrad-cam"] == f"{index:04}_box-2,2,20,20_X_cam.jpg"
        photograph = read_image(f"many/{index:04}.png")
        inputs = load_classifier("kinds.py:listing", size=SIZE).inputs(photograph)
        alone = BoxScore(torch.tensor([2.0, 2, 20, 20]) * 16 / 24)(models().listing()(inputs))
        assert record["score"] == pytest.approx(float(alone.detach()), rel=1e-4)
    lines = [json.loads(line) for line in open("out/xgrad-cam.jsonl", encoding="utf-8")]
    assert lines[0]["score"] == "box:2,2,20,20"
    again = ["--score", "box:2,2,20,20", "--html", "--output-dir", "out", "--resume"]
    _, printed = command("listing", *again, image="many")
    assert "3 complete before" in printed
    again[1] = "box:0"
    _, printed = command("listing", *again, image="many", code=2)
    assert "it had other settings for score" in printed
    page = Path("out/index.html").read_text(encoding="utf-8")
    assert records[0]["interest"] in page


def test_a_photograph_without_the_score_is_one_line(command):
    noise("many", 2, side=24)
    cv2.imwrite("many/grey.png", np.full((24, 24, 3), 128, np.uint8))
    options = ["--score", "box:0", "--target-layer", "features.2", "--output-dir"]
    records, printed = command("listing", *options, "out", image="many")
    assert len(records) == 3
    code = Path("kinds.py").read_text()
    with torch.no_grad():
        grey = models().listing()
        grey.least = 0.0
        bests = [
            float(grey(inputs_of(f"many/{name}.png"))[0]["scores"][0]) for name in ("0000", "0001", "grey")
        ]
    least = sorted(bests)[0] + 1e-4
    Path("kinds.py").write_text(code.replace("0.55", repr(least)))
    del sys.modules["kinds"]
    records, printed = command("listing", *options, "new", image="many", code=1)
    assert len(records) == 2
    (line,) = [line for line in printed.splitlines() if line.startswith("xgrad-cam: error: ")]
    assert "the model detects nothing: " in line


@pytest.mark.parametrize("score", ["pixel:25,5", "region:mask.png"])
@pytest.mark.parametrize("layer", [[], ["--target-layer", "auto"]])
def test_a_photograph_of_another_size_is_one_line(command, score, layer):
    noise("many", 3, side=30)
    cv2.imwrite("many/0000.png", read_image("many/0000.png")[:20, :20])
    mask = np.zeros((30, 30), np.uint8)
    mask[3:20, 5:20] = 255
    cv2.imwrite("mask.png", mask)
    records, printed = command("segmenter", "--score", score, *layer, image="many", code=1)
    assert [record["image"] for record in records] == ["many/0001.png", "many/0002.png"]
    (line,) = [line for line in printed.splitlines() if line.startswith("xgrad-cam: error: ")]
    assert line.startswith("xgrad-cam: error: many/0000.png: ")
    assert "20 x 20" in line


def test_a_folder_may_begin_with_photographs_without_the_score(command):
    noise("many", 12, side=24)
    code = Path("kinds.py").read_text()
    command("listing", "--score", "box:0", image="many/0000.png")
    with torch.no_grad():
        every = models().listing()
        every.least = 0.0
        bests = [float(every(inputs_of(f"many/{index:04}.png"))[0]["scores"][0]) for index in range(12)]
    order = sorted(range(12), key=bests.__getitem__)
    for new, old in enumerate(order):
        Path(f"many/{old:04}.png").rename(f"many/sorted{new:02}.png")
    least = (bests[order[9]] + bests[order[10]]) / 2
    Path("kinds.py").write_text(code.replace("0.55", repr(least)))
    del sys.modules["kinds"]
    records, _ = command("listing", "--score", "box:0", image="many", code=1)
    assert [record["image"] for record in records] == ["many/sorted10.png", "many/sorted11.png"]


def test_another_photograph_is_read_as_those_that_are_explained(command):
    deep = np.random.default_rng(1).integers(0, 2048, (30, 30), dtype=np.uint16)
    cv2.imwrite("deep.png", deep)
    options = ["--score", "similar:deep.png", "--target-layer", "features.2"]
    for given in (["--range", 0, 2048], []):
        (record,), printed = command("classes", *options, *given, image="deep.png")
        assert record["score"] == pytest.approx(1, abs=1e-6)
        assert ("deep.png: 16-bit values" in printed) == (not given)
    bands = np.random.default_rng(2).integers(0, 256, (20, 20, 4), dtype=np.uint8)
    np.save("bands.npy", bands)
    options[1] = "similar:bands.npy"
    (record,), _ = command("four", *options, image="bands.npy")
    assert record["score"] == pytest.approx(1, abs=1e-6)
    options[1] = "similar:photo.png"
    _, printed = command("four", *options, image="bands.npy", code=2)
    assert "cannot read the 4 bands of photo.png: it has 3 channels" in printed


def test_the_highest_class_is_each_photographs_own(command):
    noise("many", 4, side=24)
    records, _ = command("classes", "--score", "contrast:0", "--output-dir", "out", image="many")
    for index, record in enumerate(records):
        logits = models().classes()(inputs_of(f"many/{index:04}.png"))[0].detach()
        assert record["class_index"] == int(logits.argmax())
        assert record["score"] == pytest.approx(float(logits.max() - logits[0]), rel=1e-3)


def test_all_methods_that_apply_to_a_score(command):
    (record,), printed = command("listing", "--score", "box:0", "--method", "all")
    assert "left out: this method compares classes" in printed or "left out: finer-cam" in printed
    assert {"xgrad-cam", "score-cam", "complete-cam"} <= set(record["files"])


def test_auto_layer_and_several_layers(command):
    (record,), printed = command("segmenter", "--score", "region:1", "--target-layer", "auto")
    assert f"layer {record['layer']}: " in printed
    records, _ = command(
        "segmenter",
        "--score",
        "region:1",
        "--target-layer",
        "features.1",
        "features.4",
        "--output-dir",
        "two",
    )
    assert [record["layer"] for record in records] == ["features.1", "features.4", "features.1 + features.4"]
    assert Path("two", "photo_region-1_fused_X_cam.jpg").exists()


@pytest.fixture
def prove(command, capsys):
    def run(model, *options, code=0):
        given = ["--image-path", "photo.png", "--model", f"kinds.py:{model}", "--input-size", "16"]
        assert proof_verify.main([*given, *map(str, options)]) == code
        return capsys.readouterr()

    return run


@pytest.mark.parametrize("case", ["yolo", "detr", "region", "pixel", "value"])
def test_eq_5_of_a_score(prove, case):
    model, options, score = CASES[case]
    code = 1 if model == "yolo" else 0
    printed = prove(model, *options, "--target-layer", "features.2", "--json", "--double", code=code)
    numbers = json.loads(printed.out)
    module = getattr(models(), model)()
    with torch.no_grad():
        expected = float(score(module.double()(inputs_of().double())))
    assert numbers["score"] == pytest.approx(expected, rel=1e-6)
    assert numbers["score_of"] == options[1]
    assert f"of interest:  {numbers['interest']}\nscore is " in printed.err
    assert numbers["closes"] is True


def test_a_contrast_has_two_names(prove):
    one = prove("classes", "--score", "contrast:2,3").out
    assert one == prove("classes", "--contrast", 2, 3).out
    assert " in contrast to class 2, class 3\n" in one
    assert "give one of them" in prove("classes", "--score", "contrast:2", "--contrast", 3, code=2).err


def test_the_proof_has_the_defaults_and_says_so(prove):
    printed = prove("segmenter")
    assert "region of interest:  class " in printed.out
    assert "explaining its largest class" in printed.err


def test_maps_are_written_over_those_of_an_earlier_run(command):
    for _ in range(2):
        for options in (["--score", "value:1"], ["--score", "class", "--method", "complete-cam"]):
            command("classes", *options, "--save-maps")
            assert {"scores"} < saved().keys()


def test_values_of_the_option():
    assert asked_of("box:0") == Asked("box", "0")
    assert asked_of('text:"a: cat"') == Asked("text", "a: cat")
    assert asked_of("Region") == Asked("region")
    for text in ("class:3", "text:", "value", "region15"):
        with pytest.raises(XGradCamError, match="--score"):
            asked_of(text)
