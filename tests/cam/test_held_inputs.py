"""Models that hold a second input for a batch of their own, and methods that ask such a model again."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support import ANYWHERE
from xgradcam.cam.explain import evidence_of, explain, explain_score

METHOD_NAMES = ANYWHERE


class Two(nn.Module):
    """A score of photographs and of numbers beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.mix = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 + 3, 6)
        self.last = nn.Linear(6, 3)
        self.double().eval()

    def forward(self, images: Tensor, numbers: Tensor) -> Tensor:
        pooled = functional.softplus(self.layer(images)).mean((2, 3)) ** 2
        return self.last(torch.tanh(self.mix(torch.cat([pooled, numbers], 1))))


def taken_as_they_are(held: Tensor, images: Tensor) -> Tensor:
    return held


def as_many_as_there_are(held: Tensor, images: Tensor) -> Tensor:
    return held[: len(images)]


def repeated(held: Tensor, images: Tensor) -> Tensor:
    return held[torch.arange(len(images)) % len(held)]


class Holding(nn.Module):
    """The usual wrapper: it holds the numbers of a batch."""

    def __init__(self, inner: nn.Module, held: Tensor, take) -> None:
        super().__init__()
        self.inner, self.held, self.take = inner, held, take

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images, self.take(self.held, images))


def samples_of(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(count, 3, 5, 5, generator=generator, dtype=torch.float64)
    return images, 2 * torch.randn(count, 3, generator=generator, dtype=torch.float64)


def one_by_one(inner: nn.Module, images: Tensor, numbers: Tensor, targets: list[int]) -> dict[str, Tensor]:
    """The oracle: each sample by a model that holds the numbers of this sample for any number of rows."""
    alone = [
        explain(
            Holding(inner, number[None], lambda held, rows: held.expand(len(rows), -1)),
            image[None], "inner.layer", target, METHOD_NAMES,
        ).maps
        for image, number, target in zip(images, numbers, targets, strict=True)
    ]  # fmt: skip
    return {method: torch.cat([maps[method] for maps in alone]) for method in METHOD_NAMES}


# 4 channels: as many variants as samples; 6 with the two controls; 16 of masked inputs at once.
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("take", [taken_as_they_are, as_many_as_there_are, repeated])
def test_every_method_of_a_model_with_a_batch_of_its_own_is_that_sample_by_sample(take, count):
    inner = Two()
    images, numbers = samples_of(count)
    targets = [index % 3 for index in range(count)]
    expected = one_by_one(inner, images, numbers, targets)
    found = explain(Holding(inner, numbers, take), images, "inner.layer", targets, METHOD_NAMES)
    for method in METHOD_NAMES:
        torch.testing.assert_close(found.maps[method], expected[method], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_scores_without_a_channel_are_those_by_hand(count):
    inner = Two()
    images, numbers = samples_of(count)
    probe = evidence_of(Holding(inner, numbers, taken_as_they_are), images, "inner.layer", 1).probe
    for channel in range(4):

        def cut(_module, _inputs, output, channel=channel):
            return output.index_fill(1, torch.tensor([channel]), 0)

        with inner.layer.register_forward_hook(cut), torch.no_grad():
            expected = inner(images, numbers)[:, 1]
        torch.testing.assert_close(probe.without_channels[:, channel], expected)


def test_cam_of_a_model_with_a_batch_of_its_own():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.last = nn.Conv2d(3, 4, 3), nn.Linear(7, 3)
            self.double()

        def forward(self, images, numbers):
            return self.last(torch.cat([self.layer(images).mean((2, 3)), numbers], 1))

    inner = Pooled()
    images, numbers = samples_of(2)
    found = explain(Holding(inner, numbers, taken_as_they_are), images, "inner.layer", 1, ["cam"]).maps["cam"]
    expected = (inner.last.weight[1, :4, None, None] * inner.layer(images)).sum(1).detach()
    torch.testing.assert_close(found, expected)


def test_a_score_that_needs_the_whole_batch_is_asked_with_the_other_samples():
    inner = Two()
    images, numbers = samples_of(3)
    targets = torch.tensor([2, 0, 1])
    model = Holding(inner, numbers, taken_as_they_are)
    expected = one_by_one(inner, images, numbers, targets.tolist())
    found = explain_score(
        model, images, "inner.layer", lambda output: output.gather(1, targets[:, None])[:, 0], ["score-cam"]
    )
    torch.testing.assert_close(found.maps["score-cam"], expected["score-cam"])


# The first and the last sample are of one class, and the controls of their variants too.
@pytest.mark.parametrize("count", [2, 3, 6, 18])
@pytest.mark.parametrize("channels", [4, 16, 34])
def test_a_score_with_a_class_for_each_sample_is_not_mistaken_for_one_of_rows(count, channels):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten())
    net = net.append(nn.Linear(channels, 3)).double()
    images, _ = samples_of(count)
    images = images[:, :, :5, :5]
    targets = torch.tensor([1] + [2] * (count - 2) + [1])
    wanted = functional.one_hot(targets, 3)
    methods = ["ablation-cam", "score-cam"]
    expected = explain(net, images, "1", targets, methods).maps
    for score in (
        lambda output: output[torch.arange(count), targets],
        lambda output: (output * wanted).sum(dim=1),
        lambda output: output.gather(1, targets[:, None])[:, 0],
    ):
        found = explain_score(net, images, "1", score, methods).maps
        for method in methods:
            torch.testing.assert_close(found[method], expected[method], msg=method)


def test_true_errors_of_the_model_surface():
    class Tired(Two):
        runs = 0

        def forward(self, images, numbers):
            self.runs += 1
            if self.runs > 1:
                raise ValueError("no more today")
            return super().forward(images, numbers)

    images, numbers = samples_of(2)
    for method in ("ablation-cam", "score-cam"):
        with pytest.raises(ValueError, match="no more today"):
            explain(Holding(Tired(), numbers, taken_as_they_are), images, "inner.layer", 1, [method])


def test_too_little_memory_is_not_taken_for_another_batch():
    class Full(Two):
        def forward(self, images, numbers):
            if len(images) > 2:
                raise torch.OutOfMemoryError
            return super().forward(images, numbers[: len(images)])

    images, numbers = samples_of(2)
    with pytest.raises(torch.OutOfMemoryError):
        explain(Holding(Full(), numbers, taken_as_they_are), images, "inner.layer", 1, ["score-cam"])
