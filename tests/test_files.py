import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xgradcam.errors import XGradCamError
from xgradcam.files import PART, KeptFiles, lock, make_folder, open_regular, remove_parts, write_files


def test_files_are_written_with_the_usual_permissions(tmp_path):
    write_files({tmp_path / "a": b"one", tmp_path / "b": b"two"})
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "b").read_bytes() == b"two"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_umask_is_never_another_not_even_for_a_moment(tmp_path, monkeypatch):
    # It is the process's: two threads that set and restore it can leave it at 0.
    monkeypatch.setattr(os, "umask", None)
    write_files({tmp_path / "a": b"one"})
    assert (tmp_path / "a").read_bytes() == b"one"


def test_nothing_is_written_when_one_file_cannot_be(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(XGradCamError, match=r"cannot write .*b: a folder has that name"):
        write_files({tmp_path / "a": b"one", tmp_path / "b": b"two"})
    assert os.listdir(tmp_path) == ["b"]
    with pytest.raises(XGradCamError, match=r"cannot write .*c"):
        write_files({tmp_path / "a": b"one", tmp_path / "gone" / "c": b"two"})
    assert os.listdir(tmp_path) == ["b"]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    size = 4096

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    script = (
        "import sys; from pathlib import Path; from xgradcam.files import write_files; "
        "write_files({Path(sys.argv[1]): b'n' * 100_000})"
    )
    run = subprocess.run(
        # -B: Python would leave the beginning of its compiled files, and cannot read them later.
        [sys.executable, "-B", "-c", script, str(tmp_path / "a")],
        preexec_fn=limited,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "CannotWriteError: cannot write" in run.stderr
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_folders_are_made_or_refused(tmp_path):
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(XGradCamError, match=r"cannot make the folder .*file"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(XGradCamError, match="cannot make the folder"):
        make_folder(tmp_path / "file")


class TestOpenRegular:
    def test_reads_a_file_and_a_link_to_it(self, tmp_path):
        (tmp_path / "a").write_bytes(b"abc")
        (tmp_path / "link").symlink_to("a")
        for name in ("a", "link"):
            with open_regular(tmp_path / name) as file:
                assert file.read() == b"abc"

    def test_refuses_a_pipe_without_waiting(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(
            XGradCamError,
            match=r"not a regular file: .*pipe is a pipe or a socket: copy its content to a file",
        ):
            open_regular(tmp_path / "pipe")

    def test_refuses_a_device(self):
        with pytest.raises(XGradCamError, match="not a regular file: /dev/zero is a device: give a file"):
            open_regular("/dev/zero")

    def test_a_folder_and_a_missing_file_raise_as_open_does(self, tmp_path):
        with pytest.raises(IsADirectoryError):
            open_regular(tmp_path)
        with pytest.raises(FileNotFoundError):
            open_regular(tmp_path / "no")

    def test_keeps_no_descriptor_open(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        before = len(os.listdir("/proc/self/fd"))
        for path in (tmp_path, tmp_path / "pipe"):
            with contextlib.suppress(OSError, XGradCamError):
                open_regular(path)
        assert len(os.listdir("/proc/self/fd")) == before


class TestParts:
    """Temporary files, and those that a killed process left."""

    LEFT = (".xgradcam-0123456789abcdef-0.part", ".xgradcam-0123456789abcdef-1.part")
    OTHERS = (
        ".0123456789abcdef.part",
        "a.part",
        ".xgradcam-0123.part",
        ".xgradcam-0123456789abcdef-1.part.jpg",
    )

    def test_are_there_while_files_are_written_and_gone_afterwards(self, tmp_path, monkeypatch):
        seen = []
        replace = os.replace

        def watched(part, target):
            seen.append(sorted(os.listdir(tmp_path)))
            remove_parts(tmp_path)  # as another process does: this one is at work
            return replace(part, target)

        monkeypatch.setattr(os, "replace", watched)
        write_files({tmp_path / "a": b"one", tmp_path / "b": b"two"})
        assert [PART.fullmatch(name)[0] for name in seen[0]] == seen[0]
        assert len(seen[0]) == 3
        assert sorted(os.listdir(tmp_path)) == ["a", "b"]
        assert (tmp_path / "b").read_bytes() == b"two"

    def test_of_a_killed_process_are_removed_and_nothing_else(self, tmp_path):
        for name in (*self.LEFT, *self.OTHERS):
            (tmp_path / name).touch()
        remove_parts(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted(self.OTHERS)
        remove_parts(tmp_path / "none")

    def test_without_a_first_file_are_left_over(self, tmp_path):
        (tmp_path / self.LEFT[1]).touch()
        remove_parts(tmp_path)
        assert os.listdir(tmp_path) == []

    def test_a_killed_process_leaves_what_the_next_removes(self, tmp_path):
        script = (
            "import os, signal, sys; from pathlib import Path; from xgradcam.files import write_files; "
            "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
            "write_files({Path(sys.argv[1]): b'new', Path(sys.argv[1] + 'b'): b'new'})"
        )
        run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False)
        assert run.returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 3
        remove_parts(tmp_path)
        assert os.listdir(tmp_path) == []


def test_a_lock_ends_with_its_file_and_is_none_where_locks_do_not_work(tmp_path, monkeypatch):
    with (tmp_path / "a").open("w") as one, (tmp_path / "a").open("w") as other:
        assert lock(one.fileno()) is True
        assert lock(other.fileno()) is False
        one.close()
        assert lock(other.fileno()) is True

        def refused(*_):
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr("fcntl.flock", refused)
        assert lock(other.fileno()) is None
        monkeypatch.setattr("xgradcam.files.fcntl", None)
        assert lock(other.fileno()) is None


def test_kept_files_are_known_by_all_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        os.mkdir(folder)
    Path("a/cat.jpg").touch()
    Path("a/other.jpg").touch()
    os.symlink("../a/cat.jpg", "b/link.jpg")
    os.link("a/cat.jpg", "b/hard.jpg")
    os.symlink("a", "folder")
    kept = KeptFiles(["a/cat.jpg", "missing", "", "a", "-", "a\0b"])
    names = (
        "a/cat.jpg",
        "b/link.jpg",
        "b/hard.jpg",
        "folder/cat.jpg",
        "b/../a/cat.jpg",
        tmp_path / "a/cat.jpg",
    )
    assert all(name in kept for name in names)
    assert not any(name in kept for name in ("a/other.jpg", "missing", "a", "", "a\0b"))
    assert "a/cat.jpg" not in KeptFiles()
