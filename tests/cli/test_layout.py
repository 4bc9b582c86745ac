"""The option --layout, and the layouts that --list-layers shows."""

import json

import numpy as np
import pytest

from tests.cli.support import OWN, maps_in
from xgradcam.cli.evaluate import evaluation_parser
from xgradcam.cli.options import xgrad_cam_parser
from xgradcam.cli.xgrad_cam import main

# Its tokens lie column by column, behind a class token.
COLUMNS = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm, self.head = nn.Conv2d(3, 6, 8, stride=8), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, images):
        tokens = self.patches(images).mT.flatten(2).mT
        tokens = self.norm(torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1))
        return self.head(tokens.tanh().mean(dim=1))
"""


@pytest.fixture
def columns(tmp_path, monkeypatch, both):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(COLUMNS)
    return both


def run(photo, folder, *options):
    return main(
        ["--image-path", str(photo), *OWN, "--target-layer", "norm", "--output-dir", folder, *options]
    )


def test_a_layout_that_is_not_certain_is_refused_and_can_be_said(columns, capsys):
    assert run(columns, "out") == 2
    message = capsys.readouterr().err
    assert (
        "layer 'norm': the layout of shape (1, 17, 6) is not certain: say it by layout= (--layout)" in message
    )
    assert run(columns, "out", "--layout", "4x4+1", "--save-maps") == 0
    (maps,) = maps_in("out").values()
    assert any(np.shape(value)[-2:] == (4, 4) for value in maps.values())


@pytest.mark.parametrize("layout", ["4x4+", "rows", "0x4"])
def test_what_is_no_layout_is_refused_before_a_model_is_loaded(layout, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--image-path", "no.jpg", "--layout", layout])
    assert end.value.code == 2
    assert f"argument --layout: no layout '{layout}': take channels-first" in capsys.readouterr().err


def test_both_commands_that_make_maps_take_a_layout():
    for parser, start in [(xgrad_cam_parser(), ["--image-path", "a.jpg"]), (evaluation_parser(), ["photos"])]:
        assert parser.parse_args([*start, "--layout", "14x14+1"]).layout == "14x14+1"
        assert parser.parse_args(start).layout is None


def test_a_resumed_run_has_the_same_layout(columns, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes(columns.read_bytes())
    assert run(photos, "out", "--layout", "4x4+1") == 0
    settings = json.loads((tmp_path / "out" / "xgrad-cam.jsonl").read_text().splitlines()[0])
    assert settings["layout"] == "4x4+1"
    assert run(photos, "out", "--layout", "2x8+1", "--resume") == 2
    assert "it had other settings for layout" in capsys.readouterr().err
    assert run(photos, "out", "--layout", "4x4+1", "--resume") == 0


def test_list_layers_shows_the_layouts(columns, capsys):
    assert main(["--list-layers", *OWN]) == 0
    rows = {row.split()[0]: row for row in capsys.readouterr().out.splitlines()}
    assert "1 x 6 x 4 x 4  channels-first" in rows["patches"]
    assert rows["norm"].endswith("1 x 17 x 6")
