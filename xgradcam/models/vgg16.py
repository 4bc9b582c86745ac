"""VGG-16, the paper's network. Without torchvision's import it starts a second earlier, with 160 MB less."""

import torch
from torch import Tensor, nn

# As torchvision publishes them: VGG16_Weights.IMAGENET1K_V1.
WEIGHTS_NAME = "IMAGENET1K_V1"
WEIGHTS_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
WEIGHTS_SIZE = "528 MB"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, RESIZE = 224, 256
LAYER = "features.30"

# Configuration D of Simonyan and Zisserman 2015: channels of each convolution, 0 for max pooling.
_CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class VGG16(nn.Module):
    """VGG-16 with torchvision's layer names: inputs (N, 3, h, w) to class scores (N, classes)."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential()
        before = 3
        for channels in _CHANNELS:
            if channels:
                self.features.append(nn.Conv2d(before, channels, 3, padding=1))
                self.features.append(nn.ReLU(inplace=True))
                before = channels
            else:
                self.features.append(nn.MaxPool2d(2, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (N, classes)."""
        scores: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(inputs)), 1))
        return scores
