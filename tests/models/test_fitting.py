from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from xgradcam.errors import XGradCamError
from xgradcam.models.checkpoints import read_state_dicts
from xgradcam.models.fitting import choose_state, fit
from xgradcam.models.load import load_classifier
from xgradcam.models.rebuilding import Unreadable

STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.tensor([7.0, 8.0]))
AVERAGED = {key: value + 1 for key, value in STATE.items()}


class Within(nn.Module):
    """A model with a part of this name."""

    def __init__(self, name):
        super().__init__()
        self.add_module(name, nn.Linear(3, 2))


def below(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def saved(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    return read_state_dicts(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.model."]
)
@pytest.mark.parametrize("part", ["head", "module", "model"])
def test_what_wraps_a_model_is_stripped_from_its_names(prefix, part):
    model = Within(part)
    name, state = choose_state({"": below(f"{prefix}{part}.", STATE)}, model, "a")
    assert name == ""
    assert_same(state, below(f"{part}.", STATE))
    fit(model, state, "a")
    assert torch.equal(getattr(model, part).weight, STATE["weight"])


@pytest.mark.parametrize(
    "beside",
    [
        {"criterion": {"weight": torch.ones(2)}},
        {"criterion": nn.CrossEntropyLoss(torch.ones(2))},
        {"history": {"loss": torch.ones(3)}, "mean": torch.ones(3)},
        {"rng": torch.get_rng_state(), "scaler": {"scale": torch.ones(1)}},
        {"generator": nn.Conv2d(3, 2, 1, bias=False).state_dict(), "args": {"lr": 0.1}},
    ],
    ids=lambda beside: next(iter(beside)),
)
@pytest.mark.parametrize("name", ["state_dict", "net", ""])
def test_the_one_with_all_names_of_the_model_is_taken(tmp_path, beside, name):
    content = {**beside, name: STATE} if name else {**STATE, **beside}
    chosen, state = choose_state(saved(tmp_path, content), nn.Linear(3, 2), "a")
    assert chosen == name
    assert torch.equal(state["weight"], STATE["weight"])


def test_what_was_saved_beside_the_model_under_its_own_prefix_is_left_out():
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(3, 2))
    averaged.module.load_state_dict(STATE)
    assert "n_averaged" in averaged.state_dict()
    lightning = {**below("model.", STATE), "criterion.weight": torch.ones(2)}
    for content in (averaged.state_dict(), lightning):
        _, state = choose_state({"": content}, nn.Linear(3, 2), "a")
        assert_same(state, STATE)


@pytest.mark.parametrize(
    ("content", "names", "example"),
    [
        ({"state_dict": STATE, "state_dict_ema": AVERAGED}, "state_dict, state_dict_ema", "state_dict"),
        ({"model": STATE, "model_ema": below("module.", AVERAGED)}, "model, model_ema.module", "model"),
        ({"net": STATE, "ema": {"state_dict": AVERAGED}}, "net, ema.state_dict", "net"),
        ({"state_dict": {**below("model.", STATE), **below("teacher.", AVERAGED)}},
         "state_dict.model, state_dict.teacher", "state_dict.model"),
        ({**below("model.", STATE), **below("ema.", AVERAGED)}, "model, ema", "model"),
        ({**STATE, **below("ema.", AVERAGED)}, "the whole, ema", "ema"),
        ({**STATE, "ema": AVERAGED}, "the whole, ema", "ema"),
    ],
)  # fmt: skip
def test_several_are_refused_and_one_can_be_chosen(tmp_path, content, names, example):
    model = nn.Linear(3, 2)
    reason = (
        f"several state dicts in a.pth have all names of this Linear: {names}; choose one: --weights FILE:"
    )
    with pytest.raises(XGradCamError) as caught:
        choose_state(saved(tmp_path, content), model, "a.pth")
    assert str(caught.value) == reason + example
    for name in names.split(", "):
        if name != "the whole":
            _, state = choose_state(read_state_dicts(tmp_path / "a.pth", name), model, "a.pth")
            weight = AVERAGED if "ema" in name or name.endswith("teacher") else STATE
            assert_same(state, weight)


def test_several_are_refused_if_one_lacks_the_counters():
    norm = nn.BatchNorm1d(3)
    old = {key: value for key, value in norm.state_dict().items() if not key.startswith("num_")}
    _, state = choose_state({"": below("model.", old)}, norm, "a")
    assert_same(state, old)
    other = below("teacher.", {key: value + 1 for key, value in norm.state_dict().items()})
    with pytest.raises(XGradCamError, match="have all names of this BatchNorm1d: model, teacher; choose"):
        choose_state({"": {**below("model.", old), **other}}, norm, "a")


def test_a_model_that_was_saved_twice_is_one(tmp_path):
    model = nn.Linear(3, 2)
    states = saved(tmp_path, {"model": model, "state_dict": model.state_dict()})
    assert list(states) == ["model", "state_dict"]
    name, state = choose_state(states, nn.Linear(3, 2), "a")
    assert name == "model"
    assert_same(state, model.state_dict())


def test_where_none_has_all_names_the_usual_or_only_one_is_compared(tmp_path):
    other = {"other": torch.ones(2)}
    model = nn.Linear(3, 2)
    for content, name in (({"x": STATE}, "x"), ({"ema": other, "model": other, "x": STATE}, "model")):
        lacking = {key: {k: v for k, v in state.items() if k != "bias"} for key, state in content.items()}
        chosen, state = choose_state(saved(tmp_path, lacking), model, "a")
        assert chosen == name
        with pytest.raises(XGradCamError, match=r"weights of a do not fit this Linear: missing: .*bias"):
            fit(model, state, "a")
    reason = (
        r"^none of the state dicts in a has all names of this Linear: x, y; choose one: --weights FILE:x$"
    )
    with pytest.raises(XGradCamError, match=reason):
        choose_state(saved(tmp_path, {"x": {"weight": STATE["weight"]}, "y": other}), model, "a")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"module.net.weight": STATE["weight"]}, r"missing: bias$"),
        (
            {"a.b.c": STATE["weight"], "a.b.d": STATE["bias"]},
            r"missing: weight, bias; unknown: a\.b\.c, a\.b\.d$",
        ),
        ({"a." * 3000 + "weight": torch.ones(2, 3)}, r"missing: weight, bias; unknown: a\.a\."),
    ],
    ids=["wrapped", "other", "deep"],
)
def test_shared_first_names_are_stripped_if_the_models_are_behind_them(state, reason):
    model = nn.Linear(3, 2)
    _, chosen = choose_state({"": state}, model, "a")
    with pytest.raises(XGradCamError, match=rf"^weights of a do not fit this Linear: {reason}"):
        fit(model, chosen, "a")


