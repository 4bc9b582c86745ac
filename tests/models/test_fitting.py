from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from xgradcam.errors import XGradCamError
from xgradcam.models.checkpoints import read_state_dicts
from xgradcam.models.fitting import ChannelsError, choose_state, fit
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
        ({"student": STATE, "teacher": AVERAGED}, "student, teacher", "student"),
        ({"student": below("module.backbone.", STATE), "teacher": below("backbone.", AVERAGED)},
         "student.module.backbone, teacher.backbone", "student.module.backbone"),
        ({"module": STATE, "ema_state_dict": below("module.", AVERAGED)},
         "module, ema_state_dict.module", "module"),
        ({"model": STATE, "swa": torch.optim.swa_utils.AveragedModel(nn.Linear(3, 2)).state_dict()},
         "model, swa.module", "model"),
        ({"state_dict": {**below("model.", STATE), **below("ema_model.module.", AVERAGED)}},
         "state_dict.model, state_dict.ema_model.module", "state_dict.model"),
        ({"state_dict": STATE, "callbacks": {"EMA": {"ema_state_dict": AVERAGED}}},
         "state_dict, callbacks.EMA.ema_state_dict", "state_dict"),
        ({"model": None, "ema": nn.Linear(3, 2).half(), "best": STATE}, "ema, best", "ema"),
        ({"state": {"model": below("module.", STATE), "ema_model": AVERAGED}},
         "state.model.module, state.ema_model", "state.model.module"),
        ({"generator": STATE, "g_ema": AVERAGED}, "generator, g_ema", "generator"),
        ({0: STATE, 1: AVERAGED}, "0, 1", "0"),
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
            if "swa" in name or isinstance(content.get("ema"), nn.Module):
                assert state.keys() == STATE.keys()
                continue
            weight = AVERAGED if any(word in name for word in ("ema", "teacher", "1")) else STATE
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
    end = "where there is criterion, too (--weights FILE:NAME chooses)"
    assert lines == [f"taking net of {tmp_path / 'a.pth'}, {end}"]
    assert loaded.weights.name == "net"
    assert [file.path for file in loaded.weights.files] == [tmp_path / "a.pth"]
    assert load_classifier("squeezenet1_1", "none").weights is None
    for name in ("state_dict", "model"):
        torch.save({name: state, "criterion": {"weight": torch.ones(2)}}, tmp_path / "a.pth")
        load_classifier("squeezenet1_1", str(tmp_path / "a.pth"), lines.append)
        assert lines[1:] == [f"taking {name} of {tmp_path / 'a.pth'}, {end}"]
        del lines[1:]
    for content in ({"ema": below("module.", state)}, {**below("module.", state), "n": torch.tensor(3)}):
        torch.save(content, tmp_path / "a.pth")
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


def test_what_is_left_out_of_a_state_dict_is_said(tmp_path):
    """Averaged weights under names of their own, as mmcv and latent diffusion write them, beside the raw."""
    own = tmp_path / "own.py"
    own.write_text("from torch import nn\ndef build(): return nn.Linear(3, 2)\n")
    flat = {f"ema_{key}": value for key, value in AVERAGED.items()}
    content = {
        **below("model.", STATE),
        **flat,
        "model_ema.decay": torch.tensor(0.9),
        "loss.weight": torch.ones(2),
    }
    torch.save({"state_dict": content}, tmp_path / "a.pth")
    lines = []
    loaded = load_classifier(f"{own}:build", tmp_path / "a.pth", lines.append)
    assert torch.equal(loaded.module.weight, STATE["weight"])
    assert lines == [
        f"taking state_dict of {tmp_path / 'a.pth'}, where there is ema_bias, ema_weight, loss, too "
        "(--weights FILE:NAME chooses)"
    ]
    assert loaded.weights.name == "state_dict"


def test_averages_without_names_are_said(tmp_path):
    """As torch_ema and diffusers save them: a list of tensors in the order of the parameters."""
    own = tmp_path / "own.py"
    own.write_text("from torch import nn\ndef build(): return nn.Linear(3, 2)\n")
    ema = {"decay": 0.9, "shadow_params": list(AVERAGED.values()), "collected_params": []}
    random = [torch.get_rng_state(), torch.get_rng_state()]
    torch.save({"model": STATE, "ema": ema, "rng_state_all": random}, tmp_path / "a.pth")
    lines = []
    loaded = load_classifier(f"{own}:build", tmp_path / "a.pth", lines.append)
    assert torch.equal(loaded.module.weight, STATE["weight"])
    assert [line.partition(" of ")[0] for line in lines] == ["taking model"]
    assert "where there is ema.shadow_params, too" in lines[0]


