import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import EXAMPLES, TinyNet
from xgradcam import Classifier, XGradCamError, explain, read_image
from xgradcam.errors import listed
from xgradcam.evaluation import metrics
from xgradcam.evaluation.boxes import Box, region_of
from xgradcam.evaluation.measures import Question, likeness_when_randomised, measure, measure_focus
from xgradcam.evaluation.mosaics import TILES, draw_mosaics, lay
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
                for name in measures.keys() - {"seconds", "curves"}:
                    assert line[name] == pytest.approx(measures[name])
                for name, points in measures["curves"].items():
                    assert line["curves"][name] == pytest.approx(points)
    assert [(row.layer, row.method) for row in report.rows] == [
        (layer, method) for layer in layers for method in PLAIN["methods"]
    ]
    assert report.photographs == 2
    first, *rest = (tmp_path / "out" / "evaluation.jsonl").read_text().splitlines()
    assert json.loads(first) == {
        "model": "tiny", "crop": False, "steps": 2, "removed": [0.5], "randomise": 0, "seed": 0
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
    expected = likeness_when_randomised([question], "features.4", ["xgrad-cam", "score-cam"], STAGES, 5)
    found = lines_of(report, "randomised")
    assert {key: line["randomised"] for key, line in found.items()} == {
        (photographs[0].path, "features.4", method): likeness for method, (likeness,) in expected.items()
    }


@pytest.fixture
def labelled(tmp_path):
    """Five photographs of four known classes and one of none."""
    targets = [0, 1, 2, 3, 3, None]
    pixels = read_image(EXAMPLES / "cat-and-coffee.jpg")
    paths = [tmp_path / f"{index}.png" for index in range(len(targets))]
    for index, path in enumerate(paths):
        Image.fromarray(pixels[20 * index : 20 * index + 40, 50 * index : 50 * index + 60]).save(path)
    return [LabelledPhotograph(str(path), target) for path, target in zip(paths, targets, strict=True)]


def test_the_focus_is_measured_in_mosaics_and_logged_with_their_photographs(classifier, labelled, tmp_path):
    classifier = replace(classifier, labels=["a", "b", "c", "d", "e"])
    chosen = evaluation(mosaics=6, seed=2, layers=["features.1", "features.4"])
    steps = []
    report = evaluate(
        chosen, classifier, labelled, tmp_path / "out", SETTINGS, progress=lambda *step: steps.append(step)
    )
    assert steps == [(done, 24) for done in range(25)]
    found = lines_of(report, "mosaic")
    assert len(found) == 6 * 2 * 2
    mosaics = draw_mosaics(labelled, 6, 2)
    assert len({mosaic.chosen for mosaic in mosaics}) > 1
    for number, mosaic in enumerate(mosaics):
        laid = lay(mosaic, classifier)
        target = mosaic.targets[mosaic.chosen]
        for layer in chosen.layers:
            explained = explain(
                classifier.module, classifier.inputs(laid.pixels), layer, target, PLAIN["methods"]
            )
            for method, signed in explained.maps.items():
                line = found[f"mosaic {number}", layer, method]
                assert line["focus"] == pytest.approx(metrics.focus(signed, laid.tile))
                assert line["unfocused"] == (line["focus"] is None)
                assert (line["class_index"], line["class_name"]) == (target, "abcd"[target])
                assert line["tiles"] == [
                    {"photo": path, "class_index": tile}
                    for path, tile in zip(mosaic.paths, mosaic.targets, strict=True)
                ]
                assert line["explained"] == TILES[mosaic.chosen]
    for row in report.rows:
        values = [line["focus"] for key, line in found.items() if key[1:] == (row.layer, row.method)]
        seen = [value for value in values if value is not None]
        assert row.means["focus"].count == len(seen)
        assert row.means["focus"].value == pytest.approx(np.mean(seen))
        assert row.means["unfocused"].value == pytest.approx(1 - len(seen) / 6)
    text = report.markdown()
    assert "| focus in mosaics ↑ | blank in mosaics |" in text
    assert text.splitlines()[-1].startswith("focus: means over 6 mosaics of four photographs of four classes")


def test_a_resumed_run_adds_mosaics_to_those_of_before(classifier, labelled, tmp_path, monkeypatch):
    fresh = evaluate(evaluation(mosaics=4), classifier, labelled, tmp_path / "fresh", SETTINGS)
    evaluate(evaluation(mosaics=2), classifier, labelled, tmp_path / "out", SETTINGS)
    focused = []

    def counted(question, layer, methods):
        focused.append(question.target)
        return measure_focus(question, layer, methods)

    monkeypatch.setattr("xgradcam.evaluation.run.measure_focus", counted)
    again = evaluate(evaluation(mosaics=4), classifier, labelled, tmp_path / "out", SETTINGS, resume=True)
    assert focused == [mosaic.targets[mosaic.chosen] for mosaic in draw_mosaics(labelled, 4, 0)[2:]]
    assert values_of(again) == values_of(fresh)
    # Other pixels in a file: the mosaics with it are measured anew.
    Image.new("RGB", (9, 9), (255, 0, 0)).save(labelled[0].path)
    focused.clear()
    evaluate(evaluation(mosaics=4), classifier, labelled, tmp_path / "out", SETTINGS, resume=True)
    with_it = [mosaic for mosaic in draw_mosaics(labelled, 4, 0) if labelled[0].path in mosaic.paths]
    assert len(focused) == len(with_it) > 0


def test_mosaics_of_too_few_classes_are_refused_before_any_work(classifier, labelled, tmp_path):
    with pytest.raises(XGradCamError, match="here are 3"):
        evaluate(evaluation(mosaics=1), classifier, labelled[:3], tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_a_long_evaluation_says_its_cost_before_it_begins(classifier, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("xgradcam.evaluation.cost.WORTH_SAYING", 0)
    told = []
    for resume in (False, True):
        evaluate(
            evaluation(randomise=1), classifier, photographs, tmp_path, SETTINGS,
            resume=resume, say=told.append, progress=lambda done, _total: told.append(done),
        )  # fmt: skip
    first, again = (line for line in told if isinstance(line, str))
    assert told.index(first) == 0
    # Two photographs are measured, at 4 channels by 2 methods; one is drawn 5 times more.
    asked = (2 + 5) * 1 + 2 * (4 + 2 * (1 + 2 + 2))
    assert re.match(rf"about {asked} evaluations of the network, [0-9.]+ seconds; x?grad-cam takes ", first)
    assert again.endswith("; less for what the log has")


class Cube(torch.autograd.Function):
    """An operation whose constants cannot be found."""

    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values)
        return values**3

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        return 3 * gradient * values**2


def test_where_no_complete_map_can_be_found_the_others_are_measured(
    classifier, photographs, labelled, tmp_path
):
    class Custom(TinyNet):
        def forward(self, images):
            return Cube.apply(super().forward(images))

    custom = replace(classifier, module=Custom().eval())
    said = []
    chosen = evaluation(methods=["complete-cam", "grad-cam"], randomise=1, mosaics=1)
    report = evaluate(chosen, custom, [*photographs, *labelled], tmp_path, SETTINGS, say=said.append)
    assert {line["method"] for line in report.lines} == {"grad-cam"}
    (line,) = said
    assert line.startswith("complete-cam at features.4 is left out: the model runs a torch.autograd.Function")


def test_complete_maps_are_measured_signed_and_add_up(classifier, labelled, tmp_path):
    chosen = evaluation(methods=["complete-cam", "complete-xgrad-cam"], randomise=2, mosaics=2)
    report = evaluate(chosen, classifier, labelled, tmp_path, SETTINGS)
    for kind, count in (("map", 6), ("mosaic", 2), ("randomised", 2)):
        assert len(lines_of(report, kind)) == 2 * count
    # A rectifier precedes this layer, so that XGrad-CAM's feature map sums to the same but for ε.
    assert all(line["conservation"] < 1e-4 for line in lines_of(report).values())
    likeness = [line["randomised"] for line in lines_of(report, "randomised").values()]
    seen = [value for value in likeness if value is not None]  # the others are blank
    assert len(seen) > 0
    assert all(0 <= value <= 1 for value in seen)


def test_a_model_that_cannot_be_copied_is_evaluated_too(classifier, photographs, tmp_path):
    class Alone(TinyNet):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is only one")

    alone = replace(classifier, module=Alone().eval())
    found = evaluate(evaluation(), alone, photographs, tmp_path / "alone", SETTINGS)
    copied = evaluate(evaluation(), classifier, photographs, tmp_path / "copied", SETTINGS)
    for key, (value, count) in values_of(copied).items():
        assert values_of(found)[key] == (pytest.approx(value, rel=1e-6), count)


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


@pytest.fixture
def measured(monkeypatch):
    """The layers and methods that are measured, photograph by photograph."""
    calls = []

    def counted(question, layer, methods):
        calls.append((question.target, layer, methods))
        return measure(question, layer, methods)

    monkeypatch.setattr("xgradcam.evaluation.run.measure", counted)
    return calls


def test_a_resumed_run_measures_a_photograph_that_was_replaced(classifier, photographs, tmp_path, measured):
    first = evaluate(evaluation(randomise=1), classifier, photographs, tmp_path, SETTINGS)
    before = Path(photographs[0].path).stat()
    shutil.copy(EXAMPLES / "cat-and-coffee.jpg", photographs[0].path)
    os.utime(photographs[0].path, ns=(before.st_atime_ns, before.st_mtime_ns))
    measured.clear()
    again = evaluate(evaluation(randomise=1), classifier, photographs, tmp_path, SETTINGS, resume=True)
    assert measured == [(2, "features.4", PLAIN["methods"])]
    fresh = evaluate(evaluation(randomise=1), classifier, photographs, tmp_path / "fresh", SETTINGS)
    assert values_of(again) == values_of(fresh) != values_of(first)
    assert [row.means["drop"].count for row in again.rows] == [2, 2]
    # As it was: nothing is left to measure, and the first numbers count.
    shutil.copy(EXAMPLES / "cat.jpg", photographs[0].path)
    measured.clear()
    back = evaluate(evaluation(randomise=1), classifier, photographs, tmp_path, SETTINGS, resume=True)
    assert measured == []
    assert values_of(back) == values_of(first)


def values_of(report):
    """All numbers of a report but the seconds."""
    return {
        (row.layer, row.method, name): (mean.value, mean.count)
        for row in report.rows
        for name, mean in row.means.items()
        if name != "seconds"
    }


def test_a_resumed_run_measures_another_class(classifier, photographs, tmp_path, measured):
    evaluate(evaluation(), classifier, photographs, tmp_path, SETTINGS)
    measured.clear()
    moved = [LabelledPhotograph(photographs[0].path, 3), photographs[1]]
    again = evaluate(evaluation(), classifier, moved, tmp_path, SETTINGS, resume=True)
    assert measured == [(3, "features.4", PLAIN["methods"])]
    assert values_of(again) == values_of(
        evaluate(evaluation(), classifier, moved, tmp_path / "new", SETTINGS)
    )


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"methods": ["grad-cam", "xgrad-cam"]}, {"methods": ["xgrad-cam"]}),
        ({"methods": ["grad-cam"]}, {"methods": ["xgrad-cam", "grad-cam"]}),
        ({"methods": ["grad-cam"]}, {"methods": ["layer-cam"]}),
        ({"layers": ["features.1"]}, {"layers": ["features.4"]}),
        ({"layers": ["features.1", "features.4"]}, {"layers": ["features.1"]}),
        ({}, {"boxes": True}),
        ({"boxes": True}, {}),
    ],
)
@pytest.mark.parametrize("photos", [slice(0, 1), slice(1, 2), slice(0, 2)], ids=["first", "second", "both"])
def test_a_resumed_run_averages_what_was_asked_for(classifier, photographs, tmp_path, first, then, photos):
    content = {
        "images": [{"id": 1, "file_name": "cat.jpg"}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 200, 100]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    boxes = {"boxes": tmp_path / "boxes.json"}
    first, then = ({**each, **boxes} if "boxes" in each else each for each in (first, then))
    first, then = evaluation(randomise=1, **first), evaluation(randomise=1, **then)
    evaluate(first, classifier, photographs, tmp_path / "out", SETTINGS)
    again = evaluate(then, classifier, photographs[photos], tmp_path / "out", SETTINGS, resume=True)
    fresh = evaluate(then, classifier, photographs[photos], tmp_path / "fresh", SETTINGS)
    assert values_of(again) == values_of(fresh)
    assert [line["photo"] for line in again.lines] == [line["photo"] for line in fresh.lines]


def test_malformed_lines_are_said_and_measured_anew(classifier, photographs, tmp_path, measured):
    whole = evaluate(evaluation(), classifier, photographs, tmp_path, SETTINGS)
    path = tmp_path / "evaluation.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"drop": ', '"drop": "')
    path.write_text("".join(lines))
    measured.clear()
    said = []
    again = evaluate(evaluation(), classifier, photographs, tmp_path, SETTINGS, resume=True, say=said.append)
    assert measured == [(2, "features.4", ["xgrad-cam"])]
    assert values_of(again) == values_of(whole)
    assert said == [f"{path}: 1 malformed line is passed over, and measured anew"]


def test_the_log_and_the_report_say_the_class(classifier, photographs, tmp_path):
    classifier = replace(classifier, labels=["a", "b", "cup", "d", "e"])
    report = evaluate(evaluation(randomise=2), classifier, photographs, tmp_path, SETTINGS)
    best = int(classifier.module(classifier.inputs(read_image(photographs[1].path))).argmax())
    for kind in ("map", "randomised"):
        named = {
            (line["photo"], line["class_index"], line["class_name"])
            for line in lines_of(report, kind).values()
        }
        assert named == {
            (photographs[0].path, 2, "cup"),
            (photographs[1].path, best, classifier.labels[best]),
        }
    table = report.markdown().splitlines()
    assert f"| {tmp_path} | class 2 (cup) | 1 |" in table
    assert f"| {tmp_path} | the class of the highest score | 1 |" in table


def test_only_boxes_of_the_class_count_and_their_number_is_said(classifier, photographs, tmp_path):
    classifier = replace(classifier, labels=["a", "b", "cup", "dog", "e"])
    shutil.copy(EXAMPLES / "coffee.jpg", tmp_path / "both.jpg")
    photographs = [
        photographs[0],
        LabelledPhotograph(photographs[1].path, 3),
        LabelledPhotograph(str(tmp_path / "both.jpg"), 2),
    ]
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}]
    content = {
        "images": [{"id": index, "file_name": f"{name}.jpg"} for index, name in enumerate(("cat", "coffee"))],
        "categories": categories,
        "annotations": [
            {"image_id": 0, "category_id": 1, "bbox": [0, 0, 200, 100]},
            {"image_id": 0, "category_id": 2, "bbox": [0, 0, 9999, 9999]},
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 200, 100]},
        ],
    }
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(content))
    said = []
    report = evaluate(evaluation(boxes=boxes), classifier, photographs, tmp_path, SETTINGS, say=said.append)
    assert {line["photo"] for line in report.lines if "energy" in line} == {photographs[0].path}
    pixels = read_image(photographs[0].path)
    region = region_of([Box("", 0, 0, 200, 100)], pixels.shape[:2], classifier.framing())
    question = Question(
        classifier.module, classifier.inputs(pixels), 2, region=region, steps=2, removed=[0.5]
    )
    expected = measure(question, "features.4", ["grad-cam"])["grad-cam"]["energy"]
    assert lines_of(report)[photographs[0].path, "features.4", "grad-cam"]["energy"] == expected
    summary = (
        "boxes: 1 of 3 photographs have boxes of their class; "
        f"1 with boxes of other classes only (cup), such as {photographs[1].path}"
    )
    assert said == [f"2 of 3 photographs have boxes in {boxes}", summary]
    assert report.markdown().splitlines()[-1] == summary


def test_no_photograph_with_boxes_is_said_with_names_of_both(classifier, photographs, tmp_path):
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for name in ("x", "y", "z"):
        (boxes / f"{name}.xml").write_text("<annotation/>")
    said = []
    report = evaluate(evaluation(boxes=boxes), classifier, photographs, tmp_path, SETTINGS, say=said.append)
    paths = listed((photograph.path for photograph in photographs), 3)
    assert said == [
        f"0 of 2 photographs have boxes in {boxes}: it has those of x.jpg, y.jpg and 1 more, "
        f"and not of {paths}",
        "boxes: 0 of 2 photographs have boxes of their class",
    ]
    assert not any("energy" in line for line in report.lines)


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
        ({"mosaics": -1}, "mosaics is -1: give a number of mosaics"),
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