def test_a_name_that_the_model_has_is_no_wrapper():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {key: value for key, value in model.state_dict().items() if key.startswith("0.")}
    with pytest.raises(XGradCamError, match=r"missing: 1\.weight, 1\.bias$"):
        fit(model, choose_state({"": state}, model, "a")[1], "a")


def test_fit_takes_the_tensors_without_a_copy():
    model = nn.Linear(3, 2)
    fit(model, STATE, "here")
    assert model.weight.data_ptr() == STATE["weight"].data_ptr()
    fit(model, {key: value.half() for key, value in STATE.items()}, "here")
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight, STATE["weight"])


def test_fit_names_what_does_not_fit():
    with pytest.raises(
        XGradCamError, match=r"weights of here do not fit this Linear: missing: bias; unknown: extra$"
    ):
        fit(nn.Linear(3, 2), {"weight": STATE["weight"], "extra": STATE["bias"]}, "here")
    with pytest.raises(XGradCamError, match=r"of another shape: weight \(2, 3\), the model's is \(2, 4\)$"):
        fit(nn.Linear(4, 2), STATE, "here")
    with pytest.raises(XGradCamError, match=r"unknown: 0, 1, 2 and 7 more$"):
        fit(nn.Linear(3, 2), {**STATE, **{str(index): STATE["bias"] for index in range(10)}}, "here")


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (Unreadable("a sparse tensor"), "a sparse tensor"),
        (torch.ones(2, 3, dtype=torch.complex64), "a complex tensor"),
        (torch.ones(1, dtype=torch.half).expand(2**40), None),
    ],
)
def test_fit_refuses_tensors_that_the_model_cannot_have(tensor, kind):
    reason = (
        f"cannot use weights here: weight is {kind}$" if kind else r"weight \(1099511627776,\), the model's"
    )
    with pytest.raises(XGradCamError, match=reason):
        fit(nn.Linear(3, 2), {**STATE, "weight": tensor}, "here")