@pytest.mark.parametrize(
    ("name", "other"),
    [("state_dict", "other"), ("model", "criterion"), ("net", "other"), ("0", None)],
)
def test_the_state_dict_that_was_taken_can_be_seen(tmp_path, name, other):
    own = tmp_path / "own.py"
    own.write_text("from torch import nn\ndef build(): return nn.Linear(3, 2)\n")
    content = {int(name) if name == "0" else name: STATE}
    torch.save(content | ({other: {"x": torch.ones(2)}} if other else {}), tmp_path / "a.pth")
    lines = []
    weights = load_classifier(f"{own}:build", tmp_path / "a.pth", lines.append).weights
    assert weights.name == name
    assert weights.files[0].bytes == (tmp_path / "a.pth").stat().st_size
    assert weights.files[0].modified == (tmp_path / "a.pth").stat().st_mtime_ns
    assert len(lines) == bool(other)
    chosen = load_classifier(f"{own}:build", f"{tmp_path / 'a.pth'}:{name}", lines.append).weights
    assert chosen.name == name
    assert len(lines) == bool(other)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
    ids=str,
)  # fmt: skip
def test_other_number_types_are_converted(tmp_path, dtype):
    torch.save({key: value.to(dtype) for key, value in STATE.items()}, tmp_path / "a.pth")
    model = nn.Linear(3, 2)
    fit(model, read_state_dicts(tmp_path / "a.pth")[""], "a")
    assert model.weight.dtype == torch.float32
    assert model.weight.tolist() == STATE["weight"].tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: STATE["weight"].to(torch.int8), "of int8, and the model's of float32: convert it"),
        (lambda: STATE["weight"].to(torch.uint8), "of uint8, and the model's of float32: convert it"),
        *((lambda dtype=dtype: STATE["weight"].to(dtype), f"of {dtype}, and the model's of float32".replace(
            "torch.", "")) for dtype in (torch.int16, torch.uint16, torch.int32, torch.int64)),
        (lambda: STATE["weight"] > 1, "of bool, and the model's of float32: convert it"),
        (lambda: torch.zeros(2, 3, dtype=torch.uint8).view(torch.bits8), "of bits8, and the model's of"),
        (lambda: STATE["weight"].to(torch.complex64), "a complex tensor"),
        (lambda: STATE["weight"].to_sparse(), "a sparse tensor"),
        (lambda: STATE["weight"].to_sparse_csr(), "a sparse tensor"),
        (lambda: torch.empty(2, 3, device="meta"), "a tensor without values, of the meta device"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested tensor"),
        (lambda: torch.quantize_per_tensor(STATE["weight"], 0.1, 0, torch.qint8), "a quantised tensor"),
        (lambda: torch.quantize_per_channel(STATE["weight"], torch.ones(2), torch.zeros(2), 0, torch.qint8),
         "a quantised tensor"),
    ],
    ids=lambda value: value[:22] if isinstance(value, str) else "",
)  # fmt: skip
def test_tensors_that_a_network_cannot_have_are_named_with_their_file(tmp_path, make, reason):
    torch.save({**STATE, "weight": make()}, tmp_path / "a.pth")
    state = read_state_dicts(tmp_path / "a.pth")[""]
    with pytest.raises(XGradCamError) as caught:
        fit(nn.Linear(3, 2), state, "a.pth")
    assert str(caught.value).startswith(f"cannot use weights a.pth: weight is {reason}")
    assert str(caught.value).isprintable()


def test_fractions_are_no_indices():
    class Indexed(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self.register_buffer("index", torch.zeros(2, dtype=torch.int64))

    model = Indexed()
    fit(model, {**STATE, "index": torch.tensor([1.0, 5.0])}, "a")
    assert model.index.tolist() == [1, 5]
    with pytest.raises(XGradCamError, match=r"index is of float32, and the model's of int64"):
        fit(model, {**STATE, "index": torch.tensor([1.5, 5.0])}, "a")


def test_integers_are_no_weights_but_may_be_buffers():
    model = nn.BatchNorm1d(3)
    state = {
        "weight": torch.tensor([1.0, 2.0, 3.0]), "bias": torch.zeros(3),
        "running_mean": torch.tensor([0, 1, 2]), "running_var": torch.ones(3),
        "num_batches_tracked": torch.tensor(7, dtype=torch.int32),
    }  # fmt: skip
    fit(model, state, "a")
    assert model.weight.tolist() == [1, 2, 3]
    assert model.running_mean.tolist() == [0, 1, 2]
    assert model.num_batches_tracked.item() == 7
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64):
        with pytest.raises(
            XGradCamError, match=r"cannot use weights a: bias is of u?int\d+, and the model's of"
        ):
            fit(model, {**state, "bias": torch.zeros(3, dtype=dtype)}, "a")


def test_numbers_that_share_memory_get_memory_of_their_own(tmp_path):
    expanded = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    assert expanded.stride() == (1, 0)
    torch.save({**STATE, "weight": expanded}, tmp_path / "a.pth")
    model = nn.Linear(3, 2)
    fit(model, read_state_dicts(tmp_path / "a.pth")[""], "a")
    assert model.weight.tolist() == [[1, 1, 1], [2, 2, 2]]
    with torch.no_grad():
        model.weight[0, 0] = 7
    assert model.weight.tolist() == [[7, 1, 1], [2, 2, 2]]


def test_state_that_is_no_tensor_is_the_models_own():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"scale": 3}

        def set_extra_state(self, state):
            raise AssertionError("there is none in the file")

    model = Extra(3, 2)
    fit(model, choose_state({"": STATE}, model, "a")[1], "a")
    assert torch.equal(model.weight, STATE["weight"])


def test_a_first_convolution_of_other_channels_is_named():
    def network(channels, classes=2):
        return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, classes))

    for has, its, said in ((1, 3, "1 channel and the model's 3"), (4, 3, "4 channels and the model's 3"),
                           (3, 1, "3 channels and the model's 1")):  # fmt: skip
        with pytest.raises(ChannelsError) as caught:
            fit(network(its), network(has).state_dict(), "a")
        assert caught.value.channels == has
        assert str(caught.value).endswith(
            f"its first convolution takes {said}: build the model so, in a file.py:function of your own"
        )
    with pytest.raises(
        ChannelsError, match=r"takes 1 channel .*; are they of 5 classes\? then give --num-cla"
    ):
        fit(network(3), network(1, 5).state_dict(), "a")
    other = network(3)
    other[1] = nn.Conv2d(5, 4, 3)
    with pytest.raises(XGradCamError, match=r"1\.weight \(4, 5, 3, 3\), the model's is \(4, 4, 3, 3\)$"):
        fit(network(3), other.state_dict(), "a")
