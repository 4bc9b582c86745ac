"""Small or narrow networks of torchvision, timm and transformers, for `verify_models.py`."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.support import randomised
from xgradcam import BoxScore, ClassScore, PredictedRegion
from xgradcam.scores.score import Score

Built = tuple[nn.Module, Tensor]

TORCHVISION = """alexnet vgg11 resnet18 resnext50_32x4d wide_resnet50_2 squeezenet1_1 densenet121 googlenet
    inception_v3 mobilenet_v2 mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5 efficientnet_b0
    efficientnet_v2_s regnet_x_400mf regnet_y_400mf convnext_tiny vit_b_32 swin_t swin_v2_t
    maxvit_t""".split()
TIMM = """resnet10t skresnet18 seresnext26d_32x4d ecaresnext26t_32x4d resnetv2_18 res2net50_26w_4s resnest14d
    rexnet_100 ghostnet_050 hardcorenas_a mobilenetv3_small_050 mobilenetv4_conv_small_050 efficientnet_lite0
    tf_efficientnetv2_b0 efficientvit_b0 edgenext_xx_small convnext_atto convnextv2_atto poolformer_s12
    mobileone_s0 fastvit_t8 repvit_m0_9 repvgg_a0 levit_128s mobilevit_xxs mobilevitv2_050 visformer_tiny
    pvt_v2_b0 pit_ti_224 vit_tiny_patch16_224 deit_tiny_distilled_patch16_224 eva02_tiny_patch14_224
    xcit_nano_12_p16_224 crossvit_tiny_240 coat_lite_tiny tiny_vit_5m_224 gmlp_ti16_224 resmlp_12_224
    hgnetv2_b0 lcnet_050 fbnetc_100 dla46_c ese_vovnet19b_dw inception_next_atto starnet_s1
    maxvit_rmlp_pico_rw_256 coatnet_pico_rw_224 nf_regnet_b0 gernet_s botnet26t_256 lambda_resnet26t
    convit_tiny mambaout_femto
    efficientformerv2_s0 hrnet_w18_small darknet17 swin_s3_tiny_224""".split()


class Case(NamedTuple):
    """A model to verify.

    build: makes it and inputs. score: what is explained. plain: the same number (N,) from what the model
    returns, computed here once more. refused: a part of the message with which the model, or Eq. 5 of it, is
    refused as it should be; every other refusal is a fault.
    """

    name: str
    build: Callable[[], Built]
    score: Score
    plain: Callable[[Any], Tensor]
    refused: str = ""


def cases() -> Iterator[Case]:
    """All cases, those of torchvision first."""
    from torchvision import models

    for name in TORCHVISION:
        yield Case(name, partial(_torchvision, name), ClassScore(1), _of_class)
    region = PredictedRegion(output="out")
    for name in models.list_models(module=models.segmentation):
        yield Case(name, partial(_torchvision, name), region, lambda returned: _of_region(returned["out"]))
    for name in models.list_models(module=models.detection):
        refused = "roi_align" if "rcnn" in name else ""
        yield Case(name, partial(_detector, name), BoxScore(), _best_box, refused)
    for name in models.list_models(module=models.video):
        yield Case(name, partial(_video, name), ClassScore(1), _of_class)
    for module, refused in ((models.quantization, "quantised"), (models.optical_flow, "optical flow")):
        for name in models.list_models(module=module):
            yield Case(name, partial(_loaded, name), ClassScore(1), _of_class, refused)
    for name in TIMM:
        yield Case(f"timm/{name}", partial(_timm, name), ClassScore(1), _of_class)
    try:
        # Only whether it is there: each case imports it when it is built.
        import transformers  # noqa: F401
    except ImportError:
        return
    for name, build in transformers_cases().items():
        yield Case(f"hf:{name}", build, *_scores_of(name))


def _scores_of(name: str) -> tuple[Score, Callable[[Any], Tensor]]:
    """The score of a model of transformers, and the same number computed here."""
    if "ForSemantic" in name:
        return PredictedRegion(output="logits"), lambda returned: _of_region(returned.logits)
    if "ForObject" in name:
        no_object = name.startswith(("Detr", "Yolos"))
        return BoxScore(), partial(_best_query, no_object=no_object)
    return ClassScore(1, "logits"), lambda returned: _of_class(returned.logits)


def _of_class(returned: Any) -> Tensor:
    """The score of class 1."""
    scores: Tensor = returned[:, 1]
    return scores


def _of_region(planes: Tensor) -> Tensor:
    """The mean score of the class of most pixels, where it is the highest: planes (N, classes, H, W)."""
    scores = []
    for one in planes:
        said = one.argmax(dim=0)
        target = int(said.flatten().mode().values)
        scores.append(one[target][said == target].mean())
    return torch.stack(scores)


def _best_query(returned: Any, no_object: bool) -> Tensor:
    """The logit of the likeliest class of all a DETR's boxes; no_object: the last class is none."""
    logits = returned.logits
    chances = logits.softmax(dim=2)[..., :-1] if no_object else logits.sigmoid()
    places = [divmod(int(one.argmax()), one.shape[1]) for one in chances]
    return torch.stack([one[place] for one, place in zip(logits, places, strict=True)])


