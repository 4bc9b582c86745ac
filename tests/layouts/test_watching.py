import copy
import itertools
import threading

import pytest
import torch
from torch import nn
from torch.nn.functional import pad
from torchvision.models.convnext import CNBlock
from torchvision.models.swin_transformer import SwinTransformer

from xgradcam.cam.explain import evidence_of, explain
from xgradcam.capture.layers import list_layers
from xgradcam.errors import XGradCamError
from xgradcam.layouts.layout import Layout

CHANNELS = 7


def layout_at(model, images, name):
    """The layout of a layer as it is listed, which must be the one that its maps are made by."""
    listed = next(layer.layout for layer in list_layers(model, images) if layer.name == name)
    assert evidence_of(model, images, name, 0).probe.layout == listed
    return listed


class Patches(nn.Module):
    """A network of patches, with tokens before and after theirs; rest: of the image, cut off or padded."""

    def __init__(
        self, patch, before=0, after=0, rest="cut", embed="conv", order=lambda maps: maps.flatten(2).mT
    ):
        super().__init__()
        self.patch, self.rest, self.order = patch, rest, order
        self.conv = nn.Conv2d(3, CHANNELS, patch, stride=patch) if embed == "conv" else None
        self.linear = nn.Linear(3 * patch**2, CHANNELS) if embed == "linear" else None
        self.before = nn.Parameter(torch.randn(1, before, CHANNELS))
        self.after = nn.Parameter(torch.randn(1, after, CHANNELS))
        self.norm, self.mix, self.head = (
            nn.LayerNorm(CHANNELS),
            nn.Linear(CHANNELS, CHANNELS),
            nn.Linear(CHANNELS, 2),
        )

    def forward(self, images):
        if self.rest == "padded":
            images = pad(images, (0, -images.shape[3] % self.patch, 0, -images.shape[2] % self.patch))
        if self.conv is not None:
            tokens = self.order(self.conv(images))
        else:
            p = self.patch
            cut = images.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5)
            tokens = self.linear(cut.flatten(3).flatten(1, 2))
        count = len(images)
        tokens = torch.cat(
            [self.before.expand(count, -1, -1), tokens, self.after.expand(count, -1, -1)], dim=1
        )
        tokens = self.norm(tokens)
        # All tokens are mixed, as by attention.
        return self.head(self.mix(tokens + tokens.mean(dim=1, keepdim=True)).tanh().mean(dim=1))


