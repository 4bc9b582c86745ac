"""Guided backpropagation, and the guided variant of any map."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xgradcam.cam import Targets
from xgradcam.capture import borrowed, choose_targets, logits_of
from xgradcam.errors import XGradCamError
from xgradcam.images import Photograph

RECTIFIERS = frozenset(
    (
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
        nn.functional.relu,
        nn.functional.relu_,
        nn.functional.relu6,
    )
)
# As the original scripts' pictures: the deviation, in light, that a gradient's is scaled to.
CONTRAST = 0.1


class _Guiding(TorchFunctionMode):
    """Lets only positive gradients through the rectifiers that run under it."""

    def __init__(self) -> None:
        self.rectifiers = 0
        self._within = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the function; hook the gradient of a rectifier's result."""
        kwargs = kwargs or {}
        if self._within or not _rectifies(func, args, kwargs):
            return func(*args, **kwargs)
        self._within = True  # F.relu is torch.relu again: one hook is enough
        try:
            result = func(*args, **kwargs)
        finally:
            self._within = False
        self.rectifiers += 1
        if result.requires_grad:
            result.register_hook(_positive)
        return result


def _rectifies(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if func is nn.functional.hardtanh:  # which nn.ReLU6 is
        return (*args[1:3], *(kwargs.get(name) for name in ("min_val", "max_val")))[:2] == (0.0, 6.0)
    return func in RECTIFIERS


def _positive(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)


def guided_backpropagation(
    model: nn.Module, inputs: Tensor, targets: Targets = None, output: str | None = None
) -> Tensor:
    """The gradient of a class score by the inputs, of their shape, that passes rectifiers if it is positive.

    At each ReLU and ReLU6, as module or function: R_in = relu(R_out) where the rectifier lets through.
    Springenberg et al. 2015. The arguments are those of `explain`; the model is left as it was found.
    Raises XGradCamError for a network without rectifiers, where there is nothing to guide.
    """
    with borrowed(model), torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        with _Guiding() as guiding:
            # In-place operations must not write to the leaf.
            logits = logits_of(model(leaf.clone()), output)
        if not guiding.rectifiers:
            raise XGradCamError("guided backpropagation needs a network with ReLUs, and this one ran none")
        chosen = choose_targets(logits, targets)
        score = logits.gather(1, chosen[:, None]).sum()
        if not score.requires_grad:
            raise XGradCamError("the score does not depend on the inputs by operations with a gradient")
        (gradient,) = torch.autograd.grad(score, leaf)
    return gradient


def guided_map(guided: Tensor, heatmap: Tensor) -> Tensor:
    """Guided backpropagation (N, C, H, W) where a heatmap (N, H, W) is hot: (N, C, H, W).

    Guided Grad-CAM of Selvaraju et al. 2017, Guided XGrad-CAM of Fu et al. 2020.
    """
    return guided * heatmap[:, None]


def gradient_picture(gradient: Tensor) -> Photograph:
    """A gradient (3 or 1, H, W) as light: (H, W, 3) uint8 RGB; grey is 0.

    light = ½ + 0.1 (g − mean g) / (deviation of g + 10⁻⁵), from 0 to 1: the original scripts' formula.
    """
    if gradient.ndim != 3 or gradient.shape[0] not in (1, 3):
        raise XGradCamError(f"a picture is of a gradient (3, H, W), not {tuple(gradient.shape)}")
    values = gradient.detach().double().cpu().numpy()
    light = CONTRAST * (values - values.mean()) / (values.std() + 1e-5) + 0.5
    picture = np.asarray(255 * np.clip(light, 0, 1), np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
