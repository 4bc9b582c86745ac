import hashlib
import os
import socket
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import pytest
import torch
from torch import nn

from xgradcam.errors import WeightsUnavailableError, XGradCamError
from xgradcam.models import download as weights
from xgradcam.models.download import fetch
from xgradcam.models.fitting import fit

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


class Within(nn.Module):
    """A model with a part of this name."""

    def __init__(self, name):
        super().__init__()
        self.add_module(name, nn.Linear(3, 2))


def test_names_of_any_depth_are_one_line():
    with pytest.raises(XGradCamError, match="missing: weight, bias"):
        fit(nn.Linear(3, 2), {"a." * 3000 + "weight": torch.ones(2, 3)}, "a")


def test_what_was_saved_beside_the_model_is_left_out():
    model = nn.Linear(3, 2)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.module.weight.data.fill_(5)
    fit(model, averaged.state_dict(), "a")
    assert torch.equal(model.weight, torch.full((2, 3), 5.0))
    other = nn.Linear(3, 2)
    lightning = {f"model.{key}": value for key, value in other.state_dict().items()}
    fit(model, {**lightning, "criterion.weight": torch.ones(2)}, "a")
    assert torch.equal(model.weight, other.weight)
    norm, teacher = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    old = {f"model.{key}": value for key, value in norm.state_dict().items() if "num_" not in key}
    fit(norm, {**old, "criterion.weight": torch.ones(2)}, "a")
    # Which of two is meant nobody says, also where one lacks the counters.
    with pytest.raises(XGradCamError, match=r"unknown: model\.weight"):
        fit(norm, {**old, **{f"teacher.{key}": value for key, value in teacher.state_dict().items()}}, "a")
    with pytest.raises(XGradCamError, match=r"missing: weight, bias; unknown: model\.weight"):
        fit(model, {**lightning, **{f"ema.{key}": value for key, value in other.state_dict().items()}}, "a")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.model."]
)
@pytest.mark.parametrize("part", ["head", "module", "model"])
def test_what_wraps_a_model_leaves_no_trace_in_its_names(prefix, part):
    model = Within(part)
    fit(model, {f"{prefix}{part}.{key}": value for key, value in STATE.items()}, "a")
    assert torch.equal(getattr(model, part).weight, STATE["weight"])


def test_a_name_that_the_model_has_is_no_wrapper():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {key: value for key, value in model.state_dict().items() if key.startswith("0.")}
    with pytest.raises(XGradCamError, match=r"missing: 1\.weight, 1\.bias$"):
        fit(model, state, "a")


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
    with pytest.raises(XGradCamError, match=r"missing: weight, bias; unknown: a\.b\.c, a\.b\.d$"):
        fit(nn.Linear(3, 2), {"a.b.c": STATE["weight"], "a.b.d": STATE["bias"]}, "here")


def test_fit_knows_another_number_of_classes_from_another_width():
    with pytest.raises(XGradCamError, match="are they of 2 classes"):
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
    fit(dense, old, "old")
    assert dense["denselayer1"]["norm1"].weight.tolist() == [2, 2]
