import pickle

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from tests.runs.replaying import RecordedGraphs
from tests.support import TinyNet
from xgradcam.lending.precision import FLOAT32, TF32, computing_in
from xgradcam.runs.explainer import Explainer
from xgradcam.runs.graphs import CALLS, CALLS_WITHOUT, CHANGES, KEPT, CudaGraphs, Repeater, State


class Net(nn.Module):
    """One weight, a number and lists of Python's; `forward` is what a test makes it."""

    def __init__(self, forward=lambda net, inputs: inputs * net.weight * net.scale):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.register_buffer("shift", torch.zeros(1))
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.scale, self.kept, self.by_name = 1.0, [], {}
        self.way = forward

    def forward(self, inputs):
        return self.way(self, inputs)


@pytest.fixture
def graphs():
    return RecordedGraphs()


def inputs_of(call, size=3):
    return torch.randn(size, 2, generator=torch.Generator().manual_seed(call))


def run(repeater, net, call, kind="", size=3):
    """A call, whose result must be that of the network."""
    inputs = inputs_of(call, size)
    with torch.no_grad():
        expected = net(inputs)
        found = repeater.run(kind, net, lambda inputs: {"scores": [net(inputs)]}, (inputs,))
    torch.testing.assert_close(found["scores"][0], expected, rtol=0, atol=0)
    return found["scores"][0]


def replays(graphs, repeater, net, calls=range(CALLS + 2), **options):
    """How many of these calls a graph did, beside the one that compares it."""
    before = graphs.replays, graphs.captures
    for call in calls:
        run(repeater, net, call, **options)
    return graphs.replays - before[0] - (graphs.captures - before[1])


def test_a_graph_is_made_at_the_third_call_and_does_those_that_follow(graphs):
    repeater, net = Repeater(graphs), Net()
    for call in range(6):
        run(repeater, net, call)
        assert graphs.captures == (call >= 2)
        assert graphs.replays == max(0, call - 1)
    assert repeater.problem == ""


def test_a_result_stays_as_it_is_when_the_next_is_computed(graphs):
    repeater, net = Repeater(graphs), Net()
    results = [run(repeater, net, call) for call in range(6)]
    for call, result in enumerate(results):
        assert torch.equal(result, net(inputs_of(call)))


@pytest.mark.parametrize("kind", ["other", "size"])
def test_each_kind_of_call_and_shape_has_a_graph_of_its_own(graphs, kind):
    repeater, net = Repeater(graphs), Net()
    other = {"kind": "other"} if kind == "other" else {"size": 5}
    for call in range(CALLS + 1):
        run(repeater, net, call)
        run(repeater, net, call, **other)
    assert (graphs.captures, graphs.replays) == (2, 4)


def test_few_graphs_are_kept_those_that_were_used_last(graphs):
    repeater, net = Repeater(graphs), Net()
    for size in range(1, KEPT + 2):
        assert replays(graphs, repeater, net, size=size) == 2
    assert replays(graphs, repeater, net, size=KEPT + 1) == CALLS + 2
    assert replays(graphs, repeater, net, size=1) == 2  # begins anew
    assert graphs.captures == KEPT + 2


def _replace_weight(net):
    net.weight = nn.Parameter(net.weight.detach() * 2)


def _replace_data(net):
    net.weight.data = net.weight.data * 2


def _write(net):
    with torch.no_grad():
        net.weight.mul_(2)


CHANGES_OF_A_MODEL = {
    "a weight": _write,
    "another parameter": _replace_weight,
    "other memory": _replace_data,
    "the order of the memory": lambda net: setattr(net.inner[0].weight, "data", net.inner[0].weight.data.T),
    "the length": lambda net: setattr(net.inner[0].weight, "data", net.inner[0].weight.data[:1]),
    "a buffer": lambda net: net.shift.add_(1),
    "another buffer": lambda net: setattr(net, "shift", torch.zeros(1)),
    "a number": lambda net: setattr(net, "scale", 3.0),
    "the mode": lambda net: net.inner.train(not net.inner.training),
    "a list": lambda net: net.kept.append(1),
    "a dictionary": lambda net: net.by_name.update(scale=2),
    "a new attribute": lambda net: setattr(net, "more", 1),
    "a module": lambda net: net.inner.__setitem__(1, nn.Tanh()),
    "a module more": lambda net: net.inner.append(nn.Tanh()),
    "the type": lambda net: net.double().float(),
    "a hook": lambda net: net.inner.register_forward_hook(lambda *_: None),
}


