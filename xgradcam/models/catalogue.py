"""Names of the models that can be had, read from the installed libraries' code, without a second's import."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from xgradcam.errors import XGradCamError, did_you_mean

BUNDLED = "efficientnet-lite0"
# Folders of torchvision's models that are for photographs and videos; '' is for classification.
KINDS = {"": "classification", "segmentation": "segmentation", "detection": "detection", "video": "video"}
REGISTERED = re.compile(
    r"^@register_model\b(?P<between>.*?)^def (?P<name>\w+)\((?P<signature>.*?)\)\s*(?:->|:)", re.M | re.S
)
GIVEN_NAME = re.compile(r"\(name=[\"'](\w+)[\"']")
WEIGHTS = re.compile(r"\bweights: .*?\b(\w+_Weights)\b", re.S)
ENUMERATION = re.compile(r"^class (\w+_Weights)\(WeightsEnum\):(.*?)(?=^\S)", re.M | re.S)
MEMBER = re.compile(r"^    (\w+) = Weights\(\s*(?:#[^\n]*\s*)*url=\"([^\"]+)\"", re.M)
DEFAULT = re.compile(r"^    DEFAULT = (\w+)", re.M)
# Folders of Hugging Face's cache; what their models are for, by the end of an architecture's name.
REPOSITORY = re.compile(r"models--(.+?)--(.+)")
ARCHITECTURES = {
    "ForImageClassification": "classification",
    "ForSemanticSegmentation": "segmentation",
    "ForObjectDetection": "detection",
}


@dataclass(frozen=True)
class Listed:
    """A model that `--model` takes.

    kind: what it is for; '' for timm's, which are for classification. here: nothing has to be downloaded.
    """

    name: str
    source: str
    kind: str
    here: bool


def all_models() -> list[Listed]:
    """The bundled model, torchvision's, timm's, and those of Hugging Face's that are on this machine."""
    return [Listed(BUNDLED, "bundled", KINDS[""], True), *_of_torchvision(), *_of_timm(), *_of_hugging_face()]


def matching(models: Sequence[Listed], wanted: str) -> list[Listed]:
    """The models with this text in their names, or whose names match it as a pattern; case does not matter.

    Raises XGradCamError if there are none.
    """
    low = wanted.lower()
    pattern = low if any(sign in low for sign in "*?[") else f"*{low}*"
    # Patterns are for the name with and without what stands before the slash.
    found = [
        model
        for model in models
        if any(fnmatchcase(name.lower(), pattern) for name in (model.name, model.name.rpartition("/")[2]))
    ]
    if not found:
        near = did_you_mean(low, [model.name for model in models])
        raise XGradCamError(f"no model matches {wanted!r}{near} (--list-models shows all)")
    return found


def _of_torchvision() -> Iterator[Listed]:
    there = _files_in(_checkpoints())
    found = []
    for folder, kind in KINDS.items():
        for text in _code_of("torchvision", "models", folder):
            enumerations = {name: _default_file(body) for name, body in ENUMERATION.findall(text)}
            for match in REGISTERED.finditer(text):
                named = GIVEN_NAME.match(match["between"])
                weights = WEIGHTS.search(match["signature"])
                here = weights is not None and enumerations.get(weights[1]) in there
                found.append(Listed(named[1] if named else match["name"], "torchvision", kind, here))
    return iter(sorted(found, key=lambda model: model.name))


def _default_file(body: str) -> str:
    """The name of the file of the default weights, given the code of their enumeration."""
    members, default = dict(MEMBER.findall(body)), DEFAULT.search(body)
    url = members.get(default[1], "") if default else ""
    return PurePosixPath(urlparse(url).path).name


def _of_timm() -> Iterator[Listed]:
    names = (match["name"] for text in _code_of("timm", "models") for match in REGISTERED.finditer(text))
    for name in sorted(names):
        yield Listed(f"timm/{name}", "timm", "", False)


def _of_hugging_face() -> Iterator[Listed]:
    """Those in the cache: timm's with their tags, and those of transformers whose architecture is known."""
    for folder in sorted(_files_in(_hub())):
        found = REPOSITORY.fullmatch(folder)
        if found is None:
            continue
        owner, name = found.groups()
        if owner == "timm":
            yield Listed(f"timm/{name}", "timm", "", True)
        elif kind := _architecture(_hub() / folder):
            yield Listed(f"hf:{owner}/{name}", "transformers", kind, True)


def _architecture(folder: Path) -> str:
    """The task of the model in a folder of the cache; '' if it is not for photographs, or not known."""
    for path in sorted(folder.glob("snapshots/*/config.json")):
        with suppress(OSError, ValueError, AttributeError, TypeError):
            for name in json.loads(path.read_text(encoding="utf-8")).get("architectures") or ():
                return next((kind for end, kind in ARCHITECTURES.items() if name.endswith(end)), "")
    return ""


def _code_of(package: str, *folders: str) -> Iterator[str]:
    """The text of the modules in a folder of an installed package, which is not imported."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(place, *folders).glob("*.py")):
            yield path.read_text(encoding="utf-8", errors="replace")


def _files_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _checkpoints() -> Path:
    """The folder of torch hub's weights, as `torch.hub.get_dir` says it."""
    home = Path(os.environ.get("TORCH_HOME") or _cache() / "torch").expanduser()
    return home / "hub" / "checkpoints"


def _hub() -> Path:
    """The cache of Hugging Face, as huggingface_hub says it."""
    home = Path(os.environ.get("HF_HOME") or _cache() / "huggingface").expanduser()
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(given or home / "hub").expanduser()
