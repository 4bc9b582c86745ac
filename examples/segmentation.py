"""What speaks for a class where a segmentation says it, and at one pixel: torchvision's LR-ASPP.

python examples/segmentation.py

The weights are random, so that nothing is downloaded: for real ones build it with weights="DEFAULT".
"""

from pathlib import Path

import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from xgradcam import PixelScore, PredictedRegion, explain_score, read_image, to_input

torch.manual_seed(0)
network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
photograph = read_image(Path(__file__).with_name("cat-and-coffee.jpg"))
inputs = to_input(photograph, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Without a class it is the one of most pixels; the model returns a dictionary with the key `out`.
for score in (PredictedRegion(output="out"), PixelScore(None, (100, 60), output="out")):
    explanation = explain_score(network, inputs, "backbone.16", score, ["xgrad-cam"])
    strongest = explanation.heatmap("xgrad-cam", (224, 224))[0].flatten().argmax()
    row, column = divmod(int(strongest), 224)
    print(f"{type(score).__name__}: score {explanation.score[0]:.3f}, strongest at {row}, {column}")
