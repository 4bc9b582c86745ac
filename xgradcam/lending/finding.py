"""Find a layer of a model by its name."""

from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from xgradcam.errors import XGradCamError, did_you_mean, shown
from xgradcam.lending.borrowing import wrapped
from xgradcam.lending.several import without_others
from xgradcam.lending.turns import names_as_usual
from xgradcam.operations.calls import refuse_exported

# The name of the network's own input as a layer.
INPUT = "input"


@dataclass(frozen=True)
class LayerRun:
    """One of the runs of a layer that a model runs several times; number: 0 for the first."""

    layer: str | nn.Module
    number: int


# A module of the model or its name, or one of its runs.
AnyLayer: TypeAlias = str | nn.Module | LayerRun


def at_run(layer: str | nn.Module, run: int | None) -> AnyLayer:
    """The layer, or the run of it that is said; XGradCamError for no number of one."""
    if run is None:
        return layer
    if isinstance(run, bool) or not isinstance(run, int) or run < 0:
        raise XGradCamError(
            f"the run is {shown(run)}: give 0 for the layer's first run, 1 for the second, ..."
        )
    return LayerRun(layer, run)


def run_of(layer: AnyLayer) -> int | None:
    """The number of the run that is meant; None for a layer that runs once."""
    return layer.number if isinstance(layer, LayerRun) else None


def is_input(model: nn.Module, layer: AnyLayer) -> bool:
    """True for the name of the network's input, unless a module of the model has that name."""
    model = without_others(model)
    layer = layer.layer if isinstance(layer, LayerRun) else layer
    if not isinstance(layer, str) or layer != INPUT:
        return False
    inner = wrapped(model)
    is_module = INPUT in dict(model.named_modules(remove_duplicate=False))
    return not is_module and (inner is None or is_input(inner, layer))


def _at_path(model: nn.Module, path: str) -> nn.Module | None:
    """The module at a path such as `layer4.2`, without a look at all others; None if there may be none."""
    found: nn.Module | None = model
    for name in path.split(".") if path else ():
        if found is None or not names_as_usual(found):
            return None
        found = dict(found._modules.items()).get(name)  # a scripted model has no dictionary
    return found


def find_layer(model: nn.Module, layer: AnyLayer) -> tuple[str, nn.Module]:
    """The name and the module of `layer`, a module of the model or its name; the model itself for `input`."""
    model, number = without_others(model), run_of(layer)
    layer = layer.layer if isinstance(layer, LayerRun) else layer
    refuse_exported(model)
    if not isinstance(model, nn.Module):
        raise XGradCamError(f"the model is a {type(model).__name__}: give a torch.nn.Module")
    if isinstance(layer, str) and (found := _at_path(model, layer)) is not None:
        return layer, found
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(layer, nn.Module):
        for name, module in modules.items():
            if module is layer:
                return name, module
        raise XGradCamError(
            f"the layer, a {type(layer).__name__}, is not a module of this {type(model).__name__}"
        )
    if not isinstance(layer, str):
        call = ", such as default_layer(list_layers(model, inputs)) returns" if callable(layer) else ""
        raise XGradCamError(f"the layer is {shown(layer)}: give a module of the model, or its name{call}")
    if layer in modules:
        return layer, modules[layer]
    if is_input(model, layer):
        if number:
            raise XGradCamError(f"the input is there once: leave out run={number}, or give 0")
        return INPUT, model
    if (inner := wrapped(model)) is not None:
        return find_layer(inner, layer)
    raise XGradCamError(
        f"no layer {shown(layer)} in this {type(model).__name__}{did_you_mean(layer, modules)} "
        f"(--list-layers, or model.named_modules(), shows all)"
    )