@pytest.mark.parametrize("change", CHANGES_OF_A_MODEL.values(), ids=CHANGES_OF_A_MODEL)
def test_a_graph_is_trusted_no_more_when_the_model_has_changed(graphs, change):
    repeater, net = Repeater(graphs), Net()
    state = State(net)
    assert replays(graphs, repeater, net) == 2
    assert state.is_that_of(net)
    change(net)
    assert not state.is_that_of(net)
    before = graphs.captures
    for call in range(CALLS - 1):
        run(repeater, net, call)  # compares with the model as it is
    assert graphs.captures == before


def test_the_state_is_that_of_one_model_only():
    state = State(Net())
    assert not state.is_that_of(Net())


def test_weights_without_a_version_are_read_by_the_graph(graphs):
    repeater, net = Repeater(graphs), Net()
    assert replays(graphs, repeater, net) == 2
    net.weight.data.mul_(2)  # which PyTorch does not count
    assert replays(graphs, repeater, net) == CALLS + 2


def _counting(net, inputs):
    net.scale += 1.0
    return inputs * (net.scale - net.scale + 1)


UNFIT = {
    "reads a number": lambda net, inputs: inputs if inputs.sum() > 99 else -inputs,
    "draws numbers": lambda net, inputs: inputs + 0 * torch.rand(2),
    "drops out": lambda net, inputs: inputs + 0 * nn.functional.dropout(inputs),
    "chooses rows": lambda net, inputs: inputs * inputs[inputs > 0].sum(),
    "looks for zeros": lambda net, inputs: inputs + inputs.nonzero().sum(),
    "decomposes": lambda net, inputs: inputs * torch.linalg.svdvals(inputs).max(),
    "has new numbers": lambda net, inputs: inputs * torch.tensor([net.scale, 2.0]),
    "uses two devices": lambda net, inputs: inputs * len(inputs.to("meta")),
}


@pytest.mark.parametrize("forward", UNFIT.values(), ids=UNFIT)
def test_a_model_that_a_graph_cannot_do_is_found_before_the_capture(graphs, forward):
    repeater = Repeater(graphs)
    assert replays(graphs, repeater, Net(forward), range(CALLS + 4)) == 0
    assert graphs.captures == 0
    assert repeater.problem.startswith("a graph cannot do aten.")


def test_a_model_that_changes_itself_runs_itself(graphs):
    assert replays(graphs, Repeater(graphs), Net(_counting), range(CHANGES + CALLS)) == 0
    assert graphs.captures == 0


def test_a_graph_that_computes_something_else_is_thrown_away(graphs):
    calls = []
    net = Net(lambda net, inputs: inputs * (calls.append(1) or len(calls)))  # a state elsewhere
    repeater = Repeater(graphs)
    for call in range(7):
        result = repeater.run("", net, net, (inputs_of(call),))
        factor = call + 1 + 2 * (call >= CALLS)  # the rehearsal and the capture were calls, too
        torch.testing.assert_close(result, factor * inputs_of(call))
    assert repeater.problem == "a graph computes something else"
    assert (graphs.captures, graphs.replays) == (1, 1)


def test_indices_that_are_numbers_do_no_harm(graphs):
    order = torch.tensor([1, 0])
    assert replays(graphs, Repeater(graphs), Net(lambda net, inputs: inputs[:, order])) == 2