def _best_box(returned: list[dict[str, Tensor]]) -> Tensor:
    """The highest score of each photograph's boxes."""
    return torch.stack([one["scores"].max() for one in returned])


def _photograph(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width)


def _torchvision(name: str) -> Built:
    from torchvision import models

    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": False}
    if name in models.list_models(module=models.segmentation):
        options |= {"weights_backbone": None}
    side = 224 if name.startswith(("vit", "maxvit")) else 256 if "mobilenet_v3" in name else 128
    return _lively(models.get_model(name, **options)), _photograph(side, side)


def _detector(name: str) -> Built:
    """A detector that keeps boxes of any score; where it allows, of photographs that it has to pad."""
    from torchvision import models

    options: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if "rcnn" in name:
        options |= {"min_size": 96, "max_size": 160, "box_score_thresh": 0.0, "box_detections_per_img": 3}
        options |= {"rpn_post_nms_top_n_test": 30}
    elif name.startswith("ssd"):
        options |= {"score_thresh": 0.0, "detections_per_img": 3}
    else:
        options |= {"min_size": 96, "max_size": 160, "score_thresh": 0.0, "detections_per_img": 3}
    return models.get_model(name, **options).eval(), _photograph(96, 136)


def _video(name: str) -> Built:
    """A network of videos, (N, C, T, H, W); MViT and S3D fit smaller ones."""
    from torchvision import models
    from torchvision.models.video import mvit

    def small(weights: Any, progress: bool, **options: Any) -> nn.Module:
        plain = {"rel_pos_embed": False, "proj_after_attn": False}
        made: nn.Module = mvit.MViT(**{**plain, **options, "spatial_size": (64, 64)})
        return made

    with mock.patch.object(mvit, "_mvit", small):
        model = models.get_model(name, weights=None)
    if name == "s3d":
        model.avgpool = nn.AvgPool3d(2, 1)  # its own needs 224 pixels
    side, frames = (32 if name.endswith("_18") else 64), (8 if name.startswith("swin") else 16)
    return _lively(model), torch.rand(1, 3, frames, side, side)


def _loaded(name: str) -> Built:
    """A model by the package's own way, which may refuse it."""
    from xgradcam import load_classifier

    classifier = load_classifier(name, "none")
    return classifier.module, classifier.blank()


def _timm(name: str) -> Built:
    import timm

    model = _lively(timm.create_model(name))
    settings: Any = model.pretrained_cfg
    height, width = (
        settings["input_size"][1:]
        if settings.get("fixed_input_size")
        else (256 if "mobilenet" in name else 128,) * 2
    )
    return model, _photograph(height, width)


