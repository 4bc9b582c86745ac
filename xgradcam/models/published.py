"""Weights that torchvision publishes, by the names that it gives them."""

import os
import re
from collections.abc import Iterable

from xgradcam.errors import XGradCamError, listed
from xgradcam.models.building import Request

# How they are called in torchvision: `ResNet50_Weights.IMAGENET1K_V2`, `DeepLabV3_ResNet50_Weights.DEFAULT`.
PUBLISHED = re.compile(r"(\w+_Weights\.)?(DEFAULT|(?:IMAGENET|COCO|KINETICS)\w+)")


def published_name(request: Request, kind: str, names: Iterable[str]) -> str:
    """The name of the weights of torchvision's that are asked for; '' for a file, `default` and `none`.

    kind: of these weights in torchvision. Raises XGradCamError for a name that is none of `names`.
    """
    match = PUBLISHED.fullmatch(request.weights)
    if match is None or os.path.lexists(request.weights):
        return ""
    if match[1] not in (None, f"{kind}.") or match[2] not in (*names, "DEFAULT"):
        model = request.name or "vgg16"
        raise XGradCamError(f"no weights {request.weights} of {model}: take {listed(names, 8)}, or a file")
    return match[2]