@pytest.mark.parametrize(
    ("forward", "last"),
    [
        (lambda net, inputs: inputs * 2, True),
        (lambda net, inputs: inputs.as_strided(inputs.shape, (192, 64, 8, 1)) * 2, False),
        (lambda net, inputs: inputs.view(-1).view(inputs.shape) * 2, False),
    ],
    ids=["any order", "another result", "an error"],
)
def test_channels_last_are_used_where_they_change_nothing(graphs, forward, last):
    repeater, net = Repeater(graphs), Net(forward)
    for call in range(CALLS + 2):
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(call))
        assert torch.equal(repeater.run("", net, net, (images,)), 2 * images)
    assert (graphs.replays, repeater.problem) == (3, "")
    (known,) = repeater._known.values()
    assert known.graph.tensors[0].is_contiguous(memory_format=torch.channels_last) == last


def test_a_capture_that_fails_loses_nothing():
    class Failing(RecordedGraphs):
        def capture(self, work, device):
            work()
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors ...")

    graphs = Failing()
    repeater = Repeater(graphs)
    assert replays(graphs, repeater, Net()) == 0
    assert repeater.problem == "operation not permitted when stream is capturing"


def test_models_with_hooks_run_themselves(graphs):
    net, heard = Net(), []
    net.inner[0].register_forward_pre_hook(lambda *_: heard.append(1))
    repeater = Repeater(graphs)
    assert replays(graphs, repeater, net) == 0
    assert repeater.problem == "the model has hooks"


def test_what_watches_every_operation_is_told_of_all(graphs):
    from torch.utils.flop_counter import FlopCounterMode

    repeater, net = Repeater(graphs), Net(lambda net, inputs: net.inner(inputs))
    assert replays(graphs, repeater, net) == 2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        repeater.run("", net, net, (inputs_of(0),))
    assert counter.get_total_flops() == 3 * 2 * 2 * 2
    assert replays(graphs, repeater, net) == CALLS + 2


def test_a_graph_is_used_only_in_the_precision_in_which_it_was_made(graphs):
    repeater, net = Repeater(graphs), Net()
    for precision, expected in ((FLOAT32, 2), (TF32, 2), (FLOAT32, CALLS + 2)):
        with computing_in(precision, "cpu"):
            assert replays(graphs, repeater, net) == expected
    assert graphs.captures == 2


def test_autocast_keeps_no_numbers_for_a_graph(graphs):
    repeater = Repeater(graphs)
    net = Net(lambda net, inputs: net.inner(inputs))
    with torch.autocast("cpu", torch.bfloat16):
        assert replays(graphs, repeater, net) == 2
        assert torch.is_autocast_cache_enabled()
    assert replays(graphs, repeater, net) == 2  # without autocast, another graph
    assert graphs.captures == 2


def test_a_model_that_changes_all_the_time_is_left_alone_for_a_while(graphs):
    repeater, net = Repeater(graphs), Net()
    for call in range(CHANGES + 1):
        net.scale += 1.0
        run(repeater, net, call)
    assert replays(graphs, repeater, net, range(CALLS_WITHOUT)) == 0
    assert replays(graphs, repeater, net) == 3  # the last of the changes was a first call


def test_not_finite_numbers_are_the_same_as_themselves(graphs):
    repeater, net = Repeater(graphs), Net(lambda net, inputs: inputs / net.shift)
    for call in range(CALLS + 1):
        repeater.run("", net, net, (inputs_of(call).abs() * torch.tensor([0.0, 1.0]),))
    assert graphs.replays == 2


def test_only_the_device_of_the_graphs_has_any(graphs):
    repeater = Repeater(CudaGraphs())
    assert replays(graphs, repeater, Net(), range(2 * CALLS)) == 0
    assert repeater.problem == ""


def test_a_subclass_of_tensor_is_given_to_the_model_itself(graphs):
    class Named(torch.Tensor):
        pass

    seen = []
    net = Net(lambda net, inputs: seen.append(type(inputs)) or inputs)
    repeater = Repeater(graphs)
    for call in range(CALLS + 1):
        repeater.run("", net, net, (inputs_of(call).as_subclass(Named),))
    assert seen == [Named] * (CALLS + 1)


def test_closing_and_pickling_forget_the_graphs(graphs):
    repeater, net = Repeater(graphs), Net()
    assert replays(graphs, repeater, net) == 2
    repeater.close()
    assert replays(graphs, repeater, net) == 2
    again = pickle.loads(pickle.dumps(Repeater(CudaGraphs())))
    assert again.run("", net, net, (inputs_of(0),)).shape == (3, 2)


