"""Why a YOLO finds what it finds, from its `.pt` to a picture: needs `pip install ultralytics`.

python examples/yolo.py

The weights are random, so that nothing is downloaded: give the path of your own file in place of yolo.pt.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import nn
from ultralytics import YOLO

from xgradcam import (
    BoxScore,
    default_layer,
    explain_score,
    list_layers,
    overlay_heatmap,
    read_image,
    to_input,
)


def detector() -> nn.Module:
    """The network of `--model examples/yolo.py:detector`; `--weights yolo.pt` fills it."""
    network: nn.Module = YOLO("yolo11n.yaml").model
    return network


if __name__ == "__main__":
    torch.manual_seed(0)
    YOLO("yolo11n.yaml").save("yolo.pt")

    network = YOLO(
        "yolo.pt"
    ).model.eval()  # runs code in the file, as the package does: only a file you trust
    photograph = read_image(Path(__file__).with_name("cat-and-coffee.jpg"))
    inputs = to_input(photograph, (384, 672), (0, 0, 0), (1, 1, 1))  # multiples of 32; pixels in [0, 1]

    layer = default_layer(list_layers(network, inputs))  # the end of the backbone: model.10
    explanation = explain_score(network, inputs, layer, BoxScore(0), ["grad-cam", "xgrad-cam"])
    found = explanation.detections[0]
    print(f"layer {layer}, class {network.names[found.target]}, score {found.score:.5f}, at {found.box}")
    heatmap = explanation.heatmap("xgrad-cam", photograph.shape[:2])[0]
    Image.fromarray(overlay_heatmap(photograph, heatmap)).save("yolo.png")
