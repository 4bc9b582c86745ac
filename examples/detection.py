"""Why a detector finds what it finds: torchvision's Faster R-CNN, and the detection nearest to a box.

python examples/detection.py

The weights are random, so that nothing is downloaded: for real ones build it with weights="DEFAULT".
"""

from pathlib import Path

import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from xgradcam import BoxScore, explain_score, overlay_heatmap, read_image

torch.manual_seed(0)
detector = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, box_score_thresh=0)
photograph = read_image(Path(__file__).with_name("cat-and-coffee.jpg"))
inputs = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 255  # detectors scale and normalise themselves

score = BoxScore((420, 120, 640, 360))  # x0, y0, x1, y1; BoxScore(0) is the detection of the highest score
explanation = explain_score(detector, inputs, "backbone.body.16", score, ["grad-cam", "xgrad-cam"])
found = explanation.detections[0]
print(f"class {found.target}, score {found.score:.3f}, overlap {found.overlap:.2f}, at {found.box}")
heatmap = explanation.heatmap("xgrad-cam", photograph.shape[:2])[0]
print("picture", overlay_heatmap(photograph, heatmap).shape)
