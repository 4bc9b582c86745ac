"""The inputs that a caller gives: the tensor in them, and advice where a model cannot run on them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from xgradcam.errors import XGradCamError, is_out_of_memory
from xgradcam.lending.borrowing import Run, borrowed
from xgradcam.lending.several import Place, beside, why_not_taken
from xgradcam.operations.calls import tensors_of

# A tensor (N, ...), or several inputs: a tuple or a list of positional ones, a mapping of named ones.
Inputs: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]


def lent(model: nn.Module, inputs: Any, image: Place | None = None) -> tuple[nn.Module, Tensor]:
    """The model as one of a single input, and that input: a plain tensor, as by `plain_inputs`.

    Of several inputs it is the image; the model runs on it beside the others: see `beside`.
    """
    if isinstance(inputs, (tuple, list, Mapping)) and isinstance(model, nn.Module):
        if (found := beside(model, inputs, image)) is not None:
            return found[0], plain_inputs(found[1])
        why = why_not_taken(model, inputs)
        if why and any(True for _ in tensors_of([inputs])):
            kind = type(inputs).__name__
            raise XGradCamError(
                f"the inputs are a {kind}: give {_instead_of(inputs)}; as several inputs the model does not "
                f"take them: {why}"
            )
    elif image is not None:
        raise XGradCamError("image= chooses one of several inputs: give them in a tuple or a dictionary")
    return model, plain_inputs(inputs)


def plain_inputs(inputs: Any) -> Tensor:
    """The inputs as a plain tensor without a graph, in the same memory; XGradCamError for no tensor.

    Subclasses of Tensor may change or refuse any operation: the tensor in them is taken.
    """
    if not isinstance(inputs, Tensor) or _is_nested(inputs) or is_traceable_wrapper_subclass(inputs):
        kind = "nested tensor" if _is_nested(inputs) else type(inputs).__name__
        raise XGradCamError(f"the inputs are a {kind}: give {_instead_of(inputs)}")
    if type(inputs) is Tensor and not inputs.requires_grad:
        return inputs
    with torch._C.DisableTorchFunctionSubclass():
        return inputs.as_subclass(Tensor).detach()


def _is_nested(inputs: Any) -> bool:
    with torch._C.DisableTorchFunctionSubclass():
        return isinstance(inputs, Tensor) and inputs.is_nested


def _instead_of(inputs: Any) -> str:
    if _is_nested(inputs):
        return "samples of one size, such as torch.nested.to_padded_tensor(inputs, 0.0), or one at a time"
    library = type(inputs).__module__.split(".")[0]
    if library in ("numpy", "PIL"):
        # The axes of a picture's array, (H, W, C).
        axes = getattr(inputs, "shape", (0, 0, 3))
        picture = len(axes) == 3 and axes[2] in (1, 3, 4)
        form = "torch.as_tensor(numpy.array(inputs))" + (".permute(2, 0, 1)[None] / 255" if picture else "")
        return f"a tensor (N, ...), such as {form}, scaled as in training"
    if isinstance(inputs, Mapping):
        key = next((key for key, value in inputs.items() if isinstance(value, Tensor)), "pixel_values")
        return f"the tensor (N, ...) in it, such as inputs[{key!r}]"
    stacked = isinstance(inputs, (tuple, list)) and all(isinstance(one, Tensor) for one in inputs)
    return "a tensor (N, ...)" + (", such as torch.stack(inputs)" if stacked and inputs else "")


@contextmanager
def advice_on(model: nn.Module, inputs: Tensor) -> Iterator[None]:
    """After an error: if the model cannot run on the inputs, but on a form that is often meant, say so."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if callable(getattr(model, "get_image_features", None)) and "forward" not in vars(model):
            kind = type(model).__name__
            raise XGradCamError(
                f"the {kind} takes more than photographs: give image_encoder(model)"
            ) from error
        forms = list(_other_forms(model, inputs))
        with borrowed(model) as run:
            meant = [form for form, changed in forms if not _runs(run, inputs) and _runs(run, changed)]
        if not meant:
            raise
        given = f"{str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape)} on {inputs.device}"
        raise XGradCamError(f"the model does not take inputs {given}: give {meant[0]}") from error


def _runs(run: Run, inputs: Tensor) -> bool:
    try:
        returned = next(tensors_of(run(inputs)), None)
    # A model may raise anything for inputs that are not meant for it.
    except Exception:
        return False
    return returned is not None and returned.ndim > 1 and len(returned) == len(inputs)


def _other_forms(model: nn.Module, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Python text of what may be meant instead of the inputs, and its value, the likeliest first."""
    text, value = "inputs", inputs
    own = next((one for one in model.parameters() if one.is_floating_point()), None)
    if own is not None and inputs.device != own.device:
        text, value = f"{text}.to({str(own.device)!r})", value.to(own.device)
    if inputs.layout is not torch.strided:
        yield "inputs.to_dense()", inputs.to_dense()
        return
    if inputs.is_complex() and own is not None:
        # To another type, PyTorch would drop the imaginary parts.
        text, value = f"{text}.abs()", value.abs()
    if own is not None and value.dtype != own.dtype:
        text, value = f"{text}.to({own.dtype})", value.to(own.dtype)
    scale = " / 255" if inputs.dtype == torch.uint8 else ""
    value = value / 255 if scale else value
    if text != "inputs":
        yield text + scale, value
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return
    if inputs.ndim == 2:
        yield f"{text}[None, None]{scale}", value[None, None]
    if inputs.ndim == 3:
        yield f"{text}[None]{scale}", value[None]
        yield f"{text}.permute(2, 0, 1)[None]{scale}", value.permute(2, 0, 1)[None]
        yield f"{text}[:, None]{scale}", value[:, None]
    if inputs.ndim == 4:
        yield f"{text}.permute(0, 3, 1, 2){scale}", value.permute(0, 3, 1, 2)
