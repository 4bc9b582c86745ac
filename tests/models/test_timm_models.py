"""Models of timm by old names, from folders and from the Hub's cache, and of other channels."""

import importlib
import json
import socket

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from xgradcam.errors import WeightsUnavailableError, XGradCamError
from xgradcam.models.load import load_classifier
from xgradcam.models.user_code import is_own, source_of

TINY = "resnet10t"
CONFIG = {
    "architecture": TINY,
    "num_classes": 3,
    "model_args": {"in_chans": 1},
    "pretrained_cfg": {"input_size": [1, 64, 64], "mean": [0.5], "std": [0.25], "num_classes": 3,
                       "label_names": ["a", "b", "c"],
                       "crop_pct": 0.5, "crop_mode": "center", "interpolation": "bilinear",
                       "first_conv": "conv1.0", "classifier": "fc"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def grey():
    torch.manual_seed(0)
    return timm.create_model(TINY, in_chans=1, num_classes=3).eval()


needs_folders = pytest.mark.skipif(
    not hasattr(timm.models._hub, "load_model_config_from_path"), reason="this timm reads no folders"
)


def test_a_timm_that_reads_no_folders_is_to_be_replaced(tmp_path, grey, monkeypatch):
    def create_model(*_, **__):
        raise AssertionError

    folder = written(tmp_path / "folder", grey)
    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(XGradCamError, match=r"^timm \S+ reads no folders: install a newer timm$"):
        load_classifier(f"timm/local-dir:{folder}")


def written(folder, network, config=CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def assert_is(classifier, network, name):
    assert classifier.name == name
    assert (classifier.size, classifier.mean, classifier.std, classifier.resize) == (
        (64, 64),
        (0.5,),
        (0.25,),
        128,
    )
    assert classifier.labels == ("a", "b", "c")
    inputs = classifier.inputs(np.random.default_rng(0).integers(0, 256, (70, 80, 3), np.uint8))
    assert inputs.shape == (1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(classifier.module(inputs), network(inputs))


@needs_folders
def test_a_folder_that_timm_wrote_is_loaded(tmp_path, grey):
    folder = written(tmp_path / "folder", grey)
    lines = []
    classifier = load_classifier(f"timm/local-dir:{folder}", report=lines.append)
    assert_is(classifier, grey, f"timm/local-dir:{folder}")
    assert [file.path.name for file in classifier.weights.files] == ["model.safetensors"]
    assert len(lines) == 1
    assert "become grey" in lines[0]
    assert load_classifier(f"timm/local-dir:{folder}", "none").weights is None
    assert_is(
        load_classifier(f"timm/local-dir:{folder}", folder / "model.safetensors"), grey, classifier.name
    )


@needs_folders
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{}", "KeyError: 'architecture'"),
        ("nothing", "Expecting value"),
        ('{"architecture": "nonesuch", "pretrained_cfg": {}}', r"Unknown model \(nonesuch\)"),
        ({**CONFIG, "model_args": {"nonesuch": 1}}, "TypeError: .*nonesuch"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, grey, config, reason):
    folder = written(tmp_path / "folder", grey, config)
    with pytest.raises(XGradCamError, match=rf"^cannot make timm/local-dir:\S*folder: .*{reason}") as caught:
        load_classifier(f"timm/local-dir:{folder}")
    assert str(caught.value).isprintable()


@needs_folders
def test_a_folder_without_weights_or_config_is_one_line(tmp_path, grey):
    folder = written(tmp_path / "folder", grey)
    (folder / "model.safetensors").rename(folder / "a.pth")
    assert_is(load_classifier(f"timm/local-dir:{folder}"), grey, f"timm/local-dir:{folder}")
    (folder / "b.bin").touch()
    with pytest.raises(
        XGradCamError, match=r"no model\.safetensors in \S*folder \(weights in it: a\.pth, b\.bi"
    ):
        load_classifier(f"timm/local-dir:{folder}")
    with pytest.raises(
        XGradCamError, match=r"no model\.safetensors in \S*none \(weights in it: none\): give --"
    ):
        load_classifier(f"timm/local-dir:{tmp_path / 'none'}")
    (folder / "config.json").unlink()
    with pytest.raises(XGradCamError, match=r"cannot make timm/local-dir:\S*: Config file not found"):
        load_classifier(f"timm/local-dir:{folder}", "none")
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(XGradCamError, match=r"pytorch_model\.bin: a pointer of Git's large-file storage"):
        load_classifier(f"timm/local-dir:{folder}")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the Hub's, without the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    # Older versions of the package have copies.
    for module in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        for name, value in (("HF_HUB_CACHE", str(tmp_path / "hub")), ("HF_HUB_OFFLINE", True)):
            if hasattr(importlib.import_module(module), name):
                monkeypatch.setattr(f"{module}.{name}", value)
    return tmp_path / "hub"


def put(cache, repository, network, revision="main"):
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text("0" * 40)
    written(folder / "snapshots" / ("0" * 40), network)


@pytest.mark.parametrize("name", ["hf-hub:someone/ants", "hf_hub:someone/ants", "hf-hub:someone/ants@main"])
def test_a_model_in_the_hubs_cache_is_loaded(cache, grey, name):
    put(cache, "someone/ants", grey)
    assert_is(load_classifier(f"timm/{name}"), grey, f"timm/{name}")
    assert load_classifier(f"timm/{name}", "none").labels == ("a", "b", "c")


def test_a_model_of_the_hub_that_cannot_be_had_is_one_line(cache):
    for weights in ("default", "none"):
        with pytest.raises(
            WeightsUnavailableError,
            match=r"of timm/hf-hub:someone/ants are not available \(someone/ants is not in the cache \S*hub, "
            r"and HF_HUB_OFFLINE is set\); give a file with --weights",
        ):
            load_classifier("timm/hf-hub:someone/ants", weights)
    with pytest.raises(XGradCamError, match=r"no model timm/hf-hub:a/b/c: .*'a/b/c'"):
        load_classifier("timm/hf-hub:a/b/c")


def test_names_of_the_hub_without_timm_are_explained():
    with pytest.raises(XGradCamError, match=r"no model 'hf-hub:a/b': one of timm's is timm/hf-hub:a/b$"):
        load_classifier("hf-hub:a/b")
    with pytest.raises(
        XGradCamError, match=r"'timm/timm/resnet18\.a1_in1k'; one of the Hub is timm/hf-hub:timm/res"
    ):
        load_classifier("timm/timm/resnet18.a1_in1k")
    assert source_of("HF_Hub:a/b") == ("hf-hub", "a/b")
    assert source_of("local-dir:a:b") == ("local-dir", "a:b")
    assert source_of("resnet18") == ("", "resnet18")
    for name, own in (
        ("timm/net.py:build", True),
        ("timm/hf-hub:a", False),
        ("timm/hf-hub:", True),
        ("vgg16", False),
    ):
        assert is_own(name) is own


def test_every_old_name_is_known(monkeypatch):
    """All of timm's table: each is built under the name that it has today."""
    old = timm.models.get_deprecated_models()
    assert len(old) > 100
    built = []
    monkeypatch.setattr(timm, "create_model", lambda name, **_: built.append(name) or no_model())
    for name, current in old.items():
        lines = []
        with pytest.raises(ReachedError):
            load_classifier(f"timm/{name}", "none", lines.append)
        assert lines == [f"{name} is an old name in timm: taking {current}"]
    assert built == list(old.values())
    monkeypatch.setattr(timm.models, "get_deprecated_models", lambda: {"gone": None})
    with pytest.raises(XGradCamError, match="timm has removed gone, and has nothing in its place"):
        load_classifier("timm/gone", "none")


class ReachedError(Exception):
    """The network would be built now."""


def no_model():
    raise ReachedError


def test_an_old_name_gives_the_same_network(tmp_path):
    lines = []
    classifier = load_classifier("timm/tf_efficientnet_b0_ns", "none", lines.append)
    assert classifier.name == "timm/tf_efficientnet_b0.ns_jft_in1k"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = timm.create_model("tf_efficientnet_b0.ns_jft_in1k").state_dict()
    assert all(torch.equal(expected[key], value) for key, value in classifier.module.state_dict().items())


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", [TINY, "vit_tiny_patch16_224"])
def test_a_checkpoint_of_other_channels_builds_such_a_network(tmp_path, name, channels):
    torch.manual_seed(0)
    network = timm.create_model(name, in_chans=channels, num_classes=3).eval()
    torch.save({"state_dict": network.state_dict(), "criterion": {"x": torch.ones(2)}}, tmp_path / "a.pth")
    lines = []
    classifier = load_classifier(f"timm/{name}", tmp_path / "a.pth", lines.append, num_classes=3)
    assert len(classifier.mean) == channels
    inputs = torch.rand(1, channels, *classifier.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(classifier.module(inputs), network(inputs))
    assert len(lines) == 2
    assert ("grey" if channels == 1 else "4 channels") in lines[1]
    with pytest.raises(XGradCamError, match=r"are they of 3 classes\? then give --num-classes 3$"):
        load_classifier(f"timm/{name}", tmp_path / "a.pth")


def test_weights_of_torchvision_are_taken_by_name(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("xgradcam.models.building.fetch", lambda url, *_: asked.append(url) or no_model())
    for model, weights in (
        ("resnet50", "IMAGENET1K_V1"),
        ("resnet50", "ResNet50_Weights.IMAGENET1K_V2"),
        ("resnet50", "DEFAULT"),
        ("vgg16", "IMAGENET1K_V1"),
        (None, "VGG16_Weights.DEFAULT"),
    ):
        with pytest.raises(ReachedError):
            load_classifier(model, weights)
    assert [url.rsplit("/", 1)[1] for url in asked] == [
        "resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth", "resnet50-11ad3fa6.pth", *["vgg16-397923af.pth"] * 2
    ]  # fmt: skip
    for model, weights in (("resnet50", "IMAGENET1K_V9"), ("resnet50", "ResNet18_Weights.IMAGENET1K_V1")):
        with pytest.raises(
            XGradCamError, match=rf"no weights {weights} of resnet50: take IMAGENET1K_V1, IMAGENET1K_V2"
        ):
            load_classifier(model, weights)
    with pytest.raises(
        XGradCamError, match=r"no weights IMAGENET1K_FEATURES of vgg16: take IMAGENET1K_V1, or a"
    ):
        load_classifier("vgg16", "IMAGENET1K_FEATURES")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IMAGENET1K_V1").write_text("<html>")
    with pytest.raises(XGradCamError, match="IMAGENET1K_V1: a web page"):
        load_classifier("resnet50", "IMAGENET1K_V1")


@pytest.mark.parametrize(
    "name", ["resnet50(weights=ResNet50_Weights.DEFAULT)", "torchvision.models.resnet50"]
)
def test_torchvisions_own_way_to_name_a_model_is_understood(name):
    with pytest.raises(XGradCamError, match=r"^no model '.*'; did you mean 'resnet50'"):
        load_classifier(name)
