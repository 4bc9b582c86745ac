"""Public functions take the arguments that their siblings take, and mean the same by them."""

import inspect

import pytest
import torch
from torch import nn

from xgradcam import (
    Explainer,
    Regression,
    XGradCamError,
    choose_layer,
    explain,
    explain_classes,
    explain_score,
    fold_batch_norms,
    list_layers,
    record,
    verify,
    verify_layers,
)
from xgradcam.cam.explain import evidence_of
from xgradcam.cam.guided import guided_backpropagation

AT_A_LAYER = [
    explain,
    explain_classes,
    explain_score,
    evidence_of,
    verify,
    verify_layers,
    choose_layer,
    Explainer,
]
OF_INPUTS = [*AT_A_LAYER, record, list_layers, guided_backpropagation, fold_batch_norms]


@pytest.mark.parametrize(
    ("arguments", "functions"),
    [
        ({"image"}, OF_INPUTS),
        ({"run"}, [*AT_A_LAYER, record]),
        ({"frames"}, [*AT_A_LAYER, list_layers]),
        ({"layout", "progress"}, [explain, explain_classes, explain_score, evidence_of, Explainer]),
        ({"axioms"}, [explain, explain_classes, explain_score, Explainer]),
        ({"score"}, [explain_score, evidence_of, verify, verify_layers, choose_layer]),
        ({"layouts"}, [verify, verify_layers]),
        ({"output"}, [explain, explain_classes, evidence_of, verify, verify_layers, choose_layer, Explainer]),
    ],
)
def test_siblings_take_the_same_arguments(arguments, functions):
    missing = [one.__name__ for one in functions if arguments - inspect.signature(one).parameters.keys()]
    assert missing == []


class Siamese(nn.Module):
    """One encoder for two photographs, and what is common to what it sees in them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Tanh())
        self.head = nn.Linear(3, 2)
        self.double()

    def forward(self, one, other):
        seen = self.encoder(one) * (1 + self.encoder(other).mean(dim=(2, 3), keepdim=True))
        return self.head(seen.mean(dim=(2, 3)))


class Clip(nn.Module):
    """A network of photographs that sees the frames of clips (N, 3, T, h, w), folded into the batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3)
        )
        self.head = nn.Linear(5, 3)
        self.double()

    def forward(self, clips):
        frames = self.trunk(clips.transpose(1, 2).flatten(0, 1)).relu().mean(dim=(2, 3))
        return self.head(frames.view(len(clips), -1, 5).mean(dim=1))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PAIR = numbers(2, 3, 8, 8), numbers(2, 3, 8, 8, seed=1)
CLIPS = numbers(2, 3, 4, 8, 8)


@pytest.mark.parametrize("run", [0, 1])
@pytest.mark.parametrize("image", [0, 1])
def test_a_run_of_a_layer_means_the_same_everywhere(run, image):
    model, which = Siamese().eval(), {"run": run, "image": image}
    explained = explain(model, PAIR, "encoder.1", 1, ["hires-cam", "complete-cam"], **which)
    evidence = evidence_of(model, PAIR, "encoder.1", 1, **which)
    maps = (evidence.activation * evidence.gradient).sum(dim=1)
    torch.testing.assert_close(maps, explained.maps["hires-cam"])
    complete = evidence_of(model, PAIR, "encoder.1", 1, complete=True, **which)
    torch.testing.assert_close(complete.terms.sum(), explained.score)
    torch.testing.assert_close(evidence.probe.without_channels.shape, torch.Size([2, 4]))
    layers = ["encoder.0", "encoder.1", "encoder.2", "encoder"]
    found = dict(verify_layers(model, PAIR, layers, 1, **which))
    assert [*found] == layers
    for layer, one in found.items():
        alone = verify(model, PAIR, layer, 1, **which)
        assert bool(one.closes.all())
        torch.testing.assert_close(one.feature, alone.feature)
        torch.testing.assert_close(one.bypass, alone.bypass)
    torch.testing.assert_close(found["encoder.1"].feature, maps.sum(dim=(1, 2)))


@pytest.mark.parametrize("methods", ["xgrad-cam", "complete-cam"])
def test_a_layer_is_chosen_among_those_of_a_run(methods):
    model = Siamese().eval()
    for run in (0, 1):
        chosen = choose_layer(model, PAIR, 1, methods, run=run)
        assert chosen.startswith("encoder")
        assert explain(model, PAIR, chosen, 1, methods, run=run).maps
    for run in (None, 2):
        with pytest.raises(XGradCamError, match="no layer gives feature maps"):
            choose_layer(model, PAIR, 1, methods, run=run)


