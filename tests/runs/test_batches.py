"""The batch size: 8 on a CPU, on a GPU by its free memory, and in a resumed run that of its record."""

import json
from dataclasses import replace

import pytest
import torch

from tests.runs.support import LAYERS, run_of
from xgradcam.errors import XGradCamError
from xgradcam.models.classifier import Classifier
from xgradcam.runs import batches
from xgradcam.runs.batches import MOST, TIMES_KEPT, activation_bytes, batch_size_for, with_batch_size
from xgradcam.runs.run import USUAL_BATCH
from xgradcam.runs.sources import Source

SOURCES = [Source(f"{index}.png", str(index)) for index in range(9)]
ONE = 1000


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that needs 1,000 bytes for a photograph's activations; set its free bytes."""

    def with_free(free):
        monkeypatch.setattr(Classifier, "device", lambda _self: torch.device("cuda", 0))
        monkeypatch.setattr(batches, "activation_bytes", lambda _classifier: ONE)
        monkeypatch.setattr(batches, "free_memory", lambda _device: free)

    return with_free


def test_a_cpu_takes_eight(net):
    assert batch_size_for(run_of(net, sources=SOURCES)) == USUAL_BATCH == 8


@pytest.mark.parametrize(
    ("photographs", "size"),
    [(1e9, 32), (32, 32), (31.999, 16), (16, 16), (15.999, 8), (3, 8), (0, 8)],
)
def test_a_gpu_takes_as_many_as_have_room_for_sure(net, gpu, photographs, size):
    gpu(photographs * TIMES_KEPT * ONE)
    assert MOST == 32
    assert batch_size_for(run_of(net, sources=SOURCES)) == size


@pytest.mark.parametrize("other", [{"panel": True}, {"sources": SOURCES[:8]}])
def test_a_gpu_takes_eight_where_more_gain_nothing_or_cost_memory(net, gpu, other):
    gpu(1e12)
    assert batch_size_for(run_of(net, **{"sources": SOURCES, **other})) == 8


def test_a_model_whose_layers_cannot_be_listed_is_given_eight(net, gpu, monkeypatch):
    gpu(1e12)

    def failing(_classifier):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(batches, "activation_bytes", failing)
    assert batch_size_for(run_of(net, sources=SOURCES)) == 8


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float64, 8)])
def test_activations_are_the_outputs_of_all_modules_as_often_as_they_run(dtype, size):
    relu = torch.nn.ReLU()
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3), relu, torch.nn.Conv2d(2, 5, 1), relu, torch.nn.AdaptiveAvgPool2d(1)
    ).append(torch.nn.Flatten())
    classifier = Classifier("tiny", model.to(dtype), (8, 6), (0.5,) * 3, (0.5,) * 3, None)
    # The ReLU counts twice as large as it is first; the whole model has the output of the flattening.
    assert activation_bytes(classifier) == size * (2 * 24 + 2 * 2 * 24 + 5 * 24 + 5 + 5 + 5)


def test_memory_that_pytorch_keeps_and_does_not_use_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 30)
    assert batches.free_memory(torch.device("cuda", 0)) == 140


def sized(net, folder, resume, **explaining):
    """Batch size and settings of a run."""
    run = replace(run_of(net, (1,), SOURCES, LAYERS, explaining, folder), settings={"model": "tiny"})
    run = with_batch_size(run, resume)
    return run.explaining.batch_size, run.settings


def test_a_size_that_is_said_is_taken_and_not_recorded(net, gpu, tmp_path):
    gpu(1e12)
    assert sized(net, tmp_path, False, batch_size=5) == (5, {"model": "tiny"})


def test_a_size_that_was_chosen_is_recorded_unless_it_is_the_usual(net, gpu, tmp_path):
    assert sized(net, tmp_path, False) == (8, {"model": "tiny"})
    gpu(1e12)
    assert sized(net, tmp_path, False) == (32, {"model": "tiny", "batch_size": 32})


@pytest.mark.parametrize(
    ("line", "size"), [({"model": "tiny", "batch_size": 16}, 16), ({"model": "tiny"}, 8), (None, 32)]
)
def test_a_resumed_run_takes_the_size_of_its_record(net, gpu, tmp_path, line, size):
    gpu(1e12)
    if line is not None:
        (tmp_path / "xgrad-cam.jsonl").write_text(json.dumps(line) + "\n")
    settings = {"model": "tiny"} if size == 8 else {"model": "tiny", "batch_size": size}
    assert sized(net, tmp_path, True) == (size, settings)
    # A new run chooses anew.
    assert sized(net, tmp_path, False)[0] == 32


@pytest.mark.parametrize("wrong", ["16", 0, True, None])
def test_a_damaged_size_in_the_record_is_refused(net, tmp_path, wrong):
    (tmp_path / "xgrad-cam.jsonl").write_text(json.dumps({"model": "tiny", "batch_size": wrong}) + "\n")
    with pytest.raises(XGradCamError, match=r"has a batch of .*: give --batch-size"):
        sized(net, tmp_path, True)