def transformers_cases() -> dict[str, Callable[[], Built]]:
    """Small networks of transformers by their class."""
    import transformers as hf

    plain = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vit = {**plain, "image_size": 32, "patch_size": 8}
    stages = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    swin = {"image_size": 128, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text |= {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    queries = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 5}
    queries |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    queries |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}

    def detr() -> dict[str, Any]:
        backbone = hf.ResNetConfig(**resnet, out_features=["stage2"])
        return {**queries, "backbone_config": backbone, "use_timm_backbone": False}

    def rt_detr() -> dict[str, Any]:
        backbone = hf.RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
        sizes = {"encoder_hidden_dim": 32, "encoder_in_channels": [16] * 3, "decoder_in_channels": [32] * 3}
        return {**queries, **sizes, "backbone_config": backbone, "feat_strides": [8, 16, 32]}

    def upernet() -> dict[str, Any]:
        features = [f"stage{number}" for number in range(1, 5)]
        backbone = hf.ConvNextConfig(**stages, out_features=features)
        heads = {"hidden_size": 16, "auxiliary_channels": 8, "auxiliary_in_channels": 16}
        return {"backbone_config": backbone, **heads}

    classes: dict[str, tuple[str, dict[str, Any], int]] = {
        "ViTForImageClassification": ("ViTConfig", vit, 32),
        "DeiTForImageClassification": ("DeiTConfig", vit, 32),
        "DeiTForImageClassificationWithTeacher": ("DeiTConfig", vit, 32),
        "BeitForImageClassification": ("BeitConfig", vit, 32),
        "ViTMSNForImageClassification": ("ViTMSNConfig", vit, 32),
        "Dinov2ForImageClassification": ("Dinov2Config", vit, 32),
        "Dinov2WithRegistersForImageClassification": ("Dinov2WithRegistersConfig", vit, 32),
        "CLIPForImageClassification": ("CLIPConfig", {"vision_config": vit, "text_config": text}, 32),
        "SiglipForImageClassification": ("SiglipConfig", {"vision_config": vit, "text_config": text}, 32),
        "ResNetForImageClassification": ("ResNetConfig", resnet, 128),
        "RegNetForImageClassification": (
            "RegNetConfig", {**stages, "embedding_size": 8, "groups_width": 8}, 128
        ),
        "BitForImageClassification": ("BitConfig", {**stages, "embedding_size": 8, "num_groups": 2}, 128),
        "ConvNextForImageClassification": ("ConvNextConfig", stages, 128),
        "ConvNextV2ForImageClassification": ("ConvNextV2Config", stages, 128),
        "PoolFormerForImageClassification": ("PoolFormerConfig", stages, 128),
        "MobileNetV1ForImageClassification": ("MobileNetV1Config", {"depth_multiplier": 0.25}, 128),
        "MobileNetV2ForImageClassification": ("MobileNetV2Config", {"depth_multiplier": 0.25}, 128),
        "EfficientNetForImageClassification": ("EfficientNetConfig", {"image_size": 128}, 128),
        "SwinForImageClassification": ("SwinConfig", {**swin, "window_size": 4}, 128),
        "Swinv2ForImageClassification": ("Swinv2Config", {**swin, "window_size": 4}, 128),
        "PvtV2ForImageClassification": (
            "PvtV2Config", {**stages, "num_attention_heads": [1, 1, 2, 2]}, 128
        ),
        "SegformerForImageClassification": (
            "SegformerConfig", {**stages, "num_attention_heads": [1, 1, 2, 2]}, 128
        ),
        "MobileViTForImageClassification": ("MobileViTConfig", {"image_size": 128}, 128),
        "SegformerForSemanticSegmentation": (
            "SegformerConfig", {**stages, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16}, 128
        ),
        "UperNetForSemanticSegmentation": ("UperNetConfig", upernet(), 128),
        "MobileNetV2ForSemanticSegmentation": ("MobileNetV2Config", {"depth_multiplier": 0.25}, 128),
        "DetrForObjectDetection": ("DetrConfig", detr(), 64),
        "ConditionalDetrForObjectDetection": ("ConditionalDetrConfig", detr(), 64),
        "YolosForObjectDetection": (
            "YolosConfig", {**vit, "image_size": [32, 32], "num_detection_tokens": 5}, 32
        ),
        "RTDetrForObjectDetection": ("RTDetrConfig", rt_detr(), 128),
    }  # fmt: skip
    return {name: partial(_transformers, name, *built) for name, built in classes.items()}


def _transformers(name: str, config: str, options: dict[str, Any], side: int) -> Built:
    import transformers

    model: nn.Module = getattr(transformers, name)(getattr(transformers, config)(**options))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # With transformers' own small ones the scores of a deep network are below float32's.
            nn.init.kaiming_normal_(module.weight)
    return _lively(model), _photograph(side, side)


def _lively(model: nn.Module) -> nn.Module:
    """The model, with statistics of batch norms as if trained: deep ones would forget their inputs."""
    generator = torch.Generator().manual_seed(0)
    modules = list(model.modules())
    norms = any(isinstance(module, _BatchNorm) for module in modules)
    # Attention of large weights is too steep for float32.
    attends = any("attention" in type(module).__name__.lower() for module in modules)
    model = randomised(model, generator) if norms and not attends else model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # A head of zeros would have a map of zeros, which any other map of zeros equals.
            if parameter.ndim == 2 and not parameter.any():
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
    return model
