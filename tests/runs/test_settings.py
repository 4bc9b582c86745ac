"""Settings of runs compared: usual values are none, and only what was changed is named."""

import json

import pytest

from xgradcam.cli.figure_options import recorded
from xgradcam.cli.options import parse, xgrad_cam_parser
from xgradcam.runs.settings import differing

BASE = {
    "model": "resnet18", "weights": "default", "layers": ["layer4"], "methods": ["grad-cam", "xgrad-cam"],
    "photographs": ["photos"], "classes": ["-1"], "files": [{"bytes": -1}, {"bytes": 5}, {"bytes": -1}],
    "size": [224, 224], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "value_range": None,
    "num_classes": None, "panel": False, "html": False, "colormap": "jet", "alpha": None,
    "save_maps": False, "augment": False, "precision": "float32", "probability": None,
}  # fmt: skip


def settings(**changed):
    return json.loads(json.dumps({**BASE, **changed}))


SAME = [
    {"dpi": 150}, {"format": "jpg"}, {"output_format": "files"}, {"bands": [1, 2, 3]}, {"color_bar": False},
    {"signed": False}, {"layout": None}, {"column": "image"}, {"num_classes": 10}, {"guided": None},
]  # fmt: skip


@pytest.mark.parametrize("changed", SAME)
def test_a_usual_value_is_the_same_as_none(changed):
    assert differing(settings(), settings(**changed), classes=10) == []
    assert differing(settings(**changed), settings(), classes=10) == []


FIGURE = {"format": "pdf", "colormap": "jet and viridis"}
CHANGED = [
    ({}, {"signed": True, "colormap": "jet and viridis"}, ["signed"]),
    ({}, {"panel": True, "colormap": "jet and viridis"}, ["panel"]),
    ({}, FIGURE, ["format"]),
    ({}, {"methods": ["layer-cam"], "colormap": "jet and viridis"}, ["methods"]),
    ({}, {"colormap": "bone"}, ["colormap"]),
    ({}, {"signed": True, "colormap": "bone"}, ["colormap", "signed"]),
    # Jet where it is not the usual one has been asked for.
    ({}, {"signed": True, "colormap": "jet"}, ["colormap", "signed"]),
    ({"panel": True, "colormap": "jet and viridis"}, {"panel": True, "colormap": "jet"}, ["colormap"]),
    (FIGURE, {**FIGURE, "dpi": 300}, ["dpi"]),
    (FIGURE, {**FIGURE, "dpi": 150}, []),
    (FIGURE, {**FIGURE, "color_bar": True}, []),
    ({}, {"color_bar": True, "colormap": "jet and viridis"}, ["color_bar"]),
    ({}, {"alpha": 0.0}, ["alpha"]),
    ({"alpha": 0.0}, {"alpha": 0.5}, ["alpha"]),
    ({}, {"bands": [3, 2, 1]}, ["bands"]),
    ({"mean": [0.5] * 2, "bands": [1, 1, 1]}, {"mean": [0.5] * 2}, []),
    ({"mean": [0.5] * 2, "bands": [1, 2, 2]}, {"mean": [0.5] * 2}, ["bands"]),
    ({"column": "a"}, {"column": "b"}, ["column"]),
    ({}, {"num_classes": 11}, ["num_classes"]),
    ({"num_classes": 11}, {"num_classes": 10}, ["num_classes"]),
    ({"html": True}, {"html": "no pictures"}, ["html (--no-pictures)"]),
    ({}, {"html": "no pictures"}, ["html"]),
    ({}, {"save_maps": True}, ["save_maps (--report needs it)"]),
    ({"save_maps": True}, {}, ["save_maps"]),
    (
        {},
        {"model": "vgg16", "layers": ["features.30"], "mean": [0.4] * 3, "size": [32, 32], "files": []},
        ["model"],
    ),
    ({}, {"weights": "w.pth", "files": [{}, {}, {}], "std": [0.1] * 3}, ["weights"]),
    ({}, {"score": "box:0", "layers": ["layer3"]}, ["score"]),
    ({}, {"layers": ["layer3"]}, ["layers (--target-layer)"]),
    ({}, {"size": [32, 32], "classes": ["3"]}, ["size (--input-size)", "classes (--target)"]),
    ({}, {"precision": "bf16", "methods": ["grad-cam"]}, ["precision"]),
    (
        {},
        {"precision": "bf16", "methods": ["layer-cam"], "colormap": "jet and viridis"},
        ["methods", "precision"],
    ),
    ({}, {"files": [{"bytes": -1}, {"bytes": 5}, {"bytes": 9}]}, ["files (--labels)"]),
    ({}, {"files": [{"bytes": -1}, {"bytes": 6}, {"bytes": -1}]}, ["files (the weights)"]),
    ({}, {"files": [{"bytes": 7}, {"bytes": 6}, {"bytes": -1}]}, ["files (the model's code, the weights)"]),
    ({}, {"files": []}, ["files"]),
    ({"photographs": 3, "mean": 1, "bands": 2}, {}, ["photographs", "mean", "bands"]),
    ({"methods": 5, "colormap": 3, "files": 1}, {}, ["methods", "colormap", "files"]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "now", "named"), CHANGED)
def test_what_differs_is_named_and_what_follows_is_not(before, now, named):
    order = sorted(differing(settings(**before), settings(**now), classes=10))
    assert order == sorted(named)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"colormap": "jet"}),
        ("--colormap jet", {"colormap": "jet"}),
        ("--method xgrad-cam", {"colormap": "jet"}),
        ("--method layer-cam", {"colormap": "jet and viridis"}),
        ("--signed", {"colormap": "jet and viridis", "signed": True}),
        ("--signed --colormap jet", {"colormap": "jet", "signed": True}),
        ("--panel", {"colormap": "jet and viridis"}),
        ("--format png", {"colormap": "jet", "format": "png"}),
        ("--format pdf --dpi 150", {"colormap": "jet and viridis", "format": "pdf"}),
        (
            "--format jpg --color-bar --dpi 300",
            {"colormap": "jet and viridis", "color_bar": True, "dpi": 300},
        ),
    ],
)
def test_a_run_records_its_looks_where_they_are_not_the_usual_ones(line, expected):
    arguments = parse(xgrad_cam_parser(), ["photo.jpg", *line.split()])
    assert recorded(arguments, arguments.method) == expected
