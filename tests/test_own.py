import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from xgradcam.errors import XGradCamError
from xgradcam.models import load_classifier

CODE = """
import torch
from torch import nn
from beside import CHANNELS

class Net(nn.Module):
    def __init__(self, num_classes=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.ReLU(), nn.MaxPool2d(4))
        self.head = nn.Linear(CHANNELS * 49, num_classes)

    def forward(self, images):
        return self.head(self.features(images).flatten(1))

def build():
    return Net()

ready = Net(7)
number = 3
def needs(size, depth=2):
    return Net()
def gives_nothing():
    pass
"""


@pytest.fixture(autouse=True)
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own_net", "beside", "own_package", "own_package.nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("own_net.py").write_text(CODE)
    Path("beside.py").write_text("CHANNELS = 5\n")
    Path("own_package").mkdir()
    Path("own_package", "nets.py").write_text(CODE)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["own_net.py:build", "own_net:build", "own_package.nets:build", "./own_net.py:Net"]
)
def test_a_model_from_a_file_or_a_module(name):
    classifier = load_classifier(name, size=(32, 32))
    assert classifier.module(classifier.inputs(torch.zeros(5, 6, 3, dtype=torch.uint8).numpy())).shape == (
        1,
        4,
    )
    assert not classifier.module.training
    assert classifier.labels is None
    assert classifier.default_layer() == "features.2"


def test_a_file_from_another_folder(code, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load_classifier(f"{code}/own_net.py:ready").module.head.out_features == 7


def test_the_number_of_classes_reaches_what_takes_it():
    assert load_classifier("own_net.py:Net", num_classes=9).module.head.out_features == 9
    assert load_classifier("own_net.py:build", num_classes=9).module.head.out_features == 4


def test_own_weights_fit_the_own_model(tmp_path):
    trained = load_classifier("own_net.py:build").module
    state = {f"module.{key}": value + 1 for key, value in trained.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, "checkpoint.pth")
    loaded = load_classifier("own_net.py:build", "checkpoint.pth", labels=("a", "b", "c", "d"))
    assert torch.equal(loaded.module.head.bias, trained.head.bias + 1)
    assert loaded.labels == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.py:build", r"no such file: missing\.py"),
        ("missing_module:build", "no module 'missing_module'"),
        ("own_net.py:bulid", r"no 'bulid' in own_net\.py; it has: .*Net, build"),
        ("own_net.py:number", "is a int: neither a model nor a function"),
        ("own_net.py:needs", "needs size: point to a function without arguments"),
        ("own_net.py:gives_nothing", r"gives a NoneType, not a torch\.nn\.Module"),
    ],
)
def test_what_is_no_model_is_named(name, message):
    with pytest.raises(XGradCamError, match=message):
        load_classifier(name)


def test_errors_inside_the_users_code_are_shown_as_they_are():
    Path("broken.py").write_text("import no_such_library\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        load_classifier("broken.py:build")


def test_another_number_of_classes_for_a_known_model(tmp_path):
    for name in ("squeezenet1_1", "timm/resnet10t", "vgg16"):
        if name != "vgg16":
            torch.save(load_classifier(name, "none", num_classes=3).module.state_dict(), "three.pth")
            classifier = load_classifier(name, "three.pth", num_classes=3, labels=("a", "b", "c"))
            with torch.no_grad():
                assert classifier.module(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
            assert load_classifier(name, "three.pth", num_classes=3).labels is None
        with pytest.raises(XGradCamError, match="ImageNet's weights are not for 3 classes"):
            load_classifier(name, num_classes=3)


def test_preprocessing_and_output_can_be_said(tmp_path):
    classifier = load_classifier(
        "own_net.py:build", size=(20, 30), mean=(0, 0, 0), std=(1, 1, 1), output="logits"
    )
    assert classifier.inputs(torch.full((2, 2, 3), 255, dtype=torch.uint8).numpy()).unique().tolist() == [1]
    assert classifier.inputs(torch.zeros(2, 2, 3, dtype=torch.uint8).numpy()).shape == (1, 3, 20, 30)
    assert classifier.output == "logits"
    assert isinstance(classifier.module, nn.Module)
