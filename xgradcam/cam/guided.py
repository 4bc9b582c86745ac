"""Guided backpropagation: which pixels speak for a class, in fine detail; times a map, also where."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xgradcam.capture.calls import Call, refuse_compiled
from xgradcam.capture.recording import record
from xgradcam.capture.scores import choose_targets, finite_logits_of
from xgradcam.errors import XGradCamError
from xgradcam.pictures.photograph import Photograph

# Operations that are max(x, 0), with a cap or without, and the argument that has to be 0 for it.
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
OTHERS = frozenset(
    """leaky_relu prelu rrelu elu selu celu gelu silu mish softplus hardswish hardsigmoid hardtanh
    sigmoid tanh""".split()
)


def guided_backpropagation(
    model: nn.Module,
    inputs: Tensor,
    targets: int | Sequence[int] | Tensor | None = None,
    output: str | int | None = None,
) -> Tensor:
    """Gradient of a class score by the inputs where rectifiers pass on positive gradients only.

    At v = h(u) = max(u, 0), and with a cap: ĝ_u = h′(u) · max(ĝ_v, 0). Springenberg et al. 2015.
    It shows what the network sees more than what the class needs: much of it is the same for every class.

    inputs: (N, ...), and so is the result. The model is left as it was found; the other arguments are those
    of `explain`. Raises XGradCamError for a wrong class or model, and for one without rectifiers.
    """
    if not inputs.is_floating_point():
        raise XGradCamError(f"the inputs are {inputs.dtype} numbers, which have no gradient: take floats")
    refuse_compiled(model)
    guiding = _Guiding()
    with torch.inference_mode(False):
        # The inputs are the output of a layer too, of one in front of the model.
        whole = nn.Sequential(OrderedDict(inputs=nn.Identity(), model=model))
        recording = record(whole, inputs, "inputs", guiding)
        logits = finite_logits_of(recording.output, output)
        chosen = choose_targets(logits, targets)
        try:
            gradient = recording.gradient(logits.gather(1, chosen[:, None])[:, 0])
        except XGradCamError as error:  # it speaks of the layer that the caller did not choose
            raise XGradCamError(f"no gradient reaches the inputs: {error}") from None
    if not guiding.met:
        found = f": it has {', '.join(guiding.others)}" if guiding.others else ""
        raise XGradCamError(
            f"guided backpropagation needs rectifiers, such as ReLU, and this model's score has none{found}"
        )
    return gradient


def guided_map(guided: Tensor, heatmap: Tensor) -> Tensor:
    """The product, (N, C, H, W): fine detail, where the class is.

    guided: (N, C, H, W), of `guided_backpropagation`. heatmap: (N, H, W), as `heatmap` makes it.
    Guided Grad-CAM of Selvaraju et al. 2017, and so Guided XGrad-CAM of Fu et al. 2020.
    """
    if guided.ndim != 4 or heatmap.shape != (len(guided), *guided.shape[2:]):
        raise XGradCamError(
            f"a heatmap {tuple(heatmap.shape)} for gradients {tuple(guided.shape)}: take (N, H, W) for "
            "(N, C, H, W)"
        )
    return guided * heatmap[:, None]


def gradient_picture(guided: Tensor) -> Photograph:
    """The gradients of one sample (C, H, W), C 1 or 3, as a picture: (H, W, 3) uint8 RGB.

    255 · clip(½ + (g − mean g) / 10 (std g + 1e-5), 0, 1), rounded down: what has no gradient is about grey,
    ten deviations fill the range. A picture of small gradients, of 1e-6 for example, is grey all over.
    """
    if guided.ndim != 3 or guided.shape[0] not in (1, 3) or 0 in guided.shape:
        shape = tuple(guided.shape)
        raise XGradCamError(f"gradients {shape} are no picture: take one sample's, (3, H, W) or (1, H, W)")
    pixels = guided.detach().double().cpu().numpy()
    if not np.isfinite(pixels).all():
        raise XGradCamError("the gradients are not finite: there is no picture of them")
    standard = (pixels - pixels.mean()) / (pixels.std() + 1e-5)
    levels = (255 * np.clip(0.1 * standard + 0.5, 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0))


class _Guiding(TorchFunctionMode):
    """Runs every operation as it is, and hooks those that rectify.

    met: whether a gradient has passed a rectifier. others: the names of other activations, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = False
        self.others: dict[str, None] = {}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the operation, and have its output's gradient rectified."""
        call = Call(function, args, kwargs or {})
        if not _rectifies(call):
            if call.operation in OTHERS:
                self.others[call.operation] = None
            return function(*args, **call.kwargs)
        if not torch.is_grad_enabled():  # in place, its result has the gradient of what was there before
            return function(*args, **call.kwargs)
        if call.destination is not None and call.destination._is_view():
            # A view has no place of its own in the graph of its base: write to a copy, and that to the view.
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
    name = call.operation.rstrip("_")  # an operator of an exported program keeps its mark of in-place
    if name not in RECTIFIERS or not call.is_of_torch():
        return False
    bound = RECTIFIERS[name]
    lowest = 0 if bound is None else call.argument(*bound)
    return isinstance(lowest, (int, float)) and lowest == 0
