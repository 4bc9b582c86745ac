"""What callers give as inputs, in every public function: subclasses, other types, models that write."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors

from tests.support import ANYWHERE, TinyNet, assert_same_state, state_of
from xgradcam.cam.explain import evidence_of, explain, explain_classes, explain_score
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.capture.layers import list_layers
from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError
from xgradcam.models.folding import fold_batch_norms
from xgradcam.proof.verify import verify, verify_layers
from xgradcam.runs.explainer import Explainer, explain_layers
from xgradcam.scores.score import Contrast

LAYER = "features.3"
ALL = ANYWHERE
# Each public function that takes inputs, as numbers to compare.
CALLS = {
    "explain": lambda net, inputs: explain(net, inputs, LAYER, 1, ALL).maps,
    "augment": lambda net, inputs: explain(net, inputs, LAYER, 1, augment=True).maps,
    "axioms": lambda net, inputs: explain(net, inputs, LAYER, axioms=True).sensitivity,
    "explain_classes": lambda net, inputs: explain_classes(net, inputs, LAYER, [1, 2])[1].maps,
    "explain_layers": lambda net, inputs: (
        explain_layers([Explainer(net, LAYER)], inputs, [1], guided=True)[0][0].maps
    ),
    "Explainer": lambda net, inputs: Explainer(net, LAYER)(inputs, 1).maps,
    "explain_score": lambda net, inputs: explain_score(net, inputs, LAYER, Contrast(1, (2,)), ALL[:5]).maps,
    "evidence_of": lambda net, inputs: {"": evidence_of(net, inputs, LAYER, 1).gradient},
    "guided": lambda net, inputs: {"": guided_backpropagation(net, inputs, 1)},
    "record": lambda net, inputs: {"": record(net, inputs, LAYER).activation.detach()},
    "verify": lambda net, inputs: {"": verify(net, inputs, LAYER, 1).bias},
    "verify_layers": lambda net, inputs: {"": dict(verify_layers(net, inputs, [LAYER], 1))[LAYER].bias},
    "list_layers": lambda net, inputs: {
        layer.name: torch.tensor(layer.shape or (), device="cpu") for layer in list_layers(net, inputs)
    },
    "fold_batch_norms": lambda net, inputs: {
        "": torch.tensor(fold_batch_norms(copy.deepcopy(net), inputs), device="cpu")
    },
}


class Refusing(Tensor):
    """A tensor that refuses every operation."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise TypeError(f"no {function}")


