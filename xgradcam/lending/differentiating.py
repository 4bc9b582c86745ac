"""Models that autograd cannot differentiate: told in a line."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

from xgradcam.errors import XGradCamError
from xgradcam.operations.calls import custom_functions

REENTRANT = (
    "torch.utils.checkpoint with use_reentrant=True, which gives no gradient of a layer: turn it off, as by "
    "model.set_grad_checkpointing(False) in timm, or set use_reentrant=False"
)


@contextmanager
def readable_autograd_errors() -> Iterator[None]:
    """Turn autograd's errors about in-place writes, inference tensors and checkpoints into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        if "Inference tensors" in reason:
            message = "the model was made under torch.inference_mode(), which forbids gradients"
        elif "use_reentrant=True" in reason:
            message = f"behind the layer the model runs {REENTRANT}"
        elif re.search("in-?place", str(error)):
            message = f"behind the layer the model cannot be differentiated: {reason}"
        else:
            raise
        raise XGradCamError(message) from None


def inside_checkpoint() -> bool:
    """True while a reentrant checkpoint runs, whose graph is thrown away."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not CheckpointFunction.forward.__code__:
        frame = frame.f_back
    return frame is not None


def refuse_custom_functions(score: Tensor) -> None:
    """Raise XGradCamError if the graph has a `torch.autograd.Function`: no operation of it is visible."""
    for function in custom_functions(score):
        if function is CheckpointFunction:
            raise XGradCamError(f"behind the layer the model runs {REENTRANT}")
        raise XGradCamError(
            f"the model runs a torch.autograd.Function, {function.__name__}: its constants cannot be found"
        )
