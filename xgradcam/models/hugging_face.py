"""Models of transformers: `hf:FOLDER` as `save_pretrained` writes it, or `hf:OWNER/NAME` of the Hub."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from xgradcam.errors import WeightsUnavailableError, XGradCamError, first_line, listed
from xgradcam.models.building import DEFAULT_WEIGHTS, Request, build_model, require_classes
from xgradcam.models.classifier import Classifier, Kind, LoadedWeights
from xgradcam.models.hub import CONFIG, is_cached, require_config, why_not
from xgradcam.models.names import names_of
from xgradcam.models.naming import PLACEHOLDER
from xgradcam.models.processor import GIVE, Preset, preset_of
from xgradcam.models.reading import FileState
from xgradcam.models.user_code import HUGGING_FACE

# Kinds of models by the names of their classes; those of images and texts are told by their methods.
KINDS: Mapping[str, Kind] = {
    "ForImageClassification": "classification",
    "ForSemanticSegmentation": "segmentation",
    "ForObjectDetection": "detection",
}
BOTH = ("get_image_features", "get_text_features")
WANTED = f"take one {' or '.join(KINDS)}, or of CLIP's kind"
# Files of a folder that decide what the model says.
FILES = re.compile(r".*\.(safetensors|bin)|.*\.index\.json|config\.json|pre?processor_config\.json")


@dataclass(frozen=True)
class _Place:
    """A folder, or a repository of the Hub. keywords: of `from_pretrained`."""

    name: str
    path: str
    keywords: Mapping[str, Any]

    def read(self, auto: Any, **more: Any) -> Any:
        """The object that a class of transformers reads there; XGradCamError, in a line, if it cannot."""
        try:
            # No code of a repository is run: without this, transformers would ask on the terminal.
            return auto.from_pretrained(self.path, trust_remote_code=False, **self.keywords, **more)
        # transformers raises nearly anything for files that are missing, damaged or of another kind.
        except Exception as error:
            raise self.error(error) from error

    def error(self, error: Exception) -> XGradCamError:
        """The error with the reason, and the remedy where there is one."""
        if "trust_remote_code" in str(error):
            return XGradCamError(
                f"{self.name} brings code of its own, which is not run: load it in a file.py:function"
            )
        return XGradCamError(f"cannot load {self.name}: {why_not(error)}")


def hugging_face_classifier(request: Request) -> Classifier:
    """The model of `hf:FOLDER` or `hf:OWNER/NAME`, `hf:OWNER/NAME@REVISION`, with its processor's values.

    Raises XGradCamError if transformers is not installed, for a model that is missing, gated, incomplete, of
    a kind without class scores, or with code of its own, and for a processor that is missing or does more.
    """
    transformers = _transformers()
    name = str(request.name)
    with _quietly(transformers):
        place = _place_of(name, request)
        config = place.read(transformers.AutoConfig)
        made, kind = _class_of(transformers, config, name)
        if kind != "image and text" and request.num_classes is not None:
            require_classes(request, config.num_labels, f"{name}'s")
            config.num_labels = request.num_classes
        preset = _preset(transformers, place, request, config)
        module, weights = _built(place, made, config, request)
        tokenizer = place.read(transformers.AutoTokenizer) if kind == "image and text" else None
    if preset.turned:
        module.register_forward_pre_hook(_turned)
    if kind == "image and text":
        module.forward = partial(_photographs_alone, module)
    return Classifier(
        name,
        module,
        preset.size,
        preset.mean,
        preset.std,
        None if kind == "image and text" else _labels_of(config),
        output="logits" if kind in ("classification", "segmentation") else None,
        resize=preset.resize,
        interpolation=preset.interpolation,
        weights=weights,
        kind=kind,
        tokenizer=tokenizer,
    )


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise XGradCamError(
            f"{HUGGING_FACE} needs transformers ({first_line(error)}): pip install 'xgradcam[hf]'"
        ) from None
    return transformers  # type: ignore[no-any-return]


@contextmanager
def _quietly(transformers: ModuleType) -> Iterator[None]:
    """No lines and bars of transformers while it loads: what matters is said by errors, in a line."""
    log = transformers.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _place_of(name: str, request: Request) -> _Place:
    """The place of the model; XGradCamError for a folder that is none, and for what cannot be had."""
    given = name.removeprefix(HUGGING_FACE)
    folder = Path(given).expanduser()
    if given and folder.is_dir():
        if not (folder / CONFIG).is_file():
            there = listed(sorted(path.name for path in folder.iterdir()), 4) or "nothing"
            raise XGradCamError(
                f"no {CONFIG} in {folder} (in it: {there}): give a folder that save_pretrained wrote"
            )
        return _Place(name, str(folder), {"local_files_only": True})
    repository, _, revision = given.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository) or repository.startswith("."):
        raise XGradCamError(f"no model {name}: no such folder, and no OWNER/NAME of the Hub")
    keywords: dict[str, Any] = {"revision": revision or "main"}
    if is_cached(repository, revision, name):
        return _Place(name, repository, {**keywords, "local_files_only": True})
    try:
        require_config(repository, revision, name, request.report)
    except WeightsUnavailableError as error:
        raise XGradCamError(
            f"no folder {given}, and none of the Hub's to be had ({error}): give {HUGGING_FACE}FOLDER"
        ) from None
    return _Place(name, repository, keywords)


def _class_of(transformers: ModuleType, config: Any, name: str) -> tuple[type[nn.Module], Kind]:
    """The model's class, and its kind; XGradCamError for one that gives no class scores."""
    architecture = next(iter(getattr(config, "architectures", None) or ()), "")
    made = getattr(transformers, str(architecture), None)
    if not isinstance(made, type) or not issubclass(made, transformers.PreTrainedModel):
        unknown = f"{architecture} is no model of transformers {transformers.__version__}"
        what = unknown if architecture else f"its {CONFIG} names no architecture"
        raise XGradCamError(f"{name}: {what}: {WANTED}")
    for part, kind in KINDS.items():
        if part in architecture:
            return made, kind
    if all(hasattr(made, method) for method in BOTH):
        return made, "image and text"
    apart = "Segmentation" in architecture
    what = "gives masks and their classes apart" if apart else "gives no class scores of photographs"
    raise XGradCamError(f"{name} is a {architecture}, which {what}: {WANTED}")