KINDS = {
    "image": lambda batch: tv_tensors.Image(batch),
    "parameter": lambda batch: nn.Parameter(batch),
    "refusing": lambda batch: batch.as_subclass(Refusing),
    "in a graph": lambda batch: batch.clone().requires_grad_() * 1,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_the_tensor_in_a_subclass_is_what_counts(net, batch, name, kind):
    expected = CALLS[name](net, batch)
    found = CALLS[name](net, KINDS[kind](batch))
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert type(found[key]) is Tensor
        torch.testing.assert_close(found[key], values, rtol=0, atol=0)


class Writing(TinyNet):
    """Writes into its input; `broken` raises after that."""

    in_place, broken = True, False

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.sub_(0.5).div_(2) if self.in_place else (inputs - 0.5) / 2
        if self.broken:
            raise ValueError("afterwards")
        return super().forward(inputs)


@pytest.mark.parametrize("name", CALLS)
def test_a_model_may_write_into_its_input(name):
    net, plain = Writing().eval(), Writing().eval()
    plain.in_place = False
    for samples in (1, 2, 3, 4, 5) if name in ("explain", "augment") else (2,):
        inputs = torch.randn(
            samples, 3, 8, 8, generator=torch.Generator().manual_seed(samples), dtype=torch.float64
        )
        before = inputs.clone()
        found, expected = CALLS[name](net, inputs), CALLS[name](plain, inputs)
        assert torch.equal(inputs, before)
        assert inputs._version == 0
        for key, values in expected.items():
            torch.testing.assert_close(found[key], values, rtol=1e-9, atol=1e-12)
    net.broken = True
    with pytest.raises(ValueError, match="afterwards"):
        CALLS[name](net, inputs)
    assert torch.equal(inputs, before)


class Features(dict):
    """Like what preparing code of a library returns."""


NO_TENSORS = {
    "array": (lambda batch: batch.numpy(), r"a ndarray: give a tensor .*torch\.as_tensor\(numpy\.array"),
    "picture": (
        lambda batch: np.zeros((8, 8, 3), np.uint8),
        r"give a tensor \(N, \.\.\.\), such as torch.*permute\(2, 0, 1\)\[None\] / 255",
    ),
    "PIL": (
        lambda batch: Image.new("RGB", (8, 8)),
        r"the inputs are a Image: .*permute\(2, 0, 1\)\[None\] / 255",
    ),
    "list": (lambda batch: list(batch), r"the inputs are a list: .*such as torch\.stack\(inputs\)"),
    "tuple": (lambda batch: (1, 2), r"the inputs are a tuple: give a tensor \(N, \.\.\.\)$"),
    "features": (
        lambda batch: Features(labels=[1], pixel_values=batch),
        r"the inputs are a Features: give the tensor .*inputs\['pixel_values'\]",
    ),
    "nested": (
        lambda batch: torch.nested.nested_tensor(list(batch), layout=torch.jagged),
        r"the inputs are a nested tensor: .*such as torch\.nested\.to_padded_tensor\(inputs, 0\.0\)",
    ),
    "nested in strides": (
        lambda batch: torch.nested.nested_tensor(list(batch)),
        r"the inputs are a nested tensor: .*such as torch\.nested\.to_padded_tensor\(inputs, 0\.0\)",
    ),
    "path": (lambda batch: "cat.jpg", r"the inputs are a str: give a tensor \(N, \.\.\.\)$"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", NO_TENSORS)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_tensor_gets_advice(net, batch, name, kind):
    given, message = NO_TENSORS[kind]
    with pytest.raises(XGradCamError, match=message) as error:
        CALLS[name](net, given(batch))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


FORMS = {
    "complex": (lambda batch: batch + 1j, "inputs.abs()"),
    "complex, of half the digits": (
        lambda batch: torch.complex(batch.float(), batch.float()),
        "inputs.abs().to(torch.float64)",
    ),
    "sparse": (lambda batch: batch.to_sparse(), "inputs.to_dense()"),
    "one photograph": (lambda batch: batch[0], "inputs[None]"),
    "one photograph, channels last": (
        lambda batch: batch[0].permute(1, 2, 0),
        "inputs.permute(2, 0, 1)[None]",
    ),
    "channels last": (lambda batch: batch.permute(0, 2, 3, 1), "inputs.permute(0, 3, 1, 2)"),
    "integers": (lambda batch: batch.long(), "inputs.to(torch.float64)"),
    "bytes": (lambda batch: (9 * batch.abs()).byte(), "inputs.to(torch.float64) / 255"),
    "single precision": (lambda batch: batch.float(), "inputs.to(torch.float64)"),
    "a picture of bytes": (
        lambda batch: (9 * batch[0].abs()).byte().permute(1, 2, 0),
        "inputs.to(torch.float64).permute(2, 0, 1)[None] / 255",
    ),
    "elsewhere": (lambda batch: batch.to("meta"), None),
}
WITH_MODEL = [name for name in CALLS if name not in ("guided", "fold_batch_norms", "verify_layers")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WITH_MODEL)
def test_inputs_that_the_model_cannot_take_get_advice_that_works(net, batch, name, form):
    change, advice = FORMS[form]
    inputs = change(batch)
    before = state_of(net)
    if advice is None:
        with pytest.raises((XGradCamError, RuntimeError, NotImplementedError)):
            CALLS[name](net, inputs)
    else:
        with pytest.raises(XGradCamError, match="does not take inputs") as error:
            CALLS[name](net, inputs)
        assert str(error.value).endswith(f"give {advice}")
        assert error.value.__cause__ is not None
        assert CALLS[name](net, eval(advice, {"inputs": inputs, "torch": torch}))
    assert_same_state(before, state_of(net))


def test_what_a_model_takes_is_not_advised_on(batch):
    class Own(nn.Module):
        """Bytes in any order of axes, as its owner likes it."""

        def __init__(self):
            super().__init__()
            self.net = TinyNet().eval()

        def forward(self, pictures):
            return self.net(pictures.permute(0, 3, 1, 2).double() / 255)

    pictures = (9 * batch.abs()).byte().permute(0, 2, 3, 1)
    found = explain(Own(), pictures, "net.features.3", 1).maps
    expected = explain(Own().net, pictures.permute(0, 3, 1, 2).double() / 255, LAYER, 1).maps
    torch.testing.assert_close(found["xgrad-cam"], expected["xgrad-cam"])
    with pytest.raises(RuntimeError, match="expected input"):
        explain(Own().net, torch.zeros(1, 5, 8, 8, dtype=torch.float64), LAYER)
    with pytest.raises(XGradCamError, match="no layer 'nope'"):
        explain(Own().net, batch, "nope")


@pytest.mark.parametrize("name", CALLS)
def test_the_default_device_does_not_matter(net, batch, name):
    expected = CALLS[name](net, batch)
    with torch.device("meta"):
        found = CALLS[name](net, batch)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=0, atol=0)


@pytest.mark.parametrize("targets", [[1, 2, 3], 2, None])
def test_the_default_device_does_not_matter_for_targets(net, batch, targets):
    expected = explain(net, batch, LAYER, targets)
    with torch.device("meta"):
        found = explain(net, batch, LAYER, targets)
    assert torch.equal(found.targets, expected.targets)
    assert torch.equal(found.maps["grad-cam"], expected.maps["grad-cam"])
