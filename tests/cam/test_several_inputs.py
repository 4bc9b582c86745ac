"""Models of several inputs, and layers that run several times, beside plain autograd."""

import copy
from collections import UserDict
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

from tests.support import assert_same_state, state_of
from xgradcam import (
    METHODS,
    Explainer,
    RegionMean,
    XGradCamError,
    choose_layer,
    default_layer,
    explain,
    explain_classes,
    explain_score,
    list_layers,
    record,
    verify,
    verify_layers,
)
from xgradcam.cam.guided import guided_backpropagation

ALL = [name for name, method in METHODS.items() if name != "cam" and not method.of_attention]
LAYER = "conv.1"


class WithTable(nn.Module):
    """Scores of an image and a table, into which it writes; a mask and a number may be given, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.GELU())
        self.table, self.head = nn.Linear(6, 4), nn.Linear(8, 3)

    def forward(self, image: Tensor, table: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        beside = torch.tanh(self.table(table.mul_(1.0))) * scale
        if mask is not None:
            beside = beside * mask[:, None]
        return self.join(self.conv(image), beside)

    def join(self, maps: Tensor, beside: Tensor) -> Tensor:
        pooled = maps.mean(dim=(2, 3))
        return self.head(torch.cat([pooled, beside], 1) * torch.cat([beside, pooled], 1))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def model() -> WithTable:
    torch.manual_seed(0)
    return WithTable().double().eval()


IMAGE, TABLE = drawn(3, 3, 9, 8), drawn(3, 6, seed=1)
GIVEN = {
    "tuple": ((IMAGE, TABLE), 1.0, None),
    "list": ([IMAGE, TABLE, 0.5], 0.5, None),
    "names": ({"table": TABLE, "image": IMAGE}, 1.0, None),
    "a library's mapping": (UserDict(image=IMAGE, table=TABLE, mask=None), 1.0, None),
    "a frozen mapping": (MappingProxyType({"image": IMAGE, "table": TABLE}), 1.0, None),
    "a mask": ({"image": IMAGE, "table": TABLE, "mask": torch.tensor([1, 0, 1])}, 1.0, (1, 0, 1)),
    "a number in a tensor": ({"image": IMAGE, "table": TABLE, "scale": torch.tensor(0.5)}, 0.5, None),
}


@pytest.mark.parametrize("form", GIVEN)
def test_maps_are_those_of_plain_autograd(model, form):
    given, scale, mask = GIVEN[form]
    activation = model.conv[:2](IMAGE).detach().requires_grad_()
    beside = torch.tanh(model.table(TABLE)) * scale
    beside = beside if mask is None else beside * torch.tensor(mask)[:, None]
    scores = model.join(model.conv[2:](activation), beside)[:, 1]
    (gradient,) = torch.autograd.grad(scores.sum(), activation)
    activation = activation.detach()
    found = explain(model, given, LAYER, 1, ALL)
    torch.testing.assert_close(found.maps["hires-cam"], (gradient * activation).sum(1))
    torch.testing.assert_close(found.maps["grad-cam"], (gradient.mean((2, 3), True) * activation).sum(1))
    complete = found.maps["complete-cam"].sum(dim=(1, 2)) + found.nowhere
    torch.testing.assert_close(complete, scores.detach())
    drops = []
    for channel in range(5):
        without = activation.clone()
        without[:, channel] = 0
        left = model.join(model.conv[2:](without), beside)[:, 1]
        drops.append(((scores - left) / scores.abs()).detach())
    expected = torch.einsum("nc,nchw->nhw", torch.stack(drops, 1), activation)
    torch.testing.assert_close(found.maps["ablation-cam"], expected)
    assert verify(model, given, LAYER, 1).closes.all()


def test_score_cam_masks_the_image_alone(model):
    activation = model.conv[:2](IMAGE).detach()
    low, high = activation.amin((2, 3), True), activation.amax((2, 3), True)
    scaled = (activation - low) / (high - low)
    scores = []
    for channel in range(5):
        mask = nn.functional.interpolate(
            scaled[:, channel, None], (9, 8), mode="bilinear", align_corners=False
        )
        scores.append(model(IMAGE * mask, TABLE.clone())[:, 1].detach())
    expected = torch.einsum("nc,nchw->nhw", torch.stack(scores, 1).softmax(1), activation)
    torch.testing.assert_close(
        explain(model, (IMAGE, TABLE), LAYER, 1, ["score-cam"]).maps["score-cam"], expected
    )


def test_each_sample_of_a_batch_is_as_alone(model):
    whole = explain(model, (IMAGE, TABLE), LAYER, [0, 1, 2], ALL, axioms=True)
    for sample in range(3):
        alone = explain(model, (IMAGE[[sample]], TABLE[[sample]]), LAYER, sample, ALL, axioms=True)
        for method in ALL:
            torch.testing.assert_close(whole.maps[method][[sample]], alone.maps[method], msg=method)
        torch.testing.assert_close(whole.sensitivity["grad-cam"][[sample]], alone.sensitivity["grad-cam"])


def test_every_function_takes_several_inputs(model):
    given = {"image": IMAGE, "table": TABLE}
    expected = explain(model, given, LAYER, 1).maps["xgrad-cam"]
    assert default_layer(list_layers(model, given)) == "conv.3"
    assert choose_layer(model, given, 1) in {"conv.0", "conv.1", "conv.2", "conv.3"}
    assert explain(model, given, "input", 1).maps["grad-cam"].shape == (3, 9, 8)
    assert record(model, given, LAYER).activation.shape == (3, 5, 7, 6)
    both = explain_classes(model, given, LAYER, [0, 1])
    torch.testing.assert_close(both[1].maps["xgrad-cam"], expected, rtol=0, atol=0)
    score = explain_score(model, given, LAYER, lambda scores: scores[:, 1])
    torch.testing.assert_close(score.maps["xgrad-cam"], expected, rtol=0, atol=0)
    for fold in (False, True):
        with Explainer(model, LAYER, fold=fold) as explainer:
            torch.testing.assert_close(explainer(given, 1).maps["xgrad-cam"], expected)
    together = dict(verify_layers(model, given, ["input", LAYER, "conv.3"], 1))
    assert all(one.closes.all() for one in together.values())
    assert explain(model, given, LAYER, 1, augment=True).maps["grad-cam"].shape == (3, 7, 6)
    inputs = IMAGE.clone().requires_grad_()
    scores = model.join(model.conv[2:](model.conv[:2](inputs)), torch.tanh(model.table(TABLE)))
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), inputs)
    assert guided_backpropagation(model, given, 1).shape == gradient.shape


def test_model_and_inputs_are_borrowed(model):
    given = IMAGE.clone(), TABLE.clone()
    model.train()
    before = state_of(model)
    explain(model, given, LAYER, 1, ALL)
    verify(model, given, LAYER, 1)
    assert_same_state(before, state_of(model))
    assert torch.equal(given[0], IMAGE)
    assert torch.equal(given[1], TABLE)
    assert given[0]._version == given[1]._version == 0


def test_folding_leaves_a_model_of_several_inputs_right():
    torch.manual_seed(0)
    model = WithTable()
    model.conv.insert(1, nn.BatchNorm2d(5))
    model = model.double().eval()
    model.conv[1].running_mean.fill_(0.3)
    expected = explain(copy.deepcopy(model), (IMAGE, TABLE), "conv.3", 1).maps["xgrad-cam"]
    with Explainer(model, "conv.3", fold=True) as explainer:
        torch.testing.assert_close(explainer((IMAGE, TABLE), 1).maps["xgrad-cam"], expected)


@pytest.mark.parametrize(
    ("given", "image", "message"),
    [
        ((IMAGE, TABLE[:2]), None, r"input 1 is \(2, 6\) for 3 samples of the image 0: give it a row"),
        ((TABLE, TABLE), None, r"none of the inputs is an image.* by image=, one of 0, 1"),
        ((IMAGE, TABLE), "picture", r"no input 'picture': image= takes one of 0, 1"),
        ([*IMAGE, *IMAGE], None, r"the inputs are a list: .*torch\.stack\(inputs\)"),
        ({"pixels": IMAGE}, None, r"the inputs are a dict: .*inputs\['pixels'\]"),
        (
            {"image": IMAGE, "tables": TABLE},
            None,
            r"not take them: missing a required argument: 'table'",
        ),
        ((IMAGE,), None, r"not take them: missing a required argument: 'table'"),
        ((IMAGE, TABLE, 1.0, None, 2), None, r"not take them: too many positional arguments"),
        (IMAGE, 0, r"image= chooses one of several inputs"),
    ],
)
def test_what_is_wrong_with_several_inputs_is_said(model, given, image, message):
    with pytest.raises(XGradCamError, match=message) as error:
        explain(model, given, LAYER, 1, image=image)
    assert "\n" not in str(error.value)


def test_captum_has_the_same_grad_cam(model):
    attr = pytest.importorskip("captum.attr")
    layer = attr.LayerGradCam(model.requires_grad_(), model.conv[1])
    expected = layer.attribute((IMAGE, TABLE.clone()), target=1)[:, 0]
    found = explain(model, (IMAGE, TABLE), LAYER, 1).maps["grad-cam"]
    torch.testing.assert_close(found, expected.detach())


class Siamese(nn.Module):
    """The distance of two images' features: the encoder runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.GELU())
        self.head = nn.Linear(4, 2)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.distance(self.encoder(one), self.encoder(other))

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        return self.head((one.mean((2, 3)) - other.mean((2, 3))) ** 2)


