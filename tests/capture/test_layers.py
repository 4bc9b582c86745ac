import pytest
import timm
import torch
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from xgradcam.cam.explain import explain
from xgradcam.capture.layers import Layout, default_layer, list_layers
from xgradcam.errors import XGradCamError
from xgradcam.lending.finding import find_layer

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


class ClassAttention(nn.Module):
    """A block of tokens, and one in which the class token alone reads the others: the patches end there."""

    def __init__(self, after=2, zeros=False):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 6, 4, stride=4), nn.Parameter(torch.randn(1, 1, 6))
        self.block, self.read = nn.Linear(6, 6), nn.Linear(6, 6)
        self.after = nn.Sequential(*[nn.LayerNorm(6) for _ in range(after)])
        self.head = nn.Linear(6, 3)
        if zeros:
            nn.init.zeros_(self.head.weight)

    def forward(self, images):
        tokens = self.block(self.patches(images).flatten(2).mT).tanh()
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1)
        shares = (self.read(tokens)[:, :1] @ tokens.mT).softmax(dim=2)
        return self.head(self.after(torch.cat([shares @ tokens, tokens[:, 1:]], dim=1))[:, 0])


@pytest.mark.parametrize("after", [1, 2])
def test_the_default_layer_is_the_last_whose_places_reach_the_scores(after):
    torch.manual_seed(0)
    model, images = ClassAttention(after).eval(), torch.randn(2, 3, 16, 16)
    layers = list_layers(model, images)
    assert default_layer(layers) == "block"
    assert [layer.name for layer in layers if layer.is_map and layer.reaches()] == [
        "patches",
        "block",
    ]
    assert explain(model, images, "block").maps["grad-cam"].any()
    dead = explain(model, images, "after.0", methods=["grad-cam", "xgrad-cam", "ablation-cam"])
    assert not any(signed.any() for signed in dead.maps.values())
    for lines in dead.notes:
        assert [line.split(":")[0] for line in lines if "signed" not in line] == ["no gradient"]


def test_a_head_of_zeros_and_a_model_without_a_gradient_keep_the_last_layer():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 16, 16)
    assert default_layer(list_layers(ClassAttention(zeros=True).eval(), images)) == "after.1"
    model = ClassAttention().eval()
    model.head.register_forward_hook(lambda _module, _inputs, output: output.detach())
    assert default_layer(list_layers(model, images)) == "after.1"


def test_a_branch_behind_the_classifier_is_passed_over():
    """The last maps of a network need not be those that its scores come from."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.head, self.mask = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.Conv2d(4, 1, 1)

        def forward(self, images):
            maps = self.trunk(images).relu()
            return {"logits": self.head(maps.mean(dim=(2, 3))), "mask": self.mask(maps)}

    torch.manual_seed(0)
    assert default_layer(list_layers(Branches().eval(), torch.rand(1, 3, 8, 8))) == "trunk"


def test_the_default_layer_of_a_network_of_class_attention():
    """XCiT hands the class token on alone after its last block of patches."""
    torch.manual_seed(0)
    model = timm.create_model(
        "xcit_nano_12_p16_224", depth=2, embed_dim=32, num_heads=2, num_classes=3
    ).eval()
    images = torch.randn(1, 3, 64, 64)
    layer = default_layer(list_layers(model, images))
    assert layer == "blocks.1"
    assert explain(model, images, layer).maps["grad-cam"].any()


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
