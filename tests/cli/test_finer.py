"""The complete map of a finer layer, beside the first pictures of the bundled network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import xgradcam
from tests.cli.support import BUNDLED, OWN
from tests.support import EXAMPLES
from xgradcam.cli.xgrad_cam import main
from xgradcam.models.efficientnet_lite0 import FINER_LAYER
from xgradcam.pictures.paint import EVEN
from xgradcam.pictures.photograph import read_image

CAT = str(EXAMPLES / "cat.jpg")
TWO = {"cam.jpg", "X_cam.jpg"}


def made(*arguments):
    assert main([CAT, "--output-dir", "out", *BUNDLED, *arguments]) == 0
    return {path.name for path in Path("out").iterdir()}


def test_it_is_the_complete_map_of_that_layer_beside_two_maps_that_coincide(both, capsys):
    assert main([str(both), "--target", "espresso", *BUNDLED]) == 0
    out, err = capsys.readouterr()
    assert "cam.jpg and X_cam.jpg are the same" in out
    assert f"complete-cam.jpg shows all of the score at a finer layer, {FINER_LAYER}\n" in out
    assert err == ""
    classifier = xgradcam.load_classifier("efficientnet-lite0")
    photograph = read_image(both)
    inputs = classifier.inputs(photograph)
    found = xgradcam.explain(classifier.module, inputs, FINER_LAYER, 967, ["complete-cam", "xgrad-cam"])
    assert found.maps["complete-cam"].shape == (1, 14, 14)
    hot = np.asarray(found.heatmap("complete-cam", (224, 224))[0])
    scene = classifier.framing().scene(photograph)
    expected = xgradcam.overlay_heatmap(scene, hot, EVEN).astype(float)
    last, two, three = (
        read_image(name).astype(float) for name in ("cam.jpg", "X_cam.jpg", "complete-cam.jpg")
    )
    # JPEG rounds; of 255.
    assert np.abs(three - expected).mean() < 3
    assert np.abs(last - two).mean() < 1 < 10 < np.abs(three - two).mean()
    # The cup is in the right half, and so is the evidence for it; a plain map of that layer marks the cat.
    shares = [hot[:, 112:].sum() / hot.sum()]
    plain = np.asarray(found.heatmap("xgrad-cam", (224, 224))[0])
    shares.append(plain[:, 112:].sum() / plain.sum())
    assert shares[0] > 0.9 > 0.5 > shares[1]


@pytest.mark.parametrize(
    "chosen",
    [
        ["--method", "grad-cam", "xgrad-cam"],
        ["--target-layer", "bn2"],
        # It would not add up to the score.
        ["--augment"],
        ["--precision", "bf16"],
    ],
)
def test_what_is_chosen_stays_as_it_is(chosen, capsys):
    assert made(*chosen) == TWO
    assert "the two maps coincide here" in capsys.readouterr().err


def test_another_network_stays_as_it_is(own_models):
    assert main([CAT, *OWN]) == 0
    assert not Path("complete-cam.jpg").exists()


def test_several_classes_photographs_and_a_page_stay_as_they_are(photos):
    for arguments in ([CAT, "--target", "top2"], ["photos/a.jpg", "photos/b.jpg"], [CAT, "--html"]):
        assert main([*arguments, "--output-dir", "out", *BUNDLED]) == 0
    assert not list(Path("out").glob("*complete*"))


def test_a_folder_is_told_the_layer_and_the_method_of_finer_maps(photos, capsys):
    shutil.rmtree("photos/below")
    Path("photos/broken.jpg").unlink()
    assert main(["photos", "--output-dir", "out", *BUNDLED]) == 0
    err = capsys.readouterr().err
    advice = f"--target-layer {FINER_LAYER} --method complete-cam"
    assert "note: 2 of 2 explanations: the two maps coincide here" in err
    assert f"an earlier layer tells the methods apart, and {advice} shows all of the score there\n" in err
    assert main(["photos", "--output-dir", "finer", *BUNDLED, *advice.split()]) == 0
    assert sorted(path.name for path in Path("finer").glob("*.jpg")) == [
        "a_285_complete-cam.jpg", "b_967_complete-cam.jpg",
    ]  # fmt: skip
    assert "coincide" not in capsys.readouterr().err


def test_json_has_one_object_that_names_the_layer_of_each(capsys):
    made("--json")
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert record["layer"] == "bn2"
    assert record["files"] == {
        "grad-cam": "cam.jpg", "xgrad-cam": "X_cam.jpg", "complete-cam": "complete-cam.jpg",
    }  # fmt: skip
    assert record["finer_layer"] == {"complete-cam": FINER_LAYER}
    assert set(record["conservation_error"]) == {"grad-cam", "xgrad-cam"}
    assert record["notes"][0].startswith("the two maps coincide")


def test_beside_it_the_other_files_are_of_the_chosen_layer_and_the_panel_shows_all(capsys):
    files = made("--panel", "--guided", "--save-maps")
    assert files == TWO | {
        *("complete-cam.jpg", "panel.jpg", "maps.npz", "gb.jpg", "cam_gb.jpg", "X_cam_gb.jpg"),
    }
    with np.load("out/maps.npz") as maps:
        assert {"grad-cam", "xgrad-cam"} == set(maps) - {"scores", "class_index"}
        assert maps["grad-cam"].shape == (7, 7)
    width = read_image("out/panel.jpg").shape[1]
    made("--panel", "--method", "xgrad-cam")
    # Four pictures beside two.
    assert width / read_image("out/panel.jpg").shape[1] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("is_read", [False, True])
def test_a_file_of_that_name_is_left_alone(is_read):
    Path("out").mkdir()
    content = Path(CAT).read_bytes()
    Path("out/complete-cam.jpg").write_bytes(content)
    photograph = "out/complete-cam.jpg" if is_read else CAT
    assert main([photograph, "--output-dir", "out", *BUNDLED]) == 0
    assert {path.name for path in Path("out").iterdir()} == TWO | {"complete-cam.jpg"}
    assert Path("out/complete-cam.jpg").read_bytes() == content


def test_it_is_written_anew_by_the_next_run():
    made()
    before = Path("out/complete-cam.jpg").read_bytes()
    made("--target", "espresso")
    assert Path("out/complete-cam.jpg").read_bytes() != before
