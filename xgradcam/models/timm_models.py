"""Models of timm: by name, from the Hugging Face Hub, or from a folder that timm wrote."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from xgradcam.errors import WeightsUnavailableError, XGradCamError, did_you_mean, listed
from xgradcam.models.building import DEFAULT_WEIGHTS, Built, Request, build_model
from xgradcam.models.channels import input_channels
from xgradcam.models.classifier import Classifier
from xgradcam.models.download import Report, require_reachable
from xgradcam.models.fitting import ChannelsError
from xgradcam.models.hub import require_config
from xgradcam.models.labels import imagenet_labels
from xgradcam.models.preprocessing import default_colours
from xgradcam.models.user_code import HUB, LOCAL, TIMM, source_of

# Names of weights on the Hub; timm prefers the first.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
FOLDER_FILES = (*HUB_FILES, "pytorch_model.pth", "model.pth")


def timm_classifier(request: Request) -> Classifier:
    """The classifier of `timm/NAME`; NAME may be `hf-hub:OWNER/REPOSITORY` or `local-dir:FOLDER`."""
    import timm

    name = str(request.name).removeprefix(TIMM)
    source, place = source_of(name)
    if source == HUB:
        repository, _, revision = place.partition("@")
        require_config(repository, revision, f"{TIMM}hf-hub:{place}", request.report)
    elif source != LOCAL:
        name = _todays_name(name, request.report)
    with warnings.catch_warnings():
        # timm warns of what is said here in a line, or is nothing that a user can mend.
        warnings.simplefilter("ignore", UserWarning)
        module, weights = _built(name, source, place, request)
    data = timm.data.resolve_model_data_config(module)
    height, width = data["input_size"][1:]
    channels = input_channels(module, (height, width))
    mean, std = default_colours(channels, data["mean"], data["std"])
    # timm's other ways to crop, and its centre crop of oblongs, are no resize of the shorter side.
    central = data["crop_mode"] == "center" and height == width
    return Classifier(
        TIMM + name,
        module,
        (height, width),
        mean,
        std,
        _labels_of(module, source, place),
        resize=int(height / data["crop_pct"]) if central else None,
        interpolation=data["interpolation"],
        weights=weights,
    )


def _built(name: str, source: str, place: str, request: Request) -> Built:
    """The model, and the weights it was given from files of the user's."""
    import timm

    if request.weights == DEFAULT_WEIGHTS and source != LOCAL:
        return _pretrained(name, source, request.report).eval().requires_grad_(False), None
    if request.weights == DEFAULT_WEIGHTS:
        request = replace(request, weights=str(_weights_in(Path(place))))
    build = partial(timm.create_model, name, pretrained=False, **request.options())
    try:
        return build_model(build, request)
    except ChannelsError as error:
        return build_model(partial(build, in_chans=error.channels), replace(request, report=lambda _: None))
    except _errors() as error:
        if not source:
            raise
        if source == LOCAL and isinstance(error, AssertionError):
            raise XGradCamError(f"timm {timm.__version__} reads no folders: install a newer timm") from None
        raise XGradCamError(f"cannot make {TIMM}{name}: {_said(error)}") from None


def _weights_in(folder: Path) -> Path:
    """The file of weights in a folder that timm wrote."""
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    named = [folder / name for name in FOLDER_FILES if folder / name in there]
    found = named or [path for path in there if path.suffix in (".safetensors", ".pth", ".bin")]
    if not found or (len(found) > 1 and not named):
        several = listed((path.name for path in found), 3) or "none"
        raise XGradCamError(
            f"no {FOLDER_FILES[0]} in {folder} (weights in it: {several}): give --weights FILE"
        )
    return found[0]


def _todays_name(name: str, report: Report) -> str:
    """The name by which timm knows the model; XGradCamError for an unknown architecture or tag of weights."""
    import timm

    deprecated: Mapping[str, str | None] = timm.models.get_deprecated_models()
    if name in deprecated:
        current = deprecated[name]
        if current is None:
            raise XGradCamError(f"timm has removed {name}, and has nothing in its place: choose another")
        report(f"{name} is an old name in timm: taking {current}")
        return current
    architecture = name.split(".")[0]
    known, where = timm.list_models(), "timm.list_models()"
    if architecture in known:
        if "." not in name or name in timm.list_pretrained(f"{architecture}.*"):
            return name
        known, where = timm.list_pretrained(), "timm.list_pretrained()"
    hint = f"; one of the Hub is {TIMM}hf-hub:{name}" if name.count("/") == 1 else ""
    near = did_you_mean(TIMM + name, [TIMM + other for other in known])
    raise XGradCamError(f"no model {TIMM + name!r}{hint or near} (known: {where})")


def _pretrained(name: str, source: str, report: Report) -> nn.Module:
    """A model of timm with its own weights, downloaded if they are not cached."""
    import timm

    if not source:
        _require_weights(name, report)
    try:
        module: nn.Module = timm.create_model(name, pretrained=True)
    except _errors() as error:
        raise WeightsUnavailableError(_said(error)) from None
    return module


def _errors() -> tuple[type[Exception], ...]:
    """Errors of timm's for weights or configurations that are missing, damaged, or of another model."""
    from safetensors import SafetensorError

    return OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError, EOFError, SafetensorError


def _said(error: Exception) -> str:
    """The first line of an error, behind its type where that says more."""
    line = next(iter(str(error).splitlines()), "")
    plain = type(error) in (OSError, RuntimeError, ValueError, FileNotFoundError) and line
    return line if plain else f"{type(error).__name__}: {line}" if line else type(error).__name__


def _require_weights(name: str, report: Report) -> None:
    """Raise an error unless timm has weights of this name, cached or to be downloaded."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    source = timm.get_pretrained_cfg(name)
    if source is None or not source.has_weights:
        raise XGradCamError(f"timm has no weights for {name}; give a file with --weights, or --weights none")
    cached = source.hf_hub_id is None or any(
        isinstance(try_to_load_from_cache(source.hf_hub_id, file), str) for file in HUB_FILES
    )
    if not cached and not constants.HF_HUB_OFFLINE:
        require_reachable(constants.ENDPOINT)
        report(f"downloading the weights of {name} from {constants.ENDPOINT}")


def _labels_of(module: Any, source: str, place: str) -> tuple[str, ...] | None:
    """ImageNet's names for 1000 classes of timm's own models; `with_names` looks into a configuration."""
    of_timm = not source or (source == HUB and place.startswith("timm/"))
    known = imagenet_labels()
    return known if of_timm and module.num_classes == len(known) else None
