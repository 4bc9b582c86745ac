"""The probability that the command prints and records."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.support import EXAMPLES
from xgradcam.cli.xgrad_cam import main

COMMAND_MODELS = """
import torch
from torch import nn

def build(classes, *last):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, classes), *last
    )

def single(): return build(1)
def softmax(): return build(3, nn.Softmax(dim=1))
def several(): return build(3)
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run the command on a model of `heads.py`; return the records, and what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heads.py").write_text(COMMAND_MODELS)
    shutil.copy(EXAMPLES / "cat.jpg", "cat.jpg")

    def run(name, *options):
        arguments = [
            "--image-path",
            "cat.jpg",
            "--model",
            f"heads.py:{name}",
            "--input-size",
            "32",
            "--target-layer",
            "1",
        ]
        assert (
            main([*arguments, "--weights", "none", "--json", "--save-maps", "--target-index", "0", *options])
            == 0
        )
        printed = capsys.readouterr()
        (record,) = map(json.loads, printed.out.splitlines())
        with np.load("maps.npz") as maps:
            return record, torch.from_numpy(maps["scores"])[None], printed.err

    return run


def test_the_command_prints_and_records_it(command):
    record, scores, printed = command("single")
    probability = scores.sigmoid()[0, 0].item()
    assert record["probability"] == pytest.approx(probability)
    assert f"score {scores[0, 0]:.4f}, probability {probability:.1%}, rank 1 of 1" in printed
    assert "note: one output: the probability is its sigmoid, that of the positive class" in printed
    record, scores, printed = command("softmax")
    assert scores.sum() == pytest.approx(1)
    assert record["probability"] == pytest.approx(scores[0, 0].item())
    assert any(
        line.startswith("probabilities explained: the model ends in a softmax") for line in record["notes"]
    )
    record, scores, _ = command("several")
    assert record["probability"] == pytest.approx(scores.softmax(1)[0, 0].item())
    record, scores, printed = command("several", "--probability", "sigmoid")
    assert record["probability"] == pytest.approx(scores.sigmoid()[0, 0].item())


def test_a_run_does_not_go_on_with_another_probability(command, capsys):
    options = ("--html", "--output-dir", "out")
    arguments = [
        "--image-path",
        "cat.jpg",
        "--model",
        "heads.py:several",
        "--weights",
        "none",
        "--input-size",
        "32",
    ]
    assert main([*arguments, *options, "--probability", "sigmoid"]) == 0
    (page,) = [json.loads(line) for line in open("out/xgrad-cam.jsonl", encoding="utf-8")][:1]
    assert page["probability"] == "sigmoid"
    capsys.readouterr()
    assert main([*arguments, *options, "--resume"]) == 2
    assert "other settings for probability" in capsys.readouterr().err
