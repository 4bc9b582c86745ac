"""The axis of the channels in a module's output, where the type of the module tells."""

from torch import nn
from torch.nn.modules import batchnorm, conv, padding, pooling

# Axes of the channels, and modules whose channels come first.
FIRST, LAST = 1, -1
_FIRST_TYPES = (
    *(conv._ConvNd, batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm, nn.Dropout2d, nn.Upsample),
    *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd),
    *(pooling._LPPoolNd, pooling._MaxUnpoolNd, nn.FractionalMaxPool2d, nn.PixelShuffle, nn.PixelUnshuffle),
    *(padding._ReflectionPadNd, padding._ReplicationPadNd, nn.ZeroPad2d, nn.ChannelShuffle),
)


def axis_by_type(module: nn.Module, shape: tuple[int, ...] | None) -> int | None:
    """The axis of the channels in a module's output of three or four axes, where its type tells."""
    if shape is None or len(shape) not in (3, 4):
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
        return FIRST if "2d" in order or "first" in order else LAST
    if isinstance(module, nn.Linear):
        return LAST if len(shape) == 3 and shape[1] != shape[2] else None
    if type(module).__name__ == "Permute":
        return {(0, 3, 1, 2): FIRST, (0, 2, 3, 1): LAST}.get(tuple(getattr(module, "dims", ())))
    return None
