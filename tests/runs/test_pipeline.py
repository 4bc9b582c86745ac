"""Photographs in batches: read, explained and written."""

import time
from collections import Counter
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs.support import LAYERS, run_of
from tests.support import noise
from xgradcam import explain
from xgradcam.pictures.decoding import Reading
from xgradcam.runs import pipeline
from xgradcam.runs.sources import Source, state_of


def test_explanations_are_brought_to_where_they_are_written():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    explanation = explain(model, torch.rand(2, 3, 8, 8), "0")
    assert explanation.maps["grad-cam"].any()
    ((moved,),) = pipeline._on_cpu([[explanation]])
    assert torch.equal(moved.maps["grad-cam"], explanation.maps["grad-cam"])
    assert torch.equal(moved.logits, explanation.logits)
    assert moved.notes == explanation.notes
    batch = torch.rand(2, 3, 8, 8)
    assert torch.equal(pipeline._on_device(batch, torch.device("cpu")), batch)
    assert explanation.to("meta").logits.is_meta


def test_a_gpu_is_given_a_batch_from_pinned_memory_without_waiting():
    steps = []
    batch = SimpleNamespace(
        pin_memory=lambda: steps.append("pinned") or batch,
        to=lambda device, non_blocking=False: steps.append((device, non_blocking)) or batch,
    )
    for device in (torch.device("cuda", 0), torch.device("mps")):
        assert pipeline._on_device(batch, device) is batch
    assert steps == ["pinned", (torch.device("cuda", 0), True), (torch.device("mps"), False)]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Five sources; the third cannot be read."""
    monkeypatch.chdir(tmp_path)
    noise("photos", 5)
    Path("photos/0002.png").write_text("no picture")
    return [Source(f"photos/{index:04}.png", f"{index:04}") for index in range(5)]


def test_outcomes_come_in_the_order_of_the_photographs_with_records_or_a_problem(net, photographs):
    run = run_of(net.float(), (1,), photographs, LAYERS[1:], {"batch_size": 2}, Path("out"), save_maps=True)
    outcomes = list(pipeline.explain_photographs(run))
    assert [outcome.source for outcome in outcomes] == photographs
    assert [bool(outcome.problem) for outcome in outcomes] == [False, False, True, False, False]
    assert outcomes[2].problem.startswith("not an image: photos/0002.png")
    assert not outcomes[2].records
    for index in (0, 1, 3, 4):
        (record,) = outcomes[index].records
        assert outcomes[index].state == state_of(photographs[index].path)
        pixels = np.asarray(Image.open(photographs[index].path))
        expected = explain(net, run.inputs(pixels), LAYERS[1], 1)
        assert record["score"] == pytest.approx(float(expected.score), rel=1e-5)
        with np.load(f"out/{index:04}_1_maps.npz") as maps:
            np.testing.assert_allclose(maps["xgrad-cam"], expected.maps["xgrad-cam"][0], atol=1e-5)


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (5, 5), (8, 8), (64, 8)])
def test_each_core_has_a_thread_that_reads_and_one_that_writes(monkeypatch, cores, threads):
    monkeypatch.setattr(pipeline, "usable_cores", lambda: cores)
    assert pipeline.threads() == threads


@pytest.mark.parametrize(
    ("pixels", "big", "most_read", "most_written"),
    [(64, 64, 8, 8), (1000, 63, 3, 3), (pipeline.LARGE + 1, 63, 1, 3)],
)
def test_the_larger_photographs_are_the_fewer_are_in_work(
    net, photographs, monkeypatch, pixels, big, most_read, most_written
):
    lock, now, most = Lock(), Counter(), Counter()

    def slowly(kind, result):
        with lock:
            now[kind] += 1
            most[kind] = max(most[kind], now[kind])
        time.sleep(0.02)
        with lock:
            now[kind] -= 1
        return result

    def read(_source, _value_range=None, before=lambda _pixels: None):
        before(pixels)
        return slowly("read", Reading(np.full((8, 8, 3), 99, np.uint8)))

    monkeypatch.setattr(Source, "read", read)
    monkeypatch.setattr(pipeline, "write_results", lambda *_: slowly("written", [{}]))
    monkeypatch.setattr(pipeline, "threads", lambda: 8)
    monkeypatch.setattr(pipeline, "BIG", big)
    monkeypatch.setattr(pipeline, "BIG_AT_ONCE", 3)
    run = run_of(net.float(), (1,), photographs * 6, LAYERS[1:], {"batch_size": 15}, Path("out"), panel=True)
    assert not any(outcome.problem for outcome in pipeline.explain_photographs(run))
    # Small ones may be fewer than the threads, on a busy machine.
    assert (most_read if most_read <= 3 else 4) <= most["read"] <= most_read
    assert (2 if most_written <= 3 else 4) <= most["written"] <= most_written


def test_what_is_done_stays_in_its_batch_and_has_no_outcome(net, photographs):
    sizes = []
    net.features[0].register_forward_hook(lambda _module, given, _made: sizes.append(len(given[0])))
    run = run_of(net.float(), (1,), photographs, LAYERS[1:], {"batch_size": 2}, Path("out"))
    done = {photographs[index].path for index in (0, 1, 3)}
    outcomes = list(pipeline.explain_photographs(run, done))
    assert [outcome.source for outcome in outcomes] == [photographs[2], photographs[4]]
    assert sizes == [1]  # of the second batch nothing is left to explain: its other one cannot be read
    sizes.clear()
    outcomes = list(pipeline.explain_photographs(run, {photographs[0].path, photographs[4].path}))
    assert [outcome.source for outcome in outcomes] == photographs[1:4]
    assert sizes == [2, 1]
