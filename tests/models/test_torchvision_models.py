"""torchvision's models of all kinds by name: built, prepared for, filled from a file, or refused."""

import re
import socket

import numpy as np
import pytest
import torch
from torchvision import models

from xgradcam.cli.xgrad_cam import main
from xgradcam.errors import WeightsUnavailableError, XGradCamError
from xgradcam.models.load import load_classifier

KINDS = {"segmentation": models.segmentation, "detection": models.detection, "video": models.video}
# A small one of each.
SMALL = {"segmentation": "lraspp_mobilenet_v3_large", "detection": "ssdlite320_mobilenet_v3_large"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))


@pytest.fixture
def unbuilt(monkeypatch):
    """Have networks asked for but not built, which takes a minute for all of them."""
    real, built = models.get_model, []

    def get_model(name, **options):
        built.append((name, options))
        detector = name in models.list_models(module=models.detection)
        tiny = "lraspp_mobilenet_v3_large" if not detector else name
        with torch.device("meta"):
            return real(tiny, weights=None, weights_backbone=None) if detector else torch.nn.Identity()

    monkeypatch.setattr(models, "get_model", get_model)
    return built


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_is_known_with_its_preprocessing_and_names(unbuilt, kind):
    for name in models.list_models(module=KINDS[kind]):
        classifier = load_classifier(name, "none")
        weights = models.get_model_weights(name).DEFAULT
        assert (classifier.name, classifier.kind) == (name, kind)
        assert classifier.labels == tuple(weights.meta["categories"])
        preset = weights.transforms()
        if kind == "detection":
            assert (classifier.mean, classifier.std) == ((0.0,) * 3, (1.0,) * 3)
            assert classifier.size[0] in (300, 320, 800)
            continue
        assert (classifier.mean, classifier.std) == (tuple(preset.mean), tuple(preset.std))
        sides = preset.resize_size * 2 if kind == "segmentation" else preset.crop_size
        assert classifier.size == tuple(sides)
        assert classifier.blank().ndim == (5 if kind == "video" else 4)
    assert len(unbuilt) == len(models.list_models(module=KINDS[kind]))


@pytest.mark.parametrize(("kind", "name"), SMALL.items())
def test_weights_of_a_file_are_the_models(tmp_path, kind, name):
    torch.manual_seed(1)
    options = {"num_classes": 4, "weights": None, "weights_backbone": None}
    model = models.get_model(name, **options).eval()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    classifier = load_classifier(name, tmp_path / "own.pth", num_classes=4)
    assert classifier.labels is None
    inputs = classifier.inputs(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    with torch.no_grad():
        found, right = classifier.module(inputs), model(inputs)
    if kind == "segmentation":
        torch.testing.assert_close(found["out"], right["out"])
        with pytest.raises(XGradCamError, match="then give --num-classes 4"):
            load_classifier(name, tmp_path / "own.pth")
    else:
        torch.testing.assert_close(found[0]["boxes"], right[0]["boxes"])
    with pytest.raises(XGradCamError, match="the published weights are not for 4 classes: give yours"):
        load_classifier(name, num_classes=4)
    with pytest.raises(WeightsUnavailableError, match=rf"the weights of {name} are not available \("):
        load_classifier(name)


def test_a_segmentations_auxiliary_head_is_there_where_the_file_has_one(tmp_path):
    name = "deeplabv3_mobilenet_v3_large"
    for auxiliary in (True, False):
        model = models.get_model(name, weights=None, weights_backbone=None, aux_loss=auxiliary)
        torch.save(model.state_dict(), tmp_path / "own.pth")
        module = load_classifier(name, tmp_path / "own.pth").module
        assert (module.aux_classifier is not None) is auxiliary
    torch.save({"a": torch.ones(2, 2)}, tmp_path / "own.pth")
    with pytest.raises(XGradCamError, match="do not fit this DeepLabV3: missing: backbone"):
        load_classifier(name, tmp_path / "own.pth")


def test_a_detector_is_given_photographs_as_it_resizes_them_itself():
    """Then its maps lie over the photograph, without padding."""
    from xgradcam.layouts.padding import WHOLE, share_of_image

    for name in ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"):
        classifier = load_classifier(name, "none")
        images, _ = classifier.module.transform([classifier.blank()[0]])
        assert tuple(images.tensors.shape[2:]) == classifier.size
        assert share_of_image(classifier.module, classifier.blank(), "backbone") == WHOLE


@pytest.mark.parametrize(
    "name", [*models.list_models(module=models.quantization), "raft_large", "raft_small"]
)
def test_models_without_gradient_or_classes_are_refused_with_the_remedy(name):
    with pytest.raises(XGradCamError) as caught:
        load_classifier(name, "none")
    remedy = re.fullmatch(
        rf"{name} is quantised, and integers have no gradient: take --model (\w+)", str(caught.value)
    )
    if name.startswith("raft"):
        assert str(caught.value).startswith(f"{name} is a model of optical flow")
    else:
        assert remedy
        assert remedy[1] in models.list_models(module=models)


@pytest.mark.parametrize("name", ["net.pt", "net.pt2", "net.onnx"])
def test_a_file_is_no_name_of_a_model(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(XGradCamError, match=r"is a file: name its network by --model, .* by --weights"):
        load_classifier(str(tmp_path / name), "none")


def test_a_photograph_is_no_clip(tmp_path, capsys, monkeypatch, cat):
    assert main(["--image-path", cat, "--model", "r3d_18", "--weights", "none"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        "r3d_18 takes clips, and a photograph is none: from Python, give explain inputs (N, 3, frames" in said
    )


@pytest.fixture
def cat():
    from tests.support import EXAMPLES

    return str(EXAMPLES / "cat.jpg")
