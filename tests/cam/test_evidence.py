"""Asking a network again, also one that is not cut by the layer, or that counts on its batch."""

import pytest
import torch
from torch import nn

from tests.support import ANYWHERE
from xgradcam import XGradCamError, explain, explain_score
from xgradcam.cam.explain import evidence_of
from xgradcam.cam.methods import METHODS


class Net(nn.Module):
    """A layer `mid` of maps (N, 4, 4, 4), and a tail that differs."""

    def __init__(self, tail):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self.mid = nn.Conv2d(4, 4, 3, padding=1)
            self.relu = nn.ReLU(inplace=True)
            self.last = nn.Linear(64, 3)
            self.wide = nn.Linear(128, 3)
        self.tail, self.sizes = tail, []
        self.double().eval()

    def forward(self, images):
        first = self.first(images)
        maps = self.relu(self.mid(first))
        self.sizes.append((len(images), len(maps)))
        return TAILS[self.tail](self, images, first, maps)


def _mixing(net, _images, _first, maps):
    return net.last((maps - maps.mean(dim=0, keepdim=True)).flatten(1))


def _strict(net, images, _first, maps):
    if len(maps) != len(images):
        raise ValueError("another batch")
    return net.last(maps.flatten(1))


TAILS = {
    "cut": lambda net, _images, _first, maps: net.last(maps.flatten(1)),
    "added bypass": lambda net, _images, first, maps: net.last((maps + first).flatten(1)),
    "joined branch": lambda net, _images, first, maps: net.wide(torch.cat([maps, first], 1).flatten(1)),
    "reshaped by the input": lambda net, images, _first, maps: net.last(maps.reshape(len(images), -1)),
    "first row only": lambda net, images, _f, maps: net.last(maps[: len(images)].flatten(1)).expand(
        len(maps), 3
    ),
    "strict": _strict,
}


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def without(net, image, channel, target):
    """The score of the whole network with a channel of the layer at 0."""

    def cut(_module, _inputs, output):
        output = output.clone()
        output[:, channel] = 0
        return output

    with net.mid.register_forward_hook(cut), torch.no_grad():
        return net(image[None])[0, target]


@pytest.mark.parametrize("tail", TAILS)
def test_scores_without_a_channel_are_those_of_the_whole_network(tail, images):
    net = Net(tail)
    evidence = evidence_of(net, images, "mid", [2, 1])
    found = evidence.probe.without_channels
    for n, target in enumerate((2, 1)):
        for k in range(4):
            torch.testing.assert_close(found[n, k], without(net, images[n], k, target))


def test_the_trunk_runs_for_one_sample_where_the_layer_cuts(images):
    net = Net("cut")
    probe = evidence_of(net, images[:1], "mid", 1).probe
    net.sizes.clear()
    assert probe.without_channels.shape == (1, 4)
    assert net.sizes == [(1, 1), (1, 6)]  # a control; four channels between two controls


def test_a_tail_that_mixes_the_rows_of_a_batch_is_found_out(images, monkeypatch):
    monkeypatch.setitem(TAILS, "mixing", _mixing)
    net = Net("mixing")
    probe = evidence_of(net, images[:1], "mid", 1).probe
    net.sizes.clear()
    found = probe.without_channels
    assert net.sizes[-4:] == [(1, 1)] * 4  # one variant at a time: the definition
    for k in range(4):
        torch.testing.assert_close(found[0, k], without(net, images[0], k, 1))


class Tokens(nn.Module):
    """Class token and 16 patches; the tail reads the class token after an attention-like mixing."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 6, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.norm = nn.LayerNorm(6)
        self.mix = nn.Linear(17, 17)
        self.head = nn.Linear(6, 3)
        self.last = last
        self.double().eval()

    def forward(self, images):
        patches = self.patches(images)
        if self.last:
            maps = self.norm(patches.movedim(1, -1))
            return self.head(maps.mean(dim=(1, 2)))
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches.flatten(2).mT], dim=1)
        tokens = self.norm(tokens)
        return self.head(torch.tanh(self.mix(tokens.mT).mT)[:, 0])


@pytest.mark.parametrize("last", [False, True])
def test_layouts_of_transformers_keep_what_is_no_map(last, images):
    net = Tokens(last)
    found = evidence_of(net, images, "norm", 1).probe.without_channels

    for k in range(6):

        def cut(_module, _inputs, output, k=k):
            output = output.clone()
            output[:, slice(None) if last else slice(1, None), ..., k] = 0
            return output

        with net.norm.register_forward_hook(cut), torch.no_grad():
            torch.testing.assert_close(found[:, k], net(images)[:, 1])


class AsMaps(nn.Module):
    """The same network, whose layer `same` hands on maps (N, C, h, w)."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.same = tokens, nn.Identity()

    def forward(self, images):
        net = self.tokens
        patches = net.patches(images)
        if net.last:
            return net.head(self.same(net.norm(patches.movedim(1, -1)).movedim(-1, 1)).mean(dim=(2, 3)))
        tokens = torch.cat([net.token.expand(len(images), -1, -1), patches.flatten(2).mT], dim=1)
        tokens = net.norm(tokens)
        maps = self.same(tokens[:, 1:].mT.unflatten(2, (4, 4)))
        tokens = torch.cat([tokens[:, :1], maps.flatten(2).mT], dim=1)
        return net.head(torch.tanh(net.mix(tokens.mT).mT)[:, 0])


