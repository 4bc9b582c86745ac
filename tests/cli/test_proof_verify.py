"""The command as a user runs it."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

import xgradcam
from tests.cli.support import BUNDLED, ROOT
from tests.support import (
    EXAMPLES,
    TinyNet,
    vgg16_state_dict,
)
from xgradcam.cli.proof_verify import main
from xgradcam.pictures.photograph import read_image
from xgradcam.proof import verify as identity

CAT = ("--image-path", str(EXAMPLES / "cat.jpg"))


CURVED = ("--model", "timm/mobilenetv3_small_050", "--weights", "none")


NUMBER = r"(-?\d[\d.e+-]*)"


RANDOM = "proof-verify: random weights: what follows says nothing about the photograph\n"


@pytest.fixture
def tiny(monkeypatch):
    """Stands for whatever model is asked for: a network of 5 unnamed classes, and its classifier."""
    half = (0.5, 0.5, 0.5)
    classifier = xgradcam.Classifier("tiny", TinyNet().eval().float(), (8, 8), half, half, None)
    monkeypatch.setattr("xgradcam.models.load.load_classifier", lambda *_, **__: classifier)
    return classifier


def prove(capsys, *arguments):
    """Exit code, stdout and stderr of one run on the cat."""
    code = main([*CAT, *arguments])
    return code, *capsys.readouterr()


def four(out):
    """The numbers of the originals' four lines, which follow the class of interest."""
    lines = out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("class of interest:  "))
    patterns = (
        "class score is ", r"gradients\*feature is ", "bias_term is ",
        r"class_score-gradients\*feature-bias_term= ",
    )  # fmt: skip
    found = [
        re.fullmatch(pattern + NUMBER, line)
        for pattern, line in zip(patterns, lines[start + 1 : start + 5], strict=True)
    ]
    assert all(found), lines
    return [float(match.group(1)) for match in found]


def reference(name, layer, target, weights="default", double=False):
    classifier = xgradcam.load_classifier(name, weights)
    inputs = classifier.inputs(read_image(EXAMPLES / "cat.jpg"))
    model = classifier.module
    if double:
        inputs, model = inputs.double(), model.double()
    return xgradcam.verify(model, inputs, layer, target)


def test_the_four_lines_are_the_originals_with_the_numbers_of_verify(capsys):
    code, out, err = prove(capsys, "--target-index", "285", *BUNDLED)
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[:3] == [
        "Using CPU for computation",
        "model efficientnet-lite0, layer bn2, float32",
        "class of interest:  n02124075 Egyptian cat",
    ]
    expected = reference("efficientnet-lite0", "bn2", 285)
    terms = [float(term) for term in (expected.score, expected.feature, expected.bias)]
    residual = float(expected.residual)
    assert four(out)[:3] == pytest.approx(terms, abs=1e-6)
    assert four(out)[3] == pytest.approx(residual, rel=1e-3)
    assert residual != 0
    assert lines[-1] == "verdict: Eq. 5 holds"
    ratio = float(expected.magnitude / expected.score.abs())
    assert lines[-2] == (
        f"|residual| {abs(residual):.3e} <= tolerance {float(expected.tolerance):.3e}, "
        f"magnitude/|score| {ratio:.4g}"
    )
    assert len(lines) == 9


def test_the_default_class_is_the_highest_score(capsys):
    _, first, _ = prove(capsys, *BUNDLED)
    assert prove(capsys, "--target-index", "-1", *BUNDLED)[1] == first
    assert "class of interest:  n02124075 Egyptian cat\n" in first
    assert prove(capsys, "--target-index", "0", *BUNDLED)[1] != first


def test_double_leaves_a_residual_of_float64(capsys):
    code, out, _ = prove(capsys, "--double", *BUNDLED)
    expected = reference("efficientnet-lite0", "bn2", None, double=True)
    assert code == 0
    assert "layer bn2, float64\n" in out
    assert four(out)[:3] == pytest.approx(
        [float(expected.score), float(expected.feature), float(expected.bias)], abs=1e-6
    )
    assert abs(four(out)[3]) < 1e-12
    assert f"tolerance {1e-12 * float(expected.score):.3e}," in out


