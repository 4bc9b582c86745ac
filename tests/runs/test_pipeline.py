"""Batches on their way to the model's device and back."""

from types import SimpleNamespace

import torch

from xgradcam import explain
from xgradcam.runs import pipeline


def test_explanations_are_brought_to_where_they_are_written():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    explanation = explain(model, torch.rand(2, 3, 8, 8), "0")
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
