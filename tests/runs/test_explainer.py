import pickle
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

from tests.runs.replaying import RecordedGraphs
from tests.support import OF_ACTIVATION, TinyNet, assert_same_state, lived_in, state_of
from xgradcam import Explainer, XGradCamError, explain
from xgradcam.cam.explain import explain_classes
from xgradcam.cam.guided import guided_backpropagation
from xgradcam.errors import NotFiniteError
from xgradcam.lending.precision import BF16, computing_in
from xgradcam.runs.explainer import explain_layers
from xgradcam.scores.targets import top_classes

LAYER = "features.4"
TARGETS = [None, 2, [0, 4, 2], torch.tensor([1, 0, 3])]
# Methods that a graph can do.
DONE_AT_ONCE = [
    "grad-cam", "xgrad-cam", "grad-cam++", "hires-cam", "grad-cam-elementwise", "layer-cam"
]  # fmt: skip


def batch_of(call, size=3):
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(call), dtype=torch.float64)


def assert_same(found, expected):
    """Bit for bit."""
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, Tensor):
            assert torch.equal(one, other), field.name
        elif isinstance(other, dict):
            assert list(one) == list(other)
            assert all(torch.equal(one[key], other[key]) for key in other), field.name
        else:
            assert one == other, field.name


@pytest.fixture
def graphs():
    return RecordedGraphs()


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_it_explains_as_explain_does_by_the_model_and_by_a_graph(graphs, targets):
    net = TinyNet()
    with Explainer(net, LAYER, DONE_AT_ONCE, graphs=graphs) as explainer:
        for call in range(6):
            inputs = batch_of(call)
            assert_same(explainer(inputs, targets), explain(net, inputs, LAYER, targets, DONE_AT_ONCE))
        assert (graphs.captures, graphs.replays) == (1, 4)
        assert explainer.problem == ""


@pytest.mark.parametrize("method", OF_ACTIVATION)
def test_every_method_is_the_same_as_by_explain(graphs, method):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net.double()
    explainer = Explainer(net, "1", method, graphs=graphs)
    for call in range(5):
        inputs = batch_of(call, 2)
        assert_same(explainer(inputs, 1), explain(net, inputs, "1", 1, method))
    assert (graphs.replays == 3) == (method in DONE_AT_ONCE)


@pytest.mark.parametrize(
    "options",
    [{"augment": True}, {"axioms": True}, {"output": "scores"}, {"probability": "sigmoid"}],
    ids=str,
)
def test_the_options_are_those_of_explain(graphs, options):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = TinyNet()

        def forward(self, inputs):
            return {"scores": self.net(inputs)} if "output" in options else self.net(inputs)

    model = Named()
    explainer = Explainer(model, f"net.{LAYER}", graphs=graphs, **options)
    for call in range(5):
        inputs = batch_of(call)
        assert_same(explainer(inputs), explain(model, inputs, f"net.{LAYER}", **options))
    assert (graphs.replays == 3) == ("axioms" not in options)


@pytest.mark.parametrize(("last", "by_graph"), [(nn.Softmax(dim=1), True), (nn.ReLU(), False)], ids=str)
def test_the_rule_of_probabilities_is_that_of_explain(graphs, last, by_graph):
    model = nn.Sequential(TinyNet(), last)
    explainer = Explainer(model, f"0.{LAYER}", graphs=graphs)
    for call in range(5):
        found, expected = explainer(batch_of(call), 1), explain(model, batch_of(call), f"0.{LAYER}", 1)
        assert_same(found, expected)
        assert found.probability_rule == expected.probability_rule
    assert (graphs.replays > 0) == by_graph  # what a ReLU returns has to be looked at


def test_several_classes_take_one_graph(graphs):
    net = TinyNet()
    explainer = Explainer(net, LAYER, graphs=graphs)
    for call in range(5):
        inputs = batch_of(call)
        for classes in ([None, 2, [0, 4, call]], top_classes(3)):
            found, expected = (
                explainer.explain_classes(inputs, classes),
                explain_classes(net, inputs, LAYER, classes),
            )
            for one, other in zip(found, expected, strict=True):
                assert_same(one, other)
    assert (graphs.captures, graphs.replays) == (2, 6)
    assert explainer.explain_classes(batch_of(0), []) == ()