def test_inside_a_residual_block_the_bias_term_is_bias_and_bypass(capsys):
    layer = "blocks.3.1.bn1"
    code, out, _ = prove(capsys, "--target-layer", layer, *BUNDLED)
    expected = reference("efficientnet-lite0", layer, None)
    bias, bypass = float(expected.bias), float(expected.bypass)
    assert abs(bypass) > 1
    assert code == 0
    assert four(out)[2] == pytest.approx(bias + bypass, abs=1e-6)
    assert f"bias_term is bias {bias:.6f} + bypass {bypass:.6f}:\n{layer} does not cut the network" in out
    assert "curvature" not in out
    assert "bypass" not in prove(capsys, *BUNDLED)[1]


def test_a_curved_network_closes_and_is_not_a_relu_cnn(capsys):
    layer = "blocks.3.1"
    code, out, err = prove(capsys, "--target-layer", layer, "--target-index", "3", *CURVED)
    expected = reference(CURVED[1], layer, 3, "none")
    assert code == 1
    assert err == RANDOM
    assert expected.closes.all()
    curvature, residual = float(expected.curvature), float(expected.residual)
    assert four(out)[3] == pytest.approx(curvature + residual, rel=1e-3)
    assert f"the difference is curvature {curvature:.6e} + residual {residual:.3e}\n" in out
    lines = out.splitlines()
    verdict = "verdict: not a ReLU-CNN: Eq. 5 does not hold by itself, only with the curvature added"
    assert lines[-1] == verdict

    curved = [term for term in expected.contributions if term.kind == "curvature"]
    share = {name: sum(float(t.value.abs()) for t in curved if t.operation == name) for name in
             ("mul", "hardswish")}  # fmt: skip
    total = sum(float(term.value.abs()) for term in curved)
    named = next(line for line in lines if line.startswith(f"curvature at {layer}: "))
    shares = dict(re.findall(r"([\w() ]+?) (\d+\.\d)%", named.split(": ", 1)[1].replace(", ", ",")))
    assert float(shares["mul (SqueezeExcite)"]) == pytest.approx(100 * share["mul"] / total, abs=0.051)
    assert float(shares["hardswish"]) == pytest.approx(100 * share["hardswish"] / total, abs=0.051)
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=0.3)


def test_many_curved_operations_are_summed_up(tiny, capsys):
    activations = (nn.SiLU(), nn.GELU(), nn.Tanh(), nn.Softplus(), nn.Sigmoid(), nn.Mish())
    tiny.module.classifier = nn.Sequential(nn.Linear(64, 5), *activations)
    assert prove(capsys, "--target-layer", "features.5")[0] == 1
    _, out, _ = prove(capsys, "--target-layer", "features.5")
    named = next(line for line in out.splitlines() if line.startswith("curvature at features.5: "))
    parts = [part.rsplit(" ", 1) for part in named.split(": ")[1].split(", ")]
    shares = [float(share.removesuffix("%")) for _, share in parts]
    assert [name for name, _ in parts][-1] == "others"
    assert len(parts) == 5
    assert shares[:4] == sorted(shares[:4], reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_a_network_of_tokens_is_no_relu_network(capsys):
    vit = ("--model", "timm/vit_tiny_patch16_224", "--weights", "none")
    code, out, _ = prove(capsys, *vit)
    assert code == 1
    assert "layer blocks.11.norm1" in out
    code, out, err = prove(capsys, *vit, "--target-layer", "blocks.10")
    assert code == 1
    assert err == RANDOM
    assert "curvature at blocks.10: layer_norm" in out
    assert "verdict: not a ReLU-CNN: Eq. 5 does not hold by itself" in out


def test_missing_terms_are_a_failure(tiny, capsys, monkeypatch):
    def forgetful(*arguments):
        found = joined(*arguments)
        return dataclasses.replace(found, contributions=found.contributions[1:])

    joined = identity._joined
    assert prove(capsys)[0] == 0
    monkeypatch.setattr(identity, "_joined", forgetful)
    code, out, _ = prove(capsys)
    assert code == 1
    assert out.endswith("verdict: Eq. 5 does not close: the terms do not sum to the score\n")
    assert re.search(r"\|residual\| \S+ > tolerance ", out)
    code, out, _ = prove(capsys, "--target-layer", "all")
    assert code == 1
    assert out.count("  open\n") > 0
    assert "open: Eq. 5 does not close" in out


def test_a_score_of_nothing_is_no_proof(tiny, capsys):
    nn.init.zeros_(tiny.module.classifier[2].weight)
    nn.init.zeros_(tiny.module.classifier[2].bias)
    code, out, _ = prove(capsys, "--json")
    assert code == 1
    assert json.loads(out)["holds"] is False
    code, out, _ = prove(capsys)
    assert code == 1
    assert out.endswith("verdict: nothing is verified: the score and all its terms are 0\n")


def test_a_score_near_nothing_is_called_a_cancellation(tiny, capsys):
    shown = tiny.inputs(read_image(EXAMPLES / "cat.jpg"))
    assert "cancellation" not in prove(capsys, "--target-index", "2")[1]
    with torch.no_grad():
        tiny.module.classifier[2].bias -= tiny.module(shown)[0] * (1 - 1e-5)
    code, out, _ = prove(capsys, "--target-index", "2")
    assert code == 0
    assert "the score is a cancellation" in out


def table(out):
    lines = out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("layer "))
    assert lines[start].split() == [
        "layer", "cells", "feature", "bias", "bypass", "curvature", "nowhere", "cancels", "residual",
        "verdict",
    ]  # fmt: skip
    rows = [line.split() for line in lines[start + 1 :] if re.match(r"\S+ +(-?\d|- |not verified)", line)]
    return lines[start], {row[0]: row[1:] for row in rows}


