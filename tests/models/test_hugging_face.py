"""Models of transformers from folders that it wrote: small ones, with random weights."""

import json
import re
import socket
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xgradcam import explain, explain_score
from xgradcam.cli.xgrad_cam import main
from xgradcam.errors import XGradCamError
from xgradcam.models.hub import why_not
from xgradcam.models.load import load_classifier
from xgradcam.models.processor import preset_of
from xgradcam.models.user_code import is_own

hf = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
NAMES = {0: "cat", 1: "dog", 2: "owl"}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def vit():
    return hf.ViTForImageClassification(hf.ViTConfig(**SMALL, id2label=NAMES))


def resnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return hf.ResNetForImageClassification(hf.ResNetConfig(**sizes, id2label=NAMES))


def segformer():
    config = hf.SegformerConfig(
        **STAGES, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, id2label=NAMES
    )
    return hf.SegformerForSemanticSegmentation(config)


def detr():
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = hf.DetrConfig(
        use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone,
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5, id2label=NAMES,
    )  # fmt: skip
    return hf.DetrForObjectDetection(config)


def yolos():
    config = hf.YolosConfig(**{**SMALL, "image_size": [32, 32]}, num_detection_tokens=5, id2label=NAMES)
    return hf.YolosForObjectDetection(config)


def clip():
    return hf.CLIPModel(hf.CLIPConfig(vision_config=SMALL, text_config=TEXT, projection_dim=16))


def processor(side=32, **more):
    return hf.ViTImageProcessor(size={"height": side, "width": side}, **more)


CASES = {
    "vit": (vit, processor, "classification", "vit.*layernorm_before"),
    "resnet": (resnet, processor, "classification", r"resnet\.encoder\.stages\.1"),
    "segformer": (segformer, lambda: processor(64), "segmentation", r"segformer\..*3"),
    "detr": (
        detr,
        lambda: hf.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}),
        "detection",
        r"model\.backbone\..*stages\.1",
    ),
    "yolos": (yolos, processor, "detection", r"vit\.encoder\.layer\.1\..*"),
}


def saved(folder, build, make=processor):
    torch.manual_seed(0)
    model = build().eval()
    model.save_pretrained(folder)
    make().save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", CASES)