def test_other_targets_of_the_same_kind_go_through_the_same_graph(graphs):
    net = TinyNet()
    explainer = Explainer(net, LAYER, graphs=graphs)
    for call in range(8):
        assert_same(explainer(batch_of(call), call % 5), explain(net, batch_of(call), LAYER, call % 5))
    assert (graphs.captures, graphs.replays) == (1, 6)


@pytest.mark.parametrize("calls", range(5))
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (5, "no class 5: this model's classes are 0 to 4"),
        (-1, "no class -1"),
        ([0, 1, 7], "no class 7"),
        ([0, 1], "2 targets for 3 samples"),
        (1.5, "the targets are 1.5"),
    ],
)
def test_wrong_targets_are_refused_by_the_model_and_by_a_graph(graphs, calls, targets, message):
    explainer = Explainer(TinyNet(), LAYER, graphs=graphs)
    good = 1 if isinstance(targets, int) else [0, 1, 2]
    for call in range(calls):
        explainer(batch_of(call), good)
    for _ in range(2):
        with pytest.raises(XGradCamError, match=message):
            explainer(batch_of(0), targets)
    assert_same(explainer(batch_of(9), good), explain(explainer.model, batch_of(9), LAYER, good))


def test_a_function_may_choose_numbers_and_none(graphs):
    def chosen(logits):
        return [2, None, logits.argmin(dim=1)]

    net = TinyNet()
    explainer = Explainer(net, LAYER, graphs=graphs)
    for call in range(5):
        found = explainer.explain_classes(batch_of(call), chosen)
        for one, other in zip(found, explain_classes(net, batch_of(call), LAYER, chosen), strict=True):
            assert_same(one, other)
    assert graphs.replays == 3


def test_the_classes_are_chosen_once_at_the_first_layer(graphs):
    net, inputs = TinyNet().eval(), batch_of(0)
    explainers = [Explainer(net, layer, graphs=graphs) for layer in ("features.2", LAYER)]
    for _ in range(5):
        found = explain_layers(explainers, inputs, top_classes(2), guided=True)
    best = net(inputs).topk(2).indices
    for explained, layer in zip(found, ("features.2", LAYER), strict=True):
        for rank, one in enumerate(explained):
            assert torch.equal(one.targets, best[:, rank])
            expected = explain(net, inputs, layer, best[:, rank])
            torch.testing.assert_close(dict(one.maps), dict(expected.maps))
            torch.testing.assert_close(one.guided, guided_backpropagation(net, inputs, best[:, rank]))
    assert graphs.replays == 6


def test_a_function_that_chooses_a_wrong_class_is_refused(graphs):
    def chosen(logits):
        return [7]

    explainer = Explainer(TinyNet(), LAYER, graphs=graphs)
    for _ in range(5):
        with pytest.raises(XGradCamError, match="no class 7"):
            explainer.explain_classes(batch_of(0), chosen)


