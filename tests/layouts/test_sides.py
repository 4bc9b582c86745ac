"""Layouts of signals, volumes and videos: certain by the network's own run, or refused."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xgradcam.capture.layers import default_layer, list_layers, recorded
from xgradcam.errors import XGradCamError
from xgradcam.layouts.axes import channel_axis
from xgradcam.layouts.layout import Frames, Layout, parse_layout, said_layout, with_frames
from xgradcam.layouts.places import marks


class Residual(nn.Module):
    """Adds what a convolution makes to its input: of no type that tells the axis of the channels."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, values: Tensor) -> Tensor:
        return values + torch.tanh(self.convolution(values))


class ChannelAttention(nn.Module):
    """A convolution along the channels of averages, as in ECA: its output is no map of the signal."""

    def __init__(self) -> None:
        super().__init__()
        self.along = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        return values * self.along(values.mean(dim=2)[:, None]).sigmoid()[:, 0, :, None]


class SignalTransformer(nn.Module):
    def __init__(self, cls: bool) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv1d(2, 16, 4, stride=4), nn.LayerNorm(16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.cls = nn.Parameter(torch.randn(1, 1, 16)) if cls else None
        self.block = Block()

    def forward(self, signals: Tensor) -> Tensor:
        tokens = self.embed(signals).mT
        if self.cls is not None:
            tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.norm(tokens)
        tokens = self.block(tokens + self.attention(tokens, tokens, tokens)[0])
        return self.head(tokens.mean(dim=1))


class Block(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * 2


def layouts_of(model: nn.Module, inputs: Tensor) -> dict[str, Layout | None]:
    return {layer.name: layer.layout for layer in list_layers(model.eval(), inputs)}


def test_convolutions_and_what_is_added_to_them_are_maps_of_a_signal():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 16, 3, padding=1), Residual(nn.Conv1d(16, 16, 3, padding=1)), ChannelAttention(),
        nn.AvgPool1d(2), nn.Flatten(), nn.Linear(16 * 20, 3),
    )  # fmt: skip
    found = layouts_of(model, torch.randn(2, 2, 40))
    for name in ("0", "1", "1.convolution", "2"):
        assert found[name] == Layout.of("maps", (40,)), name
    assert found["3"].grid == (20,)
    assert found["2.along"] is None
    with pytest.raises(
        XGradCamError, match=r"not certain: say it by layout= .*channels-first or channels-last"
    ):
        recorded(model, torch.randn(1, 2, 40), "2.along", None)


