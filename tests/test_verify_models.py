"""`scripts/verify_models.py` finds right maps right, and wrong ones wrong."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return runpy.run_path(str(ROOT / "scripts" / "verify_models.py"))
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("mobilenet_v3_small", r"| mobilenet_v3_small | `features.12.2` | 8 x 8 | right | "),
        ("lraspp_mobilenet_v3_large", "| lraspp_mobilenet_v3_large | `backbone.16.2` | 16 x 16 | right | "),
        (
            "quantized_mobilenet_v2",
            "| quantized_mobilenet_v2 |  |  | refused: quantized_mobilenet_v2 is quant",
        ),
    ],
)
def test_rows_of_three_kinds(script, capsys, name, row):
    with torch.random.fork_rng():
        assert script["main"](["--only", name]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {name} |")]
    assert len(lines) == 1
    assert lines[0].startswith(row)


def test_a_map_that_is_not_grad_cams_and_a_transposed_grid_are_wrong(script):
    from xgradcam import explain_score, list_layers

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    inputs = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (layer,) = (one for one in list_layers(net, inputs) if one.name == "0")

    def score(returned):
        return returned[:, 1]

    found = explain_score(net, inputs, layer.name, score, ["grad-cam"]).maps["grad-cam"]
    assert script["is_plain_grad_cam"](net, inputs, layer, score, found)
    assert not script["is_plain_grad_cam"](net, inputs, layer, score, 1.01 * found)
    assert script["places_margin"](net, inputs, layer) > 1
    net[0].register_forward_hook(lambda _module, _given, output: output.transpose(2, 3))
    assert script["places_margin"](net, inputs, layer) < -1