def test_inputs_and_results_of_inference_mode(graphs):
    repeater, net = Repeater(graphs), Net()
    for call in range(CALLS + 2):
        with torch.inference_mode():
            inputs = inputs_of(call)
        found = repeater.run("", net, lambda given: net(given.clone()).detach(), (inputs,))
        assert not found.is_inference()
    assert graphs.replays == 3


def test_a_network_holds_few_things_that_are_looked_at():
    state = State(TinyNet())
    assert state.is_that_of(state._model)
    assert len(state._views) < 60


def odd(kind):
    """A tensor that is not one of plain numbers in memory, or a module that holds one."""
    torch.manual_seed(0)
    numbers = torch.randn(3, 4)
    return {
        "quantized": lambda: torch.quantize_per_tensor(numbers, 0.1, 0, torch.qint8),
        "quantized by channels": lambda: by_channels(numbers),
        "sparse": numbers.relu().to_sparse,
        "sparse rows": numbers.relu().to_sparse_csr,
        "sparse columns": numbers.relu().to_sparse_csc,
        "nested": lambda: torch.nested.nested_tensor([numbers, numbers[:2]]),
        "jagged": lambda: torch.nested.nested_tensor([numbers, numbers[:2]], layout=torch.jagged),
        "on no device": lambda: numbers.to("meta"),
        "of two": lambda: TwoTensor(numbers, numbers + 1),
        "without memory": lambda: emptied(numbers),
        "not made yet": lambda: nn.LazyLinear(3),
    }[kind]()


def by_channels(numbers):
    scales, zeros = torch.tensor([0.1, 0.2, 0.3], dtype=torch.double), torch.zeros(3, dtype=torch.long)
    return torch.quantize_per_channel(numbers, scales, zeros, 0, torch.qint8)


def emptied(tensor):
    tensor.untyped_storage().resize_(0)
    return tensor


# Changes past the version, where a tensor has numbers.
CHANGED = {
    "quantized": lambda one: one.data.copy_(torch.quantize_per_tensor(torch.ones(3, 4), 0.1, 0, torch.qint8)),
    "quantized by channels": lambda one: one.data.copy_(by_channels(torch.ones(3, 4))),
    "sparse": lambda one: one._values().data.mul_(2),
    "sparse rows": lambda one: one.values().data.mul_(2),
    "sparse columns": lambda one: one.values().data.mul_(2),
    "jagged": lambda one: one.values().data.mul_(2),
    "of two": lambda one: one.b.data.mul_(2),
}
ODD = [*CHANGED, "nested", "on no device", "without memory", "not made yet"]


@pytest.mark.parametrize("by_value", [False, True])
@pytest.mark.parametrize("kind", ODD)
def test_a_model_may_hold_odd_tensors_whose_changes_are_seen(kind, by_value):
    if kind == "nested" and by_value:
        pytest.skip("PyTorch copies none, so no norm is folded")
    net = Net()
    net.odd = odd(kind)
    state = State(net, by_value)
    assert state.is_that_of(net)
    if by_value and kind in CHANGED:
        CHANGED[kind](net.odd)
        assert not state.is_that_of(net)
        state = State(net, by_value)
    assert state.is_that_of(net)
    if kind == "not made yet":
        net.odd(torch.ones(1, 2))
    else:
        net.odd = odd(kind)
    assert not state.is_that_of(net)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("kind", ["quantized", "on no device", "of two", "without memory", "not made yet"])
def test_a_model_with_odd_tensors_is_explained_as_without(kind, fold):
    net, inputs = TinyNet(), torch.ones(2, 3, 8, 8).double().cumsum(3)
    explainer = Explainer(net, "features.3", fold=fold, graphs=RecordedGraphs())
    expected = explainer(inputs, 1).maps["xgrad-cam"]
    net.odd = odd(kind)
    for _ in range(CALLS + 2):
        torch.testing.assert_close(explainer(inputs, 1).maps["xgrad-cam"], expected)