def test_scores_that_are_not_finite_are_refused_by_a_graph_too(graphs):
    explainer = Explainer(TinyNet(), LAYER, graphs=graphs)
    bad = batch_of(0)
    bad[1, 0, 0, 0] = torch.nan
    for call in range(6):
        with pytest.raises(NotFiniteError):
            explainer(bad, 1)
        explainer(batch_of(call), 1)
    assert (graphs.captures, graphs.replays) == (1, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "feature"}, "no layer 'feature'"),
        ({"methods": "gradcam"}, "no method 'gradcam'"),
        ({"augment": True, "axioms": True}, "leave out augment or axioms"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(XGradCamError, match=message):
        Explainer(**{"model": TinyNet(), "layer": LAYER, **arguments})


def test_inputs_that_are_no_tensor_are_refused_as_by_explain(graphs):
    with pytest.raises(XGradCamError, match="the inputs are a list"):
        Explainer(TinyNet(), LAYER, graphs=graphs)([1, 2])


@pytest.mark.parametrize("fold", [False, True])
def test_the_model_is_borrowed(graphs, fold):
    net = lived_in(TinyNet())
    before = state_of(net)
    with Explainer(net, LAYER, graphs=graphs, fold=fold) as explainer:
        for call in range(5):
            explainer(batch_of(call))
            assert_same_state(state_of(net), before)
    assert_same_state(state_of(net), before)


def test_new_weights_are_explained_and_then_make_a_new_graph(graphs):
    net = TinyNet()
    explainer = Explainer(net, LAYER, graphs=graphs)
    for call in range(10):
        if call == 5:
            with torch.no_grad():
                net.classifier[2].weight.neg_()
        assert_same(explainer(batch_of(call)), explain(net, batch_of(call), LAYER))
    assert graphs.captures == 2


@pytest.mark.parametrize("on_cpu_only", [False, True])
def test_folded_norms_follow_the_model(graphs, on_cpu_only):
    net = TinyNet()
    explainer = Explainer(net, LAYER, fold=True, graphs=None if on_cpu_only else graphs)
    for call in range(8):
        if call == 5:
            with torch.no_grad():
                net.features[1].running_mean.add_(1)
        found, expected = explainer(batch_of(call), 1), explain(net, batch_of(call), LAYER, 1)
        torch.testing.assert_close(found.maps["xgrad-cam"], expected.maps["xgrad-cam"])
        copy = explainer._folded[0]
        assert isinstance(copy.features[1], nn.Sequential)
    assert isinstance(net.features[1], nn.BatchNorm2d)
    explainer.close()
    assert explainer._folded is None


WEIGHT = "features.0.weight"
# Changes of a model: by the version of its tensors, past it, and of what is no tensor.
CHANGES = {
    "data": lambda net: net.get_parameter(WEIGHT).data.mul_(1.3),
    "numpy": lambda net: net.get_parameter(WEIGHT).detach().numpy().__imul__(1.2),
    "one number": lambda net: net.get_parameter(WEIGHT).data[0, 0, 1].zero_(),
    "exchanged": lambda net: net.get_parameter(WEIGHT).data.copy_(net.get_parameter(WEIGHT).data.flip(0)),
    "buffer": lambda net: net.features[1].running_var.numpy().__imul__(3),
    "turned": lambda net: setattr(net.get_parameter(WEIGHT), "data", net.get_parameter(WEIGHT).data.mT),
    "new data": lambda net: setattr(net.get_parameter(WEIGHT), "data", -net.get_parameter(WEIGHT).data),
    "eps": lambda net: setattr(net.features[1], "eps", 1.0),
    "stride": lambda net: setattr(net.features[0], "stride", (2, 2)),
    "module": lambda net: net.features.__setitem__(4, nn.MaxPool2d(2)),
}


@pytest.mark.parametrize("by_graph", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_folded_copy_follows_every_change(graphs, change, by_graph):
    net = tiny_of_any_size()
    explainer = Explainer(net, LAYER, fold=True, graphs=graphs if by_graph else None)
    for call in range(10):
        if call == 5:
            before = explain(net, batch_of(call), LAYER, 1)
            change(net)
        found, expected = explainer(batch_of(call), 1), explain(net, batch_of(call), LAYER, 1)
        assert isinstance(explainer._folded[0].features[1], nn.Sequential)
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(dict(found.maps), dict(expected.maps))
        if call == 5:
            assert not torch.allclose(before.logits, expected.logits)
    assert graphs.captures == 2 * by_graph


def tiny_of_any_size():
    net = TinyNet()
    net.features.append(nn.AdaptiveAvgPool2d(4))
    return net


class Turning(nn.Module):
    """Puts the channels last where its `last` is True."""

    last = False

    def forward(self, maps):
        return maps.permute(0, 2, 3, 1) if self.last else maps


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.maps, self.turn, self.head = nn.Conv2d(3, 8, 1).double(), Turning(), nn.Linear(8, 4).double()

    def forward(self, inputs):
        maps = self.turn(self.maps(inputs).tanh())
        return self.head((maps.movedim(-1, 1) if self.turn.last else maps).square().mean((2, 3)))


@pytest.mark.parametrize("layout", [None, lambda output: output], ids=["found", "function"])
@pytest.mark.parametrize("change", [CHANGES["stride"], CHANGES["module"]], ids=["stride", "module"])
def test_a_layout_is_looked_for_again_after_a_change(graphs, change, layout):
    net = tiny_of_any_size()
    explainer = Explainer(net, LAYER, layout=layout, graphs=graphs)
    for call in range(10):
        if call == 5:
            change(net)
        assert_same(explainer(batch_of(call), 1), explain(net, batch_of(call), LAYER, 1, layout=layout))
    assert graphs.captures == 2


@pytest.mark.parametrize("size", [8, 6])
@pytest.mark.parametrize("by_graph", [False, True])
def test_a_model_may_turn_from_channels_first_to_last(graphs, by_graph, size):
    model = Turned()
    explainer = Explainer(model, "turn", graphs=graphs if by_graph else None)
    for call in range(12):
        model.turn.last = call % 6 > 3
        inputs = batch_of(call)[..., :size]  # with 8 the shape tells nothing
        assert_same(explainer(inputs, 1), explain(model, inputs, "turn", 1))


def test_a_class_that_turns_is_seen_by_the_shape(monkeypatch):
    model, inputs = Turned(), batch_of(0)[..., :6]
    explainer = Explainer(model, "turn")
    first = explainer(inputs, 1)
    monkeypatch.setattr(Turning, "last", True)
    assert explainer(inputs, 1).maps["grad-cam"].shape == first.maps["grad-cam"].shape == (3, 8, 6)
    assert_same(explainer(inputs, 1), explain(model, inputs, "turn", 1))


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("layer", "features.3"),
        ("layout", "channels-last"),
        ("layout", lambda output: output.flip(3)),
        ("fold", True),
        ("probability", "sigmoid"),
    ],
    ids=["layer", "layout", "layout function", "fold", "probability"],
)
def test_a_setting_may_be_changed_between_calls(graphs, setting, value, fold):
    net = TinyNet()
    explainer = Explainer(net, LAYER, fold=fold, graphs=graphs)
    for call in range(10):
        if call == 5:
            setattr(explainer, setting, value)
        options = {"layer": LAYER} if call < 5 or setting == "fold" else {"layer": LAYER, setting: value}
        found, expected = explainer(batch_of(call), 1), explain(net, batch_of(call), targets=1, **options)
        torch.testing.assert_close(dict(found.maps), dict(expected.maps))
        torch.testing.assert_close(found.probability, expected.probability)
    assert isinstance(explainer._network(net, batch_of(0))[0].features[1], nn.Sequential) == explainer.fold


