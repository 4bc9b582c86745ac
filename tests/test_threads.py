"""Every public function in several threads at once has the results of one thread, to the last bit."""

import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from tests.support import ANYWHERE, TinyNet
from xgradcam.cam.explain import evidence_of, explain, explain_classes, explain_score
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.cam.methods import METHODS
from xgradcam.capture.layers import list_layers
from xgradcam.capture.recording import record
from xgradcam.models.folding import fold_batch_norms
from xgradcam.proof.verify import verify, verify_layers
from xgradcam.runs.choice import choose_layer
from xgradcam.runs.explainer import Explainer, explain_layers
from xgradcam.scores.score import Contrast

LAYER, THREADS, PATIENCE = "features.3", 6, 60
INPUTS = [
    torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed in range(6)
]


def net_of(seed=0):
    net = TinyNet(seed).train()
    net.features[1].running_mean.add_(0.1)
    return net


def calls(net):
    one, folding = Explainer(net, LAYER, ["xgrad-cam", "layer-cam"]), Explainer(net, LAYER, fold=True)

    def probed(inputs):
        evidence = evidence_of(net, inputs, LAYER)
        return [METHODS[name](evidence) for name in ("ablation-cam", "shapley-cam")]

    return {
        "explain": lambda inputs: explain(net, inputs, LAYER, 1),
        "every method": lambda inputs: explain(net, inputs, LAYER, 1, ANYWHERE, axioms=True),
        "augment": lambda inputs: explain(net, inputs, LAYER, [1, 2], augment=True),
        "explain_classes": lambda inputs: explain_classes(net, inputs, LAYER, [0, 1, None]),
        "explain_score": lambda inputs: explain_score(net, inputs, LAYER, Contrast(1, (2,))),
        "evidence_of": probed,
        "complete evidence": lambda inputs: evidence_of(net, inputs, LAYER, complete=True).terms,
        "verify": lambda inputs: verify(net, inputs, LAYER),
        "verify_layers": lambda inputs: list(verify_layers(net, inputs, ["features.0", LAYER])),
        "choose_layer": lambda inputs: vars(choose_layer(net, inputs, methods="complete-cam")),
        "list_layers": lambda inputs: [
            (layer.name, str(layer.layout), layer.runs, layer.reaches()) for layer in list_layers(net, inputs)
        ],
        "record": lambda inputs: (lambda one: (one.activation, one.gradient(one.output[:, 1])))(
            record(net, inputs, LAYER)
        ),
        "guided": lambda inputs: guided_backpropagation(net, inputs, 1),
        "Explainer": lambda inputs: one(inputs, 1),
        "folding": lambda inputs: folding(inputs, 1),
        "explain_layers": lambda inputs: explain_layers([one, folding], inputs, [0], guided=True),
    }


def plain(result):
    """A result as tensors and words, to be compared."""
    if isinstance(result, torch.Tensor):
        return str(result.detach().tolist())  # as text NaN is NaN
    if isinstance(result, Mapping):
        return [plain(one) for one in result.items()]
    if isinstance(result, (tuple, list)):
        return [plain(one) for one in result]
    if hasattr(result, "__dict__") and not callable(result):
        return plain({name: value for name, value in vars(result).items() if name not in ("dtype",)})
    return repr(result) if isinstance(result, (str, int, float, bool, type(None))) else type(result).__name__


@pytest.fixture(autouse=True)
def _quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def state_of(net):
    return [
        (module.training, list(module._forward_hooks), list(module._forward_pre_hooks))
        for module in net.modules()
    ]


def compare(works, jobs):
    """Each job of the works has the same result in many threads as it has in one."""
    expected = {job: plain(works[job[0]](INPUTS[job[1]])) for job in jobs}
    with ThreadPoolExecutor(THREADS) as threads:
        found = threads.map(lambda job: plain(works[job[0]](INPUTS[job[1]])), jobs, timeout=PATIENCE)
        for job, one in zip(jobs, found, strict=True):
            assert one == expected[job], job


@pytest.mark.parametrize("name", calls(net_of()))
def test_many_threads_have_the_results_of_one(name):
    net = net_of()
    before = state_of(net)
    compare(calls(net), [(name, number % 6) for number in range(12)])
    assert state_of(net) == before


def test_different_functions_at_once():
    net = net_of()
    compare(calls(net), [(name, number) for number in (0, 1) for name in calls(net)])


class Around(nn.Module):
    """A network of parts, which others may have too."""

    def __init__(self, features, classifier):
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, inputs):
        return self.classifier(self.features(inputs).flatten(1))


