"""EfficientNet-Lite0, the bundled network. Without the import of timm, it starts over a second earlier."""

from typing import Any

import torch
from torch import Tensor, nn

MEAN = STD = (0.5, 0.5, 0.5)
SIDE, RESIZE, INTERPOLATION = 224, 256, "bicubic"
LAYER = "bn2"
# Four times the cells. Complete maps find their class there nearly as often as maps of the last layer do, and
# plain maps by chance: docs/which-map.md.
FINER_LAYER = "blocks.4.2.bn3"

# Tan and Le 2019, without squeeze-and-excitation: a row for each stage.
# Number of blocks, side of the kernel, first stride, factor by which a block widens its input, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280


class ConvolutionSame(nn.Conv2d):
    """A convolution padded as in TensorFlow: the output is ⌈input / stride⌉, the odd pixel is at the end."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps (N, C, h, w)."""
        height, width = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0)
            for side, stride, kernel in zip(inputs.shape[2:], self.stride, self.kernel_size, strict=True)
        )
        padding = (width // 2, width - width // 2, height // 2, height - height // 2)
        return super().forward(nn.functional.pad(inputs, padding))


class NormAct(nn.BatchNorm2d):
    """A batch norm, and a ReLU6 in it if `capped`."""

    def __init__(self, channels: int, capped: bool = True) -> None:
        super().__init__(channels, eps=1e-3)
        self.act = nn.ReLU6(inplace=True) if capped else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps (N, C, h, w)."""
        maps: Tensor = self.act(super().forward(inputs))
        return maps


def _convolution(before: int, after: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    options: dict[str, Any] = {"stride": stride, "groups": groups, "bias": False}
    if stride > 1:
        return ConvolutionSame(before, after, kernel, **options)
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, **options)


class _Block(nn.Module):
    """A block whose input is added to its output, if both have the same shape."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.adds_input = stride == 1 and before == after

    def branch(self, inputs: Tensor) -> Tensor:
        """The output without the input: maps (N, C, h, w)."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps (N, C, h, w)."""
        outputs = self.branch(inputs)
        return outputs + inputs if self.adds_input else outputs


class DepthwiseSeparable(_Block):
    """A convolution of each channel by itself, then one over the channels."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__(before, after, stride)
        self.conv_dw = _convolution(before, before, kernel, stride, groups=before)
        self.bn1 = NormAct(before)
        self.conv_pw = _convolution(before, after)
        self.bn2 = NormAct(after, capped=False)

    def branch(self, inputs: Tensor) -> Tensor:
        """The output without the input: maps (N, C, h, w)."""
        maps: Tensor = self.bn2(self.conv_pw(self.bn1(self.conv_dw(inputs))))
        return maps


class InvertedResidual(_Block):
    """More channels, a convolution of each by itself, then fewer channels. Sandler et al. 2018."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__(before, after, stride)
        wide = before * widening
        self.conv_pw = _convolution(before, wide)
        self.bn1 = NormAct(wide)
        self.conv_dw = _convolution(wide, wide, kernel, stride, groups=wide)
        self.bn2 = NormAct(wide)
        self.conv_pwl = _convolution(wide, after)
        self.bn3 = NormAct(after, capped=False)

    def branch(self, inputs: Tensor) -> Tensor:
        """The output without the input: maps (N, C, h, w)."""
        maps: Tensor = self.bn1(self.conv_pw(inputs))
        maps = self.bn3(self.conv_pwl(self.bn2(self.conv_dw(maps))))
        return maps


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with timm's layer names: inputs (N, 3, h, w) to class scores (N, classes)."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv_stem = _convolution(3, _STEM, 3, 2)
        self.bn1 = NormAct(_STEM)
        self.blocks = nn.Sequential()
        before = _STEM
        for count, kernel, stride, widening, after in _STAGES:
            stage = nn.Sequential()
            for index in range(count):
                step = stride if index == 0 else 1
                if widening == 1:
                    stage.append(DepthwiseSeparable(before, after, kernel, step))
                else:
                    stage.append(InvertedResidual(before, after, kernel, step, widening))
                before = after
            self.blocks.append(stage)
        self.conv_head = _convolution(before, _HEAD)
        self.bn2 = NormAct(_HEAD)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(_HEAD, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (N, classes)."""
        maps = self.bn2(self.conv_head(self.blocks(self.bn1(self.conv_stem(inputs)))))
        scores: Tensor = self.classifier(torch.flatten(self.global_pool(maps), 1))
        return scores
