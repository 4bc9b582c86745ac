"""The models that `--model` takes, as the libraries themselves list them."""

import json
from pathlib import Path

import pytest
import timm
from torchvision import models

from xgradcam.errors import XGradCamError
from xgradcam.models import catalogue
from xgradcam.models.catalogue import all_models, matching

MODULES = {
    "classification": models,
    "segmentation": models.segmentation,
    "detection": models.detection,
    "video": models.video,
}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches of torch hub and of Hugging Face."""
    for name in ("TORCH_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "face"))
    return tmp_path


def test_torchvisions_models_are_those_that_it_lists():
    listed = [model for model in all_models() if model.source == "torchvision"]
    for kind, module in MODULES.items():
        names = [model.name for model in listed if model.kind == kind]
        assert sorted(names) == sorted(models.list_models(module=module))
    assert len(listed) > 100


def test_timms_models_are_those_that_it_lists():
    names = [model.name.removeprefix("timm/") for model in all_models() if model.source == "timm"]
    assert sorted(names) == sorted(timm.list_models())
    assert len(names) > 1000


def test_only_the_bundled_model_is_here_where_the_caches_are_empty():
    assert [model.name for model in all_models() if model.here] == ["efficientnet-lite0"]


def test_weights_are_here_if_the_default_ones_are(caches):
    folder = caches / "cache" / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    files = {}
    for module in MODULES.values():
        for name in models.list_models(module=module):
            url = models.get_model_weights(name).DEFAULT.url
            files.setdefault(url.rpartition("/")[2], []).append(name)
    for file in files:
        (folder / file).touch()
    there = {model.name for model in all_models() if model.source == "torchvision" and model.here}
    assert there == {name for names in files.values() for name in names}
    # The older weights of ResNet-50 are not those that would be taken.
    default = models.ResNet50_Weights.DEFAULT.url.rpartition("/")[2]
    (folder / default).rename(folder / models.ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2])
    assert "resnet50" not in {model.name for model in all_models() if model.here}
    assert "vgg16" in {model.name for model in all_models() if model.here}


def test_models_in_the_cache_of_hugging_face_are_listed_if_they_are_for_photographs(caches):
    for name, architecture in (
        ("models--timm--resnet50.a1_in1k", None),
        ("models--google--vit-base", "ViTForImageClassification"),
        ("models--nvidia--segformer--b0", "SegformerForSemanticSegmentation"),
        ("models--org--bert", "BertForMaskedLM"),
        ("models--org--broken", ""),
        ("models--org--unknown", None),
        ("datasets--org--photos", None),
    ):
        folder = caches / "face" / "hub" / name / "snapshots" / "abc"
        folder.mkdir(parents=True)
        if architecture is not None:
            text = json.dumps({"architectures": [architecture]}) if architecture else "{"
            (folder / "config.json").write_text(text)
    found = [(one.name, one.kind) for one in all_models() if one.here and one.source != "bundled"]
    assert found == [
        ("hf:google/vit-base", "classification"),
        ("hf:nvidia/segformer--b0", "segmentation"),
        ("timm/resnet50.a1_in1k", ""),
    ]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("alexnet", {"alexnet"}),
        ("ALEX", {"alexnet"}),
        (
            "vgg1?",
            {"vgg11", "vgg13", "vgg16", "vgg19", "timm/vgg11", "timm/vgg13", "timm/vgg16", "timm/vgg19"},
        ),
        ("timm/vgg1[36]", {"timm/vgg13", "timm/vgg16"}),
        ("vgg13", {"vgg13", "vgg13_bn", "timm/vgg13", "timm/vgg13_bn"}),
        ("*lite0", {"efficientnet-lite0", "timm/efficientnet_lite0", "timm/tf_efficientnet_lite0"}),
    ],
)
def test_a_filter_is_a_part_of_a_name_or_a_pattern(wanted, names):
    assert {model.name for model in matching(all_models(), wanted)} == names


def test_a_filter_without_a_model_gets_the_nearest():
    with pytest.raises(XGradCamError, match="no model matches 'resnet5o'; did you mean 'resnet50'"):
        matching(all_models(), "resnet5o")


def test_a_library_that_is_not_installed_has_no_models():
    assert list(catalogue._code_of("nowhere_at_all")) == []
    assert catalogue._files_in(Path("nowhere")) == set()
