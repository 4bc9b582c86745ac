"""The one of several inputs that methods vary or look at: the layer that is explained must see it."""

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError
from xgradcam.lending.borrowing import borrowed
from xgradcam.lending.finding import AnyLayer, find_layer, is_input, run_of
from xgradcam.lending.hooks import OfThread
from xgradcam.lending.several import without_others


def require_image(model: nn.Module, inputs: Tensor, layer: AnyLayer) -> None:
    """Raise XGradCamError if the layer's output depends on other inputs alone than the image."""
    if model is without_others(model) or is_input(model, layer):
        return
    made: list[list[Tensor]] = []
    with borrowed(model) as run:
        for given in (inputs, inputs / 2 + 1):
            made.append([])
            with find_layer(model, layer)[1].register_forward_hook(
                OfThread(lambda _module, _given, output: made[-1].append(output.clone()))
            ):
                run(given)
    one, other = (each[run_of(layer) or 0] for each in made)
    if torch.equal(one, other):
        raise XGradCamError(
            "the layer's output does not depend on the input that this method varies or looks at: "
            "name another by image=, or take a layer that sees it"
        )
