"""The bundled network against timm's, from which its weights come."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from xgradcam.models import efficientnet_lite0 as lite0

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def both():
    """timm's network with random weights and statistics, and ours with the same ones."""
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=7).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    ours = lite0.EfficientNetLite0(num_classes=7).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def test_the_tensors_are_timms_name_for_name_and_in_their_order(both):
    theirs, ours = both
    assert list(theirs.state_dict()) == list(ours.state_dict())


def test_the_layers_are_timms_name_for_name(both):
    names, own = (
        {name for name, module in model.named_modules() if not isinstance(module, nn.Identity)}
        for model in both
    )
    assert names - own == {"global_pool.pool", "global_pool.flatten"}
    assert own <= names


@pytest.mark.parametrize("size", [(224, 224), (225, 223), (97, 160), (33, 1)])
def test_it_computes_what_timms_does_bit_for_bit(both, size):
    theirs, ours = both
    inputs = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    results = []
    for model in (theirs, ours):
        inputs = inputs.detach().requires_grad_()
        scores = model(inputs)
        results.append((scores, torch.autograd.grad(scores[:, 3].sum(), inputs)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_the_preprocessing_is_timms():
    config = timm.data.resolve_model_data_config(timm.create_model("tf_efficientnet_lite0", pretrained=False))
    assert config["input_size"] == (3, lite0.SIDE, lite0.SIDE)
    assert (config["mean"], config["std"]) == (lite0.MEAN, lite0.STD)
    assert config["interpolation"] == lite0.INTERPOLATION
    assert int(lite0.SIDE / config["crop_pct"]) == lite0.RESIZE


@pytest.mark.parametrize("command", ["xgrad_cam", "proof_verify"])
def test_both_commands_import_only_what_they_use(tmp_path, command):
    arguments = ["--model", "efficientnet-lite0", "--image-path", str(ROOT / "examples/cat.jpg")]
    script = (
        f"import sys; from xgradcam.cli.{command} import main; code = main({arguments!r})\n"
        "unused = ['timm', 'torchvision', 'matplotlib', 'huggingface_hub', 'safetensors', 'scipy']\n"
        "print(code, sorted(set(unused) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "0 []"
