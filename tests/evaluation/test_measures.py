"""The measures of a photograph together, and the script that makes a table of them."""

import csv
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.test_methods import POOLED
from tests.support import EXAMPLES
from xgradcam import explain, load_classifier
from xgradcam.cam.methods import METHODS
from xgradcam.evaluation import metrics
from xgradcam.evaluation.measures import MEASURES, Mean, Question, likeness_when_randomised, mean_of, measure
from xgradcam.evaluation.randomisation import rank_correlation, with_parameters

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("evaluate", ROOT / "scripts" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluate"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["evaluate"]


@pytest.fixture
def question(net, batch):
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:4] = True
    return Question(net, batch[:1], 2, region=inside, steps=4, removed=(0.5,))


def test_the_measures_are_those_of_their_functions(net, question):
    found = measure(question, "features.4", list(METHODS))
    assert list(found) == [method for method in METHODS if method != "cam"]

    def probability(inputs):
        return net(inputs).softmax(1)[:, 2]

    for method, measures in found.items():
        explanation = explain(net, question.inputs, "features.4", 2, [method], axioms=True)
        hot = explanation.heatmap(method, (8, 8))[0]
        assert measures["conservation"] == pytest.approx(float(explanation.conservation[method]))
        assert measures["sensitivity"] == pytest.approx(float(explanation.sensitivity[method]))
        assert measures["deletion"] == metrics.deletion(probability, question.inputs, hot, 4).area
        assert measures["insertion"] == metrics.insertion(probability, question.inputs, hot, 4).area
        assert measures["road"] == pytest.approx(metrics.road(probability, question.inputs, hot, (0.5,)))
        whole, faded = (probability(x).item() for x in (question.inputs, metrics.fade(question.inputs, hot)))
        assert measures["drop"] == pytest.approx(max(0, whole - faded) / whole)
        assert measures["increase"] == (faded > whole)
        assert measures["energy"] == pytest.approx(metrics.energy_inside(hot, question.region))
        assert measures["pointing"] == metrics.pointing_game(hot, question.region)
        assert measures["blank"] == (not hot.any())
        assert measures["seconds"] > 0
        assert set(measures) - {"curves"} == set(MEASURES) - {"randomised"}


def test_evaluations_are_counted_method_by_method(question):
    found = measure(question, "features.4", ["grad-cam", "ablation-cam", "score-cam", "smooth-grad-cam++"])
    assert [found[method]["evaluations"] for method in found] == [1, 1 + 4, 1 + 4, 1 + 8]


def test_likeness_is_high_for_what_the_parameters_do_not_decide(net, question):
    stages = (0.0, 1.0)
    methods = ["xgrad-cam", "eigen-cam"]
    found = likeness_when_randomised([question], "features.4", methods, stages)
    top_only = likeness_when_randomised([question], "features.4", methods, (0.0,))
    assert top_only["eigen-cam"] == [pytest.approx(1)]  # the head does not come into it
    assert top_only["xgrad-cam"][0] < 0.99
    assert all(0 <= value <= 1 for values in found.values() for value in values)
    assert found["eigen-cam"][0] < 1
    assert len(with_parameters(net)) == 5
    assert rank_correlation(torch.arange(4.0), torch.arange(4.0)) == pytest.approx(1)


def test_the_mean_has_its_bootstrap_interval():
    values = np.random.default_rng(0).normal(3, 1, 200)
    found = mean_of([*values, float("inf"), None])
    assert found.value == pytest.approx(values.mean())
    assert found.count == 200
    half = 1.96 * values.std() / np.sqrt(200)
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert mean_of(values) == mean_of(values)
    assert mean_of([]).count == 0
    alone = mean_of([2.0])
    assert (alone.low, alone.high) == (2, 2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "pooled", raising=False)
    Path("pooled.py").write_text(POOLED)
    for name in ("2", "other"):
        Path("photos", name).mkdir(parents=True)
    shutil.copy(EXAMPLES / "cat.jpg", "photos/2/cat.jpg")
    shutil.copy(EXAMPLES / "coffee.jpg", "photos/other/coffee.jpg")
    boxes = {
        "images": [{"id": 1, "file_name": "cat.jpg"}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 200, 100]}],
    }
    Path("boxes.json").write_text(json.dumps(boxes))


RUN = [
    "photos", "--model", "pooled.py:Pooled", "--input-size", "32", "--steps", "4", "--removed", "0.5",
    "--target-layer", "features.0", "features.1", "--boxes", "boxes.json", "--randomise", "1",
]  # fmt: skip


def rows(path="evaluation/evaluation.csv"):
    with Path(path).open(encoding="utf-8") as file:
        return {(row["layer"], row["method"], row["measure"]): row for row in csv.DictReader(file)}


def test_the_script_writes_a_table_that_is_the_same_again_and_goes_on(script, folder, capsys):
    assert script.main(RUN) == 0
    table = capsys.readouterr().out
    assert "**features.0**" in table
    assert "| xgrad-cam |" in table
    assert Path("evaluation/evaluation.md").read_text() == table
    assert Path("evaluation/evaluation.png").stat().st_size > 10_000
    first = rows()
    assert {method for _, method, _ in first} == set(METHODS)
    assert ("features.0", "cam", "drop") not in first  # a rectifier follows that layer
    assert first["features.1", "cam", "drop"]["photographs"] == "2"
    assert first["features.1", "xgrad-cam", "pointing"]["photographs"] == "1"
    assert first["features.1", "xgrad-cam", "randomised"]["photographs"] == "1"

    lines = Path("evaluation/evaluation.jsonl").read_text().splitlines(keepends=True)
    Path("evaluation/evaluation.jsonl").write_text("".join(lines[:20]) + lines[20][:30])
    assert script.main([*RUN, "--resume"]) == 0
    again = rows()
    for key, row in first.items():
        if key[2] != "seconds":
            assert again[key] == row
    kept = Path("evaluation/evaluation.jsonl").read_text().splitlines(keepends=True)
    assert kept[:20] == lines[:20]
    assert len(kept) == len(lines)
    assert script.main([*RUN, "--resume", "--seed", "4"]) == 2
    assert "other settings: leave out --resume" in capsys.readouterr().err


