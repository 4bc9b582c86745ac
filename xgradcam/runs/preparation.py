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
from xgradcam.models.preprocessing import CHANNELS
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
    score: Score
    if at is None:
        usual = len(classifier.mean) in (1, CHANNELS)
        blank = classifier.inputs(np.full((1, 1, CHANNELS), 127, np.uint8)) if usual else classifier.blank()
        inputs, score, alone = blank, ClassScore(None, classifier.output), [CAM]
    else:
        (inputs, score), alone = at, [CAM, "finer-cam", "shapley-cam"]
    complete = [method for method in methods if METHODS[method].complete]
    unfit: dict[str, str] = {}
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


def prepare(run: Run, folded: int | None = None) -> int:
    """Make a run of many photographs faster: fold the network's batch norms, and keep freed memory.

    Returns how many norms were folded. The folding is checked with noise, not with a photograph, so that
    every run decides alike. folded: how many other processes of the same run have folded, of which this one
    does a part; XGradCamError where it cannot do the same.
    """
    if folded is None and len(run.sources) < WORTH_PREPARING:
        return 0
    keep_freed_memory()
    count = 0 if folded == 0 else fold_norms(run)
    if folded not in (None, count):
        raise XGradCamError(
            f"{count} batch norms can be folded here, but {folded} where the run began, and maps would "
            "differ: do its shards on machines of one kind"
        )
    return count


def fold_norms(run: Run) -> int:
    """Fold the batch norms of the run's network where it computes the same; returns how many."""
    classifier = run.classifier
    shape = 1, len(classifier.mean), *classifier.size
    noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    inputs = classifier.like_weights(noise).to(classifier.device())
    # Whether a network computes the same can be seen in exact arithmetic only.
    with computing_in(FLOAT32, inputs.device.type):
        return fold_batch_norms(classifier.module, inputs, run.layers)