def test_all_layers_of_maps_are_a_table_in_the_order_of_execution(tiny, capsys):
    tiny.module.features.insert(6, nn.Identity())
    code, out, err = prove(capsys, "--target-layer", "all")
    assert code == 0
    assert err == ""
    header, rows = table(out)
    assert list(rows) == ["input", *(f"features.{place}" for place in range(6))]
    inputs = tiny.inputs(read_image(EXAMPLES / "cat.jpg"))
    for layer, row in rows.items():
        expected = xgradcam.verify(tiny.module, inputs, layer)
        shares = [100 * float(term / expected.score) for term in (expected.feature, expected.bias)]
        cells = [float(cell.removesuffix("%")) for cell in row[1:6]]
        # What the last linear layer adds has no place, nor has a constant of one cell.
        assert cells[0] == pytest.approx(shares[0], abs=0.051)
        assert cells[1] + cells[4] == pytest.approx(shares[1], abs=0.11)
        assert row[3:5] == ["0", "0"]
        assert float(row[6]) == pytest.approx(float(expected.magnitude / expected.score.abs()), abs=0.051)
        assert float(row[7]) == pytest.approx(float(expected.residual), rel=0.06)
        assert row[8] == "holds"
    assert rows["input"][0] == "8x8"
    summary = out.splitlines()[3:7]
    assert summary[0].startswith("class score is ")
    takes = [line.split(", ")[0] for line in summary[1:3]]
    assert [line.split()[:3] for line in takes] == [
        ["for", name, "take"] for name in ("xgrad-cam", "complete-cam")
    ]
    assert summary[3].startswith("7 of 7 layers hold; largest |residual|/tolerance 0.")
    lines = [line for line in out.splitlines() if line.startswith(("layer  ", "input  ", "features."))]
    assert {len(line.rsplit("  ", 1)[0]) for line in lines} == {len(header.rsplit("  ", 1)[0])}


