"""The laws of the complete map, against oracles that know nothing of places or operations."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.proof.support import net, random, redrawn
from xgradcam import Contrast, XGradCamError, explain, explain_classes, explain_score

IMAGES = random(3, 3, 12, 16, seed=1)
COMPLETE = ["complete-cam", "complete-xgrad-cam"]


def head(channels: int, *, classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def convolutions() -> nn.Module:
    """Branches, strides, an upsampling path, norms and rectifiers of two kinds."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6())
            self.down = nn.Sequential(
                nn.Conv2d(6, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
            )
            self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 2, padding=1), nn.LeakyReLU(0.1))
            self.up = nn.ConvTranspose2d(8, 6, 4, 4)
            self.norm = nn.BatchNorm2d(12)
            self.head = head(12)

        def forward(self, inputs: Tensor) -> Tensor:
            stem = self.stem(inputs)
            joined = torch.cat([stem, self.up(self.deep(self.down(stem)))], 1)
            return self.head(nn.functional.hardtanh(self.norm(joined), -0.7, 0.9, inplace=True) * 2)

    return redrawn(Block(), seed=4)


def total(explanation, method="complete-cam"):
    return explanation.maps[method].sum((1, 2)) + explanation.nowhere


@pytest.mark.parametrize("layer", ["input", "stem", "stem.0", "down", "down.0", "deep", "up", "norm"])
def test_a_complete_map_and_what_is_nowhere_sum_to_the_score(layer):
    model = convolutions()
    explained = explain(model, IMAGES, layer, [0, 1, 2], ["complete-cam", "hires-cam"])
    torch.testing.assert_close(total(explained), explained.score, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        explained.maps["complete-cam"], explained.maps["hires-cam"] + explained.constants
    )
    by_kind = sum(explained.constants_by_kind.values())
    torch.testing.assert_close(by_kind, explained.constants)
    assert (explained.conservation["complete-cam"] < 1e-12).all()
    assert (explained.conservation["hires-cam"] > 1e-3).all()
    # Each part is the sum of its map.
    budget = dict(explained.budget)
    assert (budget.pop("cancellation") >= 1).all()
    torch.testing.assert_close(sum(budget.values()), explained.score)
    torch.testing.assert_close(budget["feature"], explained.maps["hires-cam"].sum((1, 2)))
    for kind, constants in explained.constants_by_kind.items():
        torch.testing.assert_close(budget[kind], constants.sum((1, 2)))
    # Only the last layer's bias is behind the pooling.
    torch.testing.assert_close(explained.nowhere, model.head[2].bias.detach()[[0, 1, 2]])


def test_with_non_negative_activations_the_papers_method_is_complete_too():
    explained = explain(convolutions(), IMAGES, "stem", 1, [*COMPLETE, "xgrad-cam"])
    for method in COMPLETE:
        torch.testing.assert_close(total(explained, method), explained.score, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        explained.maps["complete-xgrad-cam"], explained.maps["xgrad-cam"] + explained.constants
    )
    assert not torch.allclose(explained.maps["complete-cam"], explained.maps["complete-xgrad-cam"], rtol=0.1)


def pointwise() -> nn.Module:
    """A convolution, then operations of single places up to the pooling, a skip among them."""

    class Pointwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3, padding=1)
            self.first = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 9, 1))
            self.second = nn.Sequential(nn.PReLU(9), nn.Conv2d(9, 6, 1), nn.GELU())
            self.last = nn.Sequential(nn.Conv2d(6, 5, 1), nn.Hardswish())
            self.head = head(5)

        def forward(self, inputs: Tensor) -> Tensor:
            stem = self.stem(inputs)
            return self.head(self.last(self.second(self.first(stem)) + stem))

    return redrawn(Pointwise(), seed=2)


