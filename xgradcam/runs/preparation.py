"""Preparing a run: methods that apply, a faster network, memory that is kept."""

from collections.abc import Sequence

import numpy as np
import torch

from xgradcam.cam.explain import explain
from xgradcam.cam.methods import METHODS
from xgradcam.errors import NotApplicableError, XGradCamError
from xgradcam.lending.precision import FLOAT32, computing_in
from xgradcam.models.classifier import Classifier
from xgradcam.models.folding import fold_batch_norms
from xgradcam.runs.memory import keep_freed_memory
from xgradcam.runs.run import Run

CAM = "cam"
# From so many photographs on, a faster network repays the forwards that it takes to make it.
WORTH_PREPARING = 8


def applicable(
    classifier: Classifier, layers: Sequence[str], methods: Sequence[str], layout: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Those of the methods that apply at these layers, and the others with the reason.

    CAM needs a certain kind of network, methods of attention a vision transformer, and complete maps need
    operations that can be seen, in float32 or float64.
    """
    blank = classifier.inputs(np.full((1, 1, 3), 127, np.uint8))
    complete = [method for method in methods if METHODS[method].complete]
    unfit: dict[str, str] = {}
    choosy = [[method] for method in methods if method == CAM or METHODS[method].of_attention]
    for some in (*choosy, complete):
        try:
            with computing_in(FLOAT32, blank.device.type):
                for layer in layers if some else ():
                    explain(
                        classifier.module, blank, layer, methods=some, output=classifier.output, layout=layout
                    )
        except XGradCamError as error:
            # Anything else that is wrong is wrong with all methods, and is said where they are asked for.
            if some == complete or isinstance(error, NotApplicableError):
                unfit |= dict.fromkeys(some, str(error))
    return [method for method in methods if method not in unfit], unfit


def prepare(run: Run) -> None:
    """Make a run of many photographs faster: fold the network's batch norms, and keep freed memory.

    The folding is checked with noise, not with a photograph, so that every run decides alike.
    """
    if len(run.sources) < WORTH_PREPARING:
        return
    keep_freed_memory()
    classifier = run.classifier
    noise = torch.randn(1, 3, *classifier.size, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    inputs = classifier.like_weights(noise).to(classifier.device())
    # Whether a network computes the same can be seen in exact arithmetic only.
    with computing_in(FLOAT32, inputs.device.type):
        fold_batch_norms(classifier.module, inputs, run.layers)
