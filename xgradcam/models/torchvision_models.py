"""torchvision's models by name: classification, segmentation, detection and video."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from xgradcam.errors import XGradCamError, did_you_mean, shown
from xgradcam.models.building import (
    DEFAULT_WEIGHTS,
    NO_WEIGHTS,
    Build,
    Built,
    Request,
    build_or_fetch,
    require_classes,
)
from xgradcam.models.classifier import Classifier, Kind
from xgradcam.models.published import published_name
from xgradcam.models.user_code import HUGGING_FACE

# Frames of a blank clip: one of torchvision's networks takes no other number, the others take it too.
FRAMES = 16
QUANTISED = "quantized_"
# The last layer that boxes of all sizes depend on; the one behind it is read for large boxes only.
LAYERS = {"ssdlite320_mobilenet_v3_large": "backbone.features.0"}


def torchvision_classifier(request: Request) -> Classifier:
    """The model of this name, with the preprocessing and the class names of its weights.

    Raises XGradCamError for an unknown name, and for quantised models and models of optical flow.
    """
    from torchvision import models

    name = str(request.name)
    # What is not in one of these modules is for classification.
    others: dict[Kind, Any] = {
        "segmentation": models.segmentation, "detection": models.detection, "video": models.video
    }  # fmt: skip
    kinds = {other: kind for kind, module in others.items() for other in models.list_models(module=module)}
    plain = models.list_models(module=models)
    if name not in plain and name not in kinds:
        _refuse(name, [*plain, *kinds])
    several = models.get_model_weights(name)
    asked = published_name(request, several.__name__, several.__members__)
    published = several[asked] if asked else several.DEFAULT
    request = replace(request, weights=DEFAULT_WEIGHTS) if asked else request
    kind: Kind = kinds.get(name, "classification")
    whose = "ImageNet's" if kind == "classification" else "the published"
    require_classes(request, len(published.meta["categories"]), whose)
    if kind == "classification":
        return _of_classes(name, request, published)
    return _of_another_kind(name, kind, request, published)


def _refuse(name: str, known: list[str]) -> NoReturn:
    """Raise XGradCamError for a name of torchvision's that is not for photographs, or of nobody's."""
    from torchvision import models

    if name in models.list_models(module=models.quantization):
        raise XGradCamError(
            f"{name} is quantised, and integers have no gradient: take --model {name.removeprefix(QUANTISED)}"
        )
    if name in models.list_models():
        raise XGradCamError(
            f"{name} is a model of optical flow, with neither classes nor one photograph: from Python, give "
            "explain_score a module that takes one tensor"
        )
    if os.path.isfile(name):
        raise XGradCamError(
            f"{shown(name)} is a file: name its network by --model, which may be your file.py:function, and "
            "give the file's weights by --weights"
        )
    where = f"torchvision's models, timm/NAME, {HUGGING_FACE}FOLDER or {HUGGING_FACE}OWNER/NAME, "
    where += "efficientnet-lite0, or your file.py:function"
    # `torchvision.models.resnet50(weights=...)` is a way to say it, too.
    plain = name.partition("(")[0].rpartition(".")[2]
    near = did_you_mean(plain, [*known, "efficientnet-lite0"])
    raise XGradCamError(f"no model {shown(name)}{near} (known: {where})")


def _of_classes(name: str, request: Request, published: Any) -> Classifier:
    from torchvision import models

    options, preset = request.options(), published.transforms()
    side = preset.crop_size[0]
    if name in ("googlenet", "inception_v3"):
        # As torchvision builds them for its weights, which expect another normalisation inside.
        options |= {"transform_input": True, "init_weights": request.weights == NO_WEIGHTS}
    if name.startswith("vit_"):
        options |= {"image_size": side}
    module, weights = _built(partial(models.get_model, name, weights=None, **options), request, published)
    return Classifier(
        name,
        module,
        (side, side),
        tuple(preset.mean),
        tuple(preset.std),
        _labels(request, published),
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        weights=weights,
    )


def _of_another_kind(name: str, kind: Kind, request: Request, published: Any) -> Classifier:
    from torchvision import models

    options = {**request.options(), **({} if kind == "video" else {"weights_backbone": None})}
    build = partial(models.get_model, name, weights=None, **options)
    built = _with_auxiliary if kind == "segmentation" and not name.startswith("lraspp") else _built
    module, weights = built(build, request, published)
    preset = published.transforms()
    # Detectors normalise and resize what they are given.
    mean, std = (preset.mean, preset.std) if kind != "detection" else ((0.0,) * 3, (1.0,) * 3)
    sizes: dict[Kind, Callable[[], tuple[int, ...]]] = {
        "segmentation": lambda: tuple(preset.resize_size) * 2,
        "detection": lambda: _size_of(module),
        "video": lambda: tuple(preset.crop_size),
    }
    height, width = sizes[kind]()
    return Classifier(
        name,
        module,
        (height, width),
        tuple(mean),
        tuple(std),
        _labels(request, published),
        LAYERS.get(name),
        "out" if kind == "segmentation" else None,
        weights=weights,
        kind=kind,
        frames=FRAMES if kind == "video" else None,
    )


def _size_of(detector: Any) -> tuple[int, int]:
    """The size to which a detector itself resizes a square photograph: given so, it is left as it is."""
    transform = detector.transform
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return height, width
    return (transform.min_size[-1],) * 2


def _built(build: Build, request: Request, published: Any) -> Built:
    return build_or_fetch(build, request, published.url, f"{published.meta['_file_size']:.0f} MB")


def _with_auxiliary(build: Any, request: Request, published: Any) -> Built:
    """The model with the auxiliary head that published weights have; of a file, with it where that fits."""
    with_head: Any = partial(build, aux_loss=True)
    if not request.weights_are_a_file:
        return _built(with_head if request.weights == DEFAULT_WEIGHTS else build, request, published)
    try:
        return _built(build, request, published)
    except XGradCamError as error:
        try:
            return _built(with_head, request, published)
        except XGradCamError:
            raise error from None


def _labels(request: Request, published: Any) -> tuple[str, ...] | None:
    """The names of the classes of the published weights, for a model of as many classes."""
    from xgradcam.models.labels import imagenet_labels

    names = tuple(published.meta["categories"])
    if request.num_classes not in (None, len(names)):
        return None
    known = imagenet_labels()
    return known if len(names) == len(known) else names
