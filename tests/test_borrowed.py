"""A model and its inputs are as before after every public function, however it failed."""

import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as modules

from tests.support import ANYWHERE, TinyNet, lived_in
from xgradcam.cam.explain import evidence_of, explain, explain_classes, explain_score
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.capture.layers import list_layers
from xgradcam.capture.recording import record
from xgradcam.errors import XGradCamError
from xgradcam.proof.verify import verify, verify_layers
from xgradcam.runs.explainer import Explainer, explain_layers
from xgradcam.scores.score import Contrast

LAYER = "features.3"
ALL = ANYWHERE
CALLS = {
    "explain": lambda net, inputs, layer: explain(net, inputs, layer),
    "every method": lambda net, inputs, layer: explain(net, inputs, layer, methods=ALL),
    "axioms": lambda net, inputs, layer: explain(net, inputs, layer, axioms=True),
    "augment": lambda net, inputs, layer: explain(net, inputs, layer, augment=True),
    "explain_classes": lambda net, inputs, layer: explain_classes(net, inputs, layer, [0, 1]),
    "explain_layers": lambda net, inputs, layer: explain_layers(
        [Explainer(net, layer)], inputs, [0], guided=True
    ),
    "Explainer": lambda net, inputs, layer: Explainer(net, layer)(inputs, 0),
    "explain_score": lambda net, inputs, layer: explain_score(net, inputs, layer, Contrast(1, (2,))),
    "evidence_of": lambda net, inputs, layer: evidence_of(net, inputs, layer).probe.without_channels,
    "guided": lambda net, inputs, layer: guided_backpropagation(net, inputs),
    "record": lambda net, inputs, layer: record(net, inputs, layer).gradient(torch.zeros(len(inputs))),
    "verify": lambda net, inputs, layer: verify(net, inputs, layer),
    "verify_layers": lambda net, inputs, layer: list(verify_layers(net, inputs, [layer, "features.1"])),
    "list_layers": lambda net, inputs, layer: list_layers(net, inputs),
}
ERRORS = (
    ValueError, KeyboardInterrupt, MemoryError, SystemExit, StopIteration, RecursionError, XGradCamError,
    torch.OutOfMemoryError, lambda: RuntimeError("in-place boom"), lambda: RuntimeError("no memory"),
)  # fmt: skip
MODES = {
    "plain": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "elsewhere": lambda: torch.device("meta"),
}


def state(net, inputs):
    """Everything that a call could leave changed, as plain values that compare."""
    return {
        "training": [module.training for module in net.modules()],
        "attributes": [sorted(vars(module)) for module in net.modules()],
        "requires_grad": [parameter.requires_grad for parameter in net.parameters()],
        "objects": [id(tensor) for tensor in (*net.parameters(), *net.buffers())],
        "values": [tensor.tolist() for tensor in (*net.parameters(), *net.buffers())],
        "grad": [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in net.parameters()],
        "hooks": [
            [list(hooks) for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
            for m in net.modules()
        ],
        "hooks of all": [len(modules._global_forward_hooks), len(modules._global_forward_pre_hooks)],
        "inputs": (inputs.tolist(), inputs._version, inputs.requires_grad, inputs.stride()),
        "random": (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()),
        "modes": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
        "function modes": len(torch.overrides._get_current_function_mode_stack()),
        "precision": (torch.get_default_dtype(), torch.backends.cuda.matmul.allow_tf32),
    }


class Drawing(nn.Module):
    """A module that draws random numbers in evaluation mode too, and writes into its input."""

    def forward(self, maps):
        return maps.mul_(1 + 0 * torch.rand((), device="cpu"))


def network():
    net = lived_in(TinyNet())
    net.features = nn.Sequential(OrderedDict([("draw", Drawing()), *net.features.named_children()]))
    net.features.get_submodule("3").register_forward_hook(lambda *_: None)
    return net


def fail_at(net, route, error, draw):
    """Have the model fail on some later run of some module, in the way that `route` says."""
    victim = draw.choice([module for module in net.modules() if not list(module.children())])
    left = [draw.randint(1, 4)]

    def count(*_):
        left[0] -= 1
        if left[0] <= 0:
            raise error()

    if route == "forward":
        own = victim.forward
        victim.forward = lambda *given: (count(), own(*given))[1]
    elif route == "hook":
        victim.register_forward_hook(count)
    elif route == "hook in front":
        victim.register_forward_pre_hook(count)
    elif route == "backward":

        class Failing(torch.autograd.Function):
            @staticmethod
            def forward(ctx, values):
                return values.clone()

            @staticmethod
            def backward(ctx, gradient):
                count()
                return gradient

        own = victim.forward
        victim.forward = lambda *given: Failing.apply(own(*given))
    elif route == "another type":
        victim.register_forward_hook(lambda _m, _i, output: [output])
    elif route == "another batch":
        victim.register_forward_hook(lambda _m, _i, output: output[:1])
    elif route == "not finite":
        victim.register_forward_hook(lambda _m, _i, output: output * torch.nan)


ROUTES = [
    "none",
    "forward",
    "hook",
    "hook in front",
    "backward",
    "another type",
    "another batch",
    "not finite",
]
ROUTES += ["no such layer", "one input too many", "integers", "one photograph", "no samples"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_everything_is_as_before(name, mode):
    draw = random.Random(f"{name} {mode}")
    failed = 0
    for route in ROUTES:
        net, layer = network(), LAYER
        inputs = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        fail_at(net, route, draw.choice(ERRORS), draw)
        given = inputs
        if route == "no such layer":
            layer = "features.9"
        elif route == "one input too many":
            given = [inputs, inputs]
        elif route == "integers":
            given = inputs = inputs.long()
        elif route == "one photograph":
            given = inputs = inputs[0]
        elif route == "no samples":
            given = inputs = inputs[:0]
        with MODES[mode]():
            before = state(net, inputs)
            try:
                CALLS[name](net, given, layer)
            except BaseException:
                failed += 1
            after = state(net, inputs)
        for key, value in before.items():
            assert after[key] == value, (route, key)
    assert failed >= (3 if name in ("list_layers", "verify_layers") else 5)