def test_a_photograph_that_cannot_be_read_is_passed_over_and_named(script, folder, capsys):
    Path("photos", "2", "bad.jpg").write_bytes(b"no image")
    assert script.main([*RUN, "--method", "grad-cam"]) == 1
    assert "evaluate.py: passed over: not an image: photos/2/bad.jpg" in capsys.readouterr().err
    assert rows()["features.1", "grad-cam", "drop"]["photographs"] == "2"
    assert script.main(["photos/2/bad.jpg", "--model", "pooled.py:Pooled", "--input-size", "32"]) == 2
    assert "none of the photographs can be read" in capsys.readouterr().err


def test_a_box_that_the_crop_leaves_out_is_not_asked_for(script, folder):
    boxes = json.loads(Path("boxes.json").read_text())
    boxes["annotations"][0]["bbox"] = [0, 0, 2, 2]
    Path("boxes.json").write_text(json.dumps(boxes))
    arguments = [
        *("photos", "--steps", "4", "--removed", "0.5", "--boxes", "boxes.json", "--randomise", "0"),
        *("--method", "grad-cam", "--target-layer", "bn2"),
    ]
    energy = ("bn2", "grad-cam", "energy")
    assert script.main(arguments) == 0
    assert rows()[energy]["photographs"] == "1"
    assert script.main([*arguments, "--crop"]) == 0
    assert rows()["bn2", "grad-cam", "drop"]["photographs"] == "2"
    assert energy not in rows()


def test_the_class_is_that_of_the_folder_or_what_the_network_says(script, folder):
    arguments = script._parser().parse_args(RUN)
    classifier = load_classifier("pooled.py:Pooled", size=(32, 32), labels=["ant", "big dog", "cup", "d"])
    photos = script._photographs(arguments, classifier)
    assert [(Path(photo.path).name, photo.target) for photo in photos] == [
        ("cat.jpg", 2),
        ("coffee.jpg", None),
    ]
    assert script._class_of_folder("big_dog", classifier) == 1
    assert script._class_of_folder("2023", classifier) is None  # a year, where there are four classes
    labelled = load_classifier("efficientnet-lite0")
    assert script._class_of_folder("n02124075", labelled) == 285


def test_what_the_digits_do_not_tell_apart_is_best_together(script):
    best = script._best(
        "drop", [Mean(0.18604, 0.1, 0.2, 9), Mean(0.18598, 0.1, 0.2, 9), Mean(0.19, 0.1, 0.2, 9)]
    )
    assert best == 0.18598
    assert script._cell(Mean(0.18604, 0.1, 0.2, 9), best) == "**0.186** (0.1 to 0.2)"
    assert script._cell(Mean(0.19, 0.19, 0.19, 1), best) == "0.19"


def test_the_settings_of_the_input_decide_whether_a_run_goes_on(script, folder, capsys):
    arguments = [*RUN, "--method", "grad-cam", "--limit", "1", "--randomise", "0"]
    assert script.main(arguments) == 0
    for other in (["--mean", "0", "0", "0"], ["--std", "1", "1", "1"]):
        assert script.main([*arguments, "--resume", *other]) == 2
        assert "is of a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no photographs: name a folder, or --installed"),
        (["none"], "no such"),
        (["photos", "--method", "gradcam"], "no method 'gradcam'"),
        (["photos", "--removed", "2"], "lie between 0 and 1"),
        (["photos", "--boxes", "none.json"], "cannot read none.json"),
        (["photos", "--target-layer", "block"], "no layer 'block'"),
        (["photos", "--model", "pooled.py:Pooled", "--crop"], "has no known resize before a centre crop"),
        (["photos", "--model", "pooled.py:raising"], "no 'raising' in pooled.py; it has: Pooled"),
        (["photos", "--device", "toaster"], "no device 'toaster'"),
        (["photos", "--mean", "120", "1", "1"], "--mean has a value outside of 0 to 1"),
        (
            ["photos", "--method", "cam", "--target-layer", "blocks.6.0.bn2", "--randomise", "0"],
            "none of these methods applies at blocks.6.0.bn2: cam",
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_line(script, folder, capsys, arguments, message):
    assert script.main([*arguments, "--limit", "1"]) == 2
    assert message in capsys.readouterr().err


def test_installed_photographs_have_the_classes_of_their_names(script):
    pytest.importorskip("foolbox")
    photos = list(script._installed())
    assert len(photos) == 25
    assert sum(photo.target is not None for photo in photos) == 20
    assert all(Path(photo.path).is_file() for photo in photos)


def test_a_blank_map_is_not_called_unlike(question):
    layers = [torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 3)]
    net = torch.nn.Sequential(*layers)
    with torch.no_grad():
        net[3].weight.fill_(-1)
    blank = Question(net.double(), question.inputs, 1)
    found = likeness_when_randomised([blank], "1", ["grad-cam", "eigen-cam"], (1.0,))
    assert found["grad-cam"] == [None]
    assert found["eigen-cam"][0] > 0
