"""Preparing a run: methods that apply, a faster network, memory that is kept."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xgradcam.cam.explain import explain_score
from xgradcam.cam.methods import METHODS
from xgradcam.errors import NotApplicableError, XGradCamError
from xgradcam.lending.precision import FLOAT32, computing_in
from xgradcam.models.classifier import Classifier
from xgradcam.models.folding import fold_batch_norms
from xgradcam.runs.memory import keep_freed_memory
from xgradcam.runs.run import Run
from xgradcam.scores.score import ClassScore, Score

CAM = "cam"
# From so many photographs on, a faster network repays the forwards that it takes to make it.
WORTH_PREPARING = 8


def applicable(
    classifier: Classifier,
    layers: Sequence[str],
    methods: Sequence[str],
    layout: str | None = None,
    at: tuple[Tensor, Score] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Those of the methods that apply at these layers, and the others with the reason.

    CAM needs a certain kind of network, methods of attention a vision transformer, complete maps operations
    that can be seen, in float32 or float64, and Finer-CAM classes. at: inputs and a score of no class.
    """
    inputs = classifier.inputs(np.full((1, 1, 3), 127, np.uint8)) if at is None else at[0]
    score = ClassScore(None, classifier.output) if at is None else at[1]
    complete = [method for method in methods if METHODS[method].complete]
    unfit: dict[str, str] = {}
    alone = [CAM] if at is None else [CAM, "finer-cam", "shapley-cam"]
    choosy = [[method] for method in methods if method in alone or METHODS[method].of_attention]
    for some in (*choosy, complete):
        try:
            with computing_in(FLOAT32, inputs.device.type):
                for layer in layers if some else ():
                    explain_score(classifier.module, inputs, layer, score, some, layout=layout)
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
