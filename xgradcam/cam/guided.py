"""Guided backpropagation: fine detail in the input, and its product with a heatmap."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError, shown
from xgradcam.lending.inputs import Inputs, lent
from xgradcam.lending.several import Place
from xgradcam.lending.turns import in_turn
from xgradcam.operations.calls import Call, refuse_scripted
from xgradcam.scores.outputs import finite_logits_of
from xgradcam.scores.targets import Targets, choose_targets

if TYPE_CHECKING:
    from xgradcam.pictures.photograph import Photograph

# Operations that can be max(x, 0), with a cap or without, and the argument that must be 0 for it.
RECTIFIERS: Mapping[str, tuple[int, str] | None] = MappingProxyType(
    {
        "relu": None,
        "relu6": None,
        "hardtanh": (1, "min_val"),  # what nn.ReLU6 calls
        "clamp": (1, "min"),
        "clip": (1, "min"),
        "clamp_min": (1, "min"),
    }
)
# Activations that are no rectifiers: their gradient is left as it is.
OTHER_ACTIVATIONS = frozenset(
    """leaky_relu prelu rrelu elu selu celu gelu silu mish softplus hardswish hardsigmoid hardtanh
    sigmoid tanh""".split()
)


@in_turn
def guided_backpropagation(
    model: nn.Module,
    inputs: Inputs,
    targets: Targets = None,
    output: str | int | None = None,
    image: Place | None = None,
) -> Tensor:
    """The gradient of a class score by the inputs, (N, ...), if rectifiers pass on only positive gradients.

    At a rectifier v = h(u) = max(u, 0), with a cap or without: ĝ_u = h′(u) · max(ĝ_v, 0). Springenberg et al.
    2015. Much of it is the same for every class: it shows what the network sees.

    inputs: (N, ...). The other arguments are those of `explain`; the model is left as it was found.
    Raises XGradCamError for a wrong class or model, and for a model without rectifiers.
    """
    model, inputs = lent(model, inputs, image)
    if not inputs.is_floating_point():
        raise XGradCamError(f"the inputs are {inputs.dtype} numbers, which have no gradient: take floats")
    refuse_scripted(model)
    guiding = _Guiding()
    with torch.inference_mode(False):
        # An identity in front of the model makes the inputs a layer's output.
        whole = nn.Sequential(OrderedDict(inputs=nn.Identity(), model=model))
        recording = record(whole, inputs, "inputs", lambda _inputs: guiding)
        logits = finite_logits_of(recording.output, output)
        chosen = choose_targets(logits, targets)
        try:
            gradient = recording.gradient(logits.gather(1, chosen[:, None])[:, 0])
        except XGradCamError as error:  # it speaks of the layer that the caller did not choose
            raise XGradCamError(f"no gradient reaches the inputs: {error}") from None
    if not guiding.met:
        others = f": it has {', '.join(guiding.others)}" if guiding.others else ""
        raise XGradCamError(
            f"guided backpropagation needs rectifiers, such as ReLU, and this model's score has none{others}"
        )
    return gradient


def guided_map(guided: Tensor, heatmap: Tensor) -> Tensor:
    """The product of gradients and heatmap, (N, C, H, W): fine detail at the class's position.

    guided: (N, C, H, W), from `guided_backpropagation`. heatmap: (N, H, W), from `heatmap`.
    Guided Grad-CAM: Selvaraju et al. 2017. Guided XGrad-CAM: Fu et al. 2020.
    """
    if guided.ndim != 4 or heatmap.shape != (len(guided), *guided.shape[2:]):
        raise XGradCamError(
            f"a heatmap {tuple(heatmap.shape)} for gradients {tuple(guided.shape)}: take (N, H, W) for "
            "(N, C, H, W)"
        )
    return guided * heatmap[:, None]


def gradient_picture(guided: Tensor) -> "Photograph":
    """A picture (H, W, 3) uint8 RGB of one sample's gradients (C, H, W), C 1 or 3.

    255 · clip(½ + (g − mean g) / 10 (std g + 1e-5), 0, 1), rounded down: no gradient is about grey, and ten
    deviations fill the range. Very small gradients, such as 1e-6, give a grey picture.
    """
    if not isinstance(guided, Tensor) or guided.ndim != 3 or len(guided) not in (1, 3) or 0 in guided.shape:
        shape = tuple(guided.shape) if isinstance(guided, Tensor) else shown(guided)
        raise XGradCamError(f"gradients {shape} are no picture: give one sample's, (3, H, W) or (1, H, W)")
    pixels = guided.detach().double().cpu().numpy()
    if not np.isfinite(pixels).all():
        raise XGradCamError("the gradients are not finite: there is no picture of them")
    standard = (pixels - pixels.mean()) / (pixels.std() + 1e-5)
    levels = (255 * np.clip(0.1 * standard + 0.5, 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0))


class _Guiding(TorchFunctionMode):
    """Runs every operation unchanged, and hooks the outputs of rectifiers.

    met: True once a gradient has passed a rectifier. others: the names of other activations, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = False
        self.others: dict[str, None] = {}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation; rectify the gradient of its output if it is a rectifier."""
        call = Call(function, args, kwargs or {})
        if not _rectifies(call):
            if call.operation in OTHER_ACTIVATIONS:
                self.others[call.operation] = None
            return function(*args, **call.kwargs)
        # A result written in place without a graph still has the gradient of its earlier value.
        if not torch.is_grad_enabled():
            return function(*args, **call.kwargs)
        if call.destination is not None and call.destination._is_view():
            # A view's gradient goes to its base, past a hook: rectify a copy, and write that to the view.
            call.destination.copy_(self._guided(call.run(lambda tensor: tensor)))
            return call.destination
        return self._guided(function(*args, **call.kwargs))

    def _guided(self, rectified: Tensor) -> Tensor:
        if rectified.requires_grad:
            rectified.register_hook(self._positive)  # type: ignore[no-untyped-call]
        return rectified

    def _positive(self, gradient: Tensor | None) -> Tensor | None:
        self.met = True
        return None if gradient is None else gradient.clamp(min=0)


def _rectifies(call: Call) -> bool:
    # In an exported program the name of an in-place operator ends in an underscore.
    name = call.operation.rstrip("_")
    if name not in RECTIFIERS or not call.is_of_torch():
        return False
    bound = RECTIFIERS[name]
    lowest = 0 if bound is None else call.argument(*bound)
    return isinstance(lowest, (int, float)) and lowest == 0
