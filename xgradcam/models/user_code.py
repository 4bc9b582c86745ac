"""Models from the user's own code: `path/to/file.py:name` or `package.module:name`."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from xgradcam.errors import XGradCamError

TIMM = "timm/"
HUGGING_FACE = "hf:"
# Places from which timm takes models, before a colon.
HUB, LOCAL = "hf-hub", "local-dir"


def source_of(name: str) -> tuple[str, str]:
    """The place from which timm takes a model of this name, and the name there; '' for timm itself."""
    source, _, place = name.partition(":")
    source = source.lower().replace("_", "-")
    return (source, place) if source in (HUB, LOCAL) and place else ("", name)


def is_own(name: str) -> bool:
    """True for a model's name that points into the user's code."""
    if name.startswith(HUGGING_FACE):
        return False
    return ":" in name and not (name.startswith(TIMM) and source_of(name.removeprefix(TIMM))[0])


def build_own(name: str, num_classes: int | None) -> nn.Module:
    """The model that `name` points to: an instance, or a function or class that is called without arguments.

    num_classes: passed on to the function or class, unless it is None. Errors of the user's code are not
    caught. Raises XGradCamError if there is no such file, module or name, if the result is no nn.Module, or
    if `num_classes` is given and the code does not take it.
    """
    if source_of(name)[0]:
        raise XGradCamError(f"no model {name!r}: one of timm's is {TIMM}{name}")
    source, _, attribute = name.rpartition(":")
    module = _module_of(source)
    found = getattr(module, attribute, None)
    if found is None:
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise XGradCamError(
            f"no {attribute!r} in {source}; it has: {', '.join(defined) or 'nothing to call'}"
        )
    if isinstance(found, nn.Module):
        _require_no_classes(name, num_classes)
    else:
        found = _called(found, name, num_classes)
    if not isinstance(found, nn.Module):
        raise XGradCamError(f"{name} gives a {type(found).__name__}, not a torch.nn.Module")
    return found


def _module_of(source: str) -> ModuleType:
    """The module of this name or file; its code is run."""
    if not source.endswith(".py"):
        # As for `python -m`, the modules in the working directory come first.
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            if error.name and source.startswith(error.name):
                raise XGradCamError(
                    f"no module {source!r}: give package.module:name or file.py:name"
                ) from None
            raise
    path = Path(source)
    if not path.is_file():
        raise XGradCamError(f"no such file: {source}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise XGradCamError(f"not a Python file: {source}")
    module = importlib.util.module_from_spec(spec)
    # Classes of the file may be looked up by its name, and it may import the files beside it.
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module


def _called(build: Any, name: str, num_classes: int | None) -> Any:
    """The result of the user's function or class."""
    if not callable(build):
        raise XGradCamError(
            f"{name} is a {type(build).__name__}: neither a model nor a function that builds one"
        )
    parameters = inspect.signature(build).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not takes_any and "num_classes" not in parameters:
        _require_no_classes(name, num_classes)
    options = {} if num_classes is None else {"num_classes": num_classes}
    missing = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in options
    ]
    if missing:
        raise XGradCamError(
            f"{name} needs {', '.join(missing)}: point to a function without arguments that builds it"
        )
    return build(**options)


def _require_no_classes(name: str, num_classes: int | None) -> None:
    if num_classes is not None:
        raise XGradCamError(f"{name} takes no num_classes: it has as many classes as your code gives it")
