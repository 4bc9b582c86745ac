import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import models as torchvision_models

from xgradcam.capture.layers import default_layer
from xgradcam.errors import WeightsUnavailableError, XGradCamError
from xgradcam.models import timm_models
from xgradcam.models import vgg16 as vgg
from xgradcam.models.checkpoints import read_state_dicts
from xgradcam.models.load import load_classifier
from xgradcam.pictures.photograph import read_image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_the_bundled_network_knows_imagenet(no_network):
    """The 20 labelled photographs that foolbox ships; their file names end in the class."""
    classifier = load_classifier("efficientnet-lite0")
    files = sorted((Path(find_spec("foolbox").origin).parent / "data").glob("imagenet_*.jpg"))
    assert len(files) == 20
    hits = 0
    for file in files:
        with torch.no_grad():
            logits = classifier.module(classifier.inputs(read_image(file)))
        hits += int(logits.argmax()) == int(file.stem.split("_")[-1])
    assert hits >= 18


def test_models_come_in_evaluation_mode_frozen(no_network):
    for name, weights in (
        ("efficientnet-lite0", "default"),
        ("squeezenet1_1", "none"),
        ("timm/resnet10t", "none"),
    ):
        module = load_classifier(name, weights).module
        assert not any(part.training for part in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_random_weights_are_the_same_every_time_and_leave_the_callers_generator(no_network):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (load_classifier("squeezenet1_1", "none").module.state_dict() for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "regnet_x_400mf", "mnasnet0_5", "googlenet", "timm/resnet10t", "efficientnet-lite0"],
)
def test_weights_of_a_file_are_the_models(tmp_path, no_network, name):
    source = load_classifier(name, "none")
    torch.save(source.module.state_dict(), tmp_path / "a.pth")
    loaded = load_classifier(name, str(tmp_path / "a.pth"))
    photograph = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = source.module(source.inputs(photograph))
        assert torch.equal(loaded.module(loaded.inputs(photograph)), expected)
    assert expected.shape == (1, 1000)


def test_weights_from_the_cache_need_no_network(empty_cache, no_network):
    weights = torchvision_models.SqueezeNet1_1_Weights.DEFAULT
    source = load_classifier("squeezenet1_1", "none")
    empty_cache.mkdir(parents=True)
    torch.save(source.module.state_dict(), empty_cache / weights.url.rsplit("/", 1)[1])
    loaded = load_classifier("squeezenet1_1").module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.module.state_dict().items())


def test_preprocessing_is_the_models_own(no_network):
    inception = load_classifier("inception_v3", "none")
    assert inception.size == (299, 299)
    assert inception.module.transform_input
    bundled = load_classifier("efficientnet-lite0")
    assert (bundled.size, bundled.mean, bundled.std) == ((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    white = np.full((3, 3, 3), 255, np.uint8)
    assert (bundled.inputs(white) == 1).all()


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "efficientnet_b1", "inception_v3"])
def test_a_crop_is_that_of_torchvisions_weights(no_network, name):
    classifier = load_classifier(name, "none")
    preset = torchvision_models.get_model_weights(name).DEFAULT.transforms()
    for shape in ((300, 451), (451, 300), (30, 20)):
        photograph = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert torch.equal(classifier.inputs(photograph, crop=True)[0], preset(Image.fromarray(photograph)))


@pytest.mark.parametrize("name", ["resnet18", "resnet10t", "tf_efficientnet_lite0"])
def test_a_crop_is_that_of_timms_weights(no_network, name):
    classifier = load_classifier(f"timm/{name}", "none")
    evaluation = timm.data.create_transform(**timm.data.resolve_model_data_config(classifier.module))
    photograph = np.random.default_rng(0).integers(0, 256, (300, 451, 3), dtype=np.uint8)
    cropped = classifier.inputs(photograph, crop=True)[0]
    assert (cropped - evaluation(Image.fromarray(photograph))).abs().max() < 1e-5
    if name == "tf_efficientnet_lite0":
        assert torch.equal(load_classifier("efficientnet-lite0").inputs(photograph, crop=True)[0], cropped)


def test_without_a_known_resize_a_crop_is_refused(no_network):
    squashed = load_classifier("timm/tiny_vit_21m_512", "none")
    for classifier in (squashed, load_classifier("resnet18", "none", size=(96, 160))):
        assert classifier.inputs(np.zeros((5, 5, 3), np.uint8)).shape[2:] == classifier.size
        with pytest.raises(XGradCamError, match=f"{classifier.name} has no known resize before a centre"):
            classifier.inputs(np.zeros((5, 5, 3), np.uint8), crop=True)


def test_the_resize_is_the_callers_or_goes_with_the_size(no_network):
    assert load_classifier("vgg16", "none", num_classes=2).resize == 256
    assert load_classifier("resnet18", "none", size=(112, 112)).resize == 128
    given = load_classifier("resnet18", "none", size=(96, 160), resize=200)
    assert given.inputs(np.zeros((5, 5, 3), np.uint8), crop=True).shape == (1, 3, 96, 160)


def unreachable(url):
    raise WeightsUnavailableError("example.invalid: no route")


def test_the_default_falls_back_on_the_bundled_network_and_says_so(empty_cache, monkeypatch):
    monkeypatch.setattr("xgradcam.models.download.require_reachable", unreachable)
    lines = []
    assert load_classifier(report=lines.append).name == "efficientnet-lite0"
    assert len(lines) == 1
    assert "VGG-16's weights are not available (example.invalid: no route" in lines[0]
    assert "\n" not in lines[0]