def test_norms_are_not_folded_where_that_would_change_the_layer():
    net = TinyNet()
    explainer = Explainer(net, net.features[0], fold=True)
    found, expected = explainer(batch_of(0), 1), explain(net, batch_of(0), "features.0", 1)
    assert_same(found, expected)


@pytest.mark.parametrize("by_graph", [False, True])
def test_a_model_without_norms_to_fold_runs_itself_and_its_numbers_are_not_compared(graphs, by_graph):
    net = TinyNet()
    net.features[1] = nn.Identity()
    explainer = Explainer(net, LAYER, fold=True, graphs=graphs if by_graph else None)
    for call in range(8):
        if call == 5:
            net.classifier[2].weight.data.neg_()
        if call == 6:
            net.features[1] = nn.BatchNorm2d(net.features[0].out_channels).double()
        found, expected = explainer(batch_of(call), 1), explain(net, batch_of(call), LAYER, 1)
        torch.testing.assert_close(dict(found.maps), dict(expected.maps))
        assert (explainer._folded[0] is net) == (call < 6)
        assert bool(explainer._state._values) == (call >= 6)


@pytest.mark.parametrize("keep", [False, True])
def test_memory_is_kept_only_if_that_is_asked_for(monkeypatch, keep):
    calls = []
    monkeypatch.setattr("xgradcam.runs.explainer.keep_freed_memory", lambda: calls.append(1))
    explainer = Explainer(TinyNet(), LAYER, keep_memory=keep)
    assert_same(explainer(batch_of(0)), explain(TinyNet(), batch_of(0), LAYER))
    assert len(calls) == keep


