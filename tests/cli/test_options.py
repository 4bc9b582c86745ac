"""Options of the command: classes, models, pictures, what is printed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import xgradcam
from tests.cli.support import BUNDLED, OWN, load_own, maps_in, tree
from tests.support import (
    EXAMPLES,
)
from xgradcam import heatmap
from xgradcam.cli.xgrad_cam import main
from xgradcam.pictures.photograph import read_image

pytestmark = pytest.mark.usefixtures("own_models")


def test_saved_maps_are_signed_and_unscaled(both):
    main(["--image-path", str(both), "--target-index", "285", "--save-maps", *BUNDLED])
    classifier = xgradcam.load_classifier("efficientnet-lite0")
    expected = xgradcam.explain(classifier.module, classifier.inputs(read_image(both)), "bn2", 285)
    with np.load("maps.npz") as saved:
        np.testing.assert_allclose(saved["xgrad-cam"], expected.maps["xgrad-cam"][0], atol=1e-5)
        np.testing.assert_allclose(saved["scores"], expected.logits[0], atol=1e-5)
        assert saved["xgrad-cam"].min() < 0
        assert saved["class_index"] == 285


def test_json_is_one_object_a_line_and_all_text_is_on_stderr(photos, capsys):
    assert (
        main(["--image-path", photos, "--target-index", "top2", "--json", "--output-dir", "out", *BUNDLED])
        == 1
    )
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record["image"], record["rank"]) for record in records] == [
        ("photos/a.jpg", 1), ("photos/a.jpg", 2), ("photos/b.jpg", 1), ("photos/b.jpg", 2),
        ("photos/below/a.jpg", 1), ("photos/below/a.jpg", 2),
    ]  # fmt: skip
    first = records[0]
    assert (first["class_index"], first["class_name"]) == (285, "n02124075 Egyptian cat")
    assert (first["model"], first["layer"]) == ("efficientnet-lite0", "bn2")
    assert first["files"] == {"grad-cam": "a_285_cam.jpg", "xgrad-cam": "a_285_X_cam.jpg"}
    assert all(Path("out", file).is_file() for record in records for file in record["files"].values())
    assert first["score"] == pytest.approx(10.7539, abs=1e-3)
    assert first["probability"] == pytest.approx(0.809, abs=1e-3)
    # The bias term of Eq. 5 here is 0.0247.
    assert first["conservation_error"]["xgrad-cam"] == pytest.approx(0.0247 / 10.7539, rel=0.01)
    assert first["notes"][0].startswith("the two maps coincide")
    assert "Using CPU for computation" in err


def test_classes_by_name_by_rank_and_by_index_each_once(both, capsys):
    arguments = ["--image-path", str(both), "--output-dir", "out", *BUNDLED]
    assert main([*arguments, "--target-index", "espresso", "top1", "967", "Egyptian cat"]) == 0
    assert sorted({name.split("_")[1] for name in tree("out") if name.endswith(".jpg")}) == [
        "282",
        "285",
        "967",
    ]
    assert main([*arguments, "--target-index", "crane"]) == 2
    assert "'crane' may be class 134" in capsys.readouterr().err
    assert main([*arguments, "--target-index", "no such animal"]) == 2
    assert "no class is named 'no such animal'" in capsys.readouterr().err


def test_arguments_from_a_file(both, capsys):
    Path("settings.txt").write_text(
        f'--image-path "{both}"\n--model efficientnet-lite0 --target-index espresso\n'
    )
    assert main(["@settings.txt"]) == 0
    assert "n07920052 espresso" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"--model 'vgg16", b"\xff\xfe", b"@settings.txt"])
def test_a_file_of_arguments_that_cannot_be_read_is_one_line(content, capsys):
    Path("settings.txt").write_bytes(content)
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["@settings.txt"])
    err = capsys.readouterr().err
    assert err.startswith("xgrad-cam: error: ")
    assert err.count("\n") == 1


def test_an_argument_that_cannot_be_printed_is_quoted_in_one_line(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["--\udcff\n.png"])
    said = "no option --\\udcff\\n.png (xgrad-cam --help shows the options)"
    assert capsys.readouterr().err == f"xgrad-cam: error: {said}\n"


def test_quiet_says_nothing_but_errors(photos, capsys):
    assert main(["--image-path", photos, "--quiet", "--output-dir", "out", *BUNDLED]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        "error",
        "3 photographs explained, 1 failed; in out",
    ]


def test_verbose_has_the_notes_of_each(photos, capsys):
    assert main(["--image-path", photos, "--verbose", "--output-dir", "out", *BUNDLED]) == 1
    assert capsys.readouterr().err.count("the two maps coincide here") == 3


def test_full_resolution_crop_panel_and_colours(both, capsys):
    arguments = ["--image-path", str(both), "--target-index", "967", *BUNDLED]
    assert main([*arguments, "--output-dir", "plain"]) == 0
    assert main([*arguments, "--full-resolution", "--panel", "--output-dir", "full"]) == 0
    wrote = "wrote full/cam.jpg, full/X_cam.jpg, full/complete-cam.jpg and full/panel.jpg\n"
    assert capsys.readouterr().out.endswith(wrote)
    assert main([*arguments, "--colormap", "viridis", "--alpha", "0.4", "--output-dir", "colours"]) == 0
    assert main([*arguments, "--crop", "--full-resolution", "--output-dir", "crop"]) == 0
    plain, full, colours, crop = (
        read_image(f"{folder}/X_cam.jpg").astype(float) for folder in ("plain", "full", "colours", "crop")
    )
    photograph = read_image(both)
    assert plain.shape == colours.shape == (224, 224, 3)
    assert full.shape == crop.shape == photograph.shape
    assert read_image("full/panel.jpg").shape[1] > 3 * photograph.shape[1]
    assert np.abs(plain - colours).mean() > 10
    # The corner is outside of the crop: dimmed, and without a map.
    corner = np.s_[:20, :20]
    assert crop[corner].mean() == pytest.approx(0.35 * photograph[corner].mean(), rel=0.1)
    assert full[corner].mean() != pytest.approx(crop[corner].mean(), rel=0.3)


def test_wrong_pictures_are_refused_before_a_model_is_loaded(both, capsys):
    arguments = ["--image-path", str(both), "--model", "vgg61"]
    for wrong, message in (
        (["--colormap", "virids"], "no colour map 'virids'; did you mean 'viridis'"),
        (["--alpha", "2"], "alpha 2 is not between 0"),
        (["--batch-size", "0"], "the batch size is 0: take 1 or more"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["--image-path", str(both), "--crop", *OWN]) == 2
    assert "has no known resize before a centre crop" in capsys.readouterr().err


def test_an_own_model_with_labels_and_scores_in_a_dictionary(both, capsys):
    Path("wrapped.py").write_text(
        "from torch import nn\nfrom tiny import Tiny\n\n"
        "class Wrapped(Tiny):\n    def forward(self, images):\n"
        "        return {'logits': super().forward(images)}\n"
    )
    Path("labels.txt").write_text("north\neast\nsouth\nwest\n")
    torch.save({"state_dict": load_own().state_dict()}, "checkpoint.pth")
    arguments = [
        "--image-path", str(both), "--model", "wrapped.py:Wrapped", "--weights", "checkpoint.pth",
        "--input-size", "32",
        "--labels", "labels.txt", "--mean", "0", "0", "0", "--std", "1", "1", "1", "--target-index", "west",
    ]  # fmt: skip
    assert main(arguments) == 2
    assert "choose one of its tensors with --output: logits" in capsys.readouterr().err
    assert main([*arguments, "--output", "logits"]) == 0
    assert "class of interest:  west" in capsys.readouterr().out
    for wrong, message in (
        (["--input-size", "0"], "the input size is 0: give height and width"),
        (["--std", "1", "0", "1"], "the std has a value that is not above 0"),
        (["--num-classes", "0"], "the number of classes is 0"),
        (["--labels", "no-labels.txt"], "cannot read labels no-labels.txt"),
    ):
        assert main([*arguments, "--output", "logits", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_label_that_begins_with_top_is_a_class(both, capsys):
    Path("labels.txt").write_text("topaz\neast\nsouth\nwest\n")
    assert main(["--image-path", str(both), "--labels", "labels.txt", "--target-index", "topaz", *OWN]) == 0
    assert "class of interest:  topaz" in capsys.readouterr().out
    assert Path("cam.jpg").exists()


def test_bf16_gives_nearly_the_same_heatmaps_in_float32():
    photograph = (
        "--image-path",
        str(EXAMPLES / "cat-and-coffee.jpg"),
        "--save-maps",
        "--target-index",
        "285",
    )
    main([*photograph, "--output-dir", "exact", *BUNDLED])
    main([*photograph, "--output-dir", "coarse", "--precision", "bf16", *BUNDLED])
    (exact,), (coarse,) = (maps_in(folder).values() for folder in ("exact", "coarse"))
    assert coarse["scores"].dtype == coarse["xgrad-cam"].dtype == np.float32
    assert np.abs(coarse["scores"] - exact["scores"]).max() < 0.2
    for method in ("grad-cam", "xgrad-cam"):
        found, expected = (
            heatmap(torch.from_numpy(each[method])[None], (224, 224)) for each in (coarse, exact)
        )
        difference = (found - expected).abs().max()
        assert 0 < difference < 0.1


def test_what_bf16_rounds_away_is_refused_or_left_out(both, capsys):
    start = ["--image-path", str(both), "--output-dir", "out", *OWN, "--precision", "bf16"]
    for asked in (["--axioms"], ["--method", "ablation-cam"], ["--method", "all", "--axioms"]):
        assert main([*start, *asked]) == 2
        assert "compute in float32" in capsys.readouterr().err
    assert not Path("out").exists()
    assert main([*start, "--method", "all"]) == 0
    assert "left out: ablation-cam" in capsys.readouterr().err
    assert not Path("out/ablation-cam.jpg").exists()
    assert Path("out/score-cam.jpg").exists()


def test_cam_in_bf16(both):
    coffee = [
        "--image-path",
        str(EXAMPLES / "coffee.jpg"),
        *BUNDLED,
        "--method",
        "cam",
        "grad-cam",
        "--save-maps",
    ]
    assert main([*coffee, "--precision", "bf16"]) == 0
    with np.load("maps.npz") as maps:
        np.testing.assert_allclose(maps["cam"] / 49, maps["grad-cam"], rtol=0.02, atol=1e-3)
