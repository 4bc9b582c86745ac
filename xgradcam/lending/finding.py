"""Find a layer of a model by its name."""

from torch import nn

from xgradcam.errors import XGradCamError, did_you_mean, shown
from xgradcam.lending.borrowing import wrapped
from xgradcam.operations.calls import refuse_exported

# The name of the network's own input as a layer.
INPUT = "input"


def is_input(model: nn.Module, layer: str | nn.Module) -> bool:
    """True for the name of the network's input, unless a module of the model has that name."""
    if not isinstance(layer, str) or layer != INPUT:
        return False
    inner = wrapped(model)
    is_module = INPUT in dict(model.named_modules(remove_duplicate=False))
    return not is_module and (inner is None or is_input(inner, layer))


def find_layer(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """The name and the module of `layer`, a module of the model or its name; the model itself for `input`."""
    refuse_exported(model)
    if not isinstance(model, nn.Module):
        raise XGradCamError(f"the model is a {type(model).__name__}: give a torch.nn.Module")
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
        return INPUT, model
    if (inner := wrapped(model)) is not None:
        return find_layer(inner, layer)
    raise XGradCamError(
        f"no layer {shown(layer)} in this {type(model).__name__}{did_you_mean(layer, modules)} "
        f"(--list-layers, or model.named_modules(), shows all)"
    )
