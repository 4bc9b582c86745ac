"""Small networks that the tests of maps share."""

import torch
from torch import nn

TARGETS = [2, 0, 3]


def network(activation=nn.ReLU, pooled=False, seed=0):
    """Trunk, and head, of 4 classes from (N, 3, 8, 8); the layer to explain is `0`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), activation(), nn.MaxPool2d(2))
        if pooled:
            head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(5, 4))
        else:
            head = nn.Sequential(nn.Flatten(), nn.Linear(80, 7), activation(), nn.Linear(7, 4))
    return nn.Sequential(trunk, head).double().eval()


def head(*layers):
    """A convolution of two channels, the layer `0`, and these layers behind it."""
    return nn.Sequential(nn.Conv2d(3, 2, 1), *layers).double()
