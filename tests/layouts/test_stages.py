"""Fewer tokens than places: a later stage of a network, or no places at all."""

import pytest
import torch
from torch import nn

from xgradcam import explain
from xgradcam.capture.layers import default_layer, list_layers
from xgradcam.errors import XGradCamError
from xgradcam.layouts.layout import Layout


class Read(nn.Module):
    """Tokens that `read` makes of maps, and a linear layer behind them."""

    def __init__(self, read, patch=16, width=48):
        super().__init__()
        self.patches, self.read = nn.Conv2d(3, width, patch, patch), read
        self.norm, self.mlp, self.head = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, images):
        return self.head(self.mlp(self.norm(self.read(self.patches(images)))).tanh().mean(dim=1))


class Queries(nn.Module):
    """Learned queries that read all places by attention."""

    def __init__(self, count, width=48):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, count, width))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, maps):
        places = maps.flatten(2).mT
        return self.attention(self.queries.expand(len(maps), -1, -1), places, places)[0]


class Learned(nn.Module):
    """Weighted means of the places, one by each map of a convolution."""

    def __init__(self, count):
        super().__init__()
        self.select = nn.Conv2d(48, count, 1)

    def forward(self, maps):
        return self.select(maps).flatten(2).softmax(dim=2) @ maps.flatten(2).mT


class Strongest(nn.Module):
    """The strongest places, in the order of their strength."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, maps):
        places = maps.flatten(2).mT
        return places.gather(1, places[..., :1].topk(self.count, dim=1).indices.expand(-1, -1, 48))


NO_PLACES = {
    **{
        f"{count} queries at {side}": (lambda count=count: Read(Queries(count)), side)
        for count, side in [(4, 128), (16, 128), (17, 128), (49, 224), (100, 320), (100, 640)]
    },
    "16 learned": (lambda: Read(Learned(16)), 128),
    **{f"{count} strongest": (lambda count=count: Read(Strongest(count)), 128) for count in (16, 36)},
}


@pytest.mark.parametrize("name", NO_PLACES)
def test_tokens_that_are_no_places_are_refused_and_passed_over(name):
    """Though their number is that of a grid of the network halved."""
    torch.manual_seed(0)
    make, side = NO_PLACES[name]
    model, images = make().eval(), torch.randn(1, 3, side, side)
    for layer in ("norm", "mlp"):
        with pytest.raises(XGradCamError, match=rf"layer '{layer}': .* not certain: say it by layout="):
            explain(model, images, layer)
    assert default_layer(list_layers(model, images)) in ("patches", "read.select")


class Merged(nn.Module):
    """Four neighbours as one token, by a linear layer, as between Swin's stages."""

    def __init__(self):
        super().__init__()
        self.norm, self.merge = nn.LayerNorm(48), nn.Linear(4 * 48, 96)

    def forward(self, maps):
        rows = self.norm(maps.movedim(1, -1))
        four = [rows[:, top::2, left::2] for left in (0, 1) for top in (0, 1)]
        return self.merge(torch.cat(four, dim=-1).flatten(1, 2))


class Thinned(nn.Module):
    """Every second row and column of the tokens, as in LeViT."""

    class Step(nn.Module):
        def forward(self, tokens):
            side = round(tokens.shape[1] ** 0.5)
            return tokens.view(len(tokens), side, side, -1)[:, ::2, ::2].flatten(1, 2)

    def __init__(self):
        super().__init__()
        self.norm, self.step = nn.LayerNorm(48), self.Step()

    def forward(self, maps):
        return self.step(self.norm(maps.flatten(2).mT))


@pytest.mark.parametrize(("kind", "side"), [(Merged, 128), (Merged, 224), (Thinned, 112), (Thinned, 128)])
def test_the_grid_of_a_later_stage_is_that_of_the_one_before_halved(kind, side):
    torch.manual_seed(0)
    width = 96 if kind is Merged else 48
    model = Read(kind())
    model.norm, model.mlp, model.head = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, 5)
    layers = {layer.name: layer.layout for layer in list_layers(model.eval(), torch.randn(1, 3, side, side))}
    half = (side // 16 + 1) // 2
    assert layers["mlp"] == Layout("tokens", half, half)
