"""The layers that heads read, in networks that return no class scores."""

import pytest
import torch
from torch import nn

from xgradcam import default_layer, explain_score, list_layers
from xgradcam.layouts.heads import gives_classes, read_by_heads


class Net(nn.Module):
    """A named trunk, and a head of two convolutions: maps of classes, or class scores."""

    def __init__(self, trunk, head, pooled=False, form=lambda maps: maps):
        super().__init__()
        self.add_module(trunk, nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
        self.add_module(head, nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
        self.names, self.pooled, self.form = (trunk, head), pooled, form

    def forward(self, inputs):
        for name in self.names:
            inputs = getattr(self, name)(inputs)
        return self.form(inputs.mean(dim=(2, 3)) if self.pooled else inputs)


@pytest.mark.parametrize(
    ("trunk", "head", "expected"),
    [
        ("backbone", "classifier", "backbone.1"),
        ("encoder", "segmentation_head", "encoder.1"),
        ("features", "decode_head", "features.1"),
        ("stem", "neck", "stem.1"),
        # Names that tell nothing: the last maps, as before.
        ("one", "two", "two.2"),
    ],
)
def test_the_default_layer_is_the_last_that_a_head_reads(trunk, head, expected):
    inputs = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for form in (lambda maps: maps, lambda maps: {"out": maps}, lambda maps: [{"boxes": maps}]):
        assert default_layer(list_layers(Net(trunk, head, form=form), inputs)) == expected
    # With class scores, the last maps before pooling, whatever the names are.
    assert default_layer(list_layers(Net(trunk, head, pooled=True), inputs)) == f"{head}.2"


def test_detectors_without_a_detection_have_a_default_layer():
    def none(maps):
        return [{"boxes": maps.new_zeros(0, 4), "scores": maps.flatten()[:0]}]

    inputs = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert default_layer(list_layers(Net("backbone", "rpn", form=none), inputs)) == "backbone.1"


def test_class_scores_are_told_from_boxes():
    scores = torch.zeros(2, 5)
    assert gives_classes(scores, 2)
    assert gives_classes({"logits": scores, "maps": torch.zeros(2, 3, 4, 4)}, 2)
    assert gives_classes((torch.zeros(2, 1), None), 2)
    assert not gives_classes([{"boxes": torch.zeros(2, 4)}] * 2, 2)
    assert not gives_classes({"out": torch.zeros(2, 3, 4, 4)}, 2)
    assert not gives_classes(torch.zeros(3, 5), 2)


def test_a_name_is_a_head_as_a_whole_word():
    def read(names, maps):
        return read_by_heads(dict.fromkeys(names, nn.Identity()), maps)

    names = ["backbone", "backbone.fpn.0", "backbone.body.4", "backbone.body.heads_up", "rpn.head.conv"]
    assert read(names, names) == {"backbone.body.4", "backbone.body.heads_up"}
    assert read(["trunk.1", "head.1", "position_embedding"], {"trunk.1"}) == {"trunk.1"}
    assert list(read(["head.1"], {"head.1"})) == ["head.1"]
    # A pyramid inside of the backbone that is all there is.
    assert list(read(["backbone.fpn.1"], {"backbone.fpn.1"})) == ["backbone.fpn.1"]


class Numbered(nn.Module):
    """YOLO's form: numbered layers that say which others they read, and a head of two or more of them."""

    def __init__(self, layers, read):
        super().__init__()
        self.model = nn.ModuleList(layers)
        for number, (layer, others) in enumerate(zip(layers, read, strict=True)):
            layer.i, layer.f = number, others

    def forward(self, inputs):
        made = []
        for number, layer in enumerate(self.model):
            others = layer.f if isinstance(layer.f, list) else [layer.f]
            given = [made[other if other >= 0 else number + other] if made else inputs for other in others]
            made.append(layer(given if len(given) > 1 else given[0]))
        return made[-1]


class Joined(nn.Module):
    def forward(self, maps):
        return torch.cat(maps, dim=1)


class Boxes(nn.Module):
    """Boxes and the scores of 3 classes at each place of two maps, (N, 7, places); `dfl` makes the boxes."""

    def __init__(self, first, second):
        super().__init__()
        self.cv = nn.ModuleList([nn.Conv2d(first, 7, 1), nn.Conv2d(second, 7, 1)])
        self.dfl = nn.Conv2d(4, 4, 1)

    def forward(self, maps):
        rows = torch.cat([cv(one).flatten(2) for cv, one in zip(self.cv, maps, strict=True)], dim=2)
        return torch.cat([self.dfl(rows[:, :4, :, None])[..., 0], rows[:, 4:].sigmoid()], dim=1)


def conv(given, made, stride=1):
    return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1), nn.ReLU())


def both_ways():
    """A pyramid whose levels read each other: the end of the backbone is the last layer before it."""
    layers = [conv(3, 4, 2), conv(4, 6, 2), nn.Upsample(scale_factor=2), Joined(), conv(10, 4), conv(4, 6, 2)]
    layers += [Joined(), conv(12, 6), Boxes(4, 6)]
    return Numbered(layers, [-1, -1, -1, [-1, 0], -1, -1, [-1, 1], -1, [4, 7]]).eval()


def one_way():
    """As YOLOv3's: a level has layers of its own before the pyramid, of which the other does not come."""
    layers = [conv(3, 4, 2), conv(4, 6, 2), conv(6, 6), conv(6, 5), nn.Upsample(scale_factor=2), Joined()]
    layers += [conv(9, 4), Boxes(4, 6)]
    return Numbered(layers, [-1, -1, -1, 1, -1, [-1, 0], -1, [6, 2]]).eval()


@pytest.mark.parametrize("made", [both_ways, one_way])
def test_the_default_layer_of_a_yolo_is_the_last_that_all_levels_come_of(made):
    torch.manual_seed(0)
    net, inputs = made(), torch.rand(1, 3, 16, 24)
    layer = default_layer(list_layers(net, inputs))
    assert layer == "model.1.1"
    for anchor in (0, -1):
        explanation = explain_score(net, inputs, layer, lambda y, anchor=anchor: y[:, 5, anchor])
        assert explanation.maps["xgrad-cam"].any()
