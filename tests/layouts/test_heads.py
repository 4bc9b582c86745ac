"""The layers that heads read, in networks that return no class scores."""

import pytest
import torch
from torch import nn

from xgradcam import default_layer, list_layers
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
    names = ["backbone", "backbone.fpn.0", "backbone.body.4", "backbone.body.heads_up", "rpn.head.conv"]
    assert read_by_heads(names, names) == {"backbone.body.4", "backbone.body.heads_up"}
    assert read_by_heads(["trunk.1", "head.1", "position_embedding"], {"trunk.1"}) == {"trunk.1"}
    assert list(read_by_heads(["head.1"], {"head.1"})) == ["head.1"]
    # A pyramid inside of the backbone that is all there is.
    assert list(read_by_heads(["backbone.fpn.1"], {"backbone.fpn.1"})) == ["backbone.fpn.1"]
