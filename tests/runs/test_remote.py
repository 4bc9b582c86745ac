"""Files behind URLs."""

import http.server
import os
import threading
from pathlib import Path

import pytest

from xgradcam.errors import XGradCamError
from xgradcam.runs.remote import is_url, local_path, name_of, opened, read_range, remote_files

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.parametrize(
    ("place", "is_one"),
    [
        ("http://x", True), ("s3://bucket/x.jpg", True), ("gs://b/x", True), ("C:/x.jpg", False),
        ("c://x", False), ("photos/x.jpg", False), ("x://", False), ("http:/x", False), ("-", False),
    ],
)  # fmt: skip
def test_urls_are_told_from_paths(place, is_one):
    assert is_url(place) is is_one


def test_a_file_of_such_a_name_is_a_file():
    Path("http:", "x").mkdir(parents=True)
    Path("http:/x/a.jpg").write_bytes(b"mine")
    assert not is_url("http://x/a.jpg")
    assert read_range("http://x/a.jpg", 1, 2) == b"in"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b%20c.jpg", "/a/b c.jpg"),
        ("FILE://localhost/a/b#1.jpg", "/a/b#1.jpg"),
        ("s3://a/b.jpg", "s3://a/b.jpg"),
        ("a/b%20.jpg", "a/b%20.jpg"),
    ],
)
def test_a_url_of_a_file_here_is_its_path(url, path):
    assert local_path(url) == path


def test_names_are_those_that_people_read():
    assert name_of("https://x.org/a/b%20c.jpg?size=2#top") == "b c.jpg"
    assert name_of("s3://bucket/a/b#1?.jpg") == "b#1?.jpg"
    assert name_of("memory://x.tar") == "x.tar"


class Odd(http.server.BaseHTTPRequestHandler):
    """Breaks off, or gives more than is asked for."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * (10 if self.path == "/short%20one" else 1000))

    def log_message(self, *_arguments):
        """Say nothing."""


def test_http_is_read_as_far_as_is_asked_and_told_where_it_breaks_off(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        at = f"http://127.0.0.1:{made.server_port}"
        assert remote_files(f"{at}/*.jpg") == [f"{at}/*.jpg"]
        assert read_range(f"{at}/whole", 0, 7) == b"x" * 7
        assert read_range(f"{at}/whole", 0, 2000) == b"x" * 1000
        with pytest.raises(XGradCamError, match="short one: the connection broke off"):
            read_range(f"{at}/short one", 0, 2000)
        made.shutdown()
        thread.join()
    with pytest.raises(XGradCamError, match=r"cannot read .*Connection refused"):
        read_range(f"{at}/whole", 0, 7)


def test_folders_and_patterns_of_a_file_system_are_listed():
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("v1.0/b.jpg", "v1.0/below/a.PNG", "v1.0/notes.txt", "v1.0/.hidden.jpg", "v1.0/x.tar"):
        memory.pipe_file(f"/{name}", b"1")
    try:
        photographs = ["memory:///v1.0/b.jpg", "memory:///v1.0/below/a.PNG"]
        assert remote_files("memory://v1.0") == photographs
        assert remote_files("memory://v1.0/*.tar") == ["memory:///v1.0/x.tar"]
        assert remote_files("memory://v1.0/**/*.PNG") == photographs[1:]
        assert remote_files("memory://v1.0/missing.jpg") == ["memory://v1.0/missing.jpg"]
        assert remote_files("memory://v1.0/b*") == photographs[:1]
    finally:
        memory.rm("/v1.0", recursive=True)


def test_what_cannot_be_opened_is_told():
    os.mkfifo("pipe")
    for place, words in (("missing", "no such file: missing"), (".", "cannot read .: Is a directory"),
                         ("pipe", "not a regular file")):  # fmt: skip
        with pytest.raises(XGradCamError, match=words), opened(place):
            pass