def test_a_pattern_takes_any_module_and_says_why_one_cannot_be_verified(tiny, capsys):
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.ReLU()
            self.pair = Pair()
            self.lost = nn.ReLU()
            self.good = nn.Linear(64, 5)

        def forward(self, maps):
            self.lost(maps)
            return self.good(self.pair(self.shared(self.shared(maps)))[0])

    class Pair(nn.Module):
        def forward(self, maps):
            return maps, maps

    tiny.module.classifier = Strange()
    code, out, err = prove(capsys, "--target-layer", "*")
    assert code == 1
    assert err == ""
    _, rows = table(out)
    assert " ".join(rows["classifier.shared"]) == "not verified: runs more than once in a forward"
    assert " ".join(rows["classifier.pair"]) == "not verified: returns a tuple, not a tensor"
    assert " ".join(rows["classifier.lost"]) == "not verified: the score does not depend on the layer"
    assert rows["classifier.good"][-1] == rows["features"][-1] == "holds"
    total = len(rows)
    assert f"\n{total - 3} of {total} layers hold; " in out

    assert prove(capsys, "--target-layer", "classifier.g*")[0] == 0
    code, _, err = prove(capsys, "--target-layer", "classifier.[sp]*")
    assert code == 2
    assert err.startswith("proof-verify: error: none of these 2 layers can be verified: layer 'classifier.")
    code, _, err = prove(capsys, "--target-layer", "feature.*")
    assert code == 2
    assert "no layer of tiny matches 'feature.*'; did you mean 'features.*'" in err


@pytest.mark.parametrize("layer", ["features.0", "all"])
def test_batch_statistics_are_refused_with_the_reason(tiny, layer, capsys):
    tiny.module.features[1] = nn.BatchNorm2d(6, track_running_stats=False)
    tiny.module.features[2] = nn.BatchNorm2d(6, track_running_stats=False)
    code, out, err = prove(capsys, "--target-layer", layer)
    if layer == "all":  # behind the last of them nothing is wrong
        assert code == 1
        assert table(out)[1]["features.5"][-1] == "holds"
        assert "features.0  not verified: a batch normalisation behind the layer uses the stati" in out
    else:
        assert code == 2
        assert err.startswith("proof-verify: error: a batch normalisation behind the layer uses the statist")
        assert err.count("\n") == 1


def test_the_progress_bar_is_for_a_terminal_only(tiny, capsys, monkeypatch):
    def slow(*arguments):
        time.sleep(0.25)
        return joined(*arguments)

    joined = identity._joined
    monkeypatch.setattr(identity, "_joined", slow)
    assert prove(capsys, "--target-layer", "all")[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "layer" in prove(capsys, "--target-layer", "all")[2]
    monkeypatch.setattr(identity, "_joined", joined)
    assert "layer" not in prove(capsys, "--target-layer", "all")[2]


def test_json_is_one_object_with_the_numbers_of_verify(capsys):
    code, out, err = prove(capsys, "--json", "--target-layer", "blocks.3.1", *CURVED, "--target-index", "3")
    found = json.loads(out, parse_constant=pytest.fail)
    expected = reference(CURVED[1], "blocks.3.1", 3, "none")
    assert code == 1
    assert "verdict: not a ReLU-CNN" in err
    assert err.startswith("Using CPU for computation\n")
    assert {name: found[name] for name in ("model", "layer", "class_index", "class_name", "dtype")} == {
        "model": CURVED[1],
        "layer": "blocks.3.1",
        "class_index": 3,
        "class_name": "n01491361 tiger shark, Galeocerdo cuvieri",
        "dtype": "float32",
    }
    for term in ("score", "feature", "bias", "bypass", "curvature", "residual", "tolerance", "magnitude"):
        assert found[term] == pytest.approx(float(getattr(expected, term)), rel=1e-9), term
    assert (found["holds"], found["closes"]) == (False, True)
    assert found["contributions"] == [
        {"module": t.module, "operation": t.operation, "kind": t.kind, "value": pytest.approx(float(t.value))}
        for t in expected.contributions
    ]


def test_json_of_several_layers(tiny, capsys):
    _, out, _ = prove(capsys, "--json", "--target-layer", "features.[15]")
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["holds"] is True
    assert found["class_name"] == f"class {found['class_index']}"
    assert [row["layer"] for row in found["layers"]] == ["features.1", "features.5"]
    for row in found["layers"]:
        terms = sum(row[term] for term in ("feature", "bias", "bypass", "curvature", "residual"))
        assert row["score"] == pytest.approx(terms)
        assert row["verdict"] == "Eq. 5 holds"
    tiny.module.features[5] = nn.MaxPool2d(2, return_indices=True)
    tiny.module.features.forward = lambda maps: maps_of(tiny.module.features, maps)
    code, out, _ = prove(capsys, "--json", "--target-layer", "features.[15]")
    found = json.loads(out, parse_constant=pytest.fail)
    assert code == 1
    assert found["holds"] is False
    assert found["layers"][1] == {
        "layer": "features.5",
        "holds": False,
        "problem": "layer 'features.5' returns a tuple, not a tensor: take one inside it",
    }


def maps_of(features, maps):
    for module in features:
        result = module(maps)
        maps = result[0] if isinstance(result, tuple) else result
    return maps


def test_the_plot_is_of_all_layers_unless_one_is_named(tiny, capsys):
    code, out, err = prove(capsys, "--plot", "new/folder/split.png")
    assert code == 0
    assert err == ""
    assert out.splitlines()[-1] == "wrote new/folder/split.png"
    assert list(table(out)[1]) == ["input", *(f"features.{place}" for place in range(6))]
    picture = cv2.imread("new/folder/split.png")[:, :, ::-1]
    assert picture.shape[0] > 500
    assert picture.shape[1] > 700
    for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)):
        assert np.mean((picture == colour).all(axis=2)) > 0.005
    assert os.listdir("new/folder") == ["split.png"]
    first = Path("new/folder/split.png").read_bytes()
    prove(capsys, "--plot", "new/folder/split.png")
    assert Path("new/folder/split.png").read_bytes() == first

    code, out, _ = prove(capsys, "--plot", "one.SVG", "--target-layer", "features.3")
    assert code == 0
    assert len(four(out)) == 4
    written = Path("one.SVG").read_text()
    for text in (
        "features.3",
        "contribution to the class score (logit)",
        "tiny, float32",
        "how Eq. 5 splits",
    ):
        assert text in written
    assert "features.2" not in written


