"""The commands with the methods of attention."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.support import OWN
from tests.support import ANYWHERE, EXAMPLES, noise
from xgradcam import explain, load_classifier, read_image
from xgradcam.cam.methods import METHODS
from xgradcam.cli.evaluate import main as evaluate
from xgradcam.cli.xgrad_cam import main

VIT = """
import torch
from torch import nn
from torchvision.models import VisionTransformer

class Vit(VisionTransformer):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(32, 8, 3, 2, 16, 32, num_classes=4)
        nn.init.normal_(self.heads.head.weight)
"""
BOTH = ["legrad", "chefer"]
MODEL = ("--model", "vit.py:Vit", "--input-size", "32")
BLOCKS = [f"encoder.layers.encoder_layer_{number}" for number in range(3)]
pytestmark = pytest.mark.usefixtures("own_models")


@pytest.fixture(autouse=True)
def files(own_folder):
    Path("vit.py").write_text(VIT)
    shutil.copy(EXAMPLES / "cat.jpg", "cat.jpg")


def run(*arguments, photograph="cat.jpg", model=MODEL):
    return main(["--image-path", photograph, "--output-dir", "out", *model, *arguments])


def test_the_maps_and_their_depth(capsys):
    assert run("--target-index", "1", "--method", *BOTH, "--save-maps") == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if line.startswith("depth of")]
    start = f"{BLOCKS[0]} to {BLOCKS[2]}: "
    assert [line.split(", ")[0] for line in told] == ["depth of legrad", "depth of chefer"]
    assert all(line.split(", ", 1)[1].startswith(start) and line.endswith(" % of the map") for line in told)
    percent = [int(word) for word in told[0].split(": ")[1].split(" % ")[0].split()]
    assert len(percent) == 3
    assert sum(percent) in (99, 100, 101)
    assert {path.name for path in Path("out").iterdir()} == {"legrad.jpg", "chefer.jpg", "maps.npz"}
    classifier = load_classifier("vit.py:Vit", size=(32, 32))
    found = explain(classifier.module, classifier.inputs(read_image("cat.jpg")), BLOCKS[1], 1, BOTH)
    maps = np.load("out/maps.npz")
    for method in BOTH:
        np.testing.assert_allclose(maps[method], found.maps[method][0].numpy(), rtol=1e-4, atol=1e-7)
    assert run("--target-index", "1", "--method", *BOTH, "--json") == 0
    (record,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert list(record["depth"]["legrad"]) == BLOCKS
    assert record["depth"]["legrad"][BLOCKS[0]] == pytest.approx(
        float(found.depth["legrad"][BLOCKS[0]][0]), rel=1e-4
    )
    assert run("--target-index", "1", "--json") == 0
    assert "depth" not in json.loads(capsys.readouterr().out)


def test_a_folder_with_a_page_and_a_journal(capsys):
    noise("photos", 3)
    arguments = ("--method", *BOTH, "--target-index", "top2", "--html", "--json")
    assert run(*arguments, photograph="photos") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == 6
    assert all(list(record["depth"]["chefer"]) == BLOCKS for record in records)
    assert "LeGrad" in Path("out/index.html").read_text()
    assert run(*arguments, "--resume", photograph="photos") == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert again == records


def test_all_leaves_them_out_with_a_line_where_there_is_no_attention(capsys):
    assert run("--method", "all", "--target-index", "1", "--json", model=OWN) == 0
    told = capsys.readouterr()
    assert list(json.loads(told.out)["files"]) == ANYWHERE
    for method in BOTH:
        assert f"left out: {method}: the network computes no attention between its input" in told.err
    assert run("--method", "legrad", "--target-index", "1", model=OWN) == 2
    error = capsys.readouterr().err.strip()
    assert "error: the network computes no attention" in error
    assert "\n" not in error


def test_all_takes_them_of_a_vision_transformer(capsys):
    assert run("--method", "all", "--target-index", "1", "--json") == 0
    made = list(json.loads(capsys.readouterr().out)["files"])
    assert made == [method for method in METHODS if method != "cam"]


@pytest.mark.parametrize("model", [MODEL, OWN])
def test_the_evaluation_measures_them_where_they_apply(model, capsys):
    Path("photos", "1").mkdir(parents=True)
    shutil.copy("cat.jpg", "photos/1/cat.jpg")
    arguments = ["photos", *model, "--steps", "2", "--removed", "0.5", "--method", *BOTH, "grad-cam"]
    assert evaluate(arguments) == 0
    lines = [json.loads(line) for line in Path("evaluation/evaluation.jsonl").read_text().splitlines()[1:]]
    measured = {line["method"]: line for line in lines if line["kind"] == "map"}
    assert set(measured) == ({*BOTH, "grad-cam"} if model is MODEL else {"grad-cam"})
    for method in measured.keys() & set(BOTH):
        assert "sensitivity" not in measured[method]
        assert 0 <= measured[method]["deletion"] <= 1
        assert measured[method]["conservation"] > 0
    if model is MODEL:
        # Recorded once, and the score behind each of three blocks, and behind the last again.
        assert measured["legrad"]["evaluations"] == 1 + 5
        assert measured["chefer"]["evaluations"] == 1 + 1
