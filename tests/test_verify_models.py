"""`scripts/verify_models.py` finds right maps right, and wrong ones wrong."""

import runpy
import sys
from dataclasses import replace
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
def test_rows_of_each_kind(script, capsys, name, row):
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
    assert not script["is_plain_grad_cam"](net, inputs, layer, lambda y: 0 * score(y), 0 * found)
    assert script["places"](net, inputs, layer) == "right"
    net[0].register_forward_hook(lambda _module, _given, output: output.transpose(2, 3))
    assert script["places_margin"](net, inputs, layer) < -1
    assert script["places"](net, inputs, layer) == "wrong places"
    net[0].register_forward_hook(lambda _module, _given, output: 0 * output + output.mean())
    assert script["places"](net, inputs, layer) == "right, places not told"


class Video(nn.Module):
    """Tokens of 4 x 4 x 4 places after a class token; their order in time is turned if `turned`."""

    def __init__(self, turned):
        super().__init__()
        self.patches, self.norm = nn.Conv3d(3, 8, 4, 4), nn.LayerNorm(8)
        self.head, self.turned = nn.Linear(8, 2), turned

    def forward(self, video):
        maps = self.patches(video)
        tokens = (maps.flip(2) if self.turned else maps).flatten(2).transpose(1, 2)
        tokens = self.norm(torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1))
        return self.head(tokens.square().mean(dim=1))


@pytest.mark.parametrize(("turned", "said"), [(False, "right"), (True, "wrong places")])
def test_a_video_that_is_turned_in_time_is_wrong(script, turned, said):
    from xgradcam import list_layers
    from xgradcam.layouts.layout import Layout

    torch.manual_seed(0)
    net = Video(turned).double().eval()
    inputs = torch.rand(1, 3, 16, 16, 16, dtype=torch.float64)
    (layer,) = (one for one in list_layers(net, inputs) if one.name == "norm")
    layer = replace(layer, layout=Layout.of("tokens", (4, 4, 4), 1))
    assert script["places"](net, inputs, layer) == said


@pytest.mark.parametrize(
    ("refused", "right"), [("", False), ("two layers", False), ("no layer gives feature maps", True)]
)
def test_only_the_expected_refusal_is_right(script, refused, right):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    case = script["Case"]("flat", lambda: (flat, torch.rand(1, 3, 2, 2)), None, None, refused)
    row = script["row_of"](case)
    assert row.right is right
    assert str(row).startswith("| flat |  |  | refused: no layer gives feature maps")


def test_the_table_of_the_docs_has_a_row_for_each_model(script):
    pytest.importorskip("transformers")
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [case.name for case in script["cases"]()]
    assert not [row for row in rows if "wrong" in " ".join(row[3:]) or "Error" in row[3]]
    # By package: torchvision's families, timm and transformers.
    assert len([row for row in rows if row[0].startswith("| timm/")]) >= 40
    assert len([row for row in rows if row[0].startswith("| hf:")]) >= 20
