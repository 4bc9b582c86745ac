"""The layer that is chosen by the budget, on small networks and on the bundled one."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import xgradcam
from tests.cli.support import BUNDLED
from tests.proof.support import random, redrawn
from tests.support import EXAMPLES
from xgradcam.cli.xgrad_cam import main
from xgradcam.runs.choice import LEFT_OUT, MAP, TERMS


def linear(bias: bool) -> nn.Module:
    """Two convolutions that only averages and a linear layer follow; positive throughout."""
    model = redrawn(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1, stride=2, bias=bias), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3, bias=bias),
        )
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data.abs_()
    return model


INPUTS = random(2, 3, 8, 8, seed=1).abs()


@pytest.mark.parametrize("method", ["xgrad-cam", "grad-cam", "complete-cam", "complete-xgrad-cam"])
def test_without_constants_the_finest_layer_is_the_latest_of_the_most_cells(method: str) -> None:
    chosen = xgradcam.choose_layer(linear(bias=False), INPUTS, 0, method)
    assert (chosen, chosen.trusted) == ("1", True)
    assert chosen.reason.startswith("the finest layer that suits: its ")


def test_where_constants_are_the_score_only_a_complete_map_can_be_finer() -> None:
    model = linear(bias=True)
    model[0].bias.data *= 0
    model[2].bias.data *= 100
    assert xgradcam.choose_layer(model, INPUTS, 0) == "3"
    assert xgradcam.choose_layer(model, INPUTS, 0, "complete-cam") == "1"
    both = xgradcam.choose_layer(model, INPUTS, 0, ["complete-cam", "xgrad-cam"])
    assert (both, both.trusted) == ("3", True)
    assert "features are" in both.reason
    assert "complete map leaves out" in both.reason


def test_where_none_suits_it_is_the_default_layer_and_says_so() -> None:
    model = linear(bias=True)
    model[6].bias.data *= 1000
    for method in ("xgrad-cam", "complete-cam"):
        chosen = xgradcam.choose_layer(model, INPUTS, 0, method)
        assert (chosen, chosen.trusted) == ("3", False)
        assert chosen.reason.startswith("no layer suits, so the default: its ")
    chosen = xgradcam.choose_layer(model, INPUTS, 0, "eigen-cam")
    assert (chosen, chosen.trusted) == ("3", False)
    assert "eigen-cam cannot be judged by a budget" in chosen.reason


def test_one_sample_that_does_not_suit_is_enough() -> None:
    model = linear(bias=True)
    for place, share in ((0, 0), (2, 0.01), (6, 0.01)):
        model[place].bias.data *= share
    dark = torch.cat([INPUTS[:1], 1e-4 * INPUTS[1:]])
    assert xgradcam.choose_layer(model, INPUTS, 0) == "1"
    assert xgradcam.choose_layer(model, dark, 0) == "3"


def test_a_score_of_ones_own_and_a_choice_that_is_kept() -> None:
    score = xgradcam.Contrast(0, (1,))
    chosen = xgradcam.choose_layer(linear(bias=False), INPUTS, score=score)
    assert pickle.loads(pickle.dumps(chosen)).reason == chosen.reason
    with pytest.raises(xgradcam.XGradCamError, match="targets and score"):
        xgradcam.choose_layer(linear(bias=False), INPUTS, 0, score=score)
    with pytest.raises(xgradcam.XGradCamError, match="no class 7"):
        xgradcam.choose_layer(linear(bias=False), INPUTS, 7, "complete-cam")


def test_on_the_bundled_network_the_numbers_are_within_the_bounds() -> None:
    classifier = xgradcam.load_classifier("efficientnet-lite0")
    inputs = classifier.inputs(xgradcam.read_image(EXAMPLES / "cat.jpg"))
    plain = xgradcam.choose_layer(classifier.module, inputs)
    found = xgradcam.verify(classifier.module, inputs, plain)
    assert plain == "bn2"
    assert float((found.feature / found.score - 1).abs()) <= LEFT_OUT
    assert float(found.magnitude / found.score.abs()) <= TERMS
    complete = xgradcam.choose_layer(classifier.module, inputs, methods="complete-cam")
    explained = xgradcam.explain(classifier.module, inputs, complete, methods=["complete-cam"])
    signed = explained.maps["complete-cam"]
    assert signed.shape == (1, 14, 14)
    assert float(signed.abs().sum() / explained.score) <= MAP
    finer = xgradcam.explain(classifier.module, inputs, "blocks.3.0.bn1", methods=["complete-cam"])
    assert float(finer.maps["complete-cam"].abs().sum() / finer.score) > MAP


def test_the_command_takes_auto_and_the_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--image-path", str(EXAMPLES / "cat.jpg"), *BUNDLED, "--output-dir", str(tmp_path))
    assert main([*common, "--method", "complete-cam", "--target-layer", "auto"]) == 0
    out, err = capsys.readouterr()
    assert "model efficientnet-lite0, layer blocks.5.0.bn1" in out
    assert "note: layer blocks.5.0.bn1: the finest layer that suits: its complete map leaves out" in err
    assert main([*common, "--target-layer", "input", "--method", "hires-cam", "ablation-cam"]) == 0
    assert "model efficientnet-lite0, layer input" in capsys.readouterr().out
