"""Layers found by their names."""

import pytest
import torch
from torch import nn

from xgradcam.cam.explain import explain
from xgradcam.errors import XGradCamError
from xgradcam.lending.finding import find_layer


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, images):
        return self.head(self.second(self.first(images)).relu().mean((2, 3)))


class Renamed(Net):
    """Says other names of its modules than those of its attributes."""

    def named_modules(self, memo=None, prefix="", remove_duplicate=True):
        names = {"first": "second", "second": "first", "head": "top.head"}
        for name, module in super().named_modules(memo, "", remove_duplicate):
            own = names.get(name, name)
            yield f"{prefix}.{own}" if prefix and own else prefix or own, module


@pytest.mark.parametrize("around", ["", "0.", "0.0."])
def test_a_model_may_say_other_names_of_its_modules(around):
    net = Renamed()
    model = net
    for _ in around.split(".")[1:]:
        model = nn.Sequential(model)
    expected = {"first": net.second, "second": net.first, "top.head": net.head}
    for name, module in expected.items():
        assert find_layer(model, around + name) == (around + name, module)
    with pytest.raises(XGradCamError, match="no layer"):
        find_layer(model, around + "head")
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found, plain = explain(model, images, around + "first", 1), explain(Net(), images, "second", 1)
    torch.testing.assert_close(found.maps["xgrad-cam"], plain.maps["xgrad-cam"], rtol=0, atol=0)


@pytest.mark.parametrize("path", [".", "first.", ".first", "first..0", "0", "first.weight", "forward"])
def test_what_is_no_path_of_a_module_is_no_layer(path):
    with pytest.raises(XGradCamError, match="no layer"):
        find_layer(Net(), path)
