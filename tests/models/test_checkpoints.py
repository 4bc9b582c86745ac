import argparse
import datetime
import enum
import io
import os
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xgradcam.errors import XGradCamError
from xgradcam.models.checkpoints import read_state_dicts, split_weights

STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.tensor([7.0, 8.0]))
OTHER = OrderedDict((key, value + 1) for key, value in STATE.items())


class Several(list):
    pass


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value)


def only_state_in(path):
    (state,) = read_state_dicts(path).values()
    return state


@pytest.mark.parametrize("nested", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_is_read_by_its_name(tmp_path, nested, zipped, protocol):
    path = tmp_path / "a.pth"
    content = {nested: STATE, "epoch": 3} if nested else STATE
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    states = read_state_dicts(path)
    assert list(states) == [nested or ""]
    assert_same(states[nested or ""], STATE)


def test_safetensors_are_read(tmp_path):
    save_file(dict(STATE), tmp_path / "a.safetensors")
    assert_same(dict(sorted(only_state_in(tmp_path / "a.safetensors").items())), dict(sorted(STATE.items())))


class Optimizer(enum.Enum):
    SGD = "sgd"


class Config(dict):
    def __init__(self, **entries):
        super().__init__(entries)
        vars(self).update(entries)


class Sizes(list):
    def __init__(self, sizes):
        super().__init__(sizes)
        self.total = sum(sizes)


class States(OrderedDict):
    pass


class Marked(torch.Tensor):
    pass


class OwnLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("kept", torch.zeros(1))
        self.register_buffer("computed", torch.zeros(1), persistent=False)
        self.register_buffer("absent", None)
        self.options = {"shape": (1, 2)}


@pytest.mark.parametrize(
    "beside",
    [
        {"args": argparse.Namespace(lr=0.1, data_path=Path("photographs"))},
        {"best": np.float64(0.9), "epoch": np.int64(3), "losses": np.zeros(3)},
        {"history": defaultdict(list, {"loss": [1.0]}), "count": Counter("ab")},
        {"losses": deque([1.0, 2.0], maxlen=20), "config": Config(lr=0.1, sizes=Sizes([1, 2]))},
        {"date": datetime.date(2026, 1, 1), "mode": Optimizer.SGD, "device": torch.device("cpu")},
        {"seen": {1, 2}, "kept": frozenset("ab"), "raw": bytearray(b"abc"), (1, (2, 3)): "a tuple"},
        {"best_loss": torch.tensor(0.1), "logits": {"history": {"loss": torch.tensor(0.9)}}},
        {"optimizer": torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict()},
    ],
    ids=lambda beside: "-".join(map(str, beside)),
)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_training_saves_beside_the_weights_is_passed_over(tmp_path, beside, zipped, protocol):
    torch.save(
        {**beside, "net": STATE},
        tmp_path / "a.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    states = read_state_dicts(tmp_path / "a.pth")
    assert list(states) == ["net"]
    assert_same(states["net"], STATE)


def test_adam_with_a_state_is_no_state_dict(tmp_path):
    weight = nn.Parameter(torch.ones(2))
    adam = torch.optim.Adam([weight])
    weight.sum().backward()
    adam.step()
    assert len(adam.state_dict()["state"][0]) == 3
    torch.save({"model": STATE, "optimizer": adam.state_dict()}, tmp_path / "a.pth")
    assert list(read_state_dicts(tmp_path / "a.pth")) == ["model"]


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_tensors_of_a_pickled_model_are_those_of_its_state_dict(tmp_path, zipped, protocol):
    model = nn.DataParallel(
        nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), OwnLayer(), nn.Linear(4, 2))
    )
    for name, content in (("", model), ("model", {"model": model, "epoch": 3}), ("net", {"net": model})):
        torch.save(content, tmp_path / "a", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        states = read_state_dicts(tmp_path / "a")
        assert list(states) == [name]
        assert_same(states[name], model.state_dict())


def test_the_versions_by_which_old_layouts_are_known_are_kept(tmp_path):
    norm = nn.Sequential(nn.BatchNorm2d(2))
    torch.save(norm.state_dict(), tmp_path / "a.pth")
    metadata = only_state_in(tmp_path / "a.pth")._metadata
    assert metadata["0"] == {"version": nn.BatchNorm2d._version} == {"version": 2}
    for malformed in (5, {"": 5}, {"0": {"version": "x"}}):
        state = norm.state_dict()
        state._metadata = malformed
        torch.save(state, tmp_path / "a.pth")
        assert not hasattr(only_state_in(tmp_path / "a.pth"), "_metadata")


def test_an_ordered_dictionary_of_python_2_is_read(tmp_path):
    # `OrderedDict([["weight", ...], ["bias", ...]])`, as that wrote it.
    class Pairs:
        def __reduce__(self):
            return OrderedDict, ([[key, value] for key, value in STATE.items()],)

    torch.save(Pairs(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert_same(only_state_in(tmp_path / "a.pth"), STATE)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "folder", "missing", "pipe"])
def test_damaged_files_are_named(tmp_path, name, damage):
    path = tmp_path / name
    if name == "a.pth":
        torch.save(STATE, path)
    else:
        save_file(dict(STATE), path)
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "text": b"hello, I am no checkpoint", "cut": content[: len(content) // 2]}[damage]
        )
    problem = "not a regular file:" if damage == "pipe" else "cannot read weights"
    with pytest.raises(XGradCamError, match=rf"^{problem} \S*{name}\b") as caught:
        read_state_dicts(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_without_its_end_is_called_an_incomplete_download(tmp_path, kind):
    state = {"weight": torch.ones(300, 300), "bias": torch.ones(300)}
    path = tmp_path / "a.pth"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    for end in (200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(
            XGradCamError, match=r"an incomplete download or copy\? download the file itself$"
        ):
            read_state_dicts(path)


def test_a_name_in_a_file_that_is_one_state_dict_gets_advice(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    with pytest.raises(XGradCamError, match=r"the file is one state dict: give it without :foo$"):
        read_state_dicts(tmp_path / "a.pth", "foo")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_cut_of_a_file_is_refused_in_one_line(tmp_path, zipped):
    torch.save({"net": STATE}, tmp_path / "whole", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "whole").read_bytes()
    for end in range(0, len(content), 7):
        (tmp_path / "cut").write_bytes(content[:end])
        with pytest.raises(XGradCamError, match=r"^cannot read weights .*/cut: [^\n]*$"):
            read_state_dicts(tmp_path / "cut")


def test_a_flipped_byte_gives_a_state_dict_or_one_line(tmp_path):
    for zipped in (True, False):
        torch.save({"net": STATE}, tmp_path / "whole", _use_new_zipfile_serialization=zipped)
        content = bytearray((tmp_path / "whole").read_bytes())
        outcomes = Counter()
        for place in range(0, len(content), 7):
            content[place] ^= 0x55
            (tmp_path / "flipped").write_bytes(content)
            content[place] ^= 0x55
            try:
                states = read_state_dicts(tmp_path / "flipped")
            except XGradCamError as error:
                outcomes["refused" if "\n" not in str(error) else "refused in several lines"] += 1
            else:
                assert all(isinstance(key, str) for state in states.values() for key in state)
                outcomes["read"] += 1
        assert set(outcomes) == {"refused", "read"}
        assert min(outcomes.values()) > 10


def test_what_is_no_tensor_in_a_state_dict_is_passed_over(tmp_path):
    torch.save(
        {"weight": STATE["weight"], "bias": None, 0: STATE["bias"], "sizes": [1, 2]}, tmp_path / "a.pth"
    )
    assert_same(only_state_in(tmp_path / "a.pth"), {"weight": STATE["weight"]})


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (3, ""),
        ([1, 2], ""),
        ({}, ""),
        ({"epoch": 3, "args": {"lr": 0.1}}, "; there is: epoch, args"),
        ({0: torch.ones(1)}, ""),
        ({"best": torch.tensor(0.9)}, "; there is: best"),
    ],
)
def test_a_file_without_state_dict_says_what_it_has(tmp_path, content, names):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(XGradCamError, match=rf"^no state dict in .*a\.pth{names}: save a state dict"):
        read_state_dicts(tmp_path / "a.pth")


def test_every_state_dict_of_a_file_is_found_once(tmp_path):
    state, ema, loss = nn.Linear(2, 3).state_dict(), nn.Linear(2, 3).state_dict(), torch.ones(2)
    content = {
        "epoch": 3,
        "state_dict": state,
        "again": state,
        "callbacks": {"EMA": {"weights": ema, "decay": 0.9}},
        "criterion": nn.CrossEntropyLoss(loss),
        "mean": torch.ones(3),
    }
    torch.save(content, tmp_path / "a.pth")
    states = read_state_dicts(tmp_path / "a.pth")
    assert list(states) == ["", "state_dict", "criterion", "callbacks.EMA.weights"]
    assert_same(states[""], {"mean": torch.ones(3)})
    assert_same(states["state_dict"], state)
    assert_same(states["criterion"], {"weight": loss})
    assert_same(states["callbacks.EMA.weights"], ema)


def test_a_name_chooses_one_state_dict(tmp_path):
    path = tmp_path / "a.pth"
    ema = {key: value + 1 for key, value in STATE.items()}
    other = {key: value + 2 for key, value in STATE.items()}
    content = {"epoch": 3, "model": STATE, "ema": {"state_dict": ema, "v1.0": {"b.c": other}}}
    torch.save(
        {**content, "both": {**{f"raw.{key}": STATE[key] for key in STATE}, "step": torch.ones(1)}}, path
    )
    for name, expected in (
        ("model", STATE),
        ("ema.state_dict", ema),
        ("ema.v1.0.b.c", other),
        ("both.raw", STATE),
    ):
        states = read_state_dicts(path, name)
        assert list(states) == [name]
        assert_same(states[name], expected)
    for name in ("epoch", "ema", "ema.state", "both.ra", "nothing", "", "."):
        with pytest.raises(XGradCamError, match=rf"^no state dict '{name}' in .*; there is: ") as caught:
            read_state_dicts(path, name)
        assert str(caught.value).endswith("; there is: model, both, ema.state_dict, ema.v1.0.b.c")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({0: STATE, 1: OTHER}, ["0", "1"]),
        ([STATE, OTHER, 3], ["0", "1"]),
        ((STATE, OTHER), ["0", "1"]),
        (deque([STATE, OTHER]), ["0", "1"]),
        (Several([STATE, OTHER]), ["0", "1"]),
        ({"models": [STATE, OTHER]}, ["models.0", "models.1"]),
        ({"epochs": {5: {"net": STATE}, 10: {"net": OTHER}}}, ["epochs.5.net", "epochs.10.net"]),
        ([STATE], ["0"]),
    ],
)
def test_state_dicts_under_integers_and_in_lists_have_their_index_as_name(tmp_path, content, names, zipped):
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    states = read_state_dicts(tmp_path / "a.pth")
    assert list(states) == names
    for name, expected in zip(names, (STATE, OTHER), strict=False):
        assert_same(states[name], expected)
        (chosen,) = read_state_dicts(tmp_path / "a.pth", name).values()
        assert_same(chosen, expected)


