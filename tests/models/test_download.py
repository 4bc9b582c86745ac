import hashlib
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import pytest

from xgradcam.errors import WeightsUnavailableError
from xgradcam.models import download
from xgradcam.models.download import fetch

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
    download.require_reachable(f"http://127.0.0.1:{server.server_port}/missing")
    assert server.requests == ["HEAD"]


@pytest.mark.parametrize("what", ["cut", "missing", "wrong"])
def test_a_broken_download_leaves_nothing_behind(server, tmp_path, what):
    url = url_of(server, what) if what != "wrong" else url_of(server, "whole").replace(DIGEST[:8], "0" * 8)
    with pytest.raises(
        WeightsUnavailableError, match="broken or cut short" if what != "missing" else "404|Not Found"
    ):
        fetch(url, "300 kB", lambda _: None)
    assert cache(tmp_path) == []


def test_a_connection_that_stalls_ends(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.5)
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
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.2)

    def hang(*_, **__):
        time.sleep(2.5)
        raise socket.gaierror("nobody waits for this any more")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(WeightsUnavailableError, match=r"example\.invalid does not answer"):
        fetch("http://example.invalid/x-12345678.pth", "1 MB", lambda _: None)
