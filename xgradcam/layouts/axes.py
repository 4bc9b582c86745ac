"""The axis of the channels in a module's output, where the type of the module tells."""

import re

from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, padding, pooling

from xgradcam.layouts.layout import Layout, said_layout

# Axes of the channels, and modules whose channels come first.
FIRST, LAST = 1, -1
_FIRST_TYPES = (
    *(conv._ConvNd, batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm, nn.Dropout2d, nn.Upsample),
    *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd),
    *(pooling._LPPoolNd, pooling._MaxUnpoolNd, nn.FractionalMaxPool2d, nn.PixelShuffle, nn.PixelUnshuffle),
    *(padding._ReflectionPadNd, padding._ReplicationPadNd, nn.ZeroPad2d, nn.ChannelShuffle),
    *(nn.Dropout1d, nn.Dropout3d, nn.ZeroPad1d, nn.ZeroPad3d, nn.FractionalMaxPool3d),
)


def channel_axis(model: nn.Module, inputs: Tensor) -> int | None:
    """The axis of the channels in a network's inputs; of signals and videos, its first convolution tells."""
    if inputs.ndim not in (3, 5):
        return FIRST if inputs.ndim == 4 else None
    first = next((one.in_channels for one in model.modules() if isinstance(one, conv._ConvNd)), None)
    fitting = [axis for axis in (1, 2) if inputs.shape[axis] == first]
    return fitting[0] if len(fitting) == 1 else None


def input_layout(model: nn.Module, inputs: Tensor) -> Layout | None:
    """The layout of a network's inputs themselves, if it is certain."""
    axis = channel_axis(model, inputs)
    if axis in (None, FIRST):
        return None if axis is None else Layout.of("maps", inputs.shape[2:])
    return said_layout(lambda given: given.movedim(2, 1), inputs, 1)


def axis_by_type(module: nn.Module, shape: tuple[int, ...] | None) -> int | None:
    """The axis of the channels in a module's output of three to five axes, where its type tells."""
    if shape is None or len(shape) not in (3, 4, 5):
        return None
    if isinstance(module, _FIRST_TYPES):
        names = ("out_channels", "num_features", "num_channels")
        channels = next((getattr(module, name) for name in names if hasattr(module, name)), shape[1])
        return FIRST if channels == shape[1] else None
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        if shape[1] != shape[-1]:
            return {shape[1]: FIRST, shape[-1]: LAST}.get(module.normalized_shape[0])
        # Some networks derive a norm of channels that come first from `nn.LayerNorm`.
        order = f"{type(module).__name__} {getattr(module, 'data_format', '')}".lower()
        return FIRST if re.search("[123]d|first", order) else LAST
    if isinstance(module, nn.Linear):
        return LAST if len(shape) == 3 and shape[1] != shape[2] else None
    if type(module).__name__ == "Permute":
        orders = {(0, 3, 1, 2): FIRST, (0, 2, 3, 1): LAST, (0, 4, 1, 2, 3): FIRST, (0, 2, 3, 4, 1): LAST}
        return orders.get(tuple(getattr(module, "dims", ())))
    return None
