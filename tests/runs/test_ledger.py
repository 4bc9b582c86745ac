"""The lock of a folder and the names of what runs have made in it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.runs.ledger import LOCK, NAME, Ledger, alone_in

pytestmark = pytest.mark.usefixtures("own_folder")


def silent(line):
    raise AssertionError(line)


def test_a_second_run_is_refused_while_the_first_is_at_work():
    with alone_in(Path(), silent):
        with (
            pytest.raises(XGradCamError, match=r"another run is writing into \.: wait for it"),
            alone_in(Path(), silent),
        ):
            pass
        assert os.listdir() == [LOCK]
    assert os.listdir() == []
    with pytest.raises(KeyError), alone_in(Path(), silent):
        raise KeyError
    assert os.listdir() == []


def test_the_lock_of_a_killed_run_does_not_hold():
    script = "import os; from pathlib import Path; from xgradcam.runs.ledger import alone_in\n"
    script += "with alone_in(Path(), print): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert os.listdir() == [LOCK]
    with alone_in(Path(), silent):
        pass
    assert os.listdir() == []


def test_without_locks_it_goes_on_with_a_line(monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", refused)
    said = []
    with alone_in(Path(), said.append):
        assert said == [". takes no locks: start no second run in it before this one has ended"]


def test_a_file_that_has_the_locks_name_stays_as_it_is():
    Path(LOCK).write_text("precious")
    with alone_in(Path(), silent):
        pass
    assert Path(LOCK).read_text() == "precious"
    Path(LOCK).unlink()
    Path("precious").touch()
    os.symlink("precious", LOCK)
    with (
        pytest.raises(XGradCamError, match=f"cannot lock {LOCK}: .*; move it away"),
        alone_in(Path(), silent),
    ):
        pass


def test_names_that_the_journal_has_not_are_known_to_the_next_run():
    for name in ("old.jpg", "a.jpg", "b.jpg", "line\n\udcff.jpg"):
        Path(name).touch()
    ledger = Ledger(Path(), ["old.jpg", "gone.jpg"])
    assert ledger.known == {"old.jpg"}
    ledger.announce(["a.jpg", "line\n\udcff.jpg"])
    ledger.announce(["b.jpg", "never-written.jpg"])
    killed = {"old.jpg", "a.jpg", "b.jpg", "line\n\udcff.jpg"}
    assert Ledger(Path(), []).known == killed
    ledger.end(["a.jpg", "b.jpg"])
    assert Ledger(Path(), []).known == killed - {"a.jpg", "b.jpg"}
    again = Ledger(Path(), ["a.jpg"])
    again.announce(["c.jpg"])
    again.end(["old.jpg", "line\n\udcff.jpg", "a.jpg"])
    assert not Path(NAME).exists()


def test_a_run_that_writes_nothing_leaves_the_names_as_they_were():
    Path("a.jpg").touch()
    Path(NAME).write_text('"a.jpg"\n')
    Ledger(Path(), []).end([])
    assert Path(NAME).read_text() == '"a.jpg"\n'


@pytest.mark.parametrize(
    "content",
    [
        b'"a.jpg"\n"b.jp',
        b'"a.jpg"\n3\n[1]\n{}\n"x\\u0000"\n',
        b'\xff\xfe\n"a.jpg"\n',
        b"[" * 10**5 + b'\n"a.jpg"\n',
    ],
)
def test_a_damaged_file_is_read_as_far_as_it_goes(content):
    Path("a.jpg").touch()
    Path(NAME).write_bytes(content)
    assert Ledger(Path(), []).known == {"a.jpg"}


def test_what_is_no_file_of_names_is_neither_read_nor_waited_for():
    os.mkfifo(NAME)
    ledger = Ledger(Path(), [])
    with pytest.raises(CannotWriteError, match=f"cannot write {NAME}"):
        ledger.announce(["a.jpg"])


def test_the_file_is_a_line_of_json_for_each_name():
    Ledger(Path(), []).announce(["below/a.jpg", "b.jpg"])
    assert [json.loads(line) for line in Path(NAME).read_text().splitlines()] == ["below/a.jpg", "b.jpg"]