@pytest.mark.parametrize("shared", ["a layer", "a part", "parameters", "nothing"])
def test_models_that_share_modules_or_parameters(shared):
    one, other = net_of(), net_of(1)
    if shared == "a layer":
        other.features[3] = one.features[3]
    elif shared == "parameters":
        other.features[3].weight = one.features[3].weight
    elif shared == "a part":
        other = Around(one.features, other.classifier)
    first, second = calls(one), calls(other)
    names = ["explain", "every method", "verify_layers", "list_layers", "guided", "folding"]
    works = {(which, name): works[name] for which, works in enumerate((first, second)) for name in names}
    compare(works, [(key, number) for number in (0, 1) for key in works])


def test_scores_layouts_and_progress_that_explain_themselves_in_the_same_thread():
    net, other = net_of(), net_of(1)

    def score(output):
        inner = explain(net, INPUTS[1], LAYER, 1).score + explain(other, INPUTS[1], LAYER, 2).score
        return output[:, 0] * inner.sum()

    def layout(output):
        explain(net, INPUTS[2], LAYER, 0)
        return output

    def score_of_the_other_first(output):
        return output[:, 1] * explain(net, INPUTS[0], LAYER, 1).score.sum()

    works = {
        "one in the other": lambda inputs: explain_score(net, inputs, LAYER, score, layout=layout),
        "the other in one": lambda inputs: explain_score(other, inputs, LAYER, score_of_the_other_first),
        "progress": lambda inputs: explain(
            net, inputs, LAYER, 1, ["ablation-cam"], progress=lambda *_: explain(other, inputs, LAYER, 1)
        ),
    }
    compare(works, [(name, number) for number in range(3) for name in works])


def test_a_generator_that_is_left_keeps_no_one_waiting():
    net = net_of()
    left = verify_layers(net, INPUTS[0], ["features.0", LAYER])
    next(left)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(explain, net, INPUTS[0], LAYER, 1).result(PATIENCE)
    assert next(left)[0] == LAYER


def until_done(actions, work):
    """The result of the work, while other threads do the actions again and again."""
    errors, done, rounds = [], threading.Event(), []

    def repeat(action):
        while not done.is_set():
            try:
                rounds.append(action())
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    try:
        result = work()
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not errors
    return result, rounds


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_threads_that_run_the_model_themselves(mode):
    net = net_of().eval()
    works = calls(net)
    names = ["explain", "every method", "verify_layers", "guided", "record", "Explainer"]
    expected = [plain(works[name](INPUTS[0])) for name in names]
    with torch.no_grad():
        outputs = net(INPUTS[1])

    def run():
        with mode():
            returned = net(INPUTS[1])
            return torch.equal(returned, outputs), returned.requires_grad == (mode is torch.enable_grad)

    found, rounds = until_done([run, run], lambda: [plain(works[name](INPUTS[0])) for name in names])
    assert found == expected
    assert set(rounds) == {(True, True)}


def training(seed):
    """A network of its own that a thread trains, and each step's loss."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    step = torch.optim.SGD(model.parameters(), 0.01)

    def train(number):
        step.zero_grad()
        loss = model(INPUTS[number % 6].float()).square().mean()
        loss.backward()
        step.step()
        return float(loss.detach())

    return train


def test_a_thread_that_trains_another_model():
    net, counts = net_of(), iter(range(10**6))
    works = calls(net)
    names = ["explain", "every method", "verify_layers", "guided", "folding"]
    expected = [plain(works[name](INPUTS[0])) for name in names]
    train = training(0)
    found, losses = until_done(
        [lambda: train(next(counts))], lambda: [plain(works[name](INPUTS[0])) for name in names]
    )
    assert found == expected
    again = training(0)
    assert losses == [again(number) for number in range(len(losses))]


def test_random_numbers_that_another_thread_draws_come_once():
    net = net_of()
    works = calls(net)
    explain(net, INPUTS[0], LAYER)
    torch.manual_seed(0)
    _, drawn = until_done(
        [lambda: torch.rand(()).item()], lambda: [works["every method"](INPUTS[0]) for _ in range(2)]
    )
    assert len(drawn) > 10
    torch.manual_seed(0)
    assert drawn == [torch.rand(()).item() for _ in drawn]


def test_a_layer_that_is_folded_in_many_threads():
    nets = [net_of(seed).float().eval() for seed in range(4)]
    expected = [net(INPUTS[0].float()) for net in nets]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda net: fold_batch_norms(net, INPUTS[0].float()), nets)) == [1] * 4
    for net, one in zip(nets, expected, strict=True):
        torch.testing.assert_close(net(INPUTS[0].float()), one)
