"""Methods that need no gradient, of models that have none."""

import copy

import pytest
import torch
from torch import nn

from tests.support import OF_ACTIVATION
from xgradcam.cam.explain import explain, explain_score
from xgradcam.cam.methods import METHODS
from xgradcam.errors import NoGradientError, XGradCamError

WITHOUT = ["ablation-cam", "score-cam", "eigen-cam", "random-cam"]
LAYER = "features.3"


class Detached(nn.Module):
    """The same network, whose gradient is lost on the way from the layer to the score."""

    def __init__(self, net, how):
        super().__init__()
        self.features, self.classifier, self.how = net.features, net.classifier, how

    def forward(self, images):
        maps = self.features(images).flatten(1)
        if self.how == "no_grad":
            with torch.no_grad():
                return self.classifier(maps)
        if self.how == "inference":
            with torch.inference_mode():
                return self.classifier(maps.detach())
        if self.how == "numpy":
            return self.classifier(torch.from_numpy(maps.detach().numpy())).detach()
        return self.classifier(maps.detach()).detach()


@pytest.fixture(params=["no_grad", "inference", "numpy", "detached"])
def detached(request, net):
    return Detached(net, request.param)


def test_the_table_says_which_they_are():
    assert [name for name in OF_ACTIVATION if not METHODS[name].needs_gradient] == WITHOUT


@pytest.mark.parametrize("axioms", [False, True])
def test_the_maps_are_those_of_the_network_with_a_gradient(net, detached, batch, axioms):
    expected = explain(net, batch, LAYER, 1, WITHOUT, axioms=axioms)
    found = explain(detached, batch, LAYER, 1, WITHOUT, axioms=axioms)
    for method in WITHOUT:
        torch.testing.assert_close(found.maps[method], expected.maps[method])
        if axioms:
            torch.testing.assert_close(found.sensitivity[method], expected.sensitivity[method])
    assert found.notes == expected.notes
    score = explain_score(detached, batch, LAYER, lambda output: output[:, 1], WITHOUT)
    torch.testing.assert_close(score.maps["eigen-cam"], expected.maps["eigen-cam"])
    augmented = [explain(one, batch, LAYER, 1, WITHOUT[2:], augment=True).maps for one in (net, detached)]
    torch.testing.assert_close(*augmented)


@pytest.mark.parametrize("method", [name for name in OF_ACTIVATION if name not in WITHOUT])
def test_other_methods_name_those_that_need_none(detached, batch, method):
    with pytest.raises(NoGradientError, match=f"need no gradient: {', '.join(WITHOUT)}$") as error:
        explain(detached, batch, LAYER, 1, ["eigen-cam", method])
    assert "\n" not in str(error.value)
    assert isinstance(error.value, XGradCamError)


def test_a_head_of_quantised_integers(batch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)

        def forward(self, images):
            return self.last(torch.relu(self.layer(images)).flatten(1))

    net = Net().eval()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear})
    expected = explain(net, batch.float(), "layer", 1, WITHOUT)
    found = explain(quantised, batch.float(), "layer", 1, WITHOUT)
    for method in ("eigen-cam", "random-cam"):
        torch.testing.assert_close(found.maps[method], expected.maps[method])
    for method in ("ablation-cam", "score-cam"):
        size = expected.maps[method].abs().max()
        assert (found.maps[method] - expected.maps[method]).abs().max() < 0.1 * size
