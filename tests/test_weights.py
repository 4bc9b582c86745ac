import hashlib
import os
import pickle
import socket
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xgradcam import weights
from xgradcam.errors import XGradCamError
from xgradcam.weights import WeightsUnavailableError, fetch, fit, read_state_dict

CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT whole (/whole-...), cut half-way (/cut-...), or stalls half-way (/stall-...)."""

    def do_HEAD(self):
        self.start()

    def do_GET(self):
        self.start()
        part = urlparse(self.path).path.split("-")[0]
        self.wfile.write(CONTENT if part == "/whole" else CONTENT[: len(CONTENT) // 2])
        if part == "/stall":
            self.wfile.flush()
            self.server.stop.wait(20)

    def start(self):
        self.server.requests.append(self.command)
        self.send_response(404 if self.path.startswith("/missing") else 200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests, server.stop = [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()


def url_of(server, what):
    return f"http://127.0.0.1:{server.server_port}/{what}-{DIGEST[:8]}.pth"


def cache(tmp_path):
    folder = tmp_path / "hub" / "checkpoints"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_a_download_shows_its_progress_and_is_made_once(server, tmp_path, capfd):
    lines = []
    path = fetch(url_of(server, "whole"), "300 kB", lines.append)
    assert path.read_bytes() == CONTENT
    assert "100%" in capfd.readouterr().err
    assert len(lines) == 1
    assert "300 kB" in lines[0]
    assert fetch(url_of(server, "whole"), "300 kB", lines.append) == path
    assert server.requests == ["HEAD", "GET"]
    assert len(lines) == 1
    assert cache(tmp_path) == [path.name]
    assert socket.getdefaulttimeout() is None


def test_a_server_that_has_no_such_page_is_reachable(server):
    weights.require_reachable(f"http://127.0.0.1:{server.server_port}/missing")


@pytest.mark.parametrize("what", ["cut", "missing", "wrong"])
def test_a_broken_download_leaves_nothing_behind(server, tmp_path, what):
    url = url_of(server, what) if what != "wrong" else url_of(server, "whole").replace(DIGEST[:8], "0" * 8)
    with pytest.raises(
        WeightsUnavailableError, match="broken or cut short" if what != "missing" else "404|Not Found"
    ):
        fetch(url, "300 kB", lambda _: None)
    assert cache(tmp_path) == []


def test_a_connection_that_stalls_ends(server, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "CONNECT_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(WeightsUnavailableError, match="timed out"):
        fetch(url_of(server, "stall"), "300 kB", lambda _: None)
    assert time.monotonic() - started < 5
    assert cache(tmp_path) == []


def test_a_refused_connection_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(WeightsUnavailableError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/x-12345678.pth", "1 MB", lambda _: None)


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up_within_15_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(WeightsUnavailableError, match=r"does not answer|timed out"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/x-12345678.pth", "1 MB", lambda _: None)
        assert time.monotonic() - started < 15


def test_a_look_up_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "CONNECT_SECONDS", 0.2)

    def hang(*_, **__):
        time.sleep(2.5)
        raise socket.gaierror("nobody waits for this any more")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(WeightsUnavailableError, match=r"example\.invalid does not answer"):
        fetch("http://example.invalid/x-12345678.pth", "1 MB", lambda _: None)


STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.tensor([7.0, 8.0]))


@pytest.mark.parametrize("nested", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("parallel", [True, False])
def test_state_dicts_are_found(tmp_path, nested, zipped, parallel):
    path = tmp_path / "a.pth"
    state = OrderedDict((f"module.{key}" if parallel else key, value) for key, value in STATE.items())
    torch.save({nested: state, "epoch": 3} if nested else state, path, _use_new_zipfile_serialization=zipped)
    found = read_state_dict(path)
    assert list(found) == list(STATE)
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


def test_safetensors_are_read(tmp_path):
    save_file(dict(STATE), tmp_path / "a.safetensors")
    found = read_state_dict(tmp_path / "a.safetensors")
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False, None])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, zipped):
    path, trace = tmp_path / "a.pth", tmp_path / "it-ran"
    if zipped is None:
        path.write_bytes(pickle.dumps({"state_dict": Harmful(trace)}))
    else:
        torch.save({"state_dict": Harmful(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        XGradCamError,
        match=r"refused to read .*a\.pth: it holds more than tensors|cannot read .*a\.pth: not a check",
    ):
        read_state_dict(path)
    assert not trace.exists()


def test_a_whole_pickled_model_is_refused_with_the_remedy(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(XGradCamError, match=r"torch\.save\(model\.state_dict\(\)"):
        read_state_dict(tmp_path / "a.pth")


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
    torch.save({"net": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": [1]}}, tmp_path / "one")
    assert read_state_dict(tmp_path / "one").keys() == state.keys()
    torch.save({"net": state, "ema": state}, tmp_path / "two")
    with pytest.raises(XGradCamError, match=r"no state dict in .*; there is: net, ema: save one"):
        read_state_dict(tmp_path / "two")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."])
def test_what_wraps_a_model_leaves_no_trace_in_its_names(tmp_path, prefix):
    trained, model = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3))
    torch.save({f"{prefix}{key}": value for key, value in trained.state_dict().items()}, tmp_path / "a")
    fit(model, read_state_dict(tmp_path / "a"), "a")
    assert torch.equal(model[0].weight, trained[0].weight)


def test_a_name_that_the_model_has_is_no_wrapper():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {key: value for key, value in model.state_dict().items() if key.startswith("0.")}
    with pytest.raises(XGradCamError, match=r"missing: 1\.weight, 1\.bias$"):
        fit(model, state, "a")


def test_a_scripted_archive_is_refused_with_the_remedy(tmp_path):
    torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2)).save(tmp_path / "scripted.pt")
    with pytest.raises(XGradCamError, match="a TorchScript archive, which holds code; save a state dict"):
        read_state_dict(tmp_path / "scripted.pt")


def test_fit_takes_the_tensors_without_a_copy():
    model = nn.Linear(3, 2)
    fit(model, STATE, "here")
    assert model.weight.data_ptr() == STATE["weight"].data_ptr()
    fit(model, {key: value.half() for key, value in STATE.items()}, "here")
    assert model.weight.dtype == torch.float32


def test_fit_names_what_does_not_fit():
    with pytest.raises(
        XGradCamError, match=r"weights of here do not fit this Linear: missing: bias; unknown: extra$"
    ):
        fit(nn.Linear(3, 2), {"weight": STATE["weight"], "extra": STATE["bias"]}, "here")
    with pytest.raises(XGradCamError, match=r"of another shape: weight \(2, 3\), the model's is \(2, 4\)"):
        fit(nn.Linear(4, 2), STATE, "here")
    with pytest.raises(XGradCamError, match=r"unknown: 0, 1, 2 and 7 more"):
        fit(nn.Linear(3, 2), {**STATE, **{str(index): STATE["bias"] for index in range(10)}}, "here")


def test_counters_and_names_of_old_checkpoints_are_mended():
    norm = nn.BatchNorm2d(2)
    fit(norm, {key: value for key, value in norm.state_dict().items() if "num_batches" not in key}, "old")
    assert norm.num_batches_tracked == 0

    dense = nn.ModuleDict({"denselayer1": nn.ModuleDict({"norm1": nn.BatchNorm2d(2)})})
    old = {key.replace("norm1", "norm.1"): value + 1 for key, value in dense.state_dict().items()}
    fit(dense, old, "old")
    assert dense["denselayer1"]["norm1"].weight.tolist() == [2, 2]
