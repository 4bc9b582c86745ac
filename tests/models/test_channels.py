"""Grey networks and those of other than three channels, from Python and by the commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xgradcam import explain, to_input
from xgradcam.cli.proof_verify import main as proof_verify
from xgradcam.cli.xgrad_cam import main as xgrad_cam
from xgradcam.errors import XGradCamError
from xgradcam.models.channels import input_channels
from xgradcam.models.load import load_classifier
from xgradcam.models.preprocessing import default_colours
from xgradcam.pictures.photograph import read_image, stretch

CAT = Path(__file__).resolve().parents[2] / "examples" / "cat.jpg"
OWN = """
import torch
from torch import nn

def network(channels):
    torch.manual_seed(0)
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), *pooled)

def grey(): return network(1)
def colours(): return network(3)
def five(): return network(5)
def flat(): return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 4))
def flat_colours(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 4))

class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network(1)
    def forward(self, images): return self.network(images.mean(1, keepdim=True))

class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 8, 3)
    def forward(self, images): return self.layer(images[:, None]).mean((2, 3, 4))
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)


def grey_of(photograph):
    """Rounded as Pillow does it: in whole numbers of 2 ** -16."""
    red, green, blue = photograph.astype(np.int64).transpose(2, 0, 1)
    return (red * 19595 + green * 38470 + blue * 7471 + 2**15) >> 16


@pytest.mark.parametrize(
    ("name", "channels"),
    [("grey", 1), ("colours", 3), ("five", 5), ("flat", 1), ("flat_colours", 3), ("Inside", 3)],
)
def test_the_channels_are_those_that_the_network_runs_on(name, channels):
    classifier = load_classifier(f"own.py:{name}", size=28)
    assert len(classifier.mean) == len(classifier.std) == channels
    assert input_channels(classifier.module, classifier.size) == channels
    assert classifier.blank().shape == (1, channels, 28, 28)
    assert classifier.module(classifier.blank()).shape == (1, 4)


def test_a_network_that_runs_on_colours_is_given_colours():
    assert len(load_classifier("own.py:Volume", size=28).mean) == 3


def test_looking_for_channels_leaves_the_network_and_the_random_state_alone():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert input_channels(network, (9, 9)) == 1
    assert torch.equal(torch.rand(1), expected)
    assert all(part.training for part in network.modules())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_photograph_becomes_grey_by_luma():
    photograph = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    classifier = load_classifier("own.py:grey", size=28, mean=[0.4], std=[0.25])
    inputs = classifier.inputs(photograph)
    assert inputs.shape == (1, 1, 28, 28)
    np.testing.assert_allclose(inputs[0, 0], (grey_of(photograph) / 255 - 0.4) / 0.25, atol=1e-6)
    # By itself, one number is that of all three colours, as ever.
    colours = (0.4,) * 3, (0.25,) * 3
    assert torch.equal(
        to_input(photograph, (28, 28), (0.4,), (0.25,)), to_input(photograph, (28, 28), *colours)
    )
    explanation = explain(classifier.module, inputs, "1", 2)
    weights = classifier.module[4].weight[2] / (28 * 28)
    activation = classifier.module[:2](inputs)[0]
    expected = (weights[:, None, None] * activation).sum(0)
    torch.testing.assert_close(explanation.maps["grad-cam"][0], expected.detach())


def test_the_colours_of_a_grey_network_are_guessed_aloud():
    lines = []
    classifier = load_classifier("own.py:grey", size=28, report=lines.append)
    # ImageNet's, by the share of each colour in grey.
    assert classifier.mean == (round(0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406, 3),) == (0.459,)
    assert classifier.std == (round(0.299 * 0.229 + 0.587 * 0.224 + 0.114 * 0.225, 3),) == (0.226,)
    said = "photographs become grey for own.py:grey, with mean 0.459 and deviation 0.226"
    assert lines == [f"{said} (--mean and --std give others)"]
    load_classifier("own.py:grey", size=28, mean=0.5, std=0.5, report=lines.append)
    load_classifier("own.py:colours", size=28, report=lines.append)
    assert len(lines) == 1