def test_state_dicts_under_strings_come_before_those_under_integers(tmp_path):
    weight = nn.Parameter(torch.ones(2))
    adam = torch.optim.Adam([weight])
    weight.sum().backward()
    adam.step()
    torch.save({"model": STATE, 0: OTHER, "0": 5, "optimizer": adam.state_dict()}, tmp_path / "a.pth")
    assert list(read_state_dicts(tmp_path / "a.pth")) == ["model"]
    assert list(read_state_dicts(tmp_path / "a.pth", "model")["model"]) == list(STATE)
    torch.save({"models": {0: STATE}, "optimizer": adam.state_dict()}, tmp_path / "a.pth")
    assert list(read_state_dicts(tmp_path / "a.pth")) == ["models.0"]
    torch.save({"optimizer": adam.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(XGradCamError, match=r"no state dict in .*; there is: optimizer: save"):
        read_state_dicts(tmp_path / "a.pth")


def test_names_of_a_file_are_shown_without_what_a_terminal_obeys(tmp_path):
    hostile = "\x1b]0;title\x07\x1b[2J\u202e"
    torch.save({hostile: 1, "k" * 3000: 2}, tmp_path / "a.pth")
    with pytest.raises(XGradCamError) as caught:
        read_state_dicts(tmp_path / "a.pth")
    message = str(caught.value)
    assert message.isprintable()
    assert f"there is: \\x1b]0;title\\x07\\x1b[2J\\u202e, {'k' * 79}…: save" in message
    torch.save({hostile: STATE}, tmp_path / "a.pth")
    with pytest.raises(XGradCamError) as caught:
        read_state_dicts(tmp_path / "a.pth", "none")
    assert str(caught.value).isprintable()


def test_the_name_stands_behind_a_colon(tmp_path):
    (tmp_path / "a.pth").touch()
    (tmp_path / "b:c.pth").touch()
    folder = str(tmp_path)
    for weights, file, name in (
        ("a.pth", "a.pth", None),
        ("a.pth:ema", "a.pth", "ema"),
        ("a.pth:ema.state_dict", "a.pth", "ema.state_dict"),
        ("a.pth:a:b", "a.pth", "a:b"),
        ("a.pth:", "a.pth", ""),
        ("b:c.pth", "b:c.pth", None),
        ("b:c.pth:ema", "b:c.pth", "ema"),
        ("none.pth:ema", "none.pth:ema", None),
    ):
        assert split_weights(f"{folder}/{weights}") == (tmp_path / file, name)


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"depth": 18}, "net": STATE},
        {"state_dict": {"model": STATE}},
        {"model": "resnet18", "net": States(STATE)},
        States(STATE),
        {**STATE, "part._extra_state": {"scale": torch.tensor(1.0)}},
    ],
)
def test_a_state_dict_has_tensors_whatever_its_name_and_class(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert_same(only_state_in(tmp_path / "a.pth"), STATE)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_many_unknown_classes_is_read(tmp_path, zipped):
    classes = [type(f"Class{number}", (), {"__module__": __name__}) for number in range(200)]
    with pytest.MonkeyPatch.context() as patch:
        for own in classes:
            patch.setitem(globals(), own.__name__, own)
        content = {"net": STATE, "objects": [own() for own in classes]}
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert_same(only_state_in(tmp_path / "a.pth"), STATE)


def test_what_only_a_module_could_compute_is_passed_over(tmp_path):
    for attributes, expected in (
        ({"_parameters": 5}, None),
        ({"_modules": [1]}, ["weight", "bias"]),
        ({"_parameters": {"a": torch.ones(1)}, "_non_persistent_buffers_set": 5}, ["a"]),
        ({"_parameters": {3: torch.ones(1), "a": torch.ones(1)}}, ["a"]),
    ):
        module = nn.Linear(2, 3)
        vars(module).update(attributes)
        torch.save(module, tmp_path / "a.pth")
        if expected:
            assert list(only_state_in(tmp_path / "a.pth")) == expected
        else:
            with pytest.raises(XGradCamError, match=r"^no state dict in "):
                read_state_dicts(tmp_path / "a.pth")


def test_a_module_within_itself_is_one_line(tmp_path):
    module = nn.Linear(2, 3)
    module._modules["self"] = module
    torch.save(module, tmp_path / "a.pth")
    with pytest.raises(XGradCamError, match=r"no state dict in .*, but a malformed object"):
        read_state_dicts(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_archive_is_refused_with_the_remedy(tmp_path):
    torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2)).save(tmp_path / "scripted.pt")
    with pytest.raises(XGradCamError, match="a TorchScript archive, which holds code: save a state dict"):
        read_state_dicts(tmp_path / "scripted.pt")


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_archive_is_not_run_where_only_torch_sees_that_it_is_one(tmp_path, monkeypatch):
    torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2)).save(tmp_path / "scripted.pt")
    members = zipfile.ZipFile(tmp_path / "scripted.pt").infolist()
    assert sum(member.filename.endswith("/constants.pkl") for member in members) == 1
    harmless = [member for member in members if not member.filename.endswith("/constants.pkl")]
    monkeypatch.setattr(zipfile.ZipFile, "infolist", lambda _: harmless)

    def ran(*_):
        raise AssertionError("the archive was run")

    monkeypatch.setattr(torch._C, "import_ir_module", ran)
    monkeypatch.setattr(torch._C, "import_ir_module_from_buffer", ran)
    with pytest.raises(XGradCamError, match="cannot read weights"):
        read_state_dicts(tmp_path / "scripted.pt")
    with pytest.raises(AssertionError, match="was run"):
        torch.load(tmp_path / "scripted.pt", map_location="cpu", weights_only=False)