@pytest.mark.filterwarnings("ignore")
def test_fit_tells_quantised_tensors_from_others():
    quantised = torch.quantize_per_tensor(STATE["weight"], 0.1, 0, torch.qint8)
    with pytest.raises(XGradCamError, match="cannot use weights here: weight is a quantised tensor"):
        fit(nn.Linear(3, 2), {**STATE, "weight": quantised}, "here")


def test_fit_knows_another_number_of_classes_from_another_width():
    with pytest.raises(XGradCamError, match=r"; are they of 2 classes\? then give --num-classes 2$"):
        fit(nn.Linear(3, 5), STATE, "here")
    for model in (nn.Linear(4, 5), nn.Linear(3, 5, bias=False)):
        with pytest.raises(XGradCamError, match="do not fit") as caught:
            fit(model, STATE, "here")
        assert "num-classes" not in str(caught.value)


def test_counters_and_names_of_old_checkpoints_are_mended():
    norm = nn.BatchNorm2d(2)
    fit(norm, {key: value for key, value in norm.state_dict().items() if "num_batches" not in key}, "old")
    assert norm.num_batches_tracked == 0

    dense = nn.ModuleDict({"denselayer1": nn.ModuleDict({"norm1": nn.BatchNorm2d(2)})})
    old = {key.replace("norm1", "norm.1"): value + 1 for key, value in dense.state_dict().items()}
    for state in (old, choose_state({"": below("module.", old)}, dense, "old")[1]):
        fit(dense, state, "old")
        assert dense["denselayer1"]["norm1"].weight.tolist() == [2, 2]


def test_a_classifier_says_which_of_several_it_took(tmp_path):
    source = load_classifier("squeezenet1_1", "none").module
    state = source.state_dict()
    content = {"net": state, "criterion": {"weight": torch.ones(2)}}
    torch.save(content, tmp_path / "a.pth")
    lines = []
    loaded = load_classifier("squeezenet1_1", str(tmp_path / "a.pth"), lines.append)
    assert_same(loaded.module.state_dict(), state)
    assert lines == [f"taking net of {tmp_path / 'a.pth'}, where there is criterion, too"]
    for name in ("state_dict", "model"):
        torch.save({name: state, "criterion": {"weight": torch.ones(2)}}, tmp_path / "a.pth")
        load_classifier("squeezenet1_1", str(tmp_path / "a.pth"), lines.append)
    torch.save({"ema": below("module.", state)}, tmp_path / "a.pth")
    load_classifier("squeezenet1_1", str(tmp_path / "a.pth"), lines.append)
    assert len(lines) == 1


def test_a_classifier_takes_the_weights_that_are_chosen(tmp_path):
    path = tmp_path / "a.pth"
    states = [
        {
            key: value + add
            for key, value in load_classifier("squeezenet1_1", "none").module.state_dict().items()
        }
        for add in (0, 1)
    ]
    torch.save({"state_dict": states[0], "ema": {"state_dict": states[1]}}, path)
    with pytest.raises(
        XGradCamError, match=r"SqueezeNet: state_dict, ema\.state_dict; choose one: --weights"
    ):
        load_classifier("squeezenet1_1", str(path))
    for name, state in (("state_dict", states[0]), ("ema.state_dict", states[1])):
        loaded = load_classifier("squeezenet1_1", f"{path}:{name}").module
        assert_same(loaded.state_dict(), state)
    own = Path(tmp_path / "own.py")
    own.write_text("from torchvision.models import squeezenet1_1 as build")
    assert_same(load_classifier(f"{own}:build", f"{path}:ema.state_dict").module.state_dict(), states[1])
    with pytest.raises(
        XGradCamError, match=r"no state dict 'raw' in .*; there is: state_dict, ema\.state_dict$"
    ):
        load_classifier("squeezenet1_1", f"{path}:raw")