def test_bad_input_is_one_line_with_the_remedy_and_writes_nothing(capsys):
    Path("file").touch()
    Path("folder.png").mkdir()
    before = sorted(os.listdir())
    for arguments, message in (
        (["--target-layer", "bn3"], "no layer 'bn3' in this EfficientNetLite0; did you mean 'bn"),
        (["--target-layer", "block.*"], "matches 'block.*'; did you mean 'blocks.*'"),
        (["--target-index", "1000"], "no class 1000: this model's classes are 0 to 999"),
        (["--target-index", "-2", "--target-layer", "all"], "no class -2: this model's"),
        (["--plot", "split.gif"], "cannot draw split.gif: its name must end in .png, .pdf, .svg"),
        (["--plot", "split"], "cannot draw split: its name must end in"),
        (["--plot", "folder.png"], "cannot write folder.png: a folder has that name"),
        (["--plot", "file/split.png"], "cannot make the folder file"),
        (["--device", "toaster"], "no device 'toaster'"),
        (["--weights", "missing.pth"], "cannot read weights missing.pth: No such file"),
    ):
        code, out, err = prove(capsys, *arguments, *BUNDLED)
        assert code == 2, arguments
        assert err.startswith("proof-verify: error: "), err
        assert message in err
        assert err.count("\n") == 1, err
        assert "class score" not in out
        assert sorted(os.listdir()) == before


def test_a_photograph_that_is_not_there_is_one_line(capsys):
    assert main(["--image-path", "missing.jpg", *BUNDLED]) == 2
    assert capsys.readouterr().err == "proof-verify: error: no such image: missing.jpg\n"


def test_a_photograph_is_missing(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("proof-verify: error: which photograph?")


def test_list_layers_needs_no_photograph(capsys):
    assert main(["--list-layers", *BUNDLED]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("<- default")] == ["bn2"]
    assert len(lines) > 100


def test_help_is_quick_and_shows_an_example():
    script = str(ROOT / "scripts" / "Proof_verify.py")
    run = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--help"], capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert "  proof-verify photo.jpg --plot split.png --maps maps\n" in run.stdout
    assert "'features.*'" in run.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in run.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "numpy", "cv2", "matplotlib", "torchvision", "timm", "tqdm"}


