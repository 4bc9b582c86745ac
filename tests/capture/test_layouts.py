import pytest
import torch
from torch import nn

from xgradcam.cam.explain import explain
from xgradcam.capture.layers import Layout, layout_of
from xgradcam.errors import XGradCamError

SQUARE, WIDE = (224, 224), (192, 320)


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((1, 512, 7, 7), SQUARE, Layout("maps", 7, 7)),
        ((1, 64, 12, 20), WIDE, Layout("maps", 12, 20)),
        ((1, 7, 7, 7), SQUARE, Layout("maps", 7, 7)),
        ((1, 2, 299, 299), SQUARE, Layout("maps", 299, 299)),
        ((1, 8, 5, 3), SQUARE, Layout("maps", 5, 3)),
        ((1, 7, 7, 768), SQUARE, Layout("channels last", 7, 7)),
        ((1, 12, 20, 768), WIDE, Layout("channels last", 12, 20)),
        ((1, 197, 768), SQUARE, Layout("tokens", 14, 14, 1)),
        ((1, 196, 768), SQUARE, Layout("tokens", 14, 14)),
        ((1, 198, 192), SQUARE, Layout("tokens", 14, 14, 2)),
        ((1, 1374, 384), (518, 518), Layout("tokens", 37, 37, 5)),
        ((1, 241, 768), WIDE, Layout("tokens", 12, 20, 1)),
    ],
)
def test_layouts_of_networks(shape, image, expected):
    assert layout_of(shape, image) == expected


@pytest.mark.parametrize("shape", [(1, 1000), (5,), (1, 2, 3, 4, 5), (1, 190, 768)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(XGradCamError, match="neither feature maps"):
        layout_of(shape, SQUARE)


def test_maps_of_tokens_and_of_channels_last_are_those_of_the_same_numbers():
    maps = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    tokens = torch.cat([torch.full((2, 2, 3), -1.0), maps.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(Layout("tokens", 4, 5, 2).to_maps(tokens), maps)
    assert torch.equal(Layout("channels last", 4, 5).to_maps(maps.movedim(1, -1)), maps)
    assert Layout("maps", 4, 5).to_maps(maps) is maps


@pytest.mark.parametrize("kind", ["tokens", "channels last"])
def test_a_network_explains_alike_however_its_layer_is_laid_out(kind):
    class Rearranged(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.kind, self.conv, self.same = kind, nn.Conv2d(3, 5, 2, stride=2), nn.Identity()
            self.head = nn.Linear(5 * 16, 3)

        def forward(self, images):
            maps = self.conv(images).relu()
            if self.kind == "tokens":
                sequence = torch.cat([maps.mean(dim=(2, 3))[:, None], maps.flatten(2).transpose(1, 2)], dim=1)
                maps = self.same(sequence)[:, 1:].transpose(1, 2)
            elif self.kind == "channels last":
                maps = self.same(maps.movedim(1, -1)).movedim(-1, 1)
            else:
                maps = self.same(maps)
            return self.head(maps.flatten(1))

    torch.manual_seed(0)
    plain, rearranged = Rearranged("maps"), Rearranged(kind)
    rearranged.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 8, 8)
    expected, found = (explain(model, images, "same", 1).maps for model in (plain, rearranged))
    for method in expected:
        torch.testing.assert_close(found[method], expected[method])
        assert found[method].shape == (2, 4, 4)


def test_a_layer_that_cuts_the_batch_into_windows_is_refused():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(3, 2, 1)

        def forward(self, images):
            return self.inner(images.reshape(-1, 3, 4, 4)).reshape(len(images), -1)

    with pytest.raises(XGradCamError, match=r"'inner' gives shape \(8, 2, 4, 4\) for 2 samples"):
        explain(Windows(), torch.rand(2, 3, 8, 8), "inner")
