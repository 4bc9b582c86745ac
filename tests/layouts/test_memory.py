import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn

from xgradcam.cam.explain import explain
from xgradcam.capture.layers import list_layers
from xgradcam.errors import XGradCamError
from xgradcam.layouts.memory import known_layouts
from xgradcam.lending.hooks import on_all_modules

# A global variable, which no model holds.
RUNS = []


def by_rows(maps):
    return maps.flatten(2).mT


def by_columns(maps):
    return maps.mT.flatten(2).mT


class Order(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order = order

    def forward(self, maps):
        return self.order(maps)


class Tokens(nn.Module):
    """A network of tokens in an order that it is told in several ways."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 2, 2), nn.LayerNorm(4), nn.Linear(4, 2)
        self.order, self.columns, self.settings = Order(by_rows), False, {"orders": ["rows"]}

    def forward(self, images):
        RUNS.append(len(images))
        columns = self.columns or "columns" in self.settings["orders"]
        tokens = by_columns(self.conv(images)) if columns else self.order(self.conv(images))
        return self.head(self.norm(tokens).mean(dim=1))


def runs_of(function):
    RUNS.clear()
    function()
    return len(RUNS)


def test_the_model_runs_once_where_the_layout_is_known():
    model, images = Tokens().eval(), torch.randn(1, 3, 8, 8)
    assert runs_of(lambda: explain(model, images, "norm")) > 1
    assert runs_of(lambda: explain(model, images, "norm")) == 1
    assert runs_of(lambda: explain(model, images + 1, "norm")) == 1
    list_layers(model, images)
    assert runs_of(lambda: list_layers(model, images)) == 1
    # Another shape is another question.
    assert runs_of(lambda: explain(model, torch.randn(1, 3, 8, 12), "norm")) > 1


def test_what_was_refused_is_refused_again_by_one_run_in_the_same_words():
    model, images, errors, runs = Tokens().eval(), torch.randn(1, 3, 8, 8), [], []
    model.columns = True
    for _ in range(2):
        RUNS.clear()
        with pytest.raises(XGradCamError, match="not certain") as error:
            explain(model, images, "norm")
        errors.append(str(error.value))
        runs.append(len(RUNS))
    assert errors[0] == errors[1]
    assert runs[0] > runs[1] == 1


def in_an_attribute(model):
    model.columns = True


def in_a_list(model):
    model.settings["orders"][0] = "columns"


def in_a_module(model):
    model.order = Order(by_columns)


def in_an_attribute_of_a_module(model):
    model.order.order = by_columns


def in_a_class(model):
    class Columns(Order):
        def forward(self, maps):
            return by_columns(maps)

    model.order.__class__ = Columns


def in_a_hook(model):
    model.order.register_forward_hook(lambda _module, _inputs, output: output.flip(1))


def in_a_forward(model):
    model.order.forward = by_columns


CHANGES = [
    in_an_attribute,
    in_a_list,
    in_a_module,
    in_an_attribute_of_a_module,
    in_a_class,
    in_a_hook,
    in_a_forward,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_asked_anew(change):
    torch.manual_seed(0)
    model, images = Tokens().eval(), torch.randn(1, 3, 8, 8)
    explain(model, images, "norm")
    change(model)
    with pytest.raises(XGradCamError, match=r"layer 'norm': the layout of shape .* is not certain"):
        explain(model, images, "norm")
    assert next(layer for layer in list_layers(model, images) if layer.name == "norm").layout is None


@pytest.mark.parametrize("bind", ["closure", "partial", "method"])
def test_what_a_function_of_the_model_holds_belongs_to_it(bind):
    torch.manual_seed(0)
    state, images = {"columns": False}, torch.randn(1, 3, 8, 8)

    class Chooser:
        def __init__(self):
            self.state = state

        def choose(self, maps):
            return chosen(self.state, maps)

    def chosen(state, maps):
        return by_columns(maps) if state["columns"] else by_rows(maps)

    orders = {
        "closure": lambda maps: chosen(state, maps),
        "partial": partial(chosen, state),
        "method": Chooser().choose,
    }
    model = Tokens().eval()
    model.order.order = orders[bind]
    explain(model, images, "norm")
    state["columns"] = True
    with pytest.raises(XGradCamError, match="not certain"):
        explain(model, images, "norm")


class Rude:
    """A thing that answers by an error whatever it is asked."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


def test_a_model_may_hold_anything():
    torch.manual_seed(0)
    model, images = Tokens().eval(), torch.randn(1, 3, 8, 8)
    expected = explain(model, images, "norm").maps["xgrad-cam"]
    model.settings["thing"] = Rude()
    for _ in range(2):
        assert torch.equal(explain(model, images, "norm").maps["xgrad-cam"], expected)


def test_a_traced_module_is_a_part_as_others_are():
    torch.manual_seed(0)
    model, images = Tokens().eval(), torch.randn(1, 3, 8, 8)
    expected = explain(model, images, "norm").maps["xgrad-cam"]
    model.head = torch.jit.trace(model.head, torch.randn(1, 4))
    for _ in range(2):
        assert torch.equal(explain(model, images, "norm").maps["xgrad-cam"], expected)


def test_a_model_is_not_kept_alive_though_its_parts_know_it():
    model = Tokens().eval()
    model.order.owner = [model]
    model.order.order = partial(lambda _model, maps: by_rows(maps), model)
    explain(model, torch.randn(1, 3, 8, 8), "norm")
    left = weakref.ref(model)
    del model
    gc.collect()
    assert left() is None


class Block(nn.Module):
    """Four maps of 4 x 4, which are put last where `turned` is True; its activation runs twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.turned, self.runs = False, 0

    def forward(self, images):
        self.runs += 1
        maps = self.norm(self.relu(self.conv(images)))
        maps += 1
        maps = self.relu(maps)
        return maps.permute(0, 2, 3, 1) if self.turned else maps


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block, self.head = nn.Sequential(Block()), nn.Linear(4, 3)

    def forward(self, images):
        maps = self.block(images)
        turned = self.block[0].turned or getattr(self, "hooked", False)
        return self.head(maps.mean(dim=(1, 2) if turned else (2, 3)))


def turn(model):
    model.block[0].turned = True


def turn_by_a_hook(model):
    model.hooked = model.block.register_forward_hook(lambda _module, _given, maps: maps.permute(0, 2, 3, 1))


def replace_by_a_turned_one(model):
    model.block[0] = Block()
    turn(model)


def forget_the_norm(model):
    del model.block[0].norm
    model.block[0].norm = nn.Identity()
    turn(model)


@pytest.mark.parametrize("layer", ["block", "block.0", "block.0.relu", "block.0.norm"])
@pytest.mark.parametrize("change", [turn, turn_by_a_hook, replace_by_a_turned_one, forget_the_norm])
def test_what_a_type_told_before_is_asked_for_again(change, layer):
    model, images = Turned().eval(), torch.randn(2, 3, 8, 8)
    layer_of = {"layer": layer, "run": 1 if layer == "block.0.relu" else None}
    for _ in range(2):
        explain(model, images, **layer_of)
    change(model)
    fresh = Turned().eval()
    change(fresh)
    fresh.load_state_dict(model.state_dict())
    for _ in range(2):
        found, expected = (explain(one, images, **layer_of).maps["grad-cam"] for one in (model, fresh))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("layer", ["block", "block.0", "block.0.norm"])
@pytest.mark.parametrize("hooks", [1, 2])
def test_methods_that_ask_again_do_so_where_the_layers_own_hooks_are(layer, hooks):
    model, images = Turned().eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(hooks):
        model.get_submodule(layer).register_forward_hook(lambda _module, _given, maps: maps.tanh() * 2)
    asked = ["ablation-cam", "score-cam", "xgrad-cam"]
    found = [explain(model, images, layer, 1, asked, axioms=True) for _ in range(3)]
    for one in found[1:]:
        for method in asked:
            torch.testing.assert_close(one.maps[method], found[0].maps[method], rtol=0, atol=0)
            assert torch.equal(one.sensitivity[method], found[0].sensitivity[method])


def test_a_model_whose_types_tell_is_neither_watched_nor_read_again(monkeypatch):
    model, images = Turned().eval(), torch.randn(1, 3, 8, 8)
    expected = explain(model, images, "block").maps["xgrad-cam"]

    def refuse(*_args):
        raise AssertionError

    monkeypatch.setattr("xgradcam.layouts.watching.on_all_modules", refuse)
    monkeypatch.setattr("xgradcam.layouts.watching.known_layouts", refuse)
    model.block[0].runs = 0
    found = explain(model, images, "block").maps["xgrad-cam"]
    assert model.block[0].runs == 1
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    turn(model)
    with pytest.raises(AssertionError):
        explain(model, images, "block")


def test_a_layout_is_known_while_another_thread_watches_another_model():
    model, images = Turned().eval(), torch.randn(1, 3, 8, 8)
    explain(model, images, "block")
    known = known_layouts(model)

    def elsewhere():
        hook = on_all_modules(lambda *_: None)
        return hook

    with ThreadPoolExecutor(1) as threads, threads.submit(elsewhere).result(20):
        assert known_layouts(model) is known
    with on_all_modules(lambda *_: None):
        assert known_layouts(model) is not known
