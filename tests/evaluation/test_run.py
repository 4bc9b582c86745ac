import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.support import EXAMPLES
from xgradcam import Classifier, XGradCamError, read_image
from xgradcam.evaluation.boxes import Box, region_of
from xgradcam.evaluation.measures import Question, likeness_when_randomised, measure
from xgradcam.evaluation.photographs import LabelledPhotograph
from xgradcam.evaluation.run import STAGES, Evaluation, evaluate

PLAIN = {
    "methods": ["grad-cam", "xgrad-cam"],
    "layers": ["features.4"],
    "crop": False,
    "boxes": None,
    "steps": 2,
    "removed": [0.5],
    "randomise": 0,
    "seed": 0,
}
SETTINGS = {"model": "tiny"}


def evaluation(**other):
    return Evaluation(**{**PLAIN, **other})


@pytest.fixture
def classifier(net):
    return Classifier("tiny", net, (8, 8), (0.5,) * 3, (0.25,) * 3, None, resize=10)


@pytest.fixture
def photographs(tmp_path):
    for name in ("cat.jpg", "coffee.jpg"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    targets = {"cat.jpg": 2, "coffee.jpg": None}
    return [LabelledPhotograph(str(tmp_path / name), target) for name, target in targets.items()]


def lines_of(report, kind="map"):
    keys = ("photo", "layer", "method")
    return {tuple(line[key] for key in keys): line for line in report.lines if line["kind"] == kind}


def test_every_photograph_is_measured_at_every_layer_by_every_method(classifier, photographs, tmp_path):
    layers = ["features.1", "features.4"]
    steps = []
    report = evaluate(
        evaluation(layers=layers),
        classifier,
        photographs,
        tmp_path / "out",
        SETTINGS,
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(done, 4) for done in range(5)]
    found = lines_of(report)
    assert len(found) == 2 * 2 * 2
    for photograph in photographs:
        inputs = classifier.inputs(read_image(photograph.path))
        target = photograph.target
        if target is None:
            target = int(classifier.module(inputs).argmax())
        question = Question(classifier.module, inputs, target, steps=2, removed=[0.5])
        for layer in layers:
            for method, measures in measure(question, layer, PLAIN["methods"]).items():
                line = found[photograph.path, layer, method]
                same = {name: line[name] for name in measures if name != "seconds"}
                assert same == {name: measures[name] for name in same}
    assert [(row.layer, row.method) for row in report.rows] == [
        (layer, method) for layer in layers for method in PLAIN["methods"]
    ]
    assert report.photographs == 2
    first, *rest = (tmp_path / "out" / "evaluation.jsonl").read_text().splitlines()
    assert json.loads(first) == {
        "model": "tiny", "crop": False, "steps": 2, "removed": [0.5], "randomise": 0, "seed": 0, "boxes": None
    }  # fmt: skip
    assert list(map(json.loads, rest)) == report.lines


def test_without_a_layer_the_models_default_is_taken(classifier, photographs, tmp_path):
    report = evaluate(evaluation(layers=()), classifier, photographs[:1], tmp_path, SETTINGS)
    assert report.layers == [classifier.default_layer()]
    assert {line["layer"] for line in report.lines} == set(report.layers)


def test_the_first_photographs_are_measured_with_random_weights(classifier, photographs, tmp_path):
    steps = []
    chosen = evaluation(methods=["xgrad-cam", "score-cam"], randomise=1, seed=5)
    report = evaluate(
        chosen, classifier, photographs, tmp_path, SETTINGS, progress=lambda *step: steps.append(step)
    )
    assert steps[-1] == (3, 3)
    question = Question(classifier.module, classifier.inputs(read_image(photographs[0].path)), 2)
    (expected,) = likeness_when_randomised([question], "features.4", ["xgrad-cam"], STAGES, 5)["xgrad-cam"]
    found = lines_of(report, "randomised")
    assert {key: line["randomised"] for key, line in found.items()} == {
        (photographs[0].path, "features.4", "xgrad-cam"): expected
    }


def test_a_resumed_run_measures_what_is_left(classifier, photographs, tmp_path, monkeypatch):
    whole = evaluate(evaluation(randomise=1), classifier, photographs, tmp_path, SETTINGS)
    path = tmp_path / "evaluation.jsonl"
    texts = path.read_text().splitlines(keepends=True)
    assert len(texts) == 1 + 4 + 2
    path.write_text("".join(texts[:4]))
    measured = []

    def counted(question, layer, methods):
        measured.append((layer, methods))
        return measure(question, layer, methods)

    monkeypatch.setattr("xgradcam.evaluation.run.measure", counted)
    report = evaluate(evaluation(randomise=1), classifier, photographs, tmp_path, SETTINGS, resume=True)
    assert measured == [("features.4", ["xgrad-cam"])]
    for kind in ("map", "randomised"):
        before, after = lines_of(whole, kind), lines_of(report, kind)
        assert list(before) == list(after)
        for key, line in before.items():
            assert {**after[key], "seconds": 0} == {**line, "seconds": 0}
    assert path.read_text().splitlines(keepends=True)[:4] == texts[:4]


@pytest.mark.parametrize(
    "other", [{"crop": True}, {"steps": 3}, {"removed": [0.4]}, {"randomise": 1}, {"seed": 1}]
)
def test_a_run_with_other_settings_is_not_resumed(classifier, photographs, tmp_path, other):
    evaluate(evaluation(), classifier, photographs[:1], tmp_path, SETTINGS)
    with pytest.raises(XGradCamError, match="other settings"):
        evaluate(evaluation(**other), classifier, photographs[:1], tmp_path, SETTINGS, resume=True)
    with pytest.raises(XGradCamError, match="other settings"):
        evaluate(evaluation(), classifier, photographs[:1], tmp_path, {"model": "other"}, resume=True)


def test_boxes_become_the_region_of_their_photograph(classifier, photographs, tmp_path):
    box = [0, 0, 200, 100]
    content = {
        "images": [{"id": 1, "file_name": "cat.jpg"}],
        "annotations": [{"image_id": 1, "bbox": box}],
    }
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(content))
    report = evaluate(evaluation(boxes=boxes), classifier, photographs, tmp_path, SETTINGS)
    found = lines_of(report)
    pixels = read_image(photographs[0].path)
    region = region_of([Box("", *box)], pixels.shape[:2], classifier.framing())
    assert 0 < region.sum() < 64
    inputs = classifier.inputs(pixels)
    question = Question(classifier.module, inputs, 2, region=region, steps=2, removed=[0.5])
    expected = measure(question, "features.4", ["grad-cam"])["grad-cam"]
    line = found[photographs[0].path, "features.4", "grad-cam"]
    assert (line["pointing"], line["energy"]) == (expected["pointing"], expected["energy"])
    assert "energy" not in found[photographs[1].path, "features.4", "grad-cam"]