def test_layers_that_only_pointwise_operations_join_have_one_map():
    model = pointwise()
    maps = {
        layer: explain(model, IMAGES, layer, 2, ["complete-cam"]).maps["complete-cam"]
        for layer in ("stem", "last.0", "last")
    }
    torch.testing.assert_close(maps["stem"], maps["last"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(maps["last.0"], maps["last"], rtol=1e-10, atol=1e-12)
    # By hand: what each place sends through the pooling.
    with torch.no_grad():
        before_pooling = model.last(model.second(model.first(model.stem(IMAGES))) + model.stem(IMAGES))
        weights = model.head[2].weight[2].detach()
    expected = torch.einsum("c,nchw->nhw", weights, before_pooling) / (12 * 16)
    torch.testing.assert_close(maps["stem"], expected, rtol=1e-10, atol=1e-12)


def test_where_only_pooling_and_a_linear_layer_follow_it_is_the_plain_maps():
    methods = [*COMPLETE, "hires-cam", "grad-cam"]
    model = redrawn(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *head(6)), seed=3)
    maps = explain(model, IMAGES, "1", 1, methods).maps
    for method in methods[1:]:
        torch.testing.assert_close(maps[method], maps["complete-cam"], rtol=1e-5, atol=1e-9)


def test_the_map_is_linear_in_the_score():
    model, layer = convolutions(), "down"
    one, two, three = explain_classes(model, IMAGES, layer, [0, 1, 2], COMPLETE[:1])
    contrast = explain_score(model, IMAGES, layer, Contrast(0, (1, 2)), COMPLETE[:1])
    for name in ("constants", "nowhere", "score"):
        expected = getattr(one, name) - (getattr(two, name) + getattr(three, name)) / 2
        torch.testing.assert_close(getattr(contrast, name), expected)
    expected = one.maps["complete-cam"] - (two.maps["complete-cam"] + three.maps["complete-cam"]) / 2
    torch.testing.assert_close(contrast.maps["complete-cam"], expected)


def full_grad(model: nn.Module, images: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """FullGrad's terms (Srinivas and Fleuret 2019, Eq. 5 and 6), signed, at the input's cells; and the rest.

    Input-gradient times input, and gradient times bias at the output of every convolution and batch norm,
    whose implicit bias is β − γ μ / √(σ² + ε).
    """
    outputs: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, _inputs, output: outputs.append((module, output)))
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    images = images.clone().requires_grad_()
    score = model(images)[:, target].sum()
    for hook in hooks:
        hook.remove()
    at_input, *at_outputs = torch.autograd.grad(score, [images, *(output for _, output in outputs)])
    at = (at_input * images).sum(1).detach()
    rest = torch.zeros(len(images), dtype=at.dtype)
    for (module, _), gradient in zip(outputs, at_outputs, strict=True):
        bias = module.bias.detach()
        if isinstance(module, nn.BatchNorm2d):
            bias = (
                bias - module.weight.detach() * module.running_mean / (module.running_var + module.eps).sqrt()
            )
        if isinstance(module, nn.Linear):
            rest += gradient @ bias
            continue
        term = torch.einsum("nchw,c->nhw", gradient, bias)
        # Each cell is spread over those of the input that it covers: here, whole numbers of them.
        rows, columns = (whole // part for whole, part in zip(at.shape[1:], term.shape[1:], strict=True))
        at += term.repeat_interleave(rows, 1).repeat_interleave(columns, 2) / (rows * columns)
    return at, rest


def test_at_the_input_it_is_the_signed_full_grad_with_every_constant():
    parts = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    parts += [nn.Conv2d(6, 8, 3, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1)]
    model = redrawn(nn.Sequential(*parts, nn.BatchNorm2d(8), nn.ReLU(), *head(8)), seed=7)
    expected, rest = full_grad(model, IMAGES, 3)
    explained = explain(model, IMAGES, "input", 3, ["complete-cam"])
    torch.testing.assert_close(explained.maps["complete-cam"], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(explained.nowhere, rest)


def test_constants_finer_than_the_layer_are_summed_into_its_cells():
    """A decoder of single places behind an upsampling: what each cell sends on, by hand."""
    table = random(6, 12, 16, seed=9)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Conv2d(3, 6, 3, 4, padding=1)
            self.last = nn.Conv2d(6, 5, 1)
            self.head = head(5)

        def forward(self, inputs: Tensor) -> Tensor:
            fine = nn.functional.interpolate(self.encoder(inputs), scale_factor=4) + table
            return self.head(self.last(fine).relu())

    model = redrawn(Decoder(), seed=5)
    explained = explain(model, IMAGES, "encoder", 0, ["complete-cam"])
    with torch.no_grad():
        fine = nn.functional.interpolate(model.encoder(IMAGES), scale_factor=4) + table
        sent = torch.einsum("c,nchw->nhw", model.head[2].weight[0], model.last(fine).relu()) / (12 * 16)
    expected = sent.unflatten(1, (3, 4)).unflatten(3, (4, 4)).sum((2, 4))
    torch.testing.assert_close(explained.maps["complete-cam"], expected, rtol=1e-10, atol=1e-12)
    # And the table is what goes past the layer.
    assert (explained.budget["bypass"] != 0).all()


def test_larger_cells_are_spread_over_those_of_the_layer_that_they_cover():
    """Cells of 1.5 x 1.5 of the layer's: the shares are overlaps."""

    class Coarse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 1, 1)
            self.table = nn.Parameter(torch.randn(1, 2, 2, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            coarse = nn.functional.adaptive_avg_pool2d(self.stem(inputs), (2, 2)) + self.table
            return coarse.sum((2, 3)).repeat(1, 2)

    model = Coarse().double().eval()
    explained = explain(model, random(2, 1, 3, 3), "stem", 0, ["complete-cam"])
    side = torch.tensor([[1, 0], [0.5, 0.5], [0, 1]], dtype=torch.float64) / 1.5
    expected = side @ model.table.detach()[0] @ side.T
    torch.testing.assert_close(explained.constants, expected.expand(2, 3, 3))


# Ways to move the entries of maps (N, 4, 6, 8); each entry keeps the place that it comes from.
MOVES = {
    "none": lambda maps: maps,
    "tokens": lambda maps: maps.flatten(2).transpose(1, 2),
    "channels last": lambda maps: maps.permute(0, 2, 3, 1),
    "class token": lambda maps: torch.cat([maps.new_ones(len(maps), 1, 4), maps.flatten(2).mT], 1),
    "windows": lambda maps: (
        maps.unflatten(3, (2, 4)).unflatten(2, (2, 3)).permute(0, 2, 4, 3, 5, 1).reshape(-1, 12, 4)
    ),
    "shifted": lambda maps: torch.roll(maps, (1, -2), (2, 3)),
    "pixels shuffled": lambda maps: nn.functional.pixel_shuffle(maps, 2),
    "pixels unshuffled": lambda maps: nn.functional.pixel_unshuffle(maps, 2),
    "channels shuffled": lambda maps: nn.functional.channel_shuffle(maps, 2),
    "patches side by side": lambda maps: torch.cat(
        [maps[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)], 1
    ),
    "padded and cut": lambda maps: nn.functional.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 2, 2, 1))[
        :, 2:, 1:-1
    ],
    "flat": lambda maps: maps.flatten(1),
    "halves swapped": lambda maps: torch.cat(maps.chunk(2, 3)[::-1], 3),
    "rows by index": lambda maps: maps[:, :, [5, 1, 3]],
    "gathered": lambda maps: maps.flatten(2).gather(2, torch.tensor([[[7, 30, 2]]]).expand(len(maps), 4, 3)),
    "doubled": lambda maps: maps.repeat_interleave(2, 3),
    "stacked": lambda maps: torch.stack([maps, maps.flip(2)], 2),
    "written": lambda maps: torch.zeros(len(maps), 6, 8, 4, dtype=maps.dtype).index_put_(
        (torch.arange(len(maps)),), maps.permute(0, 2, 3, 1)
    ),
    "assigned": lambda maps: _assigned(maps),
    "heads": lambda maps: maps.flatten(2).mT.reshape(len(maps), 48, 2, 2).transpose(1, 2),
    "chosen": lambda maps: maps.permute(0, 2, 3, 1)[:, torch.ones(6, 8).triu().bool()],
    "tokens cast": lambda maps: maps.flatten(2).mT.double().type(torch.float64).type_as(maps),
    "transposed by einsum": lambda maps: torch.einsum("nchw->nwhc", maps),
    "columns written over": lambda maps: _written_over(maps, lambda copy: copy[..., :4], maps[..., 4:]),
    "written over before a view was taken": lambda maps: _written_over(maps, lambda copy: copy, maps.flip(3))[
        :, 1:
    ],
    "a view of what was written over": lambda maps: _seen(maps),
    "written into a part": lambda maps: _written_over(
        maps.new_zeros(len(maps), 4, 9, 8), lambda wide: wide[:, :, 3:], maps
    ),
    "rectified in place": lambda maps: nn.functional.threshold_(maps.permute(0, 2, 3, 1) + 1, -99, 0) - 1,
    "either": lambda maps: torch.where(torch.arange(8) < 3, maps.flip(3), maps),
    "scattered by a mask": lambda maps: maps.masked_scatter(torch.ones_like(maps).bool(), maps.flip(2)),
    "padded far and cut": lambda maps: nn.functional.pad(maps, (4, 0, 0, 3))[..., :8],
    "cut by padding": lambda maps: nn.functional.pad(maps, (-4, 0, -2, 1)),
    "padded around": lambda maps: nn.functional.pad(maps, (3, 2, 2, 0), mode="circular"),
    "mirrored at the edges": lambda maps: nn.functional.pad(maps, (3, 2, 2, 0), mode="reflect"),
    "sampled": lambda maps: nn.functional.grid_sample(
        maps, _mirror(maps), mode="nearest", align_corners=False
    ),
}


def _written_over(maps: Tensor, part, values: Tensor) -> Tensor:
    copy = maps.clone()
    part(copy).copy_(values)
    return copy


def _seen(maps: Tensor) -> Tensor:
    copy = maps.clone()
    seen = copy[:, 1:]
    copy[:, :, :, :4].copy_(maps[:, :, :, 4:])
    return torch.cat([copy, seen], 1)


def _mirror(maps: Tensor) -> Tensor:
    """A grid for `grid_sample` that mirrors left and right."""
    mirror = torch.tensor([[-1, 0, 0], [0, 1, 0]], dtype=maps.dtype).expand(len(maps), 2, 3)
    return nn.functional.affine_grid(mirror, list(maps.shape), align_corners=False)


def _assigned(maps: Tensor) -> Tensor:
    wide = torch.zeros(len(maps), 4, 8, 10, dtype=maps.dtype)
    wide[:, :, 1:7, 1:9] = maps
    return wide


class Moved(nn.Module):
    """S = Σ w · gelu(m + c) over the entries m of moved maps, each entry with a c and a w of its own."""

    def __init__(self, move, shape) -> None:
        super().__init__()
        self.stem = nn.Identity()
        self.move = move
        self.shift, self.weight = random(*shape, seed=3), random(*shape, seed=4)

    def sent(self, maps: Tensor) -> Tensor:
        moved = self.move(maps)
        # Windows are more than the samples: the tables repeat from sample to sample.
        each = moved.unflatten(0, (len(maps), -1)) if len(moved) > len(maps) else moved
        return self.weight * nn.functional.gelu(each + self.shift)

    def forward(self, inputs: Tensor) -> Tensor:
        score = self.sent(self.stem(inputs)).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("name", MOVES)
def test_moved_entries_keep_their_places(name):
    """Each entry's constant lies where a picture of the cells' numbers, moved alike, says."""
    maps, move = random(3, 4, 6, 8, seed=6), MOVES[name]
    moved = move(maps)
    shape = moved.unflatten(0, (3, -1)).shape[1:] if len(moved) > 3 else moved.shape[1:]
    model = Moved(move, shape)
    explained = explain(model, maps, "stem", 0, ["complete-cam"], layout="channels-first")
    torch.testing.assert_close(total(explained), explained.score, rtol=1e-12, atol=1e-12)

    numbers = torch.arange(1, 49, dtype=torch.float64).reshape(6, 8).expand(3, 4, 6, 8)
    cells = move(numbers).reshape(3, -1).round().long()
    # A class token of ones, and what is padded, is of no cell.
    at_class_token = torch.zeros_like(cells, dtype=torch.bool)
    if name == "class token":
        at_class_token[:, :4] = True
    cells = torch.where(at_class_token, 0, cells)
    sent = model.sent(maps).reshape(3, -1)
    expected = torch.zeros(3, 49, dtype=torch.float64).scatter_add_(1, cells, sent)
    places = explained.maps["complete-cam"].flatten(1)
    torch.testing.assert_close(places, expected[:, 1:], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(explained.nowhere, expected[:, 0], rtol=1e-9, atol=1e-11)


def placed(move, maps: Tensor, *, entries: slice = slice(0, 1)) -> Tensor:
    """The constants' map where 1 is added to some of the moved entries (one sample's, flat)."""

    class Marked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Identity()

        def forward(self, inputs: Tensor) -> Tensor:
            moved = move(self.stem(inputs))
            mark = torch.zeros(moved.numel(), dtype=moved.dtype)
            mark[entries] = 1
            return (moved + mark.view(moved.shape)).sum().repeat(1, 2)

    return explain(Marked(), maps, "stem", 0, ["complete-cam"], layout="channels-first").constants[0]


def _windows(maps: Tensor) -> Tensor:
    return maps.unflatten(3, (2, 4)).unflatten(2, (2, 4)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


# Operations that mix places, and the cells of 8 x 8 at which their first entry lies.
MIXTURES = {
    "mirrored sum": (lambda maps: maps + maps.flip(3), [(0, 0), (0, 7)]),
    "mean of mirrored": (lambda maps: torch.lerp(maps.roll(1, 2), maps, 0.5), [(0, 0), (7, 0)]),
    "added into a view": (lambda maps: _added(maps), [(0, 0), (0, 7)]),
    "pooled windows": (
        lambda maps: nn.functional.avg_pool2d(_windows(maps), 2),
        [(0, 0), (0, 1), (1, 0), (1, 1)],
    ),
    "strided convolution over windows": (
        lambda maps: nn.functional.conv2d(_windows(maps), maps.new_ones(3, 2, 2, 2), stride=2),
        [(0, 0), (0, 1), (1, 0), (1, 1)],
    ),
    "pooled tokens": (
        lambda maps: nn.functional.max_pool2d(maps.flatten(2).mT[:, None], (4, 1)),
        [(0, 0), (0, 1), (0, 2), (0, 3)],
    ),
    "all tokens in one": (
        lambda maps: nn.functional.conv2d(maps.flatten(2).mT[:, None], maps.new_ones(1, 1, 64, 1)),
        [],
    ),
    "diagonal by einsum": (lambda maps: torch.einsum("nchh->nch", maps), []),
}


def _added(maps: Tensor) -> Tensor:
    copy = maps.clone()
    copy[:, :1].add_(copy[:, 1:].flip(3))
    return copy


@pytest.mark.parametrize("name", MIXTURES)
def test_mixed_entries_lie_at_all_cells_that_they_are_mixed_from_or_nowhere(name):
    move, cells = MIXTURES[name]
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for cell in cells:
        expected[cell] = 1 / len(cells)
    torch.testing.assert_close(placed(move, random(1, 2, 8, 8)), expected)


def test_a_number_that_is_written_adds_its_constant_where_it_is_written():
    def numbered(maps: Tensor) -> Tensor:
        copy = maps.clone()
        copy[:, 0, 2] = 5.0
        return copy

    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[2] = 5
    torch.testing.assert_close(placed(numbered, random(1, 2, 8, 8), entries=slice(0)), expected)


def test_an_entry_of_merged_places_lies_at_all_of_them():
    """Four tokens become one, as between the stages of a Swin Transformer."""

    class Merging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Identity()
            self.merge = nn.Linear(8, 3)
            self.weight = random(2, 3, 3, seed=8)

        def sent(self, maps: Tensor) -> Tensor:
            last = maps.permute(0, 2, 3, 1)
            four = torch.cat([last[:, row::2, column::2] for row in (0, 1) for column in (0, 1)], -1)
            return nn.functional.gelu(self.merge(four)) * self.weight

        def forward(self, inputs: Tensor) -> Tensor:
            return self.sent(self.stem(inputs)).flatten(1).sum(1, keepdim=True).repeat(1, 2)

    model, maps = redrawn(Merging()), random(2, 2, 4, 6)
    model.weight = random(2, 3, 3, seed=8)
    explained = explain(model, maps, "stem", 0, ["complete-cam"], layout="channels-first")
    blocks = explained.maps["complete-cam"].unflatten(2, (3, 2)).unflatten(1, (2, 2)).sum((2, 4))
    with torch.no_grad():
        expected = model.sent(maps).sum(-1)
    torch.testing.assert_close(blocks, expected, rtol=1e-10, atol=1e-12)
    one_cell = explained.constants.unflatten(2, (3, 2)).unflatten(1, (2, 2))
    torch.testing.assert_close(one_cell, one_cell.mean((2, 4), keepdim=True).expand_as(one_cell))


class Asking(nn.Module):
    """Patches as tokens that ask one another, in one of the ways to write it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.patches = nn.Conv2d(3, 4, 4, 4)
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.weight = nn.Parameter(torch.zeros(12, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).mT
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        if self.way == "matmul":
            mixed = (query @ key.transpose(1, 2) / 2).softmax(-1) @ value
        elif self.way == "einsum":
            weights = torch.einsum("bid,bjd->bij", query, key).div(2).softmax(-1)
            mixed = torch.einsum("bij, bjd -> bid", weights, value)
        elif self.way == "multi_head_attention_forward":
            each = (one.transpose(0, 1) for one in (query, key, value))
            eye, none = torch.eye(4, dtype=inputs.dtype), torch.zeros(12, dtype=inputs.dtype)
            mixed = nn.functional.multi_head_attention_forward(
                *each, 4, 1, eye.repeat(3, 1), none, None, None, False, 0.0, eye, none[:4], training=False
            )[0].transpose(0, 1)
        else:
            mixed = nn.functional.scaled_dot_product_attention(key=key, value=value, query=query)
        return ((mixed + tokens) * self.weight).flatten(1).sum(1, keepdim=True).repeat(1, 2)


def test_attention_adds_its_constants_at_the_tokens_that_ask():
    ways = ["matmul", "einsum", "scaled_dot_product_attention", "multi_head_attention_forward"]
    all_explained = [explain(redrawn(Asking(way), 6), IMAGES, "patches", 0, ["complete-cam"]) for way in ways]
    for explained in all_explained:
        torch.testing.assert_close(total(explained), explained.score, rtol=1e-10, atol=1e-12)
        assert (explained.nowhere.abs() < 1e-10 * explained.score.abs()).all()
        assert (explained.budget["curvature"].abs() > 0.01).all()
        torch.testing.assert_close(
            explained.maps["complete-cam"], all_explained[0].maps["complete-cam"], rtol=1e-8, atol=1e-9
        )


def test_all_classes_share_one_trace_and_batches_are_traced_whole():
    model, runs = convolutions(), []
    model.register_forward_pre_hook(lambda _module, inputs: runs.append(len(inputs[0])))
    explain_classes(model, IMAGES, "down", [0, 1, 2], COMPLETE)
    assert runs == [3]


def test_a_sample_in_a_batch_has_the_map_that_it_has_alone():
    model = convolutions()
    together = explain(model, IMAGES, "stem", 1, ["complete-cam"]).maps["complete-cam"]
    for index in range(3):
        alone = explain(model, IMAGES[index : index + 1], "stem", 1, ["complete-cam"]).maps["complete-cam"]
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-10, atol=1e-12)


class Recurrent(nn.Module):
    """A layer over 12 places and their mean, with the samples at another axis than the first."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.patches = nn.Conv2d(3, 4, 4, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).permute((2, 0, 1) if self.axis == 1 else (2, 1, 0))
        if self.axis == 1:
            return self.head((self.mix(tokens).tanh() + tokens).mean(0))
        moved = self.mix.weight @ tokens + self.mix.bias[:, None]
        return self.head((moved.tanh() + tokens).mean(0).T)


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 12, 24])
@pytest.mark.parametrize("axis", [1, 2])
def test_samples_are_told_behind_tokens_and_traced_alone_behind_channels(axis, samples):
    """Also where there are as many as places, or a number that divides them."""
    model, runs = redrawn(Recurrent(axis), seed=1), []
    images = random(samples, 3, 12, 16, seed=2)
    model.register_forward_pre_hook(lambda _module, inputs: runs.append(len(inputs[0])))
    explained = explain(model, images, "patches", 1, ["complete-cam"])
    alone = samples if axis == 2 and samples > 1 else 0
    assert runs[-alone - 1 :] == [samples] + [1] * alone
    torch.testing.assert_close(total(explained), explained.score, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        tokens = model.patches(images).flatten(2).mT
        sent = ((model.mix(tokens).tanh() + tokens) @ model.head.weight[1]) / 12
    torch.testing.assert_close(explained.maps["complete-cam"].flatten(1), sent, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("samples", [2, 17])
def test_a_batch_of_a_vision_transformer_of_torchvision_is_traced_whole(samples):
    """Its attention puts 17 tokens before the samples."""
    vit = torchvision.models.VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=4)
    model, runs = redrawn(vit, seed=3), []
    images = random(samples, 3, 64, 64, seed=4)
    layer, asked = "encoder.layers.encoder_layer_1.ln_1", ["complete-cam"]
    alone = [explain(model, images[i : i + 1], layer, 1, asked).maps["complete-cam"] for i in range(2)]
    model.register_forward_pre_hook(lambda _module, inputs: runs.append(len(inputs[0])))
    explain(model, images, layer, 1, asked)
    assert runs[-1] == samples
    runs.clear()
    together = explain(model, images, layer, 1, asked)
    assert runs == [samples]  # the layout is remembered
    torch.testing.assert_close(total(together), together.score, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(together.maps["complete-cam"][:2], torch.cat(alone), rtol=1e-9, atol=1e-11)


def test_float32_keeps_the_tolerance_and_half_precision_is_refused():
    model = convolutions().float()
    explained = explain(model, IMAGES.float(), "stem", 0, COMPLETE)
    assert explained.maps["complete-cam"].dtype == torch.float32
    assert (explained.conservation["complete-cam"] < 1e-5).all()
    with pytest.raises(XGradCamError, match=r"bfloat16, too coarse .* take float32"):
        explain(model.bfloat16(), IMAGES.bfloat16(), "stem", 0, COMPLETE)


def test_what_is_known_only_with_a_complete_method_says_so():
    explained = explain(convolutions(), IMAGES, "stem", 0, ["xgrad-cam"])
    assert set(explained.budget) == {"feature"}
    hires = explain(convolutions(), IMAGES, "stem", 0, ["hires-cam"])
    torch.testing.assert_close(explained.budget["feature"], hires.maps["hires-cam"].sum((1, 2)))
    for name in ("constants", "nowhere"):
        with pytest.raises(XGradCamError, match=f"{name} is known .* complete-cam, complete-xgrad-cam"):
            getattr(explained, name)
    assert not explain(convolutions(), IMAGES, "stem", 0, ["eigen-cam"]).budget


def test_a_single_sample_and_another_device_keep_all_parts():
    explained = explain(convolutions(), IMAGES, "stem", 0, COMPLETE)
    one = explained.sample(1).to("cpu")
    torch.testing.assert_close(one.nowhere, explained.nowhere[1:2])
    torch.testing.assert_close(one.constants, explained.constants[1:2])
    assert one.budget.keys() == explained.budget.keys()


def test_an_average_over_augmentations_is_refused():
    with pytest.raises(XGradCamError, match="complete-cam adds up to the score of one input"):
        explain(convolutions(), IMAGES, "stem", 0, COMPLETE, augment=True)


def test_no_samples_have_no_maps():
    explained = explain(convolutions(), IMAGES[:0], "stem", 0, COMPLETE)
    assert explained.maps["complete-cam"].shape == (0, 12, 16)
    assert explained.nowhere.shape == (0,)


def test_hidden_operations_are_refused():
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.sin()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    model = net(lambda stem: Hidden.apply(stem))
    with pytest.raises(XGradCamError, match=r"a torch\.autograd\.Function, Hidden"):
        explain(model, random(1, 3, 8, 8), "stem", 0, COMPLETE)


def test_terms_that_do_not_add_up_are_refused():
    """A constant that no operation adds: the score is changed behind PyTorch's back."""

    def secretly(stem):
        changed = stem * 1
        changed.data += 0.5
        return changed

    with pytest.raises(XGradCamError, match=r"no complete map: its terms leave .* of the score .* open"):
        explain(net(secretly), random(2, 3, 8, 8), "stem", 0, COMPLETE)


class InPrecisions(nn.Module):
    """A network of three parts, each in its precision."""

    def __init__(self, *dtypes: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(3)
        first, second, third = self.dtypes = dtypes
        self.stem = nn.Conv2d(3, 6, 3).to(first)
        self.mix, self.head = nn.Conv2d(6, 6, 1).to(second), head(6).to(third)

    def forward(self, inputs: Tensor) -> Tensor:
        first, second, third = self.dtypes
        mixed = self.mix(self.stem(inputs.to(first)).to(second))
        return self.head(nn.functional.gelu(mixed).to(third))


SINGLE, DOUBLE = torch.float32, torch.float64


@pytest.mark.parametrize(
    "dtypes", [(SINGLE, SINGLE, DOUBLE), (DOUBLE, SINGLE, DOUBLE), (DOUBLE, DOUBLE, SINGLE)]
)
def test_the_sum_is_as_exact_as_the_coarsest_part_of_the_network(dtypes):
    explained = explain(InPrecisions(*dtypes).eval(), IMAGES, "stem", 0, ["complete-cam"])
    left = (total(explained).double() - explained.score).abs() / explained.score.abs()
    assert 1e-12 < left.max() < 1e-5


def test_a_part_in_half_precision_is_named():
    model = InPrecisions(SINGLE, torch.bfloat16, SINGLE).eval()
    with pytest.raises(XGradCamError, match="the model computes in bfloat16: take float32 or float64"):
        explain(model, IMAGES.float(), "stem", 0, ["complete-cam"])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("layer", ["stem", "mix"])
def test_the_maps_in_single_precision_are_those_in_double(layer, channels_last):
    """Curved operations on maps, whose constants are found in double precision."""

    class Curved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3, padding=1)
            self.widen, self.mix = nn.Linear(6, 8), nn.Conv2d(8, 5, 3)
            self.last, self.head = nn.Conv2d(5, 5, 3), head(5)

        def forward(self, inputs: Tensor) -> Tensor:
            mixed = self.mix(
                nn.functional.gelu(self.widen(self.stem(inputs).permute(0, 2, 3, 1))).movedim(3, 1)
            )
            return self.head(self.last(nn.functional.silu(mixed)))

    model = redrawn(Curved(), seed=8)
    expected = explain(model, IMAGES, layer, 1, ["complete-cam"])
    images, single = IMAGES.float(), model.float()
    if channels_last:
        single = single.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    explained = explain(single, images, layer, 1, ["complete-cam"])
    for found, exact in (
        (explained.maps["complete-cam"], expected.maps["complete-cam"]),
        (explained.constants_by_kind["curvature"], expected.constants_by_kind["curvature"]),
    ):
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-6)
