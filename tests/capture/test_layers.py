import pytest
import timm
import torch
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from xgradcam.cam.explain import explain
from xgradcam.capture.layers import Layout, default_layer, find_layer, layout_of, list_layers
from xgradcam.errors import XGradCamError

LAST_MAPS = {
    "alexnet": ("features.12", (256, 6, 6)),
    "vgg16": ("features.30", (512, 7, 7)),
    "vgg11_bn": ("features.28", (512, 7, 7)),
    "resnet18": ("layer4.1", (512, 7, 7)),
    "resnet50": ("layer4.2", (2048, 7, 7)),
    "resnext50_32x4d": ("layer4.2", (2048, 7, 7)),
    "wide_resnet50_2": ("layer4.2", (2048, 7, 7)),
    "squeezenet1_1": ("classifier.2", (1000, 13, 13)),
    "densenet121": ("features.norm5", (1024, 7, 7)),
    "googlenet": ("inception5b", (1024, 7, 7)),
    "inception_v3": ("Mixed_7c", (2048, 8, 8)),
    "mobilenet_v2": ("features.18.2", (1280, 7, 7)),
    "mnasnet0_5": ("layers.16", (1280, 7, 7)),
    "shufflenet_v2_x0_5": ("conv5.2", (1024, 7, 7)),
    "efficientnet_b0": ("features.8.2", (1280, 7, 7)),
    "mobilenet_v3_small": ("features.12.2", (576, 7, 7)),
    "convnext_tiny": ("features.7.2", (768, 7, 7)),
}


def without_weights(name, **options):
    """The network without any numbers: shapes suffice."""
    with torch.device("meta"):
        return models.get_model(name, weights=None, **options).eval()


@pytest.mark.parametrize("name", LAST_MAPS)
def test_the_default_layer_is_the_last_feature_map(name):
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    side = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    layers = list_layers(without_weights(name, **options), torch.empty(1, 3, side, side, device="meta"))
    layer, shape = LAST_MAPS[name]
    assert default_layer(layers) == layer
    assert next(one.shape for one in layers if one.name == layer) == (1, *shape)


def test_the_default_layer_of_regnet_which_computes_while_it_is_built():
    layers = list_layers(models.regnet_x_400mf(weights=None).eval(), torch.zeros(1, 3, 64, 64))
    assert default_layer(layers) == "trunk_output.block4.block4-11"


def test_every_relu_cnn_of_torchvision_has_a_default_layer():
    families = ("alexnet", "vgg", "res", "wide", "squeeze", "dense", "mobilenet_v2", "mnas", "shuffle")
    names = [name for name in models.list_models(module=models) if name.startswith(families)]
    assert len(names) > 30
    for name in names:
        layers = list_layers(without_weights(name), torch.empty(1, 3, 224, 224, device="meta"))
        assert default_layer(layers) in {layer.name for layer in layers if layer.is_map}


def test_layers_come_in_the_order_they_finish_in_with_shape_and_runs(net, batch):
    net.classifier[1] = net.features[4] = nn.ReLU()
    net.features.register_forward_hook(lambda _m, _i, output: output)
    layers = list_layers(net, batch)
    assert [layer.name for layer in layers][:5] == [f"features.{index}" for index in range(5)]
    assert layers[-1].name == ""
    by_name = {layer.name: layer for layer in layers}
    assert by_name["features.5"].shape == (3, 4, 4, 4)
    assert by_name["features.4"].runs == 2
    assert not by_name["features.4"].is_map
    assert by_name["features.5"].is_map
    assert not by_name["classifier.0"].is_map
    assert len(net.features._forward_hooks) == 1
    assert not net.features[0]._forward_hooks


def test_listing_leaves_no_hook_behind_when_the_model_raises(net):
    with pytest.raises(RuntimeError):
        list_layers(net, torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    assert not any(module._forward_hooks for module in net.modules())


def test_maps_of_one_pixel_and_pooled_ones_are_passed_over():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 4), nn.Flatten())
    assert default_layer(list_layers(model, torch.zeros(1, 3, 8, 8))) == "0"


def test_no_default_where_there_is_no_map():
    with pytest.raises(XGradCamError, match="no layer gives feature maps"):
        default_layer(list_layers(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2)))


TRANSFORMERS = {
    "timm/vit_tiny_patch16_224": ("blocks.11.norm1", Layout("tokens", 14, 14, 1)),
    "timm/deit_tiny_distilled_patch16_224": ("blocks.11.norm1", Layout("tokens", 14, 14, 2)),
    "timm/swin_tiny_patch4_window7_224": ("norm", Layout("channels last", 7, 7)),
    "timm/convnext_atto": ("stages.3", Layout("maps", 7, 7)),
    "timm/mixer_s32_224": ("norm", Layout("tokens", 7, 7)),
    "timm/mvitv2_tiny": ("norm", Layout("tokens", 7, 7)),
    "vit_b_32": ("encoder.layers.encoder_layer_11.ln_1", Layout("tokens", 7, 7, 1)),
    "swin_t": ("permute", Layout("maps", 7, 7)),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_default_layer_of_networks_of_tokens(name):
    """Of a class token's network what the last attention reads; of one that averages all, the last layer."""
    if name.startswith("timm/"):
        model = timm.create_model(name.removeprefix("timm/"), pretrained=False).eval()
    else:
        model = models.get_model(name, weights=None).eval()
    layers = list_layers(model, torch.zeros(1, 3, 224, 224))
    expected, layout = TRANSFORMERS[name]
    assert default_layer(layers) == expected
    assert next(layer.layout for layer in layers if layer.name == expected) == layout


def test_the_default_layer_of_a_vision_transformer_is_the_last_that_patches_reach_the_score_from():
    model = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    with torch.no_grad():
        model.heads.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    chosen = default_layer(list_layers(model, images))
    assert chosen == "encoder.layers.encoder_layer_1.ln_1"
    assert explain(model, images, chosen).maps["grad-cam"].any()
    assert not explain(model, images, "encoder.layers.encoder_layer_1").maps["grad-cam"].any()


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


def test_layers_by_name_and_by_module(net):
    assert find_layer(net, "features.3") == ("features.3", net.features[3])
    assert find_layer(net, net.features[3]) == ("features.3", net.features[3])


def test_a_wrong_name_gets_the_nearest_and_a_strange_module_is_refused(net):
    with pytest.raises(
        XGradCamError, match=r"no layer 'feature\.3' in this TinyNet; did you mean 'features\.3'"
    ):
        find_layer(net, "feature.3")
    with pytest.raises(XGradCamError, match="a ReLU, is not a module of this TinyNet"):
        find_layer(net, nn.ReLU())
