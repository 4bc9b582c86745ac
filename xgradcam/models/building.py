"""A network built, and given the weights of a file or random ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from xgradcam.errors import XGradCamError, listed
from xgradcam.models.checkpoints import Checkpoint, State, read_checkpoint, split_weights
from xgradcam.models.classifier import LoadedWeights
from xgradcam.models.download import Report, fetch
from xgradcam.models.fitting import choose_state, fit
from xgradcam.models.preprocessing import Preprocessing
from xgradcam.operations.calls import tensors_of

DEFAULT_WEIGHTS = "default"
NO_WEIGHTS = "none"

Build = Callable[[], nn.Module]
Built = tuple[nn.Module, LoadedWeights | None]


@dataclass(frozen=True)
class Request:
    """The model, weights and preprocessing that `load_classifier` was asked for."""

    name: str | None
    weights: str
    report: Report
    num_classes: int | None
    given: Preprocessing

    @property
    def weights_are_a_file(self) -> bool:
        """True for anything but `default` and `none`."""
        return self.weights not in (DEFAULT_WEIGHTS, NO_WEIGHTS)

    def checkpoint(self) -> Checkpoint:
        """The state dicts in the file of weights, or the one that was asked for."""
        return read_checkpoint(*split_weights(self.weights))

    def options(self) -> dict[str, Any]:
        """Keyword arguments for the function that builds the model."""
        return {} if self.num_classes is None else {"num_classes": self.num_classes}


def require_classes(request: Request, classes: int, whose: str = "ImageNet's") -> None:
    """Raise XGradCamError if the default weights, of so many classes, are asked for another number."""
    if request.weights == DEFAULT_WEIGHTS and request.num_classes not in (None, classes):
        raise XGradCamError(
            f"{whose} weights are not for {request.num_classes} classes: give yours with --weights"
        )


def build_or_fetch(build: Build, request: Request, url: str, size: str) -> Built:
    """A new model with the weights asked for; the default ones are torchvision's at this URL."""
    if request.weights != DEFAULT_WEIGHTS:
        return build_model(build, request)
    path = fetch(url, size, request.report)
    try:
        return build_model(build, replace(request, weights=str(path)))[0], None
    except XGradCamError as error:
        raise XGradCamError(f"{error}; delete {path} to have it downloaded again") from None


def build_model(build: Build, request: Request) -> Built:
    """A new model with the weights of a file, or with random ones that are the same every time."""
    if not request.weights_are_a_file:
        return random_model(build).eval().requires_grad_(False), None
    checkpoint = request.checkpoint()
    taken = []

    def state_for(model: nn.Module) -> State:
        name, state = chosen(checkpoint, model, request)
        taken.append(name)
        return state

    module = filled(build, state_for, request.weights)
    return module, LoadedWeights(taken[-1], checkpoint.files)


def chosen(checkpoint: Checkpoint, model: nn.Module, request: Request) -> tuple[str, State]:
    """Name and tensors of the state dict for this model, as `choose_state` has them.

    If the file has more than that, this is reported.
    """
    name, state = choose_state(checkpoint.states, model, request.weights)
    others = [other or "the whole" for other in checkpoint.states if other != name] + [*checkpoint.lists]
    taken = set(map(id, state.values()))
    left_out = {
        key.partition(".")[0]
        for key, tensor in checkpoint.states[name].items()
        if id(tensor) not in taken and getattr(tensor, "ndim", 1) > 0
    }
    if others or left_out:
        there = listed([*others, *sorted(left_out)], 8)
        what = name or ("a part" if left_out else "the whole")
        request.report(
            f"taking {what} of {request.weights}, where there is {there}, too (--weights FILE:NAME chooses)"
        )
    return name, state


def random_model(build: Build) -> nn.Module:
    """A new model with the same random weights every time; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def filled(build: Build, state_for: Callable[[nn.Module], Mapping[str, Any]], source: str) -> nn.Module:
    """A new model with the weights of `state_for(model)`; if possible, it is built without weights first."""
    try:
        with torch.device("meta"):
            module = build()
    except (NotImplementedError, RuntimeError):
        # Some models compute with tensors while they are built. Other errors will be raised again.
        module = random_model(build)
    state = state_for(module)
    fit(module, state, source)
    if any(tensor.is_meta for part in module.modules() for tensor in tensors_of(vars(part))):
        # Some tensors are in no checkpoint, as buffers or attributes: the model has to compute them.
        module = random_model(build)
        fit(module, state, source)
    return module.eval().requires_grad_(False)