def test_a_box_outside_of_the_crop_is_not_measured(classifier, photographs, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "cat.jpg"}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 2, 2]}],
    }
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(content))
    key = (photographs[0].path, "features.4", "grad-cam")
    stretched = evaluate(evaluation(boxes=boxes), classifier, photographs, tmp_path, SETTINGS)
    assert "energy" in lines_of(stretched)[key]
    cropped = evaluate(evaluation(boxes=boxes, crop=True), classifier, photographs, tmp_path, SETTINGS)
    assert "energy" not in lines_of(cropped)[key]
    assert lines_of(cropped)[key]["insertion"] != lines_of(stretched)[key]["insertion"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"methods": ["gradcam"]}, "no method 'gradcam'; did you mean"),
        ({"steps": 0}, "steps is 0: a curve has at least 1"),
        ({"removed": [0.5, 1.0]}, "removed has 1.0: shares lie between 0 and 1"),
        ({"removed": [0.0]}, "removed has 0.0: shares lie between 0 and 1"),
    ],
)
def test_an_evaluation_is_checked_when_it_is_made(other, message):
    with pytest.raises(XGradCamError, match=message):
        evaluation(**other)


def test_the_model_is_left_as_it_was(classifier, photographs, tmp_path):
    classifier.module.train()
    before = {name: tensor.clone() for name, tensor in classifier.module.state_dict().items()}
    evaluate(evaluation(randomise=1), classifier, photographs, tmp_path, SETTINGS)
    assert classifier.module.training
    after = classifier.module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert Path(tmp_path, "evaluation.jsonl").stat().st_size > 0
