"""A volume: maps of three sides, and a picture of slices through the strongest place.

python examples/volume.py
"""

import cv2
import torch
from torch import nn

from xgradcam import default_layer, draw_volume, explain, list_layers

torch.manual_seed(0)
features = nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU()
model = nn.Sequential(*features, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
volume = torch.randn(1, 1, 16, 32, 32)  # (N, C, D, H, W)
volume[0, 0, 9:12, 5:15, 18:28] += 3  # what there is to find

layer = default_layer(list_layers(model, volume))
explanation = explain(model, volume, layer, methods=["xgrad-cam", "complete-cam"])
print(explanation.maps["xgrad-cam"].shape)  # (1, 8, 16, 16)
heatmap = explanation.heatmap("complete-cam", (16, 32, 32))[0]
picture = draw_volume(volume[0, 0], heatmap, f"complete map at layer {layer}")
cv2.imwrite("volume.png", picture[..., ::-1])
