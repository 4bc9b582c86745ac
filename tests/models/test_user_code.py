import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from xgradcam.cli.proof_verify import main as proof_verify
from xgradcam.cli.xgrad_cam import main as xgrad_cam
from xgradcam.errors import XGradCamError, users_code
from xgradcam.models.load import load_classifier
from xgradcam.runs.preparation import WORTH_PREPARING

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
    written = ("any", "breaking", "syntax", "library", "late", "typed")
    for name in ("own_net", "beside", "own_package", "own_package.nets", *written):
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
    for no_taker in ("build", "ready"):
        with pytest.raises(XGradCamError, match=f"own_net.py:{no_taker} takes no num_classes"):
            load_classifier(f"own_net.py:{no_taker}", num_classes=9)
    Path("any.py").write_text("from own_net import Net\ndef build(**options):\n    return Net(**options)\n")
    assert load_classifier("any.py:build", num_classes=9).module.head.out_features == 9


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


BREAKING = """
import torch
from torch import nn
from own_net import Net

class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)

    def forward(self, images):
        return self.layer(images, "stride").mean(dim=(2, 3))

def ending():
    raise SystemExit(3)

def raising():
    raise ValueError("no such\\nfile")
"""


@pytest.mark.parametrize("command", [xgrad_cam, proof_verify], ids=["xgrad-cam", "proof-verify"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("breaking.py:raising", r"cannot make breaking\.py:raising: ValueError: no such \(.*line 18\)"),
        ("breaking.py:ending", r"cannot make breaking\.py:ending: SystemExit: 3 \(.*line 15\)"),
        ("syntax.py:build", r"cannot make syntax\.py:build: SyntaxError: .* \(.*syntax\.py, line 1\)"),
        (
            "library.py:build",
            r"cannot make library\.py:build: ModuleNotFoundError: .*no_such_library.*line 1\)",
        ),
        (
            "breaking.py:Wrong",
            r"breaking\.py:Wrong does not run on an input 1 x 3 x 224 x 224 \(--input-size gives another\): "
            r"TypeError: .* \(.*breaking\.py, line 12\)",
        ),
        ("own_net.py:Net", r"input 1 x 3 x 224 x 224 .*: RuntimeError: .*mat1 .* \(.*own_net\.py, line 13\)"),
    ],
)
def test_what_the_users_code_raises_is_one_line_of_the_commands(name, message, command, both, capsys):
    Path("breaking.py").write_text(BREAKING)
    Path("syntax.py").write_text("def build(:\n")
    Path("library.py").write_text("import no_such_library\n")
    assert command(["--image-path", str(both), "--model", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"error: .*{message}$", line)


@pytest.mark.parametrize(
    "folder",
    [
        "/env/lib/python3.99/site-packages",  # below this environment, or reached by another name
        "/home/me/.local/lib/python3.99/site-packages/own.egg",
        "/usr/lib/python3/dist-packages",
        "/cluster",  # by pip install --target, or a checkout: known since timm was imported from there
    ],
)
def test_the_place_is_the_users_line_wherever_packages_are(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(__file__=f"{folder}/timm/__init__.py"))
    layers = {}
    exec(compile("def fail(): raise KeyError('weights')", f"{folder}/timm/layers.py", "exec"), layers)
    line = 1 + Path(__file__).read_text().splitlines().index('        layers["fail"]()')
    with pytest.raises(XGradCamError) as caught, users_code("cannot make it"):
        layers["fail"]()
    assert str(caught.value) == f"cannot make it: KeyError: 'weights' ({__file__}, line {line})"


def test_code_beside_the_libraries_is_the_users():
    """In a folder whose name only begins as Python's own, by a relative name, or in a folder named torch."""
    for name in (f"{Path(os.__file__).parent}-mine/net.py", "net.py", "/home/me/torch/net.py"):
        code = compile("raise ValueError", name, "exec")
        with pytest.raises(XGradCamError, match=re.escape(f"({name}, line 1)")), users_code("cannot"):
            exec(code)


@pytest.mark.parametrize("breaking", ["undefined", "exit(0)"])
def test_code_that_breaks_on_this_photograph_alone_is_no_verdict(breaking, both, capsys):
    """Exit code 1 of proof-verify would say that Eq. 5 does not hold, and 0 that it does."""
    Path("late.py").write_text(
        "from own_net import Net\n"
        "class Late(Net):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images) if images.std() == 0 else "
        f"{breaking}\n"
    )
    grey = ("--mean", "0", "0", "0", "--std", "1", "1", "1", "--input-size", "32")
    assert proof_verify(["--image-path", str(both), "--model", "late.py:Late", *grey]) == 2
    error = capsys.readouterr().err
    assert re.search(r"(?s)Traceback.*late\.py.*(NameError|SystemExit).*error: unforeseen", error)


AVERAGING = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )
        self.to({dtype})
"""


@pytest.mark.parametrize("count", [1, WORTH_PREPARING])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_own_model_of_another_number_type(dtype, count, both):
    Path("typed.py").write_text(AVERAGING.format(dtype=dtype))
    photographs = [f"{index}.jpg" for index in range(count)]
    for path in photographs:
        shutil.copy(both, path)
    arguments = ["--model", "typed.py:Net", "--input-size", "32", "--method", "all", "--axioms"]
    assert xgrad_cam(["--image-path", *photographs, "--output-dir", "out", *arguments]) == 0
    # CAM applies to a network that averages, in every number type.
    for kind in ("X_cam", "linear-cam", "score-cam"):
        assert len(list(Path("out").rglob(f"*{kind}.jpg"))) == count


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