@pytest.mark.slow
def test_the_script_of_a_clone_runs_from_anywhere_and_into_a_closed_pipe():
    for folder in ("xgradcam", "scripts"):
        shutil.copytree(ROOT / folder, Path("clone") / folder)
    arguments = ["clone/scripts/Proof_verify.py", *CAT, "--target-index", "285", *BUNDLED]
    run = subprocess.run(
        [sys.executable, "-I", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert run.stdout.endswith("verdict: Eq. 5 holds\n")
    piped = subprocess.run(
        f"{sys.executable} -I {' '.join(arguments)} --json --target-layer 'blocks.5.*' | head -1",
        shell=True, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert piped.stdout == "{\n"
    for noise in ("Traceback", "BrokenPipe", "Warning"):
        assert noise not in piped.stderr


@pytest.mark.slow
def test_the_four_numbers_are_the_originals_on_their_vgg16(tmp_path, monkeypatch, capsys):
    checkpoint = tmp_path / "cache" / "hub" / "checkpoints" / "vgg16-397923af.pth"
    checkpoint.parent.mkdir(parents=True)
    torch.save(vgg16_state_dict(0), checkpoint)
    Image.fromarray(data.chelsea()).save("chelsea.png")
    for case in ("vgg16_seed0_chelsea_282", "vgg16_seed0_chelsea_argmax"):
        with np.load(ROOT / "tests" / "golden" / f"{case}.npz") as arrays:
            target, proof = arrays["target"].item(), arrays["proof"]
        code = main(["--image-path", "chelsea.png", "--target-index", str(target)])
        out, err = capsys.readouterr()
        assert code == 0
        assert err == ""
        assert "model vgg16, layer features.30, float32" in out
        assert four(out) == pytest.approx(proof.tolist(), abs=1e-4)
        assert abs(proof[1]) > 0.1
        assert 0 < abs(four(out)[3]) < 1e-4
    checkpoint.unlink()


def test_a_photograph_from_stdin(both, capsys):
    command = "import sys; from xgradcam.cli.proof_verify import main; sys.exit(main())"
    options = ["--target-index", "285", *BUNDLED]
    run = subprocess.run(
        [sys.executable, "-c", command, "--image-path", "-", *options],
        input=both.read_bytes(), capture_output=True, check=True,
    )  # fmt: skip
    assert main(["--image-path", str(both), *options]) == 0
    assert run.stdout.decode() == capsys.readouterr().out
    assert b"verdict: Eq. 5 holds" in run.stdout


def test_one_class_is_all_it_takes(capsys, both):
    assert main(["--image-path", str(both), "--target-index", "top3"]) == 2
    assert "--target-index is top3: proof-verify takes one class" in capsys.readouterr().err


def test_the_input_and_auto_are_layers(capsys):
    code, out, _ = prove(capsys, "--target-layer", "input", "--target-index", "285", *BUNDLED)
    expected = reference("efficientnet-lite0", "input", 285)
    assert code == 0
    assert four(out)[1] == pytest.approx(float(expected.feature), abs=1e-5)
    assert "does not cut" not in out
    code, out, _ = prove(capsys, "--target-layer", "auto", "--target-index", "285", *BUNDLED)
    assert code == 0
    assert out.splitlines()[1].startswith("layer bn2: the finest layer that suits: its features are 100% of")
    assert "model efficientnet-lite0, layer bn2, float32" in out
    assert main(["--list-layers", *BUNDLED]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split() == ["input", "Tensor", *"1 x 3 x 224 x 224".split(), "channels-first"]


def test_a_contrast_is_the_score_less_those_of_other_classes(tiny, capsys):
    inputs = tiny.inputs(read_image(EXAMPLES / "cat.jpg"))
    contrast = xgradcam.Contrast(2, (0, 4))
    expected = xgradcam.verify(tiny.module, inputs, "features.3", score=contrast)
    options = ("--target-index", "2", "--contrast", "0", "4")
    code, out, _ = prove(capsys, "--target-layer", "features.3", *options)
    assert code == 0
    assert four(out)[:2] == pytest.approx([float(expected.score), float(expected.feature)], abs=1e-6)
    with torch.no_grad():
        logits = tiny.module(inputs)[0]
    assert four(out)[0] == pytest.approx(float(logits[2] - (logits[0] + logits[4]) / 2), abs=1e-6)
    assert "class of interest:  class 2 in contrast to class 0, class 4\n" in out
    found = json.loads(prove(capsys, "--json", "--target-layer", "all", *options)[1])
    assert [one["class_index"] for one in found["contrast"]] == [0, 4]
    assert found["layers"][4]["feature"] == pytest.approx(float(expected.feature), rel=1e-6)
    assert set(found["chosen"]) == {"xgrad-cam", "complete-cam"}
    code, _, err = prove(capsys, "--target-index", "2", "--contrast", "2")
    assert code == 2
    assert "--contrast has the class of interest, 2" in err


def test_maps_are_the_complete_maps_and_replace_no_file_of_others(tiny, capsys):
    code, out, _ = prove(capsys, "--maps", "new/maps", "--target-index", "2")
    assert code == 0
    assert out.splitlines()[-1] == f"wrote {Path('new/maps/maps.png')} and {Path('new/maps/maps.npz')}"
    inputs = tiny.inputs(read_image(EXAMPLES / "cat.jpg"))
    with np.load("new/maps/maps.npz") as arrays:
        found = dict(arrays)
    assert list(found) == ["input", *(f"features.{place}" for place in range(6))]
    for layer, signed in found.items():
        expected = xgradcam.explain(tiny.module, inputs, layer, 2, ["complete-cam"])
        assert signed.dtype == np.float32
        np.testing.assert_allclose(signed, expected.maps["complete-cam"][0].numpy(), rtol=1e-5, atol=1e-6)
    with Image.open("new/maps/maps.png") as picture:
        assert picture.size[0] > 1000
    before = {path.name: path.read_bytes() for path in Path("new/maps").iterdir()}
    assert prove(capsys, "--maps", "new/maps", "--target-index", "2")[0] == 0
    assert {path.name: path.read_bytes() for path in Path("new/maps").iterdir()} == before
    for name, content in (("maps.npz", b"mine"), ("maps.png", b"mine")):
        Path("new/maps", name).write_bytes(content)
        code, _, err = prove(capsys, "--maps", "new/maps")
        assert code == 2
        assert f"{Path('new/maps', name)} is there already, and no file of proof-verify" in err
        assert Path("new/maps", name).read_bytes() == content
        Path("new/maps", name).write_bytes(before[name])
    for kind in ("jpg", "pdf", "svg"):
        code, out, _ = prove(capsys, "--maps", f"new/{kind}", "--format", kind, "--target-index", "2")
        assert code == 0
        assert (
            out.splitlines()[-1]
            == f"wrote {Path('new', kind, f'maps.{kind}')} and {Path('new', kind, 'maps.npz')}"
        )
        assert sorted(os.listdir(f"new/{kind}")) == sorted([f"maps.{kind}", "maps.npz"])
        assert Path(f"new/{kind}/maps.npz").read_bytes() == before["maps.npz"]
        content = Path(f"new/{kind}/maps.{kind}").read_bytes()
        assert content.startswith({"jpg": b"\xff\xd8", "pdf": b"%PDF-", "svg": b"<?xml"}[kind])
        # Written anew over its own, and over no other.
        assert prove(capsys, "--maps", f"new/{kind}", "--format", kind, "--target-index", "2")[0] == 0
        assert Path(f"new/{kind}/maps.{kind}").read_bytes() == content
        Path(f"new/{kind}/maps.{kind}").write_bytes(content + b" ")
        code, _, err = prove(capsys, "--maps", f"new/{kind}", "--format", kind)
        assert code == 2
        assert "and no file of proof-verify" in err
    words = Path("new/svg/maps.svg").read_text()
    for text in (">features.3, ", ", features ", "complete maps", "of each map", "photograph"):
        assert text in words
    code, _, err = prove(capsys, "--format", "pdf")
    assert code == 2
    assert "--format is of the figure of --maps: give --maps, too" in err
    code, _, err = prove(capsys, "--maps", "new/maps", "--plot", "new/maps/maps.png")
    assert code == 2
    assert "--plot and --maps would both write" in err
