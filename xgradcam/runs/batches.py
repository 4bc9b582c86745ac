"""The number of photographs in a batch, chosen by device and memory where nobody has said it."""

from dataclasses import replace
from math import prod

import torch

from xgradcam.errors import XGradCamError
from xgradcam.models.classifier import Classifier
from xgradcam.runs.journal import settings_in
from xgradcam.runs.run import USUAL_BATCH, Run
from xgradcam.runs.shards import plan_in

# Photographs in a batch on a GPU, at most: more are not faster there, and would be waited for.
MOST = 32
# Times that the outputs of all layers may be in memory: kept for the gradient, in a graph, and room to spare.
TIMES_KEPT = 4
# The setting in a run's record.
KEY = "batch_size"


def with_batch_size(run: Run, resume: bool) -> Run:
    """The run with a batch size, if it has none.

    One that is not the usual is recorded with the run's settings, since maps depend on it by rounding, and
    the memory that is free on its device. A resumed run takes that of its record.
    """
    if run.explaining.batch_size is not None:
        return run
    plan = plan_in(run.writing.folder) if resume else None
    recorded = {} if not resume else settings_in(run.writing.folder) if plan is None else plan.settings
    size = recorded.get(KEY, USUAL_BATCH) if recorded else batch_size_for(run)
    if type(size) is not int or size < 1:
        raise XGradCamError(f"the record in {run.writing.folder} has a batch of {size!r}: give --batch-size")
    return sized(run, size)


def sized(run: Run, size: int) -> Run:
    """The run with a batch of so many photographs, which nobody has said."""
    settings = run.settings if size == USUAL_BATCH else {**run.settings, KEY: size}
    return replace(run, explaining=replace(run.explaining, batch_size=size), settings=settings)


def batch_size_for(run: Run) -> int:
    """8 photographs; on a CUDA device up to 32, as far as the free memory is enough for sure.

    Whole photographs that are kept to be drawn on would fill the other memory: of them there are 8, too.
    """
    device = run.classifier.device()
    if device.type != "cuda" or run.draws_all or len(run.sources) <= USUAL_BATCH:
        return USUAL_BATCH
    try:
        one = TIMES_KEPT * activation_bytes(run.classifier)
    except Exception:  # the run itself says what is wrong with the model
        return USUAL_BATCH
    free, size = free_memory(device), MOST
    while size > USUAL_BATCH and size * one > free:
        size //= 2
    return size


def activation_bytes(classifier: Classifier) -> int:
    """The bytes of the outputs of all modules for one photograph, as far as they are tensors."""
    parameter = next(classifier.module.parameters(), None)
    bytes_a_number = 4 if parameter is None else parameter.element_size()
    return bytes_a_number * sum(layer.runs * prod(layer.shape or ()) for layer in classifier.layers())


def free_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that can be had: free, or kept by PyTorch and not in use."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