def test_a_mean_of_one_value_is_that_of_every_channel():
    assert load_classifier("own.py:colours", size=28, mean=0.5, std=[0.25]).mean == (0.5,) * 3
    assert load_classifier("squeezenet1_1", "none", mean=[0.5], std=0.25).std == (0.25,) * 3
    assert load_classifier("own.py:five", size=28, mean=0.5, std=[0.1, 0.2, 0.3, 0.4, 0.5]).mean == (0.5,) * 5


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        (
            "own.py:grey",
            {"mean": (0.5,) * 3},
            "the mean has 3 values, and the model takes 1 channel: give one",
        ),
        (
            "own.py:five",
            {"std": (0.5,) * 3},
            "the std has 3 values, and the model takes 5 channels: give 5, or",
        ),
        (
            "own.py:colours",
            {"mean": (0.5,) * 2},
            "the mean has 2 values, and the model takes 3 channels: give",
        ),
        (
            "squeezenet1_1",
            {"mean": (0.5,) * 4},
            "the mean has 4 values, and the model takes 3 channels: give",
        ),
    ],
)
def test_another_number_of_values_than_of_channels_is_refused(name, given, reason):
    with pytest.raises(XGradCamError) as caught:
        load_classifier(name, "default" if "own" in name else "none", size=28, **given)
    assert str(caught.value).startswith(reason)


def test_photographs_are_no_inputs_of_five_channels_but_the_network_can_be_explained():
    classifier = load_classifier("own.py:five", size=28)
    reason = "mean and deviation are of 5 channels, and a photograph has 3: give one of as many bands"
    with pytest.raises(XGradCamError, match=reason):
        classifier.inputs(read_image(CAT))
    assert classifier.default_layer() == "1"
    inputs = torch.rand(2, 5, 28, 28, generator=torch.Generator().manual_seed(0))
    assert explain(classifier.module, inputs, classifier.default_layer()).maps["xgrad-cam"].shape == (
        2,
        28,
        28,
    )


def test_colours_by_default():
    mean, std = (0.5, 0.25, 0.75), (0.1, 0.2, 0.31)
    assert default_colours(3, mean, std) == (mean, std)
    assert default_colours(1, mean, std) == ((0.382,), (0.183,))
    assert default_colours(4, mean, std) == ((0.382,) * 4, (0.183,) * 4)
    assert default_colours(1, (0.5,), (0.25,)) == ((0.5,), (0.25,))
    assert default_colours(4, (0.5,), (0.25,)) == ((0.5,) * 4, (0.25,) * 4)


def test_the_commands_explain_a_grey_network(capsys):
    grey = ["--model", "own.py:grey", "--input-size", "28", "--mean", "0.5", "--std", "0.5"]
    command = ["--image-path", str(CAT), *grey, "--target-index", "1"]
    assert xgrad_cam([*command, "--guided", "--panel", "--method", "all"]) == 0
    assert np.asarray(Image.open("gb.jpg")).shape == (28, 28, 3)
    assert proof_verify(command) == 0
    out, err = capsys.readouterr()
    assert "verdict: Eq. 5 holds" in out
    assert "become grey" not in err
    pixels = torch.from_numpy(grey_of(stretch(read_image(CAT), (28, 28)))).float() / 255
    scores = load_classifier("own.py:grey").module((pixels[None, None] - 0.5) / 0.5)
    assert f"class score is {float(scores[0, 1]):.6f}" in out


@pytest.mark.parametrize("command", [xgrad_cam, proof_verify])
def test_the_commands_refuse_photographs_for_five_channels_and_list_the_layers(command, capsys):
    five = ["--model", "own.py:five", "--input-size", "28"]
    assert command(["--image-path", str(CAT), *five]) == 2
    assert "it has 3 channels (RGB); give TIFF or .npy with 5 bands" in capsys.readouterr().err
    assert command(["--list-layers", *five]) == 0
    assert "1 x 8 x 28 x 28" in capsys.readouterr().out


def test_a_folder_may_stand_behind_the_mean(capsys):
    from xgradcam.cli.options import xgrad_cam_parser

    parsed = xgrad_cam_parser().parse_args(
        ["--mean", "0.1", "--std", "1", "1", "1", "--image-path", "a", "0.5", "--crop"]
    )
    assert (parsed.mean, parsed.std, parsed.image_path, parsed.crop) == ([0.1], [1, 1, 1], ["a", "0.5"], True)
