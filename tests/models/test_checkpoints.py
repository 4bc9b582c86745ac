import argparse
import contextlib
import datetime
import enum
import os
import pickle
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xgradcam.errors import XGradCamError
from xgradcam.models.checkpoints import read_state_dict

STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.tensor([7.0, 8.0]))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("nested", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_are_found(tmp_path, nested, zipped):
    path = tmp_path / "a.pth"
    torch.save({nested: STATE, "epoch": 3} if nested else STATE, path, _use_new_zipfile_serialization=zipped)
    assert_same(read_state_dict(path), STATE)


def test_safetensors_are_read(tmp_path):
    save_file(dict(STATE), tmp_path / "a.safetensors")
    assert_same(read_state_dict(tmp_path / "a.safetensors"), STATE)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Executed(Harmful):
    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


class Built(Harmful):
    def __setstate__(self, state):
        state["path"].touch()


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


@pytest.mark.parametrize("zipped", [True, False, None])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, zipped):
    path, trace = tmp_path / "a.pth", tmp_path / "it-ran"
    if zipped is None:
        path.write_bytes(pickle.dumps({"state_dict": Harmful(trace)}))
    else:
        torch.save({"state_dict": Harmful(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        XGradCamError,
        match=r"refused to read .*a\.pth: it holds more than tensors|cannot read .*a\.pth: of pickle",
    ):
        read_state_dict(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "beside",
    [
        {"args": argparse.Namespace(lr=0.1, data_path=Path("photographs"))},
        {"best": np.float64(0.9), "epoch": np.int64(3), "losses": np.zeros(3)},
        {"history": defaultdict(list, {"loss": [1.0]}), "count": Counter("ab")},
        {"losses": deque([1.0, 2.0], maxlen=20), "config": Config(lr=0.1, sizes=Sizes([1, 2]))},
        {"date": datetime.date(2026, 1, 1), "mode": Optimizer.SGD, "device": torch.device("cpu")},
        {
            "optimizer": torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict(),
            "rng": torch.get_rng_state(),
        },
    ],
    ids=lambda beside: "-".join(beside),
)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["model", "net"])
def test_what_training_saves_beside_the_weights_is_passed_over(tmp_path, beside, name, zipped):
    torch.save({**beside, name: STATE}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert_same(read_state_dict(tmp_path / "a.pth"), STATE)


def test_the_tensors_of_a_whole_pickled_model_are_read_as_its_state_dict(tmp_path):
    model = nn.DataParallel(
        nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), OwnLayer(), nn.Linear(4, 2))
    )
    for content in (model, {"model": model, "epoch": 3}, {"net": model.module}):
        torch.save(content, tmp_path / "a.pth")
        expected = (content if isinstance(content, nn.Module) else next(iter(content.values()))).state_dict()
        assert_same(read_state_dict(tmp_path / "a.pth"), expected)


@pytest.mark.parametrize("harm", [Harmful, Executed, Built])
def test_no_code_of_a_pickle_with_a_state_dict_is_run(tmp_path, harm):
    trace = tmp_path / "it-ran"
    torch.save({"state_dict": STATE, "args": harm(trace)}, tmp_path / "a.pth")
    with contextlib.suppress(XGradCamError):
        assert_same(read_state_dict(tmp_path / "a.pth"), STATE)
    assert not trace.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "folder", "missing"])
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
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "text": b"hello, I am no checkpoint", "cut": content[: len(content) // 2]}[damage]
        )
    with pytest.raises(XGradCamError, match=rf"cannot read weights.*{name}") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_tensor_in_a_state_dict_is_passed_over(tmp_path):
    torch.save(
        {"weight": STATE["weight"], "bias": None, 0: STATE["bias"], "sizes": [1, 2]}, tmp_path / "a.pth"
    )
    assert list(read_state_dict(tmp_path / "a.pth")) == ["weight"]


def test_a_web_page_is_no_danger_but_no_checkpoint(tmp_path):
    (tmp_path / "a.pth").write_text("<html>please log in</html>")
    with pytest.raises(XGradCamError, match="not a checkpoint, or a damaged one"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [3, [1, 2], {}, {"epoch": 3}, {0: torch.ones(1)}])