def grid_of(height, width, patch, rest):
    return (height // patch, width // patch) if rest == "cut" else (-(-height // patch), -(-width // patch))


@pytest.mark.parametrize("rest", ["cut", "padded"])
@pytest.mark.parametrize("embed", ["conv", "linear"])
@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_every_grid_of_patches_is_read_right(patch, embed, rest):
    """Divisible and indivisible, of several aspects, with the tokens that networks put around."""
    torch.manual_seed(patch)
    grids, left = [(2, 2), (3, 4), (5, 2), (4, 4)], [(0, 0), (1, 0), (patch // 2, 3), (patch - 1, patch - 1)]
    for (rows, columns), (down, right) in itertools.product(grids, left):
        height, width = rows * patch + down, columns * patch + right
        images = torch.randn(1, 3, height, width)
        grid = grid_of(height, width, patch, rest)
        for before, after in [(0, 0), (1, 0), (2, 0), (5, 0), (1, 3)]:
            if embed == "linear" and after:
                continue
            model = Patches(patch, before, after, rest, embed).eval()
            layers = {layer.name: layer.layout for layer in list_layers(model, images)}
            assert layers["norm"] == layers["mix"] == Layout("tokens", *grid, before)


def test_a_recording_reads_grids_as_the_list_does():
    torch.manual_seed(0)
    for before, after in [(0, 0), (1, 0), (2, 4)]:
        layout = layout_at(Patches(8, before, after).eval(), torch.randn(2, 3, 33, 50), "norm")
        assert layout == Layout("tokens", 4, 6, before)


def test_detection_tokens_are_no_patches():
    """Their number is that of class and register tokens, but they come last."""
    torch.manual_seed(0)
    model, images = Patches(8, 1, 4).eval(), torch.randn(1, 3, 32, 40)
    evidence = evidence_of(model, images, "norm", 0)
    with torch.no_grad():
        expected = model.norm(model.conv(images).flatten(2).mT).mT.unflatten(2, (4, 5))
    torch.testing.assert_close(evidence.activation, expected)


def middle(maps):
    tokens = maps.flatten(2).mT
    return torch.cat([tokens[:, :7], tokens[:, :1] * 0, tokens[:, 7:]], dim=1)


@pytest.mark.parametrize(
    "order",
    [
        lambda maps: maps.mT.flatten(2).mT,
        lambda maps: maps.flip(3).flatten(2).mT,
        lambda maps: maps.unflatten(2, (2, 2)).unflatten(4, (2, 3)).transpose(3, 4).flatten(2).mT,
        middle,
    ],
    ids=["column by column", "mirrored", "window by window", "class token in the middle"],
)
def test_tokens_in_another_order_are_refused(order):
    torch.manual_seed(0)
    model, images = Patches(8, order=order).eval(), torch.randn(1, 3, 32, 48)
    with pytest.raises(
        XGradCamError, match=r"layer 'norm': the layout of shape .* is not certain: say it by layout="
    ):
        explain(model, images, "norm")
    assert next(layer for layer in list_layers(model, images) if layer.name == "norm").layout is None


def test_a_layout_may_be_said_for_tokens_in_another_order():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    model = Patches(8, 1, order=lambda maps: maps.mT.flatten(2).mT).double().eval()
    plain = Patches(8, 1).double().eval()
    plain.load_state_dict(model.state_dict())
    methods = ["xgrad-cam", "layer-cam", "ablation-cam", "hires-cam", "shapley-cam"]

    def read(tokens):
        return tokens[:, 1:].mT.unflatten(2, (6, 4)).mT

    found, expected = (
        explain(net, images, "norm", 1, methods, layout=layout).maps
        for net, layout in [(model, read), (plain, "4x6+1")]
    )
    for method in methods:
        torch.testing.assert_close(found[method], expected[method])


class Stages(nn.Module):
    """A patch embedding, and a stage that merges four tokens by slices, as Swin does, padded if needed."""

    def __init__(self, scrambled=False):
        super().__init__()
        self.patch, self.merge, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(16, 6), nn.Linear(6, 2)
        self.norm, self.scrambled = nn.LayerNorm(4), scrambled

    def forward(self, images):
        maps = self.patch(images)
        rows, columns = maps.shape[2:]
        tokens = maps.flatten(2).mT
        tokens = self.norm(tokens[:, torch.arange(rows * columns - 1, -1, -1)] if self.scrambled else tokens)
        maps = tokens.mT.unflatten(2, (rows, columns))
        maps = pad(maps, (0, columns % 2, 0, rows % 2))
        cut = [maps[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        tokens = self.merge(torch.cat(cut, dim=1).flatten(2).mT)
        return self.head((tokens + tokens.mean(dim=1, keepdim=True)).tanh().mean(dim=1))


@pytest.mark.parametrize(("image", "grid"), [((32, 32), (4, 4)), ((36, 60), (5, 8)), ((44, 28), (6, 4))])
def test_later_stages_have_the_halved_grid(image, grid):
    torch.manual_seed(0)
    assert layout_at(Stages().eval(), torch.randn(1, 3, *image), "merge") == Layout("tokens", *grid)


def test_a_stage_after_tokens_in_another_order_is_refused():
    torch.manual_seed(0)
    with pytest.raises(XGradCamError, match="not certain"):
        explain(Stages(scrambled=True).eval(), torch.randn(1, 3, 32, 32), "merge")


class Around(nn.Module):
    """A network around a layer `inner`: what it gets, and what becomes of its output."""

    def __init__(self, inner, before=lambda images: images, width=1):
        super().__init__()
        self.inner, self.before, self.head = inner, before, nn.LazyLinear(2)

    def forward(self, images):
        return self.head(self.inner(self.before(images)).tanh().flatten(1))


FIRST_TYPES = {
    "conv": nn.Conv2d(3, 4, 3, stride=(1, 4)),
    "transposed conv": nn.ConvTranspose2d(3, 4, 2, stride=(1, 2)),
    "batch norm": nn.BatchNorm2d(3),
    "instance norm": nn.InstanceNorm2d(3),
    "group norm": nn.GroupNorm(1, 3),
    "pooling": nn.MaxPool2d((1, 3)),
    "adaptive pooling": nn.AdaptiveAvgPool2d((2, 7)),
    "upsampling": nn.Upsample(scale_factor=(1.0, 2.0)),
    "pixel shuffle": nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2)),
    "padding": nn.ReflectionPad2d((3, 0, 0, 0)),
}


@pytest.mark.parametrize("name", FIRST_TYPES)
@pytest.mark.parametrize("image", [(3, 12), (12, 12), (8, 60)])
def test_the_type_of_a_module_decides(name, image):
    """Whatever the aspect: rows of 3 channels and 12 columns look like maps of 3 x 3 with 12 channels."""
    model, images = Around(FIRST_TYPES[name]).eval(), torch.randn(1, 3, *image)
    if image[0] == 3 and name == "padding":
        images = torch.randn(1, 3, 4, 12)
    output = model.inner(images)
    model(images)
    assert layout_at(model, images, "inner") == Layout("maps", *output.shape[2:])


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)

    def forward(self, maps):
        return maps + self.two(self.one(maps).relu())


def test_a_spectrogram_network_is_channels_first_all_through():
    """Its strides in time make grids of another aspect than the image's; (1, 8, 16, 4) looks like 8 x 16."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=(1, 8), padding=1), nn.ReLU(), Residual(8), nn.Flatten(), nn.LazyLinear(2)
    ).eval()
    images = torch.randn(1, 1, 16, 32)
    model(images)
    for name in ("0", "1", "2", "2.one"):
        assert layout_at(model, images, name) == Layout("maps", 16, 4)


@pytest.mark.parametrize(
    ("image", "channels"), [((64, 64), 16), ((64, 128), 32), ((64, 128), 64), ((60, 100), 16)]
)
def test_swin_as_wide_as_it_has_channels_is_read_with_channels_last(image, channels):
    torch.manual_seed(0)
    model = SwinTransformer([4, 4], channels, [1, 1], [2, 2], [4, 4], num_classes=4).eval()
    images = torch.randn(1, 3, *image)
    grid = image[0] // 4, image[1] // 4
    for name in ("features.0.2", "features.1", "features.1.0", "features.1.0.norm1"):
        assert layout_at(model, images, name) == Layout("channels last", *grid)
    assert layout_at(model, images, "features.0.0") == Layout("maps", *grid)


@pytest.mark.parametrize("side", [12, 16])
def test_a_convnext_block_as_wide_as_it_has_channels_is_read_with_channels_first(side):
    """Its convolution and its norm make the same shape of channels first, and last."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, side, 2, stride=2), CNBlock(side, 1.0, 0.0), nn.AdaptiveAvgPool2d(1))
    model.append(nn.Flatten()).append(nn.Linear(side, 2)).eval()
    assert layout_at(model, torch.randn(1, 3, 2 * side, 2 * side), "1") == Layout("maps", side, side)


class Cube(nn.Module):
    """As many channels as rows and columns, channels last behind a permutation that no module makes."""

    def __init__(self, fixed):
        super().__init__()
        self.conv, self.same, self.head, self.fixed = nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Linear(4, 2), fixed

    def forward(self, images):
        if self.fixed and images.shape[2:] != (4, 4):
            raise RuntimeError("takes 4 x 4")
        return self.head(self.same(self.conv(images).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


@pytest.mark.parametrize("fixed", [False, True])
def test_a_cube_is_told_by_a_change_of_a_few_places(fixed):
    torch.manual_seed(0)
    model, images = Cube(fixed).eval(), torch.randn(1, 3, 4, 4)
    assert layout_at(model, images, "same") == Layout("channels last", 4, 4)
    found, said = (explain(model, images, "same", layout=one).maps for one in (None, "channels-last"))
    assert torch.equal(found["grad-cam"], said["grad-cam"])


class Lambda(nn.Module):
    """A function of maps as a module, behind a module that makes the maps, if any."""

    def __init__(self, function, inner=None):
        super().__init__()
        self.function, self.inner = function, inner

    def forward(self, maps):
        return self.function(maps if self.inner is None else self.inner(maps))


def to_last(maps):
    return maps.permute(0, 2, 3, 1)


class Permuted(nn.Module):
    """Two sizes of maps, and a module whose output has the shape of the first, but is the second permuted."""

    def __init__(self, fixed, inside):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.two = nn.Conv2d(8, 16, 3, stride=(1, 2), padding=1)
        self.same = Lambda(to_last, self.two if inside else None)
        self.head, self.fixed, self.inside = nn.Linear(16, 5), fixed, inside

    def forward(self, images):
        if self.fixed and images.shape[2:] != (32, 64):
            raise RuntimeError("takes 32 x 64")
        maps = self.one(images)
        return self.head(self.same(maps if self.inside else self.two(maps)).tanh().mean(dim=(1, 2)))


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_a_shape_that_is_by_chance_that_of_other_maps_tells_nothing(fixed, inside):
    torch.manual_seed(0)
    model, images = Permuted(fixed, inside).eval(), torch.randn(2, 3, 32, 64)
    assert (
        model.one(images).shape
        == model.same(model.one(images) if inside else model.two(model.one(images))).shape
    )
    assert layout_at(model, images, "same") == Layout("channels last", 8, 8)
    output = model.two(model.one(images)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.head(to_last(output).tanh().mean(dim=(1, 2)))[:, 1].sum(), output)
    found = explain(model, images, "same", 1, ["hires-cam"]).maps["hires-cam"]
    torch.testing.assert_close(found, (gradient * output.detach()).sum(dim=1))


@pytest.mark.parametrize("image", [(16, 32), (16, 16)])
def test_a_block_around_a_convolution_of_its_own_shape_may_be_channels_last(image):
    """(N, 8, 8, 8), or (N, 4, 8, 4), whether the channels are first or last."""
    torch.manual_seed(0)
    channels = image[0] // 2
    block = Lambda(to_last, nn.Conv2d(channels, channels, 1))
    stem = nn.Conv2d(3, channels, (2, image[1] // channels), stride=(2, image[1] // channels))
    model = nn.Sequential(stem, block, nn.Flatten(), nn.Linear(channels**3, 2)).eval()
    images = torch.randn(1, 3, *image)
    assert layout_at(model, images, "1") == Layout("channels last", channels, channels)
    assert layout_at(model, images, "1.inner") == Layout("maps", channels, channels)


FUNCTIONS = {
    "relu": (torch.relu, Layout("maps", 8, 12)),
    "added": (lambda maps: maps + maps.tanh(), Layout("maps", 8, 12)),
    "scaled by its mean": (lambda maps: maps * maps.mean(dim=(2, 3), keepdim=True), Layout("maps", 8, 12)),
    "pooled": (lambda maps: nn.functional.max_pool2d(maps, 3, 2, 1), Layout("maps", 4, 6)),
    "cropped": (lambda maps: maps[..., 1:-1, 1:-1], Layout("maps", 6, 10)),
    "upsampled": (lambda maps: nn.functional.interpolate(maps, scale_factor=2), Layout("maps", 16, 24)),
    "channels last": (to_last, Layout("channels last", 8, 12)),
    "transposed": (lambda maps: maps.mT, None),
    "transposed, channels last": (lambda maps: maps.permute(0, 3, 2, 1), None),
    "mirrored": (lambda maps: maps.flip(3), None),
    "upside down": (lambda maps: maps.flip(2), None),
    "windows": (
        lambda maps: (
            to_last(maps)
            .unflatten(1, (2, 4))
            .unflatten(3, (3, 4))
            .transpose(2, 3)
            .flatten(1, 2)
            .flatten(2, 3)
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_makes_of_maps_is_read_right_or_refused(name):
    torch.manual_seed(0)
    function, expected = FUNCTIONS[name]
    model = nn.Sequential(nn.Conv2d(3, 9, 4, 4), Lambda(function), nn.Flatten(), nn.LazyLinear(2)).eval()
    images = torch.randn(1, 3, 32, 48)
    model(images)
    assert {layer.name: layer.layout for layer in list_layers(model, images)}["1"] == expected
    around = nn.Sequential(model[:2], *model[2:])
    assert {layer.name: layer.layout for layer in list_layers(around, images)}["0"] == expected
    if expected is None:
        with pytest.raises(XGradCamError, match="not certain: say it by layout="):
            explain(model, images, "1")


def test_a_pooled_vector_is_no_grid():
    model = Around(nn.AdaptiveAvgPool1d(1), before=lambda images: images.reshape(len(images), 64, -1)).eval()
    images = torch.randn(1, 3, 32, 32)
    model(images)
    assert next(layer for layer in list_layers(model, images) if layer.name == "inner").layout is None
    with pytest.raises(XGradCamError, match=r"layer 'inner': shape \(1, 64, 1\) is neither"):
        explain(model, images, "inner")


def test_signals_have_maps_of_one_side_and_may_be_said_to_be_one_row():
    torch.manual_seed(0)
    model, signals = Around(nn.Conv1d(2, 16, 3, padding=1)).eval(), torch.randn(2, 2, 50)
    model(signals)
    output = model.inner(signals).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.head(output.tanh().flatten(1))[:, 1].sum(), output)
    expected = (gradient * output.detach()).sum(1)
    for layout, found in ((None, expected), (lambda output: output[:, :, None], expected[:, None])):
        explained = explain(model, signals, "inner", 1, ["hires-cam"], layout=layout)
        torch.testing.assert_close(explained.maps["hires-cam"], found)


def test_tokens_of_a_video_are_refused_with_the_way_to_say_it():
    """4 frames of 3 x 3 places are no 6 x 6 square."""
    torch.manual_seed(0)
    embed = nn.Conv3d(3, 5, (1, 4, 4), stride=(1, 4, 4))
    model = Around(nn.LayerNorm(5), before=lambda video: embed(video).flatten(2).mT).eval()
    video = torch.randn(1, 3, 4, 12, 12)
    model(video)
    with pytest.raises(XGradCamError, match=r"layer 'inner': .* not certain: say it by layout="):
        explain(model, video, "inner")
    second = explain(model, video, "inner", layout=lambda y: y[:, 9:18].mT.unflatten(2, (3, 3)))
    assert second.maps["grad-cam"].shape == (1, 3, 3)


def test_latents_are_no_patches():
    """Their number fits a grid of the image, but not one that the network made."""
    torch.manual_seed(0)
    patches = nn.Conv2d(3, 5, 4, stride=4)
    latents = torch.randn(1, 49, 64)
    model = Around(nn.LayerNorm(5), before=lambda images: latents @ patches(images).flatten(2).mT).eval()
    model.patches = patches
    images = torch.randn(1, 3, 32, 32)
    model(images)
    with pytest.raises(XGradCamError, match="not certain"):
        explain(model, images, "inner")


def test_what_a_mixer_makes_across_its_tokens_is_refused():
    torch.manual_seed(0)
    patches = nn.Conv2d(3, 16, 4, stride=4)
    model = Around(nn.Linear(16, 16), before=lambda images: patches(images).flatten(2)).eval()
    model.patches = patches
    images = torch.randn(1, 3, 16, 16)
    model(images)
    with pytest.raises(XGradCamError, match="not certain"):
        explain(model, images, "inner")


def test_reading_a_layout_leaves_the_model_and_the_inputs_as_they_were():
    torch.manual_seed(0)
    model, images = Patches(8, 1).train(), torch.randn(2, 3, 32, 32)
    kept, state = images.clone(), torch.get_rng_state()
    explain(model, images, "norm")
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_other_threads_and_other_models_are_left_alone_and_not_looked_at():
    """One trains on as many tokens as the patches here, one runs another network, one explains a third."""
    torch.manual_seed(0)
    model, images = Patches(8, 1).eval(), torch.randn(1, 3, 32, 48)
    linear, other = nn.Linear(5, 5), Around(nn.Conv2d(3, 7, 5, stride=(8, 2))).eval()
    other(images)
    third = copy.deepcopy(other)
    expected = explain(model, images, "norm").maps["grad-cam"]
    expected_other = explain(other, images, "inner").maps["grad-cam"]
    errors, rounds, done = [], [], threading.Event()

    def until_done(action):
        while not done.is_set():
            try:
                action()
                rounds.append(action)
            except Exception as error:
                errors.append(error)

    def train():
        linear(torch.ones(1, 25, 5)).sum().backward()

    def run():
        with torch.no_grad():
            other(images)

    def explain_other():
        assert torch.equal(explain(third, images, "inner").maps["grad-cam"], expected_other)

    actions = [train, run, explain_other]
    threads = [threading.Thread(target=until_done, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    try:
        found = [explain(model, images, "norm").maps["grad-cam"] for _ in range(20)]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert set(rounds) == set(actions)
    assert all(torch.equal(one, expected) for one in found)


class Weights(nn.Module):
    """Attention in two heads, whose weights a module makes, or passes on."""

    def __init__(self, same):
        super().__init__()
        self.patches, self.norm, self.same = nn.Conv2d(3, 24, 8, 8), nn.LayerNorm(24), same
        self.head = nn.Linear(24, 5)

    def forward(self, images):
        heads = self.norm(self.patches(images).flatten(2).mT).unflatten(2, (2, 12)).transpose(1, 2)
        weights = heads @ heads.mT
        weights = self.same(weights if isinstance(self.same, nn.Softmax) else weights.softmax(dim=-1))
        return self.head((weights @ heads).transpose(1, 2).flatten(2).mean(dim=1))


@pytest.mark.parametrize("same", [nn.Softmax(dim=-1), nn.Dropout(), nn.Identity()], ids=repr)
@pytest.mark.parametrize("size", [(16, 16), (64, 64), (64, 96)])
def test_the_weights_of_an_attention_are_no_maps(same, size):
    torch.manual_seed(0)
    with pytest.raises(XGradCamError, match=r"layer .same.: .* not certain"):
        explain(Weights(same).eval(), torch.randn(1, 3, *size), "same")


class Reduced(nn.Module):
    """Attention to fewer keys than queries, as where they are pooled, whose weights a module passes on."""

    def __init__(self, pooled, heads, same):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 24, 8, 8), nn.LayerNorm(24)
        self.pool, self.heads, self.same, self.head = (
            nn.AdaptiveAvgPool2d(pooled),
            heads,
            same,
            nn.Linear(24, 5),
        )

    def forward(self, images):
        maps = self.patches(images)
        queries, keys = (
            self.norm(one.flatten(2).mT).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for one in (maps, self.pool(maps))
        )
        weights = queries @ keys.mT
        weights = self.same(weights if isinstance(self.same, nn.Softmax) else weights.softmax(dim=-1))
        return self.head((weights @ keys).transpose(1, 2).flatten(2).mean(dim=1))


@pytest.mark.parametrize("same", [nn.Softmax(dim=-1), nn.Dropout(), nn.Identity()], ids=repr)
@pytest.mark.parametrize(
    ("size", "pooled", "heads"),
    [
        ((64, 64), (2, 2), 2),
        ((64, 64), (4, 4), 8),
        ((32, 16), (2, 2), 4),
        ((16, 16), (1, 2), 2),
        ((64, 64), (2, 4), 4),
    ],
)
def test_the_weights_of_an_attention_to_pooled_keys_are_no_maps(same, size, pooled, heads):
    """Though heads, queries or keys are by chance as many as rows and columns of maps."""
    torch.manual_seed(0)
    with pytest.raises(XGradCamError, match=r"layer .same.: .* not certain"):
        explain(Reduced(pooled, heads, same).eval(), torch.randn(1, 3, *size), "same")


class InTime(nn.Module):
    """Attention between tokens in time, the mean over the rows of maps, and others before them."""

    def __init__(self, before=0):
        super().__init__()
        self.patches, self.norm, self.same = nn.Conv2d(3, 24, 8, 8), nn.LayerNorm(24), nn.Dropout()
        self.before, self.head = nn.Parameter(torch.randn(1, before, 24)), nn.Linear(24, 5)

    def forward(self, images):
        tokens = self.patches(images).mean(dim=2).mT
        tokens = self.norm(torch.cat([self.before.expand(len(images), -1, -1), tokens], dim=1))
        heads = tokens.unflatten(2, (2, 12)).transpose(1, 2)
        weights = self.same((heads @ heads.mT).softmax(dim=-1))
        return self.head((weights @ heads).transpose(1, 2).flatten(2).mean(dim=1))


@pytest.mark.parametrize("size", [(64, 64), (16, 128), (16, 64), (32, 96)])
@pytest.mark.parametrize("before", [0, 1, 16])
def test_the_weights_of_an_attention_in_time_are_no_maps(size, before):
    """Both of their sides grow with the width of the image."""
    torch.manual_seed(0)
    with pytest.raises(XGradCamError, match=r"layer .same.: .* not certain"):
        explain(InTime(before).eval(), torch.randn(1, 3, *size), "same")


class Dimmed(nn.Module):
    """Maps by functions alone, turned or not, of any size of image."""

    def __init__(self, turn):
        super().__init__()
        self.turn, self.same = turn, nn.Tanh()
        self.weight = nn.Parameter(torch.randn(6, 3, 2, 2))

    def forward(self, images):
        maps = nn.functional.conv2d(images, self.weight, stride=2)
        return self.same(self.turn(maps)).flatten(1)[:, :5]


TURNS = {
    "first": (lambda maps: maps, Layout("maps", 4, 6)),
    "last": (to_last, Layout("channels last", 4, 6)),
    "transposed": (lambda maps: maps.mT, None),
    "last and transposed": (lambda maps: maps.transpose(1, 3), None),
}


@pytest.mark.parametrize("turn", TURNS)
def test_maps_by_functions_alone_are_told_by_the_sides_of_the_image(turn):
    torch.manual_seed(0)
    function, expected = TURNS[turn]
    layers = {
        layer.name: layer.layout for layer in list_layers(Dimmed(function).eval(), torch.rand(1, 3, 8, 12))
    }
    assert layers["same"] == expected


@pytest.mark.parametrize("around", [(0, 0), (1, 0), (0, 1), (2, 3)])
@pytest.mark.parametrize("grid", [(3, 3), (3, 4), (4, 3), (4, 4), (4, 6), (5, 5)])
def test_tokens_of_small_grids_in_another_order_are_no_later_stage_either(grid, around):
    """Where a few of the tokens may look like a grid by chance, the others tell."""
    torch.manual_seed(0)
    orders = {
        "columns": lambda maps: maps.mT.flatten(2).mT,
        "reversed": lambda maps: maps.flatten(2).mT.flip(1),
        "beside mirrored": lambda maps: torch.cat([maps.flatten(2).mT, maps.flip(3).flatten(2).mT], dim=1),
        "beside columns": lambda maps: torch.cat([maps.flatten(2).mT, maps.mT.flatten(2).mT], dim=1),
    }
    images = torch.randn(1, 3, 4 * grid[0], 4 * grid[1])
    for name, order in orders.items():
        layers = list_layers(Patches(4, *around, order=order).eval(), images)
        assert next(layer.layout for layer in layers if layer.name == "norm") is None, name


def test_a_softmax_over_the_channels_of_square_maps_makes_maps():
    model = nn.Sequential(nn.Conv2d(3, 5, 2, 2), nn.Softmax(dim=1), nn.Flatten(), nn.Linear(80, 2)).eval()
    assert layout_at(model, torch.rand(1, 3, 8, 8), "1") == Layout("maps", 4, 4)