@pytest.mark.parametrize("method", ANYWHERE)
@pytest.mark.parametrize("last", [False, True])
def test_every_method_takes_tokens_and_channels_last(method, last, images):
    net = Tokens(last)
    found = explain(net, images, "norm", 1, [method]).maps[method]
    assert found.shape == (2, 4, 4)
    assert found.flatten(1).any(dim=1).all()
    torch.testing.assert_close(found, explain(AsMaps(net), images, "same", 1, [method]).maps[method])


def test_the_sensitivity_error_is_its_definition(images):
    net = Net("cut")
    explanation = explain(net, images, "mid", [2, 1], ["xgrad-cam", "random-cam"], axioms=True)
    for method in explanation.maps:
        evidence = evidence_of(net, images, "mid", [2, 1])
        weights = METHODS[method](evidence)
        for n, target in enumerate((2, 1)):
            over = under = 0.0
            for k in range(4):
                drop = float(evidence.probe.score[n].detach() - without(net, images[n], k, target))
                summed = float((weights[n, k] * evidence.activation[n, k]).sum())
                over, under = over + abs(drop - summed), under + abs(drop)
            assert float(explanation.sensitivity[method][n]) == pytest.approx(over / under)


def test_a_linear_head_is_sensitive_without_error_and_conserves_all_but_the_bias(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    explanation = explain(net, images, "1", 1, ["xgrad-cam", "hires-cam", "grad-cam"], axioms=True)
    assert float(explanation.sensitivity["hires-cam"].max()) < 1e-12
    assert float(explanation.sensitivity["xgrad-cam"].max()) < 1e-5
    assert float(explanation.sensitivity["grad-cam"].min()) > 1e-3
    bias = net[3].bias[1].abs() / explanation.score.abs()
    torch.testing.assert_close(explanation.conservation["hires-cam"], bias.detach())


def test_a_model_that_fails_in_every_batch_says_why(images):
    class Picky(Net):
        def forward(self, images):
            if len(self.sizes) > 0:
                raise XGradCamError("no more")
            return super().forward(images)

    probe = evidence_of(Picky("cut"), images, "mid", 1).probe
    with pytest.raises(XGradCamError, match="no more"):
        _ = probe.without_channels


def test_a_dead_layer_has_no_channel_to_ask_about(net, batch):
    with torch.no_grad():
        net.features[0].bias.fill_(-1e3)
        net.features[1].bias.fill_(-1e3)
    explanation = explain(net, batch, "features.2", 1, ["ablation-cam", "score-cam"], axioms=True)
    assert explanation.maps.keys() == {"ablation-cam", "score-cam"}
    assert not any(signed.any() for signed in explanation.maps.values())
    torch.testing.assert_close(explanation.score, net(batch)[:, 1])
    assert (explanation.score != 0).all()


@pytest.mark.parametrize("method", ["ablation-cam", "score-cam"])
def test_a_score_of_the_whole_batch_alone_is_asked_one_variant_at_a_time(net, batch, method):
    targets = torch.tensor([1, 4, 2])
    expected = explain(net, batch, "features.4", targets, [method]).maps[method]
    for whole in (
        lambda output: (output * nn.functional.one_hot(targets, 5)).sum(1),
        lambda output: output.gather(1, targets[:, None])[:, 0],
    ):
        found = explain_score(net, batch, "features.4", whole, [method]).maps[method]
        torch.testing.assert_close(found, expected)
    same = explain(net, batch, "features.4", 2, [method]).maps[method]
    found = explain_score(net, batch, "features.4", lambda output: output[:, 2], [method]).maps[method]
    torch.testing.assert_close(found, same)
    assert not torch.allclose(expected, same)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_score_cam_of_a_model_in_half_precision(net, batch, dtype):
    exact = explain(net, batch, "features.4", 2, ["score-cam"]).maps["score-cam"]
    coarse = explain(net.to(dtype), batch.to(dtype), "features.4", 2, ["score-cam"]).maps["score-cam"]
    assert coarse.dtype == torch.float32
    assert (coarse - exact).abs().max() < 0.05 * exact.abs().max()