def test_a_file_without_state_dict_says_so(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(XGradCamError, match="no state dict in"):
        read_state_dict(tmp_path / "a.pth")


def test_a_state_dict_under_any_name_if_it_is_the_only_one(tmp_path):
    state = nn.Linear(2, 3).state_dict()
    torch.save({"net": state, "best": torch.tensor(0.9), "optimizer": {"state": {}}}, tmp_path / "one")
    assert_same(read_state_dict(tmp_path / "one"), state)
    for other in ({}, {"best": torch.tensor(0.9)}):
        torch.save({"net": state, "ema": state, **other}, tmp_path / "two")
        with pytest.raises(XGradCamError, match=r"several state dicts in .*two: net, ema; save a state dict"):
            read_state_dict(tmp_path / "two")


def test_what_has_no_tensors_is_no_state_dict_whatever_its_name(tmp_path):
    for content in (
        {"model": {"depth": 18}, "net": STATE},
        {"state_dict": {"model": STATE}},
        {"model": "resnet18", "net": States(STATE)},
        States(STATE),
    ):
        torch.save(content, tmp_path / "a.pth")
        assert_same(read_state_dict(tmp_path / "a.pth"), STATE)


def test_a_few_tensors_beside_the_weights_are_no_state_dict(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({**STATE, "meta": {"mean": torch.ones(3)}}, path)
    assert_same(read_state_dict(path), STATE)
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    numbers = {f"loss{epoch}": torch.tensor(0.1) for epoch in range(20)}
    for beside in (
        {"history": numbers},
        numbers,
        {"history": {"loss": torch.ones(3)}},
        {"criterion": nn.CrossEntropyLoss(torch.ones(2))},
    ):
        for net in (model, model.state_dict()):
            torch.save({**beside, "net": net}, path)
            assert_same(read_state_dict(path), model.state_dict())
    torch.save({"generator": model, "discriminator": nn.Linear(2, 2)}, path)
    with pytest.raises(XGradCamError, match=r"several state dicts in .*: generator, discriminator; save a"):
        read_state_dict(path)


def test_a_file_of_many_unknown_classes_is_read_soon_or_refused(tmp_path):
    classes = [type(f"Class{number}", (), {"__module__": __name__}) for number in range(200)]
    with pytest.MonkeyPatch.context() as patch:
        for own in classes:
            patch.setitem(globals(), own.__name__, own)
        content = {"net": STATE, "objects": [own() for own in classes]}
        torch.save(content, tmp_path / "a.pth")
        torch.save(content, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    assert_same(read_state_dict(tmp_path / "a.pth"), STATE)
    with pytest.raises(XGradCamError, match="holds more than tensors"):
        read_state_dict(tmp_path / "b.pth")


def test_what_is_sound_but_not_read_is_not_called_damaged(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(STATE, path, pickle_protocol=4)
    with pytest.raises(XGradCamError, match="of pickle protocol 4, where 2 can be read"):
        read_state_dict(path)
    torch.save({"model": STATE, "mean": torch.ones(3).as_subclass(Marked)}, path)
    with pytest.raises(XGradCamError, match="tensors of a class that torch does not know; save a state dict"):
        read_state_dict(path)
    with warnings.catch_warnings(action="ignore"):
        torch.save(OwnLayer(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(XGradCamError, match="holds more than tensors"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"_parameters": 5},
        {"_modules": [1]},
        {"_parameters": {"a": torch.ones(1)}, "_non_persistent_buffers_set": 5},
        {"_parameters": {3: torch.ones(1)}},
    ],
)
def test_a_malformed_module_is_one_line(tmp_path, attributes):
    module = nn.Linear(2, 3)
    vars(module).update(attributes)
    torch.save(module, tmp_path / "a.pth")
    with pytest.raises(XGradCamError, match=r"no state dict in .*, but a malformed object"):
        read_state_dict(tmp_path / "a.pth")


def test_a_module_within_itself_is_one_line(tmp_path):
    module = nn.Linear(2, 3)
    module._modules["self"] = module
    torch.save(module, tmp_path / "a.pth")
    with pytest.raises(XGradCamError, match=r"no state dict in .*, but a malformed object"):
        read_state_dict(tmp_path / "a.pth")


def test_what_a_module_keeps_beside_its_tensors_is_no_state_dict(tmp_path):
    torch.save({**STATE, "part._extra_state": {"scale": torch.ones(1)}}, tmp_path / "a.pth")
    assert_same(read_state_dict(tmp_path / "a.pth"), STATE)


def test_a_scripted_archive_is_refused_with_the_remedy(tmp_path):
    torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2)).save(tmp_path / "scripted.pt")
    with pytest.raises(XGradCamError, match="a TorchScript archive, which holds code; save a state dict"):
        read_state_dict(tmp_path / "scripted.pt")
