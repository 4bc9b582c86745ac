"""Places told by a change at a few of them: later stages of a network, and tokens that are no places."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from xgradcam import explain
from xgradcam.capture.layers import default_layer, list_layers
from xgradcam.errors import XGradCamError
from xgradcam.layouts.layout import Layout
from xgradcam.layouts.places import Marked, marks


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


# Learned queries that are as many as the patches, or as these and a class token.
AS_MANY = [(64, 128), (65, 128), (196, 224), (197, 224), (4, 32), (5, 32)]
NO_PLACES = {
    **{
        f"{count} queries at {side}": (lambda count=count: Read(Queries(count)), side)
        for count, side in [(4, 128), (16, 128), (17, 128), (49, 224), (100, 320), (100, 640), *AS_MANY]
    },
    **{f"{count} learned": (lambda count=count: Read(Learned(count)), 128) for count in (16, 64)},
    **{f"{count} strongest": (lambda count=count: Read(Strongest(count)), 128) for count in (16, 36, 64)},
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


class Decoder(nn.Module):
    """A transformer: blocks of patches with position embeddings, and blocks of queries that read them."""

    def __init__(self, count, side, width=24):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.positions = nn.Parameter(torch.randn(1, side * side, width) * 0.02)
        options = {"nhead": 4, "dim_feedforward": 2 * width, "batch_first": True}
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(width, **options) for _ in range(2))
        self.queries = nn.Parameter(torch.randn(1, count, width))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(width, **options) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT + self.positions
        for block in self.encoder:
            tokens = block(tokens)
        queries = self.queries.expand(len(images), -1, -1)
        for block in self.decoder:
            queries = block(queries, tokens)
        return self.head(self.norm(queries).mean(dim=1))


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize(("count", "side"), [(64, 8), (65, 8), (16, 8), (196, 14), (197, 14), (49, 14)])
def test_queries_as_many_as_patches_are_told_from_them_layer_by_layer(count, side, scale):
    """Also where attention is sharp, as in a trained network."""
    torch.manual_seed(0)
    model, images = Decoder(count, side).eval(), torch.randn(2, 3, 16 * side, 16 * side)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1)
    layers = {layer.name: layer.layout for layer in list_layers(model, images)}
    places = Layout("tokens", side, side)
    of_patches = [name for name, found in layers.items() if name.startswith("encoder") and found]
    assert len(of_patches) == 2 * 8
    assert all(layers[name] == places for name in of_patches)
    assert not any(layers[name] for name in layers if name.startswith(("decoder", "norm", "head")))
    with pytest.raises(XGradCamError, match=r"layer 'norm': .* not certain: say it by layout="):
        explain(model, images, "norm")
    assert default_layer(list_layers(model, images)).startswith(("encoder", "patches"))


def test_a_layer_is_told_by_its_own_output_and_not_by_others_of_as_many_tokens():
    """49 tokens of a halved grid of 14 x 14, and 49 queries that read them."""
    torch.manual_seed(0)
    model = Read(nn.Sequential(Thinned(), nn.Linear(48, 48)))
    model.mlp, images = Queries(49), torch.randn(1, 3, 224, 224)
    model.mlp.forward = lambda tokens: Queries.forward(model.mlp, tokens.mT[..., None])
    layers = {layer.name: layer.layout for layer in list_layers(model.eval(), images)}
    assert layers["read.1"] == layers["norm"] == Layout("tokens", 7, 7)
    assert layers["mlp"] is None


def test_marks_are_at_other_places_in_another_order():
    for height, width in itertools.product(range(2, 20), range(2, 20)):
        chosen = set(marks((height, width)))
        assert 0 < len(chosen) <= height * width // 2
        numbers = {row * width + column for row, column in chosen}
        assert numbers != {column * height + row for row, column in chosen}
        if height * width > 4:
            assert chosen != {(row, width - 1 - column) for row, column in chosen}
            assert chosen != {(height - 1 - row, column) for row, column in chosen}
            assert chosen != {(height - 1 - row, width - 1 - column) for row, column in chosen}


def test_a_branch_with_a_weight_of_zero_is_of_places_too():
    """As before training, where the norm that ends a branch passes nothing on."""
    torch.manual_seed(0)
    model, images = Read(nn.Sequential(Thinned(), nn.LayerNorm(48))).eval(), torch.randn(1, 3, 128, 128)
    nn.init.zeros_(model.read[1].weight)
    layers = {layer.name: layer.layout for layer in list_layers(model, images)}
    assert layers["read.1"] == layers["norm"] == layers["mlp"] == Layout("tokens", 4, 4)


class Fixed(nn.Module):
    """Tokens, with others of a fixed batch added early, or late."""

    def __init__(self, count, early):
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), nn.Linear(8, 2)
        self.early = torch.randn(1, 12, 8).repeat(count if early else 1, 1, 1)
        self.late = torch.randn(count, 12, 8)

    def forward(self, images):
        tokens = self.norm(self.patches(images).flatten(2).mT + self.early)
        return self.head((tokens + self.late).mean(dim=1))


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_batch_of_one_size_is_kept(count, early):
    torch.manual_seed(0)
    model, images = Fixed(count, early).eval(), torch.randn(count, 3, 24, 32)
    layers = {layer.name: layer.layout for layer in list_layers(model, images)}
    assert layers["norm"] == Layout("tokens", 3, 4)


class Single(nn.Module):
    """Tokens in an order, mixed by attention, in a network that takes one sample."""

    def __init__(self, order, check, fused):
        super().__init__()
        self.patches, self.norm, self.mixed, self.head = (
            nn.Conv2d(3, 8, 8, 8),
            nn.LayerNorm(8),
            nn.Identity(),
            nn.Linear(8, 2),
        )
        self.order, self.check, self.fused = order, check, fused
        self.first = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, images):
        tokens = self.order(self.patches(images))
        # What another number of samples does: it raises, or becomes one sample.
        tokens = tokens.view(1, 12, 8) if self.check else tokens.reshape(1, -1, 8)
        tokens = self.norm(torch.cat([self.first, tokens], dim=1))
        if self.fused:
            mixed = scaled_dot_product_attention(tokens, tokens, tokens)
        else:
            mixed = (tokens @ tokens.mT).softmax(dim=-1) @ tokens
        return self.head(self.mixed(mixed + 0).mean(dim=1))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("check", [True, False])
def test_a_model_that_takes_one_sample_is_asked_twice(check, fused):
    torch.manual_seed(0)
    images = torch.randn(1, 3, 24, 32)
    model = Single(lambda maps: maps.flatten(2).mT, check, fused).eval()
    layers = {layer.name: layer.layout for layer in list_layers(model, images)}
    assert layers["norm"] == layers["mixed"] == Layout("tokens", 3, 4, 1)
    other = Single(lambda maps: maps.mT.flatten(2).mT, check, fused).eval()
    layers = {layer.name: layer.layout for layer in list_layers(other, images)}
    assert layers["norm"] is layers["mixed"] is None


NOISES = {
    "like": torch.randn_like,
    "shape": lambda tokens: torch.randn(tokens.shape),
    "in place": lambda tokens: torch.empty_like(tokens).normal_(),
    "uniform": torch.rand_like,
    "dropout": lambda tokens: torch.nn.functional.dropout(tokens, training=True),
}


@pytest.mark.parametrize("noise", NOISES)
def test_fresh_noise_is_no_change(noise):
    """Across the tokens, where a noise of its own for each sample would show at all of them."""
    torch.manual_seed(0)
    model = Read(Tokens(), width=8)
    model.mlp = nn.Sequential(model.mlp, Noisy(NOISES[noise]), nn.Identity())
    layers = {layer.name: layer.layout for layer in list_layers(model.eval(), torch.randn(1, 3, 64, 64))}
    assert layers["norm"] == layers["mlp.2"] == Layout("tokens", 4, 4)


class Noisy(nn.Module):
    """Noise much larger than what is added to it."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def forward(self, tokens):
        return tokens + 1000 * self.noise(tokens)


def test_all_layers_of_all_sizes_are_told_by_one_run_of_two_samples():
    torch.manual_seed(0)
    sizes = []
    model = Read(Tokens(), width=8)
    model.patches = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 2, 2))
    model.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    layers = {layer.name: layer.layout for layer in list_layers(model.eval(), torch.randn(5, 3, 64, 64))}
    assert layers["norm"] == layers["mlp"] == Layout("tokens", 8, 8)
    assert sizes == [5, 2]


class Tokens(nn.Module):
    def forward(self, maps):
        return maps.flatten(2).mT


def test_the_changes_are_of_this_thread_and_leave_no_hook():
    torch.manual_seed(0)
    model = Read(Tokens()).eval()
    marked = Marked(model, torch.randn(1, 3, 64, 64))
    assert marked.told_of(model.norm, (1, 16, 48), 2) == {((4, 4), 0)}
    assert marked.told_of(model.norm, (1, 17, 48), 2) == set()
    assert not any(module._forward_hooks for module in model.modules())