def test_a_layer_may_be_a_module(graphs):
    net = TinyNet()
    explainer = Explainer(net, net.features[4], graphs=graphs)
    for call in range(4):
        assert_same(explainer(batch_of(call)), explain(net, batch_of(call), LAYER))
    assert graphs.replays == 2


def test_autocast_of_the_caller_is_read_at_each_call(graphs):
    net = TinyNet().float()
    explainer = Explainer(net, LAYER, graphs=graphs)
    for call in range(9):
        inputs = batch_of(call).float()
        assert_same(explainer(inputs, 1), explain(net, inputs, LAYER, 1))
        with computing_in(BF16, "cpu"):
            assert_same(explainer(inputs, 1), explain(net, inputs, LAYER, 1))
    assert (graphs.captures, graphs.replays) == (2, 14)


def test_it_can_be_pickled_and_used_again_after_it_was_closed():
    explainer = Explainer(TinyNet(), LAYER, fold=True)
    first = explainer(batch_of(0), 1)
    again = pickle.loads(pickle.dumps(explainer))
    assert_same(again(batch_of(0), 1), first)
    explainer.close()
    assert_same(explainer(batch_of(0), 1), first)


def test_progress_is_told_of_evaluations():
    heard = []
    explainer = Explainer(
        TinyNet(), LAYER, ["ablation-cam"], progress=lambda done, total: heard.append((done, total))
    )
    explainer(batch_of(0, 1), 1)
    assert heard
    assert heard[-1][0] == heard[-1][1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("targets", [None, 2, [0, 4, 2]], ids=str)
def test_a_cuda_graph_computes_what_the_model_does(targets):
    net = TinyNet().cuda()
    explainer = Explainer(net, LAYER, DONE_AT_ONCE)
    for call in range(6):
        inputs = batch_of(call).cuda()
        found, expected = explainer(inputs, targets), explain(net, inputs, LAYER, targets, DONE_AT_ONCE)
        torch.testing.assert_close(dict(found.maps), dict(expected.maps))
        assert found.notes == expected.notes
    assert explainer.problem == ""
    assert any(known.graph for known in explainer._repeater._known.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_capture_that_fails_does_no_harm():
    class Waiting(TinyNet):
        def forward(self, inputs):
            torch.cuda.synchronize()
            return super().forward(inputs)

    for net in (Waiting().cuda(), TinyNet().cuda()):
        explainer = Explainer(net, LAYER)
        for call in range(5):
            inputs = batch_of(call).cuda()
            found, expected = explainer(inputs, 1), explain(net, inputs, LAYER, 1)
            torch.testing.assert_close(dict(found.maps), dict(expected.maps))
        assert bool(explainer.problem) == isinstance(net, Waiting)
        assert torch.rand(99, device="cuda").unique().numel() > 9
        torch.cuda.empty_cache()


def test_a_model_that_fails_on_channels_last_has_a_graph_without(graphs):
    class Viewing(TinyNet):
        def forward(self, inputs):
            return super().forward(inputs.view(len(inputs), -1).view(inputs.shape))

    net = Viewing()
    explainer = Explainer(net, LAYER, graphs=graphs)
    for call in range(5):
        assert_same(explainer(batch_of(call, 6), 1), explain(net, batch_of(call, 6), LAYER, 1))
    assert (explainer.problem, graphs.replays) == ("", 3)


def test_batches_are_given_to_a_graph_in_channels_last(graphs):
    net = TinyNet()
    explainer = Explainer(net, LAYER, graphs=graphs)
    for call in range(5):
        inputs = batch_of(call, 6)
        found = explainer(inputs, 1)
        torch.testing.assert_close(dict(found.maps), dict(explain(net, inputs, LAYER, 1).maps))
    assert (explainer.problem, graphs.replays) == ("", 3)
    (known,) = explainer._repeater._known.values()
    assert known.graph.tensors[0].is_contiguous(memory_format=torch.channels_last)