@pytest.mark.parametrize("layer", ["trunk.1", "trunk.2", "trunk"])
def test_frames_mean_the_same_everywhere(layer):
    model = Clip().eval()
    layers = {one.name: one for one in list_layers(model, CLIPS, frames=4)}
    assert layers[layer].layout.frames == 4
    assert layers[layer].is_map
    assert {one.name: one.layout for one in list_layers(model, CLIPS)}[layer] is None
    methods = ["hires-cam", "complete-cam"]
    explained = explain(model, CLIPS, layer, 1, methods, frames=4)
    evidence = evidence_of(model, CLIPS, layer, 1, frames=4, complete=True)
    maps = (evidence.activation * evidence.gradient).sum(dim=1)
    torch.testing.assert_close(maps, explained.maps["hires-cam"])
    torch.testing.assert_close(evidence.terms.nowhere, explained.nowhere)
    layouts = {layer: layers[layer].layout}
    found = verify(model, CLIPS, layer, 1, layouts=layouts)
    torch.testing.assert_close(found.budget["nowhere"], explained.nowhere)
    said = {layer: type(layers[layer].layout).of("maps", layers[layer].layout.grid[1:])}
    ((_, one),) = verify_layers(model, CLIPS, [layer], 1, layouts=said, frames=4)
    torch.testing.assert_close(one.budget["nowhere"], explained.nowhere)


@pytest.mark.parametrize("methods", ["xgrad-cam", "complete-cam"])
def test_a_layer_of_frames_is_chosen(methods):
    model = Clip().eval()
    chosen = choose_layer(model, CLIPS, 1, methods, frames=4)
    assert explain(model, CLIPS, chosen, 1, methods, frames=4).maps[methods].shape[:2] == (2, 4)
    with pytest.raises(XGradCamError, match="no layer gives feature maps"):
        choose_layer(model, CLIPS, 1, methods)


def test_the_evidence_for_any_score():
    model, score = Clip().eval(), Regression(2)
    explained = explain_score(model, CLIPS, "trunk", score, ["hires-cam"], frames=4)
    evidence = evidence_of(model, CLIPS, "trunk", score=score, frames=4)
    torch.testing.assert_close(evidence.probe.score.detach(), explained.score)
    torch.testing.assert_close(
        (evidence.activation * evidence.gradient).sum(dim=1), explained.maps["hires-cam"]
    )
    for given in ({"targets": 1}, {"output": 0}):
        with pytest.raises(XGradCamError, match=f"{next(iter(given))} and score: give one of them"):
            evidence_of(model, CLIPS, "trunk", score=score, frames=4, **given)


@pytest.mark.parametrize("call", [explain, verify, evidence_of])
def test_the_input_has_one_run(call):
    model, inputs = Clip().eval(), CLIPS
    one, plain = call(model, inputs, "input", 1, run=0), call(model, inputs, "input", 1)
    for name in ("feature", "activation", "score"):
        if hasattr(plain, name):
            torch.testing.assert_close(getattr(one, name), getattr(plain, name))
    with pytest.raises(XGradCamError, match="the input is there once: leave out run=1"):
        call(model, inputs, "input", 1, run=1)


@pytest.mark.parametrize(
    "wrong", [{"run": -1}, {"run": True}, {"frames": 0}, {"frames": "4"}], ids=lambda one: str(one)
)
def test_wrong_runs_and_frames_are_refused_everywhere(wrong):
    model = Clip().eval()
    message = "the run is" if "run" in wrong else "frames is"
    calls = {
        "evidence_of": lambda: evidence_of(model, CLIPS, "trunk", **wrong),
        "verify": lambda: verify(model, CLIPS, "trunk", **wrong),
        "verify_layers": lambda: list(verify_layers(model, CLIPS, ["trunk"], **wrong)),
        "choose_layer": lambda: choose_layer(model, CLIPS, **wrong),
        "list_layers": lambda: (
            list_layers(model, CLIPS, **wrong)
            if "frames" in wrong
            else explain(model, CLIPS, "trunk", **wrong)
        ),
    }
    for call in calls.values():
        with pytest.raises(XGradCamError, match=message):
            call()