class Repeated(nn.Module):
    """The same block twice, one run behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.block(self.block(image)).mean((2, 3)) ** 2)


@pytest.mark.parametrize("run", [0, 1])
def test_a_named_run_of_a_siamese_network_is_explained(run):
    torch.manual_seed(0)
    model, pair = Siamese().double().eval(), (IMAGE, drawn(3, 3, 9, 8, seed=2))
    activations = [model.encoder[:2](one).detach() for one in pair]
    activations[run].requires_grad_()

    def scores_of(activations: list[Tensor]) -> Tensor:
        return model.distance(*(model.encoder[2:](one) for one in activations))[:, 1]

    scores = scores_of(activations)
    (gradient,) = torch.autograd.grad(scores.sum(), activations[run])
    own = activations[run].detach()
    found = explain(model, pair, "encoder.1", 1, ALL, run=run, image=run)
    torch.testing.assert_close(found.maps["hires-cam"], (gradient * own).sum(1))
    complete = found.maps["complete-cam"].sum(dim=(1, 2)) + found.nowhere
    torch.testing.assert_close(complete, scores.detach())
    drops = []
    for channel in range(5):
        changed = [one.detach().clone() for one in activations]
        changed[run][:, channel] = 0
        drops.append(((scores - scores_of(changed)) / scores.abs()).detach())
    expected = torch.einsum("nc,nchw->nhw", torch.stack(drops, 1), own)
    torch.testing.assert_close(found.maps["ablation-cam"], expected)
    verified = verify(model, pair, "encoder.1", 1, run=run)
    assert verified.closes.all()
    torch.testing.assert_close(verified.feature, (gradient * own).flatten(1).sum(1))
    torch.testing.assert_close(record(model, pair, "encoder.1", run=run).activation.detach(), own)
    # Score-CAM masks the input that is named: here the run sees the other one.
    for method in ("score-cam", "smooth-grad-cam++"):
        with pytest.raises(XGradCamError, match="name another by image="):
            explain(model, pair, "encoder.1", 1, [method], run=run, image=1 - run)
    with pytest.raises(XGradCamError, match="name another by image="):
        explain(model, pair, "encoder.1", 1, run=run, image=1 - run, augment=True)
    assert explain(model, pair, "encoder.1", 1, run=run, image=run, augment=True).maps["grad-cam"].ndim == 3


@pytest.mark.parametrize("run", [0, 1])
def test_a_run_behind_another_counts_what_follows_it(run):
    torch.manual_seed(0)
    model = Repeated().double().eval()
    activation = model.block(IMAGE).detach() if run == 0 else model.block(model.block(IMAGE)).detach()
    activation.requires_grad_()
    behind = activation if run else model.block(activation)
    scores = model.head(behind.mean((2, 3)) ** 2)[:, 1]
    (gradient,) = torch.autograd.grad(scores.sum(), activation)
    found = explain(model, IMAGE, "block", 1, ["hires-cam", "complete-cam"], run=run)
    torch.testing.assert_close(found.maps["hires-cam"], (gradient * activation.detach()).sum(1))
    complete = found.maps["complete-cam"].sum(dim=(1, 2)) + found.nowhere
    torch.testing.assert_close(complete, scores.detach())
    verified = verify(model, IMAGE, "block", 1, run=run)
    assert verified.closes.all()
    # Behind the first run lies the second with its bias, behind the second none of the block's.
    biased = {one.module for one in verified.contributions if one.kind == "bias"}
    assert ("block.0" in biased) == (run == 0)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (None, r"'block' runs more than once in a forward: .*run=, 0 for the first"),
        (2, r"'block' runs 2 times: its last is 1"),
        (-1, r"the run is -1: give 0 for the layer's first run"),
        (True, r"the run is True: give 0"),
    ],
)
def test_a_run_that_is_none_is_refused(run, message):
    with pytest.raises(XGradCamError, match=message):
        explain(Repeated().double(), IMAGE, "block", 1, run=run)


def test_a_layer_that_runs_once_may_be_named_by_its_first_run(model):
    expected = explain(model, (IMAGE, TABLE), LAYER, 1).maps["grad-cam"]
    found = explain(model, (IMAGE, TABLE), LAYER, 1, run=0).maps["grad-cam"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_score_of_several_inputs_may_be_of_a_region(model):
    class Planes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(6, 2)

        def forward(self, image: Tensor, table: Tensor) -> Tensor:
            return self.conv(image).relu() * self.scale(table)[:, :, None, None]

    planes = Planes().double()
    region = torch.zeros(9, 8, dtype=torch.bool)
    region[2:5, 3:6] = True
    found = explain_score(planes, (IMAGE, TABLE), "conv", RegionMean(1, region), ["hires-cam"])
    scores = planes(IMAGE, TABLE)[:, 1][:, region].mean(1)
    torch.testing.assert_close(found.score, scores.detach())
    torch.testing.assert_close(found.maps["hires-cam"].sum(dim=(1, 2)), scores.detach())