def _preset(transformers: ModuleType, place: _Place, request: Request, config: Any) -> Preset:
    """The preprocessing of the model's processor; what is given, if that is all there is to know."""
    given = request.given
    if given.size and given.mean and given.std:
        channels = getattr(config, "num_channels", 3)
        mean, std = (values * channels if len(values) == 1 else values for values in (given.mean, given.std))
        return Preset(given.size, mean, std)
    try:
        processor = place.read(transformers.AutoImageProcessor)
    except XGradCamError as error:
        raise XGradCamError(f"{error}; {GIVE} to do without its processor") from None
    own = getattr(config, "image_size", None)
    size = given.size or ((own, own) if isinstance(own, int) else None)
    return preset_of(processor, size, place.name)


def _built(
    place: _Place, made: type[nn.Module], config: Any, request: Request
) -> tuple[nn.Module, LoadedWeights | None]:
    """The model with its own weights, those of a file, or random ones."""
    if request.weights == DEFAULT_WEIGHTS:
        module, info = place.read(made, config=config, output_loading_info=True)
        return _whole(module, info, place.name), _weights_of(place)
    try:
        return build_model(partial(made, config), request)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise place.error(error) from error
    except XGradCamError as error:
        if not request.weights_are_a_file:
            raise
        return _renamed(made, config, request, error)


def _renamed(
    made: Any, config: Any, request: Request, error: XGradCamError
) -> tuple[nn.Module, LoadedWeights]:
    """The model with the weights of a file of older names, which transformers knows; else the error."""
    checkpoint = request.checkpoint()
    states = list(checkpoint.states.items())
    if len(states) > 1 or not all(isinstance(tensor, Tensor) for tensor in states[0][1].values()):
        raise error
    ((taken, state),) = states
    try:
        module, info = made.from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True
        )
        return _whole(module, info, request.weights), LoadedWeights(taken, checkpoint.files)
    except Exception:
        raise error from None


def _whole(module: nn.Module, info: Mapping[str, Any], source: str) -> nn.Module:
    """The model, if it has all of its weights: transformers makes up those that are missing."""
    missing = sorted(info["missing_keys"])
    if missing:
        kind = type(module).__name__
        raise XGradCamError(
            f"the weights of {source} are not all of this {kind}: missing: {listed(missing, 3)}"
        )
    return module.float().eval().requires_grad_(False)


def _weights_of(place: _Place) -> LoadedWeights | None:
    """The files of a folder as they are now; None for the Hub's."""
    folder = Path(place.path)
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if FILES.fullmatch(path.name))
    states = [(path, path.stat()) for path in files]
    return LoadedWeights("", tuple(FileState(path, at.st_size, at.st_mtime_ns) for path, at in states))


def _labels_of(config: Any) -> tuple[str, ...] | None:
    """The names of the classes in a configuration; None for placeholders, gaps and another number."""
    try:
        names = names_of(config.id2label).names
    except XGradCamError:
        return None
    return None if all(map(PLACEHOLDER.fullmatch, names)) or len(names) != config.num_labels else names


def _turned(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Photographs in the order blue, green and red: a hook before the model."""
    return given[0].flip(1), *given[1:]


def _photographs_alone(model: Any, photographs: Tensor) -> dict[str, Tensor]:
    """The embeddings of photographs (N, D), of a model that takes texts too."""
    encode: Callable[..., Any] = model.get_image_features
    returned = encode(pixel_values=photographs)
    # A tensor in older versions.
    return {"image_embeds": returned if isinstance(returned, Tensor) else returned.pooler_output}