def test_a_saved_model_is_loaded_with_its_processor_and_names(tmp_path, case):
    build, make, kind, layer = CASES[case]
    model = saved(tmp_path, build, make)
    classifier = load_classifier(f"hf:{tmp_path}")
    assert (classifier.name, classifier.kind, classifier.labels) == (
        f"hf:{tmp_path}",
        kind,
        tuple(NAMES.values()),
    )
    assert {"model.safetensors", "config.json"} <= {file.path.name for file in classifier.weights.files}
    pixels = np.random.default_rng(0).integers(0, 256, (*classifier.size, 3), np.uint8)
    inputs = classifier.inputs(pixels)
    expected = make()(images=pixels, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        found, right = classifier.module(inputs).logits, model(inputs).logits
    torch.testing.assert_close(found, right)
    assert re.fullmatch(layer, classifier.default_layer())
    score = {
        "classification": lambda returned: returned.logits[:, 1],
        "segmentation": lambda returned: returned.logits[:, 1].mean(dim=(1, 2)),
        "detection": lambda returned: returned.logits[:, 0, 1],
    }[kind]
    explained = explain_score(classifier.module, inputs, classifier.default_layer(), score)
    torch.testing.assert_close(explained.score, score(model(inputs)).detach())


def test_weights_are_random_or_of_a_file_and_the_head_of_another_size(tmp_path):
    model = saved(tmp_path / "vit", vit)
    name = f"hf:{tmp_path / 'vit'}"
    torch.save(model.state_dict(), tmp_path / "own.pth")
    inputs = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # Under the names of today's modules, and under those that transformers writes.
    for file in (tmp_path / "own.pth", tmp_path / "vit" / "model.safetensors"):
        with torch.no_grad():
            found = load_classifier(name, file).module(inputs).logits
            torch.testing.assert_close(found, model(inputs).logits)
    one, other = (load_classifier(name, "none", num_classes=5) for _ in range(2))
    assert one.class_count() == 5
    assert all(map(torch.equal, one.module.state_dict().values(), other.module.state_dict().values()))
    with pytest.raises(XGradCamError, match=r"'s weights are not for 5 classes: give yours with --weights"):
        load_classifier(name, num_classes=5)
    torch.save({"a": torch.ones(2)}, tmp_path / "wrong.pth")
    with pytest.raises(XGradCamError, match=r"wrong\.pth do not fit this ViTForImageClassification: missing"):
        load_classifier(name, tmp_path / "wrong.pth")


def test_a_model_of_images_and_texts_takes_photographs_alone(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    model = saved(tmp_path, clip, lambda: hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32))
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2, "cat": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    given = {"pad_token": "[PAD]", "model_input_names": ["input_ids", "attention_mask"]}  # as CLIP's own
    hf.PreTrainedTokenizerFast(tokenizer_object=words, **given).save_pretrained(tmp_path)
    classifier = load_classifier(f"hf:{tmp_path}")
    assert (classifier.kind, classifier.resize, classifier.labels) == ("image and text", 32, None)
    tokens = classifier.tokenizer(["a cat"], return_tensors="pt")
    inputs = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        right = model(pixel_values=inputs, **tokens)
        text = right.text_embeds[0]
        embedding = classifier.module(inputs)["image_embeds"]
    cosine = torch.nn.functional.normalize(embedding, dim=1) @ text
    torch.testing.assert_close(model.logit_scale.exp().detach() * cosine, right.logits_per_image[0])
    explained = explain_score(
        classifier.module,
        inputs,
        classifier.default_layer(),
        lambda returned: torch.cosine_similarity(returned["image_embeds"], text, dim=1),
    )
    torch.testing.assert_close(explained.score, cosine)
    layer = classifier.default_layer()
    with pytest.raises(XGradCamError, match="choose one of its tensors with --output: image_embeds"):
        explain(classifier.module, inputs, layer)


@pytest.mark.parametrize(
    ("make", "size", "resize"),
    [
        (lambda: hf.ViTImageProcessor(size={"height": 48, "width": 32}), (48, 32), None),
        (lambda: hf.ViTImageProcessor(size={"height": 32, "width": 32}, do_rescale=False), (32, 32), None),
        (lambda: hf.ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False), (32, 32), None),
        (lambda: hf.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=32), (32, 32), 40),
        (lambda: hf.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.5), (64, 64), 128),
        (lambda: hf.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}), (64, 64), None),
        (lambda: hf.EfficientNetImageProcessor(size={"height": 32, "width": 32}), (32, 32), None),
        (lambda: hf.SegformerImageProcessor(size={"height": 64, "width": 64}), (64, 64), None),
    ],
)
def test_the_preprocessing_is_what_the_processor_does(make, size, resize):
    """Compared on noise of the input's size, and with a crop on a slope that the preset never saw."""
    own = make()
    preset = preset_of(own, None, "x")
    assert (preset.size, preset.resize) == (size, resize)
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    scaled = (torch.tensor(pixels) / 255 - torch.tensor(preset.mean)) / torch.tensor(preset.std)
    if resize is None:
        made = own(images=pixels, return_tensors="pt")["pixel_values"][0].float()
        torch.testing.assert_close(scaled.permute(2, 0, 1), made, rtol=1e-4, atol=1e-4)


def test_colours_in_another_order_are_turned():
    """A processor that hands on blue, green and red."""
    plain = processor()

    def turned(images, return_tensors):
        made = plain(images=images, return_tensors=return_tensors)
        return {"pixel_values": made["pixel_values"].flip(1)}

    preset = preset_of(turned, None, "x")
    assert (preset.turned, preset_of(plain, None, "x").turned) == (True, False)
    with pytest.raises(XGradCamError, match="the processor of x does more than resize, crop and normalise"):
        preset_of(lambda images, return_tensors: {"pixel_values": turned(images, "pt")["pixel_values"] ** 2},
                  None, "x")  # fmt: skip
    with pytest.raises(XGradCamError, match=r"makes \(3, 8\) of a photograph, not \(3, h, w\): from Python"):
        preset_of(lambda images, return_tensors: {"pixel_values": torch.zeros(1, 3, 8)}, None, "x")
    with pytest.raises(
        XGradCamError, match=r"takes no photograph \(KeyError: 'pixel_values'\): give --input"
    ):
        preset_of(lambda images, return_tensors: {}, None, "x")


def test_a_turned_model_sees_blue_first(tmp_path, monkeypatch):
    model = saved(tmp_path, resnet)
    preset = preset_of(processor(), None, "x")
    turned = type(preset)(preset.size, preset.mean, preset.std, turned=True)
    monkeypatch.setattr("xgradcam.models.hugging_face.preset_of", lambda *_: turned)
    inputs = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load_classifier(f"hf:{tmp_path}").module(inputs).logits
        torch.testing.assert_close(found, model(inputs.flip(1)).logits)