@pytest.mark.parametrize("length", [16, 40])
def test_equal_numbers_of_channels_and_places_do_not_mislead(length):
    """(N, 16, 16) may be channels by places or places by channels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, length, 3, padding=1), nn.ReLU(), Turned(), nn.Flatten(), nn.Linear(length**2, 2)
    )
    found = layouts_of(model, torch.randn(1, 2, length))
    assert found["1"] == Layout.of("maps", (length,))
    assert found["2"] == Layout.of("tokens", (length,))


class Turned(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.mT * 1.0


@pytest.mark.parametrize("cls", [False, True])
def test_tokens_of_a_signal_come_behind_their_class_token(cls):
    torch.manual_seed(0)
    model = SignalTransformer(cls)
    found = layouts_of(model, torch.randn(2, 2, 48))
    expected = Layout.of("tokens", (12,), int(cls))
    assert found["norm"] == found["block"] == expected
    assert str(expected) == f"12+{int(cls)}"
    assert parse_layout(str(expected)) == expected
    assert default_layer(list_layers(model, torch.randn(2, 2, 48))) in {"norm", "block"}


def test_volumes_with_channels_last_and_merged_patches():
    """As in a Swin transformer for videos: blocks of (N, D, H, W, C), of which later stages merge rows."""
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.block = (
                nn.Conv3d(3, 12, 2, stride=2),
                nn.LayerNorm(12),
                Residual(nn.Linear(12, 12)),
            )
            self.merge, self.head = Merge(), nn.Linear(12, 3)

        def forward(self, video: Tensor) -> Tensor:
            maps = self.block(self.norm(self.embed(video).movedim(1, -1)))
            return self.head(self.merge(maps).mean(dim=(1, 2, 3)))

    class Merge(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps[:, :, ::2, ::2] + maps[:, :, 1::2, ::2] + maps[:, :, ::2, 1::2]

    found = layouts_of(Last(), torch.randn(1, 3, 8, 16, 24))
    assert found["embed"] == Layout.of("maps", (4, 8, 12))
    assert found["norm"] == found["block"] == Layout.of("channels last", (4, 8, 12))
    assert found["merge"] == Layout.of("channels last", (4, 4, 6))


def test_maps_of_images_behind_volumes_grow_with_two_sides():
    torch.manual_seed(0)

    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.volume, self.plane, self.head = (
                nn.Conv3d(1, 4, 3, padding=1),
                nn.Conv2d(4, 5, 3),
                nn.Linear(5, 2),
            )

        def forward(self, volume: Tensor) -> Tensor:
            return self.head(self.plane(self.volume(volume).mean(dim=2)).mean(dim=(2, 3)))

    found = layouts_of(Flattened(), torch.randn(2, 1, 4, 9, 8))
    assert found["volume"].grid == (4, 9, 8)
    assert found["plane"] == Layout("maps", 7, 6)


def test_images_without_an_axis_of_channels_have_the_maps_of_images():
    torch.manual_seed(0)

    class Grey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.block = nn.Conv2d(1, 4, 3, padding=1), Residual(nn.Conv2d(4, 4, 3, padding=1))

        def forward(self, images: Tensor) -> Tensor:
            return self.block(self.conv(images[:, None])).mean(dim=(2, 3))

    found = layouts_of(Grey(), torch.randn(2, 10, 12))
    assert found["conv"] == found["block"] == Layout("maps", 10, 12)


def test_tokens_of_a_video_in_another_order_are_refused():
    torch.manual_seed(0)

    class Ordered(nn.Module):
        def __init__(self, order: tuple[int, ...]) -> None:
            super().__init__()
            self.embed, self.norm, self.order = nn.Conv3d(3, 8, 2, stride=2), nn.LayerNorm(8), order

        def forward(self, video: Tensor) -> Tensor:
            maps = self.embed(video).permute(0, 1, *(axis + 2 for axis in self.order))
            return self.norm(maps.flatten(2).mT).mean(dim=1)

    video = torch.randn(1, 3, 4, 6, 8)
    for order in permutations(range(3)):
        found = layouts_of(Ordered(order), video)["norm"]
        assert found == (Layout.of("tokens", (2, 3, 4)) if order == (0, 1, 2) else None), order


def test_marks_are_at_other_places_in_another_order_of_three_sides():
    for grid in product((1, 2, 3, 4, 7, 8), repeat=3):
        chosen = marks(grid)
        assert len(set(chosen)) == len(chosen) <= max(1, np.prod(grid) // 2)
        flat = {int(np.ravel_multi_index(one, grid)) for one in chosen}
        for order in permutations(range(3)):
            sides = tuple(grid[axis] for axis in order)
            moved = {int(np.ravel_multi_index([one[axis] for axis in order], sides)) for one in chosen}
            # The same order but for sides of one place.
            same = [axis for axis in order if grid[axis] > 1] == [axis for axis in range(3) if grid[axis] > 1]
            assert same or moved != flat or np.prod(grid) <= 8, (grid, order)


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (Layout.of("tokens", (8, 14, 14), 1), "8x14x14+1"),
        (Layout.of("tokens", (2, 3, 4)), "2x3x4"),
        (Layout.of("tokens", (100,), 2), "100+2"),
        (Layout.of("tokens", (100,)), "100+0"),
    ],
)
def test_layouts_of_other_sides_are_parsed_as_they_are_shown(layout, text):
    assert str(layout) == text
    assert parse_layout(text) == layout


SHAPES = [(7,), (3, 4), (2, 3, 4)]


@pytest.mark.parametrize("sides", SHAPES)
def test_maps_of_any_sides_go_out_and_back(sides):
    maps = torch.arange(2 * 5 * np.prod(sides), dtype=torch.float64).reshape(2, 5, *sides)
    outputs = {
        Layout.of("maps", sides): maps,
        Layout.of("channels last", sides): maps.movedim(1, -1),
        Layout.of("tokens", sides, 1): torch.cat([torch.full((2, 1, 5), -1.0), maps.flatten(2).mT], dim=1),
    }
    for layout, output in outputs.items():
        assert torch.equal(layout.to_maps(output), maps)
        variants = torch.cat([maps[:1] + 9, -maps[:1], maps[1:]])
        filled = layout.with_maps(output[:1], variants)
        assert torch.equal(layout.to_maps(filled), variants)
    chosen = said_layout(lambda y: y.movedim(-1, 1), maps.movedim(1, -1), 1)
    assert torch.equal(chosen.to_maps(maps.movedim(1, -1)), maps)


def test_frames_go_out_of_the_batch_and_back():
    rows = torch.arange(2 * 3 * 5 * 4 * 6.0).reshape(6, 5, 4, 6)
    layout = said_layout(with_frames("channels-first", 3), rows)
    assert layout.grid == (3, 4, 6)
    maps = layout.to_maps(rows)
    assert torch.equal(maps[1, :, 2], rows[5])
    assert torch.equal(layout.with_maps(rows[:3], maps), rows)
    tokens = said_layout(Frames(3, "4x6"), rows.flatten(2).mT)
    assert torch.equal(tokens.to_maps(rows.flatten(2).mT), maps)
    assert with_frames("4x6", None) == "4x6"


@pytest.mark.parametrize(
    ("shape", "channels", "axis"),
    [
        ((1, 3, 8, 8), 3, 1), ((1, 2, 40), 2, 1), ((1, 40, 2), 2, 2), ((1, 3, 4, 8, 8), 3, 1),
        ((1, 4, 3, 8, 8), 3, 2), ((1, 3, 3, 8, 8), 3, None), ((1, 5, 6, 8, 8), 3, None), ((1, 40), 1, None),
    ],
)  # fmt: skip
def test_the_first_convolution_tells_the_axis_of_the_channels(shape, channels, axis):
    assert channel_axis(nn.Sequential(nn.ReLU(), nn.Conv3d(channels, 2, 1)), torch.zeros(shape)) == axis
