"""`xgrad-cam` with other methods, several layers, averages and axioms."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.support import OWN, tree
from tests.support import ANYWHERE, EXAMPLES, OF_ACTIVATION, noise
from xgradcam import explain, load_classifier, read_image
from xgradcam.cam.guided import gradient_picture, guided_backpropagation, guided_map
from xgradcam.cam.methods import METHODS
from xgradcam.cli.options import BOTH
from xgradcam.cli.xgrad_cam import main
from xgradcam.pictures.photograph import encode_jpeg
from xgradcam.runs.sources import find_photographs

MAPPED = ("features.0", "features.2")
pytestmark = pytest.mark.usefixtures("own_models")


@pytest.fixture(autouse=True)
def cat(own_folder):
    shutil.copy(EXAMPLES / "cat.jpg", "cat.jpg")


MAPPED = ("features.0", "features.2")


def run(*arguments, photograph="cat.jpg", model=OWN):
    return main(
        ["--image-path", photograph, "--target-index", "1", "--output-dir", "out", *model, *arguments]
    )


def records(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def expected(method, layer, **options):
    """The map as Python gives it."""
    classifier = load_classifier("tiny.py:Tiny", size=(32, 32))
    inputs = classifier.inputs(read_image("cat.jpg"))
    return explain(classifier.module, inputs, layer, 1, [method], **options).maps[method][0].numpy()


def test_the_list_of_methods_has_a_line_for_each_with_its_source(capsys):
    assert main(["--list-methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    assert all(
        method.source in line and method.says in line
        for line, method in zip(lines, METHODS.values(), strict=True)
    )


def test_methods_are_written_under_their_names_each_once(capsys):
    assert run("--method", "ablation-cam", "xgrad-cam", "ablation-cam", "--save-maps", "--json") == 0
    assert {path.name for path in Path("out").iterdir()} == {"ablation-cam.jpg", "X_cam.jpg", "maps.npz"}
    (record,) = records(capsys)
    assert list(record["files"]) == ["ablation-cam", "xgrad-cam"]
    maps = np.load("out/maps.npz")
    np.testing.assert_allclose(maps["ablation-cam"], expected("ablation-cam", "features.2"), rtol=1e-5)


def test_one_file_is_named_alone(capsys):
    assert run("--method", "layer-cam") == 0
    assert "wrote out/layer-cam.jpg\n" in capsys.readouterr().out


@pytest.mark.parametrize(("model", "applies"), [("tiny.py:Tiny", False), ("pooled.py:Pooled", True)])
def test_all_takes_the_methods_that_apply(capsys, model, applies):
    arguments = ("--model", model, "--input-size", "32")
    assert run("--method", "all", "--json", model=arguments) == 0
    output = capsys.readouterr()
    made = list(json.loads(output.out)["files"])
    assert made == (OF_ACTIVATION if applies else ANYWHERE)
    assert ("left out: cam needs" in output.err) is not applies


def test_what_does_not_apply_is_an_error_if_it_was_asked_for(capsys):
    assert run("--method", "cam") == 2
    assert "error: cam needs a network whose score" in capsys.readouterr().err


def test_a_wrong_method_is_told_before_a_photograph_is_read(capsys):
    assert run("--method", "gradcam", photograph="none.jpg") == 2
    assert "no method 'gradcam'; did you mean 'grad-cam'? there are:" in capsys.readouterr().err


def test_several_layers_give_a_map_each_and_the_fused(capsys):
    assert run("--target-layer", *MAPPED, "features.0", "--json", "--save-maps", "--panel") == 0
    found = records(capsys)
    assert [record["layer"] for record in found] == [*MAPPED, "features.0 + features.2"]
    assert [record["files"]["xgrad-cam"] for record in found] == [
        f"cat_1_{name}_X_cam.jpg" for name in (*MAPPED, "fused")
    ]
    for layer in MAPPED:
        maps = np.load(f"out/cat_1_{layer}_maps.npz")
        np.testing.assert_allclose(maps["xgrad-cam"], expected("xgrad-cam", layer), rtol=1e-5)
    assert not Path("out/cat_1_fused_maps.npz").exists()
    assert "conservation_error" not in found[2]
    pictures = [cv2.imread(f"out/cat_1_{name}_X_cam.jpg").astype(int) for name in (*MAPPED, "fused")]
    assert all(np.abs(pictures[2] - picture).mean() > 1 for picture in pictures[:2])


def test_one_layer_named_twice_is_one(capsys):
    assert run("--target-layer", "features.0") == 0
    alone = tree("out")
    shutil.rmtree("out")
    assert run("--target-layer", "features.0", "features.0") == 0
    assert alone.keys() == {"cam.jpg", "X_cam.jpg"}
    assert tree("out") == alone


def test_an_average_over_augmentations(capsys):
    assert run("--augment", "--save-maps") == 0
    averaged = np.load("out/maps.npz")["xgrad-cam"]
    np.testing.assert_allclose(averaged, expected("xgrad-cam", "features.2", augment=True), rtol=1e-5)
    assert np.abs(averaged - expected("xgrad-cam", "features.2")).max() > 0.01 * np.abs(averaged).max()


def test_axioms_are_printed_for_each_map(capsys):
    assert run("--axioms", "--method", "grad-cam", "xgrad-cam", "ablation-cam") == 0
    lines = re.findall(
        r"^([a-z-]+): conservation error ([\d.e-]+), sensitivity error ([\d.e-]+)$",
        capsys.readouterr().out,
        re.M,
    )
    assert [method for method, *_ in lines] == ["grad-cam", "xgrad-cam", "ablation-cam"]
    assert run("--axioms", "--json") == 0
    (record,) = records(capsys)
    for (method, conservation, sensitivity), name in zip(lines[:2], BOTH, strict=True):
        assert method == name
        assert float(conservation) == pytest.approx(record["conservation_error"][name], rel=1e-3)
        assert float(sensitivity) == pytest.approx(record["sensitivity_error"][name], rel=1e-3)
    assert run("--axioms", "--augment") == 2
    assert "leave out augment or axioms" in capsys.readouterr().err


def test_a_complete_map_comes_with_the_parts_of_the_score(capsys):
    assert run("--method", "complete-cam", "--json", "--save-maps") == 0
    (record,) = records(capsys)
    budget = record["budget"]
    terms = [budget[term] for term in ("feature", "bias", "bypass", "curvature", "nowhere")]
    assert sum(terms) == pytest.approx(record["score"], rel=1e-4)
    assert record["conservation_error"]["complete-cam"] < 1e-5
    maps = np.load("out/maps.npz")
    assert maps["complete-cam"].sum() + budget["nowhere"] == pytest.approx(record["score"], rel=1e-4)
    assert maps["constants_bias"].sum() == pytest.approx(budget["bias"], rel=1e-4, abs=1e-5)
    assert run("--json") == 0
    (record,) = records(capsys)
    assert set(record["budget"]) == {"feature"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--augment"], "an average over augmentations does not add up to the score"),
        (["--precision", "bf16"], "bf16 is too coarse for a map that adds up to the score"),
    ],
)
def test_where_nothing_adds_up_complete_maps_are_refused_and_left_out_of_all(options, reason, capsys):
    assert run("--method", "complete-cam", *options) == 2
    assert "complete-cam" in capsys.readouterr().err
    assert run("--method", "all", *options) == 0
    assert f"left out: complete-cam: {reason}" in capsys.readouterr().err
    assert not [path for path in tree("out") if "complete" in path]


def test_a_run_does_not_go_on_with_other_methods(capsys):
    noise("photos", 2)
    assert run("--html", photograph="photos") == 0
    for other in (["--method", "layer-cam"], ["--augment"], ["--target-layer", *MAPPED]):
        assert run("--html", "--resume", *other, photograph="photos") == 2
        assert "it had other settings for" in capsys.readouterr().err


def test_what_was_made_by_other_methods_is_no_photograph_of_a_later_run(capsys):
    shutil.copytree(EXAMPLES, "photos")
    before = find_photographs(["photos"], Path("elsewhere"))
    arguments = ["--method", "all", "--target-layer", *MAPPED, "--panel", "--html", "--output-dir", "photos"]
    assert run(*arguments) == 0
    assert len(list(Path("photos").glob("cat_1_*.jpg"))) == 3 * (len(ANYWHERE) + 1)
    assert find_photographs(["photos"], Path("elsewhere")) == before


def test_a_pattern_of_layers(capsys):
    assert run("--target-layer", "features.*", "--json") == 0
    assert [record["layer"] for record in records(capsys)] == [
        "features.0", "features.1", "features.2", "features.0 + features.1 + features.2",
    ]  # fmt: skip
    assert run("--target-layer", "*.2", "features.2", "--json") == 0
    (record,) = records(capsys)
    assert record["layer"] == "features.2"
    assert record["files"] == {"grad-cam": "cam.jpg", "xgrad-cam": "X_cam.jpg"}
    assert run("--target-layer", "all", "--json") == 0
    assert len(records(capsys)) == 3 + 1
    assert run("--target-layer", "head*") == 2
    assert "no layer of tiny.py:Tiny with feature maps matches 'head*'" in capsys.readouterr().err


def test_every_method_has_a_file_of_its_own(capsys):
    """On file systems, too, where upper and lower case are one."""
    assert run("--method", "all", "--json", "--guided", model=("--model", "pooled.py:Pooled")) == 0
    (record,) = records(capsys)
    assert set(record["files"]) == set(OF_ACTIVATION)
    names = [*record["files"].values(), *record["guided"].values()]
    assert len({name.lower() for name in names}) == len(names) == 2 * len(OF_ACTIVATION) + 1
    assert {Path(name).name for name in record["written"]} == {path.name for path in Path("out").iterdir()}


def test_guided_maps_are_written_and_named(capsys):
    assert run("--guided", "--json") == 0
    (record,) = records(capsys)
    assert record["guided"] == {"": "gb.jpg", "grad-cam": "cam_gb.jpg", "xgrad-cam": "X_cam_gb.jpg"}
    classifier = load_classifier("tiny.py:Tiny", size=(32, 32))
    inputs = classifier.inputs(read_image("cat.jpg"))
    guided = guided_backpropagation(classifier.module, inputs, 1)
    heatmap = explain(classifier.module, inputs, "features.2", 1).heatmap("xgrad-cam", (32, 32))
    for name, gradient in {"gb": guided, "X_cam_gb": guided_map(guided, heatmap)}.items():
        assert Path(f"out/{name}.jpg").read_bytes() == encode_jpeg(gradient_picture(gradient[0]))
    assert run("--guided", "--html", "--target-layer", *MAPPED, "--json") == 0
    found = records(capsys)
    assert found[2]["guided"]["grad-cam"] == "cat_1_fused_cam_gb.jpg"
    assert all(Path("out", name).is_file() for record in found for name in record["guided"].values())