def test_archives_that_torch_would_read_wrongly_are_refused(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as plain, zipfile.ZipFile(tmp_path / "b.pth", "w") as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member), zipfile.ZIP_DEFLATED)
    with pytest.raises(
        XGradCamError, match=r"b\.pth: a compressed archive, as torch\.save makes none; save a"
    ):
        read_state_dicts(tmp_path / "b.pth")
    with tarfile.open(tmp_path / "c.pth", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(XGradCamError, match=r"refused to read .*c\.pth: a tar archive"):
        read_state_dicts(tmp_path / "c.pth")


def test_tensors_that_share_memory_share_it_when_they_are_read(tmp_path):
    whole = torch.arange(6.0)
    for zipped in (True, False):
        torch.save(
            {"a": whole, "b": whole[2:4], "c": whole.reshape(2, 3).T},
            tmp_path / "a",
            _use_new_zipfile_serialization=zipped,
        )
        state = only_state_in(tmp_path / "a")
        assert_same(state, {"a": whole, "b": whole[2:4], "c": whole.reshape(2, 3).T})
        assert state["b"].data_ptr() == state["a"].data_ptr() + 2 * whole.element_size()


def test_torchs_global_state_is_left_alone(tmp_path):
    torch.save({"net": STATE, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    before = torch.serialization.get_safe_globals()
    read_state_dicts(tmp_path / "a.pth")
    assert torch.serialization.get_safe_globals() == before
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(tmp_path / "a.pth", weights_only=True)


def test_where_torch_is_told_to_load_weights_only_it_is_said(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "a.pth")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(XGradCamError, match=r"a\.pth: TORCH_FORCE_WEIGHTS_ONLY_LOAD is set: unset it"):
        read_state_dicts(tmp_path / "a.pth")
