"""A signal: maps of one side, and the curve on the colours of its heatmap.

python examples/signals.py
"""

import cv2
import torch
from torch import nn

from xgradcam import draw_signal, explain, verify

torch.manual_seed(0)
features = nn.Conv1d(1, 8, 9, padding=4), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(8, 8, 9, padding=4), nn.ReLU()
model = nn.Sequential(*features, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
signal = 0.2 * torch.randn(1, 1, 256)  # (N, C, L)
signal[0, 0, 150:170] += torch.hann_window(20) * 4  # what there is to find

explanation = explain(model, signal, layer="4", methods=["xgrad-cam", "complete-cam"])
print(explanation.maps["xgrad-cam"].shape)  # (1, 64)
print(verify(model, signal, "4").closes)  # Eq. 5, too
heatmap = explanation.heatmap("complete-cam", (256,))[0]
cv2.imwrite("signal.png", draw_signal(signal[0, 0], heatmap, "complete map")[..., ::-1])
