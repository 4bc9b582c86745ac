"""A run is validated once, when it is made, and says what is explained and drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runs.support import LAYERS, MEAN, STD, run_of
from xgradcam.cam.explain import explain
from xgradcam.errors import XGradCamError
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.paint import Style
from xgradcam.pictures.photograph import to_input
from xgradcam.runs.run import Explaining, TopClasses, Writing

PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "the batch size is 0: take 1 or more"),
        ({"augment": True, "axioms": True}, "about one input, not about an average"),
        ({"precision": "bf16", "axioms": True}, "which bf16 rounds away"),
        ({"precision": "bf16", "methods": ("ablation-cam",)}, "bf16 rounds differences of scores away"),
        ({"precision": "tf32", "axioms": True}, "which tf32 rounds away"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_made(wrong, message):
    with pytest.raises(XGradCamError, match=message):
        Explaining(**wrong)


def test_the_top_of_no_classes_is_refused():
    with pytest.raises(XGradCamError, match="top0 has no class"):
        TopClasses(0)


def test_each_layer_has_an_explanation_for_each_class_in_the_order_asked_for(net, batch):
    explained = run_of(net, classes=(4, TopClasses(2), None)).explain(batch)
    assert len(explained) == len(LAYERS)
    best = net(batch).argsort(dim=1, descending=True)
    for layer, of_classes in zip(LAYERS, explained, strict=True):
        targets = [explanation.targets.tolist() for explanation in of_classes]
        assert targets == [[4, 4, 4], best[:, 0].tolist(), best[:, 1].tolist(), best[:, 0].tolist()]
        expected = explain(net, batch, layer, 4)
        for method in ("grad-cam", "xgrad-cam"):
            torch.testing.assert_close(of_classes[0].maps[method], expected.maps[method])


def test_bf16_computes_the_network_in_it(net, batch):
    seen = []
    net.float().features[0].register_forward_hook(lambda _module, _given, made: seen.append(made.dtype))
    for precision in ("float32", "bf16"):
        run_of(net, explaining={"precision": precision}).explain(batch.float())
    assert seen == [torch.float32] * len(LAYERS) + [torch.bfloat16] * len(LAYERS)


@pytest.mark.parametrize(("precision", "coarse"), [("float32", False), ("tf32", True), ("bf16", False)])
def test_tf32_is_used_only_if_asked_for(net, batch, precision, coarse):
    seen = []
    net.float().features[0].register_forward_hook(lambda *_: seen.append(settings()))
    before = settings()
    run_of(net, explaining={"precision": precision}).explain(batch.float())
    assert seen == [["tf32" if coarse else "ieee"] * 2] * len(LAYERS)
    assert settings() == before


def settings():
    """The precision of products and convolutions in float32 on a GPU."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):  # since PyTorch 2.9
        return [matmul.fp32_precision, cudnn.conv.fp32_precision]
    return ["tf32" if on else "ieee" for on in (matmul.allow_tf32, cudnn.allow_tf32)]


def test_the_inputs_are_the_framed_photograph_normalised(net):
    run = run_of(net)
    assert torch.equal(run.inputs(PHOTOGRAPH), to_input(PHOTOGRAPH, (8, 8), MEAN, STD))


@pytest.mark.parametrize("writing", [{}, {"panel": True}])
def test_a_photograph_is_resized_once_for_input_and_canvas(net, monkeypatch, writing):
    run, scenes = run_of(net, **writing), []
    scene = Framing.scene
    monkeypatch.setattr(Framing, "scene", lambda *given: scenes.append(1) or scene(*given))
    inputs, canvas = run.prepared(PHOTOGRAPH)
    assert len(scenes) == 1
    assert torch.equal(inputs, run.inputs(PHOTOGRAPH))
    assert np.array_equal(canvas, run.canvas(PHOTOGRAPH))


def test_the_canvas_is_the_photograph_only_where_more_than_the_networks_scale_is_shown(net):
    assert run_of(net).canvas(PHOTOGRAPH).shape == (8, 8, 3)
    assert run_of(net, panel=True).canvas(PHOTOGRAPH) is PHOTOGRAPH
    assert run_of(net, style=Style(full_resolution=True)).canvas(PHOTOGRAPH) is PHOTOGRAPH


@pytest.mark.parametrize("folder", ["", ".", "out", "./out/", "../out", "a/../b", "/", "//x", "/tmp/x/"])
@pytest.mark.parametrize("name", ["a_1_cam.jpg", "cats/a b_1_X_cam.jpg", "..a_7_panel.jpg"])
def test_the_path_of_a_file_is_as_pathlib_writes_it(folder, name):
    assert Writing(Path(folder)).path_of(name) == str(Path(folder) / name)
