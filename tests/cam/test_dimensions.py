"""Signals, volumes, videos and frames: maps of one, two and three sides, beside plain autograd."""

import pytest
import torch
from torch import Tensor, nn

from xgradcam import (
    METHODS,
    Explainer,
    XGradCamError,
    choose_layer,
    default_layer,
    explain,
    fuse,
    heatmap,
    list_layers,
    verify,
    verify_layers,
)

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
SIZES = {1: (24,), 2: (10, 8), 3: (6, 8, 10)}
SIDES = sorted(SIZES)
# All but CAM, which applies at the last layer only, and those of attention.
ALL = [name for name, method in METHODS.items() if name != "cam" and not method.of_attention]


def network(sides: int, channels: int = 2) -> nn.Sequential:
    torch.manual_seed(sides)
    convolution = CONVOLUTIONS[sides]
    return (
        nn.Sequential(
            *(convolution(channels, 6, 3, padding=1), NORMS[sides](6), nn.ReLU(), POOLS[sides](2)),
            *(convolution(6, 4, 3, padding=1), nn.GELU(), nn.Flatten(2)),
            *(Mean(), nn.Linear(4, 3)),
        )
        .double()
        .eval()
    )


class Mean(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.mean(dim=2)


def batch(sides: int, samples: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(sides)
    return torch.randn(samples, 2, *SIZES[sides], generator=generator, dtype=torch.float64)


def by_autograd(model: nn.Sequential, inputs: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Activation and gradient of class 1 at the layer, without this package."""
    activation = model[: layer + 1](inputs).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[layer + 1 :](activation)[:, 1].sum(), activation)
    return activation.detach(), gradient


@pytest.mark.parametrize("sides", SIDES)
def test_methods_are_their_formulas_over_all_sides(sides):
    model, inputs = network(sides), batch(sides)
    found = explain(model, inputs, "3", 1, ALL)
    activation, gradient = by_autograd(model, inputs, 3)
    flat = [values.flatten(2) for values in (activation, gradient)]
    mass = (flat[0] * flat[1]).sum(2) / (flat[0].sum(2) + 1e-6)
    drops = []
    for channel in range(6):
        without = activation.clone()
        without[:, channel] = 0
        whole, left = (model[4:](values)[:, 1].detach() for values in (activation, without))
        drops.append((whole - left) / whole.abs())
    weights = {
        "grad-cam": flat[1].mean(2),
        "xgrad-cam": mass,
        "ablation-cam": torch.stack(drops, 1),
        "score-cam": score_cam(model, inputs, activation),
    }
    for method, each in weights.items():
        expected = torch.einsum("nc,nc...->n...", each, activation)
        torch.testing.assert_close(found.maps[method], expected, msg=method)
    assert found.maps["layer-cam"].shape == activation[:, 0].shape
    torch.testing.assert_close(found.maps["layer-cam"], (gradient.clamp(min=0) * activation).sum(1))
    for method in ALL:
        assert found.maps[method].shape == activation[:, 0].shape
        assert found.maps[method].isfinite().all()


def score_cam(model: nn.Sequential, inputs: Tensor, activation: Tensor) -> Tensor:
    low, high = (ends(activation.flatten(2), dim=2) for ends in (torch.amin, torch.amax))
    shape = [*low.shape, *[1] * (activation.ndim - 2)]
    scaled = (activation - low.view(shape)) / (high - low).view(shape)
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[inputs.ndim]
    scores = []
    for channel in range(activation.shape[1]):
        mask = nn.functional.interpolate(
            scaled[:, channel, None], inputs.shape[2:], mode=mode, align_corners=False
        )
        scores.append(model(inputs * mask)[:, 1].detach())
    return torch.stack(scores, 1).softmax(1)


@pytest.mark.parametrize("layer", ["input", "0", "2", "3", "5"])
@pytest.mark.parametrize("sides", SIDES)
def test_complete_maps_sum_to_the_score_and_eq_5_closes(sides, layer):
    model, inputs = network(sides), batch(sides)
    found = explain(model, inputs, layer, 1, ["complete-cam", "hires-cam"])
    scores = model(inputs)[:, 1].detach()
    complete = found.maps["complete-cam"].flatten(1).sum(1) + found.nowhere
    torch.testing.assert_close(complete, scores)
    verified = verify(model, inputs, layer, 1)
    assert verified.closes.all()
    budget = found.budget["feature"], found.maps["hires-cam"].flatten(1).sum(1), verified.feature
    torch.testing.assert_close(budget[0], budget[1])
    torch.testing.assert_close(budget[0], budget[2])
    # Only the last linear layer's own bias has no place.
    torch.testing.assert_close(found.nowhere, model[8].bias[1].detach().expand(2))


@pytest.mark.parametrize("sides", SIDES)
def test_constants_lie_where_they_are_added(sides):
    """A bias behind single places adds to the place of its result; a pooled cell covers its cells evenly."""
    torch.manual_seed(0)
    convolution = CONVOLUTIONS[sides]
    model = nn.Sequential(
        convolution(2, 3, 1), nn.AvgPool3d(2) if sides == 3 else Pool(), convolution(3, 1, 1)
    )
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(SIZES_HALVED[sides], 2, bias=False)).double().eval()
    inputs = batch(sides)
    found = explain(model, inputs, "0", 1, ["complete-cam"])
    halved = [side // 2 for side in SIZES[sides]]
    share = model[4].weight[1].detach().view(halved) * model[2].bias.detach()
    for axis in range(sides):
        share = share.repeat_interleave(2, dim=axis) / 2
    torch.testing.assert_close(found.constants, share.expand(2, *share.shape))


class Pool(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        pool = nn.functional.avg_pool1d if values.ndim == 3 else nn.functional.avg_pool2d
        return pool(values, 2)


SIZES_HALVED = {1: 12, 2: 20, 3: 60}


@pytest.mark.parametrize("sides", SIDES)
def test_all_that_is_made_of_maps_has_as_many_sides(sides):
    model, inputs = network(sides), batch(sides)
    layers = list_layers(model, inputs)
    # Of a signal, flatten(2) makes the same maps.
    assert default_layer(layers) == ("6" if sides == 1 else "5")
    assert [layer.layout.grid for layer in layers if layer.name == "0"] == [SIZES[sides]]
    found = explain(model, inputs, "3", 1, ["grad-cam", "layer-cam"], axioms=True)
    heat = found.heatmap("layer-cam", SIZES[sides])
    assert heat.shape == (2, *SIZES[sides])
    assert heat.amax() == 1
    assert heat.amin() == 0
    torch.testing.assert_close(fuse([heat, heat / 2]), heat)
    with pytest.raises(
        XGradCamError, match=r"the heatmap's size is .*positive integer|give a tensor of floats"
    ):
        found.heatmap("layer-cam", (*SIZES[sides], 5))
    activation, gradient = by_autograd(model, inputs, 3)
    drops = []
    for channel in range(6):
        without = activation.clone()
        without[:, channel] = 0
        drops.append((model[4:](activation) - model[4:](without))[:, 1].detach())
    drop, part = torch.stack(drops, 1), found.maps["grad-cam"]
    weights = gradient.flatten(2).mean(2)
    error = (drop - weights * activation.flatten(2).sum(2)).abs().sum(1) / drop.abs().sum(1)
    torch.testing.assert_close(found.sensitivity["grad-cam"], error)
    score = model(inputs)[:, 1].detach()
    conserved = (score - part.flatten(1).sum(1)).abs() / score.abs()
    torch.testing.assert_close(found.conservation["grad-cam"], conserved)
    together = dict(verify_layers(model, inputs, ["input", "0", "3"], 1))
    assert all(one.closes.all() for one in together.values())
    assert choose_layer(model, inputs, 1, "complete-cam") in {"0", "1", "2", "3", "4", "5", "6"}
    same = Explainer(model, "3")(inputs, 1)
    torch.testing.assert_close(same.maps["grad-cam"], part, rtol=0, atol=0)


def test_the_heatmap_of_a_signal_is_linear_between_places():
    signed = torch.tensor([[0.0, 1.0, 0.0]])
    found = heatmap(signed, (6,))
    expected = torch.tensor([[0.0, 0.25, 0.75, 0.75, 0.25, 0.0]]) / 0.75
    torch.testing.assert_close(found, expected)


def test_augmentation_mirrors_volumes_and_no_signals():
    model, inputs = network(3), batch(3)
    found = explain(model, inputs, "3", 1, augment=True).maps["grad-cam"]
    plain = []
    for flipped in (False, True):
        for contrast in (1.0, 0.9, 1.1):
            given = contrast * (inputs.flip(4) if flipped else inputs)
            signed = explain(model, given, "3", 1).maps["grad-cam"]
            plain.append(signed.flip(3) if flipped else signed)
    torch.testing.assert_close(found, torch.stack(plain).mean(0))
    with pytest.raises(XGradCamError, match="reverses a signal in time"):
        explain(network(1), batch(1), "3", 1, augment=True)


class Video(nn.Module):
    """Takes videos (N, T, C, H, W), as ViViT does, and embeds blocks of two frames as tokens."""

    def __init__(self, cls: bool) -> None:
        super().__init__()
        self.embed = nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4))
        self.cls = nn.Parameter(torch.zeros(1, 1, 8)) if cls else None
        self.norm, self.mixing, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, video: Tensor) -> Tensor:
        tokens = self.embed(video.transpose(1, 2)).flatten(2).mT
        if self.cls is not None:
            tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.norm(tokens)
        weights = (tokens @ tokens.mT).softmax(dim=-1)
        return self.head(self.mixing(weights @ tokens + tokens).mean(dim=1))


@pytest.mark.parametrize("cls", [False, True])
def test_tokens_of_a_video_lie_in_space_and_time(cls):
    torch.manual_seed(0)
    model = Video(cls).double().eval()
    video = torch.randn(2, 6, 3, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = explain(model, video, "norm", 1, [*ALL, "hires-cam"])
    kept: list[Tensor] = []
    handle = model.norm.register_forward_hook(
        lambda _module, _given, output: kept.append(output.detach().requires_grad_()) or kept[0]
    )
    (gradient,) = torch.autograd.grad(model(video)[:, 1].sum(), kept)
    handle.remove()
    expected = (gradient * kept[0].detach()).sum(2)[:, int(cls) :].view(2, 3, 2, 3)
    torch.testing.assert_close(found.maps["hires-cam"], expected)
    torch.testing.assert_close(
        found.maps["complete-cam"].flatten(1).sum(1) + found.nowhere, model(video)[:, 1].detach()
    )
    assert found.heatmap("grad-cam", (6, 8, 12)).shape == (2, 6, 8, 12)
    layers = {layer.name: layer.layout for layer in list_layers(model, video)}
    assert layers["mixing"].grid == (3, 2, 3)
    assert str(layers["norm"]) == ("3x2x3+1" if cls else "3x2x3")
    of_input = explain(model, video, "input", 1, ["hires-cam"]).maps["hires-cam"]
    assert of_input.shape == (2, 6, 8, 12)


class Framewise(nn.Module):
    """Folds the frames of videos (N, T, C, H, W) into the batch; `major`: a sample's frames in turn."""

    def __init__(self, major: bool = True) -> None:
        super().__init__()
        self.features, self.head, self.major = (
            nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()),
            nn.Linear(5, 2),
            major,
        )

    def forward(self, video: Tensor) -> Tensor:
        video = video if self.major else video.transpose(0, 1)
        each = self.features(video.flatten(0, 1)).mean(dim=(2, 3)).tanh()
        return self.head(each.unflatten(0, video.shape[:2]).mean(dim=1 if self.major else 0))


def frames_of(samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, 4, 3, 9, 8, generator=generator, dtype=torch.float64)


def test_frames_in_the_batch_are_unfolded():
    torch.manual_seed(0)
    model, video = Framewise().double().eval(), frames_of(2)
    found = explain(model, video, "features.1", 1, ALL, frames=4, axioms=True)
    activation = model.features(video.flatten(0, 1)).detach().requires_grad_()
    scores = model.head(activation.mean(dim=(2, 3)).tanh().view(2, 4, 5).mean(1))[:, 1]
    (gradient,) = torch.autograd.grad(scores.sum(), activation)
    activation = activation.detach().view(2, 4, 5, 7, 6)
    gradient = gradient.view(2, 4, 5, 7, 6)
    torch.testing.assert_close(found.maps["hires-cam"], (gradient * activation).sum(2))
    weights = gradient.mean(dim=(1, 3, 4))
    torch.testing.assert_close(found.maps["grad-cam"], torch.einsum("nc,ntchw->nthw", weights, activation))
    complete = found.maps["complete-cam"].flatten(1).sum(1) + found.nowhere
    torch.testing.assert_close(complete, scores.detach())
    without = activation.clone()
    without[:, :, 2] = 0
    drop = scores - model.head(without.flatten(0, 1).mean(dim=(2, 3)).tanh().view(2, 4, 5).mean(1))[:, 1]
    alone = explain(model, video[1:], "features.1", 1, ["ablation-cam"], frames=4).maps["ablation-cam"]
    torch.testing.assert_close(found.maps["ablation-cam"][1:], alone)
    assert drop.abs().min() > 0
    for wrong, message in ((3, "for 2 samples of 3 frames"), (0, "frames is 0"), (None, "by frames=")):
        with pytest.raises(XGradCamError, match=message):
            explain(model, video, "features.1", 1, frames=wrong)


def test_frames_in_another_order_are_refused_for_several_samples():
    torch.manual_seed(0)
    model = Framewise(major=False).double().eval()
    with pytest.raises(XGradCamError, match="not the frames of the first sample"):
        explain(model, frames_of(2), "features.1", 1, frames=4)
    found = explain(model, frames_of(1), "features.1", 1, frames=4)
    assert found.maps["grad-cam"].shape == (1, 4, 7, 6)


def test_torchcam_has_the_same_maps_of_a_volume():
    methods = pytest.importorskip("torchcam.methods")
    model, inputs = network(3), batch(3, 1)
    with methods.GradCAM(model, model[3], input_shape=(2, *SIZES[3])) as extractor:
        (expected,) = extractor(1, model(inputs.requires_grad_()), normalized=False)
    found = explain(model, inputs, "3", 1).maps["grad-cam"].clamp(min=0)
    torch.testing.assert_close(found, expected.detach())