def test_a_model_that_was_asked_for_never_falls_back(empty_cache, monkeypatch):
    monkeypatch.setattr("xgradcam.models.download.require_reachable", unreachable)
    with pytest.raises(WeightsUnavailableError, match=r"no route.*--weights"):
        load_classifier("vgg16")


def test_timms_weights_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr(timm_models, "require_reachable", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailableError, match="no route"):
        load_classifier("timm/resnet18.a1_in1k")
    assert load_classifier("timm/resnet18", "none").size == (224, 224)


def test_unknown_models_get_the_nearest_names(no_network):
    with pytest.raises(XGradCamError, match="no model 'vgg61'; did you mean 'vgg19' or 'vgg16'"):
        load_classifier("vgg61")
    with pytest.raises(XGradCamError, match="no model 'timm/resnet81'; did you mean 'timm/resnet"):
        load_classifier("timm/resnet81")
    with pytest.raises(XGradCamError, match="no model 'fcn_resnet51'; did you mean 'fcn_resnet50'"):
        load_classifier("fcn_resnet51")


def test_weights_of_another_model_are_refused_with_their_keys(tmp_path, no_network):
    torch.save(load_classifier("squeezenet1_1", "none").module.state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        XGradCamError, match=r"do not fit this ResNet: missing: conv1\.weight.*unknown: features"
    ):
        load_classifier("resnet18", str(tmp_path / "a.pth"))
    (state,) = read_state_dicts(tmp_path / "a.pth").values()
    assert len(state) == 52


def test_weights_of_another_head_are_refused_with_the_option_for_it(tmp_path, no_network):
    trained = load_classifier("squeezenet1_1", "none", num_classes=10).module
    torch.save(trained.state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        XGradCamError, match=r"\(1000,\); are they of 10 classes\? then give --num-classes 10$"
    ):
        load_classifier("squeezenet1_1", str(tmp_path / "a.pth"))
    fitted = load_classifier("squeezenet1_1", str(tmp_path / "a.pth"), num_classes=10).module
    assert torch.equal(fitted.classifier[1].weight, trained.classifier[1].weight)


def test_the_papers_network_is_torchvisions_vgg16():
    published = torchvision_models.VGG16_Weights.IMAGENET1K_V1
    preprocessing = published.transforms()
    assert published.url == vgg.WEIGHTS_URL
    assert f"{published.meta['_file_size']:.0f} MB" == vgg.WEIGHTS_SIZE
    assert (tuple(preprocessing.mean), tuple(preprocessing.std)) == (vgg.MEAN, vgg.STD)
    assert preprocessing.crop_size == [vgg.SIDE]
    assert preprocessing.resize_size == [vgg.RESIZE]
    with torch.device("meta"):
        ours, theirs = vgg.VGG16(), torchvision_models.vgg16()
    assert str(ours).replace("VGG16", "VGG") == str(theirs)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }


def test_the_papers_network_does_not_import_torchvision():
    script = "import sys; from xgradcam import load_classifier; load_classifier('vgg16', 'none'); "
    script += "sys.exit(bool({'torchvision', 'timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["vgg16", "efficientnet-lite0"])
def test_the_default_layers_that_are_known_are_those_that_would_be_found(name):
    classifier = load_classifier(name, "none")
    assert classifier.layer is not None
    assert default_layer(classifier.layers()) == classifier.layer == classifier.default_layer()
    assert replace(classifier, layer=None).default_layer() == classifier.layer


def test_a_damaged_file_in_the_cache_is_named_with_the_remedy(empty_cache, no_network):
    empty_cache.mkdir(parents=True)
    (empty_cache / vgg.WEIGHTS_URL.rsplit("/", 1)[1]).write_text("<html>please log in</html>")
    for name in (None, "vgg16"):
        with pytest.raises(
            XGradCamError, match=r"cannot read weights .*; delete .*vgg16-397923af\.pth to have it downl"
        ):
            load_classifier(name)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0"])
def test_inputs_are_those_of_torchvisions_own_preprocessing_but_for_the_crop(name, no_network):
    classifier = load_classifier(name, "none")
    preprocessing = torchvision_models.get_model_weights(name).DEFAULT.transforms()
    assert (classifier.mean, classifier.std) == (tuple(preprocessing.mean), tuple(preprocessing.std))
    square = np.random.default_rng(0).integers(0, 256, (*classifier.size, 3), dtype=np.uint8)
    expected = (square / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    np.testing.assert_allclose(classifier.inputs(square)[0].permute(1, 2, 0), expected, atol=1e-5)


def test_inputs_of_timms_models_are_normalised_as_timm_has_it(no_network):
    classifier = load_classifier("timm/vit_tiny_patch16_224", "none")
    assert (classifier.mean, classifier.std, classifier.size) == (
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        (224, 224),
    )
    assert load_classifier("timm/resnet10t", "none").mean == (0.485, 0.456, 0.406)


def test_an_unknown_tag_of_timms_weights_is_named(no_network):
    for weights in ("none", "default"):
        with pytest.raises(XGradCamError, match=r"no model 'timm/resnet18\.nonexistent'; did you mean"):
            load_classifier("timm/resnet18.nonexistent", weights)


def test_inputs_have_the_number_type_of_the_model(no_network):
    classifier = load_classifier("squeezenet1_1", "none")
    half = replace(classifier, module=classifier.module.double())
    assert half.inputs(np.zeros((2, 2, 3), np.uint8)).dtype == torch.float64
    assert half.default_layer() == "classifier.2"


def test_imagenets_number_of_classes_may_be_said():
    named = load_classifier("efficientnet-lite0", num_classes=1000)
    assert named.labels == load_classifier("efficientnet-lite0").labels
    with pytest.raises(XGradCamError, match="not for 7 classes"):
        load_classifier("efficientnet-lite0", num_classes=7)