def test_a_processor_can_be_done_without(tmp_path):
    saved(tmp_path, vit)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(XGradCamError, match=r"cannot load hf:.*; give --input-size, --mean and --std to do"):
        load_classifier(f"hf:{tmp_path}")
    given = load_classifier(f"hf:{tmp_path}", size=32, mean=[0.5], std=[0.25])
    assert (given.size, given.mean, given.std) == ((32, 32), (0.5,) * 3, (0.25,) * 3)


def changed(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"architectures": ["ViTModel"]},
            "is a ViTModel, which gives no class scores of photographs: take one",
        ),
        ({"architectures": ["Mask2FormerForUniversalSegmentation"]}, "gives masks and their classes apart"),
        ({"architectures": []}, r"its config\.json names no architecture"),
        ({"architectures": ["os"]}, r"os is no model of transformers \d"),
        ({"architectures": ["NoSuchForImageClassification"]}, "is no model of transformers"),
        ({"model_type": "nonesuch"}, "cannot load hf:"),
        (
            {"model_type": "nonesuch", "auto_map": {"AutoConfig": "code.Config"}},
            r"brings code of its own, which is not run: load it in a file\.py:function",
        ),
    ],
)
def test_models_of_other_kinds_and_code_are_refused_in_a_line(tmp_path, values, message):
    saved(tmp_path, vit)
    changed(tmp_path, **values)
    (tmp_path / "code.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(XGradCamError, match=message) as caught:
        load_classifier(f"hf:{tmp_path}")
    assert str(caught.value).isprintable()


def test_a_checkpoint_without_a_head_is_refused(tmp_path):
    torch.manual_seed(0)
    hf.ViTModel(hf.ViTConfig(**SMALL)).save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    changed(tmp_path, architectures=["ViTForImageClassification"])
    with pytest.raises(
        XGradCamError, match=r"are not all of this ViTForImageClassification: missing: classi"
    ):
        load_classifier(f"hf:{tmp_path}")


def test_pickled_weights_do_not_run_code(tmp_path):
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "harm"), "w")

    model = saved(tmp_path, resnet)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"harm": Harm(), **model.state_dict()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(XGradCamError, match="cannot load hf:"):
        load_classifier(f"hf:{tmp_path}")
    assert not (tmp_path / "harm").exists()


def test_places_without_a_model_are_one_line(tmp_path, monkeypatch):
    for name, message in (
        (
            f"hf:{tmp_path}",
            r"no config\.json in .* \(in it: nothing\): give a folder that save_pretrained wr",
        ),
        (f"hf:{tmp_path}/none", r"no such folder, and no OWNER/NAME of the Hub"),
        ("hf:", "no such folder"),
        (
            "hf:someone/ants",
            r"no folder someone/ants, and none of the Hub's to be had \(.*\): give hf:FOLDER$",
        ),
        ("hf:someone/ants@v1", r"no folder someone/ants@v1, and none of the Hub's"),
    ):
        with pytest.raises(XGradCamError, match=message):
            load_classifier(name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(XGradCamError, match=r"^hf: needs transformers \(.*\): pip install 'xgradcam\[hf\]'$"):
        load_classifier("hf:someone/ants")
    assert not is_own("hf:a/b:c")


def test_the_reasons_of_the_hub_are_one_line():
    from huggingface_hub import errors

    response = SimpleNamespace(headers={}, request=None, status_code=403)
    for kind, reason in (
        ("GatedRepoError", "it is gated: ask for access on its page"),
        ("RepositoryNotFoundError", "the Hub has none of this name, or it is private"),
        ("RevisionNotFoundError", "there is no such revision"),
    ):
        cause = getattr(errors, kind).__new__(getattr(errors, kind))
        wrapped = OSError("pages\nof text")
        wrapped.__cause__ = cause
        assert why_not(wrapped).startswith(reason), response
    assert why_not(OSError("one\n  two\nthree")) == "one two"
    assert why_not(OSError()) == "OSError"


def test_the_command_explains_a_folder_of_transformers(tmp_path, capsys, monkeypatch):
    model = saved(tmp_path / "net", resnet)
    monkeypatch.chdir(tmp_path)
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save("a.png")
    verbosity = hf.logging.get_verbosity()
    command = ["--image-path", "a.png", "--model", "hf:net", "--target-index", "owl", "--json"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    made = processor()(images=pixels, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        score = float(model(made).logits[0, 2])
    assert (said["class_index"], said["class_name"]) == (2, "owl")
    assert abs(said["score"] - score) < 1e-4
    assert hf.logging.get_verbosity() == verbosity
