"""Standard streams: JSON alone on stdout, closed and broken streams, what a terminal would obey."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.support import OWN, ROOT, tree
from tests.support import noise
from xgradcam.cli.proof_verify import main as proof_verify
from xgradcam.cli.xgrad_cam import main

pytestmark = pytest.mark.usefixtures("own_models")

# Says something in every way there is, also when the process ends.
LOUD = """
import atexit, ctypes, os, subprocess, sys
from tiny import Tiny

def say():
    print("python")
    sys.__stdout__.write("python itself\\n")
    os.write(1, b"system\\n")
    subprocess.run(["echo", "child"])
    ctypes.CDLL(None).printf(b"C\\n")

class Loud(Tiny):
    def forward(self, images):
        say()
        return super().forward(images)

say()
atexit.register(say)
"""
MODEL = ("--model", "loud.py:Loud", "--input-size", "32")


@pytest.fixture(autouse=True)
def photographs(own_folder, monkeypatch):
    noise("photos", 3)
    Path("loud.py").write_text(LOUD)
    monkeypatch.delitem(sys.modules, "loud", raising=False)


def shell(command):
    return subprocess.run(
        ["bash", "-c", command.replace("xgrad-cam", f"{sys.executable} -m xgradcam")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def images_in(text):
    return [json.loads(line)["image"] for line in text.splitlines()]


def test_with_json_stdout_has_json_alone_whatever_the_model_prints(capfd):
    assert main(["--image-path", "photos", "--json", "--output-dir", "out", *MODEL]) == 0
    out, err = capfd.readouterr()
    assert images_in(out) == [f"photos/000{index}.png" for index in range(3)]
    for said in ("python", "system", "child", "C"):
        assert f"{said}\n" in err
    assert (
        proof_verify(["--image-path", "photos/0000.png", "--target-layer", "features.1", "--json", *MODEL])
        == 0
    )
    out, err = capfd.readouterr()
    assert json.loads(out)["class_index"] in range(4)
    assert "python\n" in err
    assert main(["--list-layers", "--json", *MODEL]) == 0
    assert capfd.readouterr().out.splitlines()[0].startswith("input ")
    print("stdout is itself again", flush=True)
    assert capfd.readouterr().out == "stdout is itself again\n"


@pytest.mark.slow
def test_with_json_stdout_has_json_alone_to_the_end_of_the_process():
    run = shell(f"xgrad-cam --image-path photos --json --output-dir out {' '.join(MODEL)}")
    assert run.returncode == 0
    assert images_in(run.stdout) == [f"photos/000{index}.png" for index in range(3)]
    assert run.stderr.rstrip().splitlines()[-1] == "C"


@pytest.mark.slow
@pytest.mark.parametrize(("closed", "more"), [("<&- >&- 2>&-", ""), (">&-", "--json")])
def test_closed_streams_take_what_is_printed_and_no_file_has_their_numbers(closed, more):
    run = shell(
        f"xgrad-cam --image-path photos {more} --target-index 1 --output-dir out {' '.join(MODEL)} {closed}"
    )
    assert run.returncode == 0
    assert "Traceback" not in run.stderr
    assert len(tree("out")) == 7
    for path in Path("out").glob("*.jpg"):
        content = path.read_bytes()
        assert content.startswith(b"\xff\xd8")
        assert content.endswith(b"\xff\xd9")
        with Image.open(path) as picture:
            picture.load()
    journal = Path("out/xgrad-cam.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in journal]) == 4


@pytest.mark.slow
def test_a_broken_pipe_and_closed_streams_of_a_wrong_command_end_quietly():
    run = shell(
        f"xgrad-cam --image-path photos --output-dir out {' '.join(OWN)} | head -1; echo ${{PIPESTATUS[0]}}"
    )
    assert run.stdout == "Using CPU for computation\n1\n"
    assert run.stderr == ""
    run = shell("xgrad-cam --image-path - <&- 2>&1; echo $?; xgrad-cam --colour <&- >&- 2>&-; echo $?")
    assert run.stdout == "xgrad-cam: error: not an image: stdin: the file is empty\n2\n2\n"


OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\u2066\ud800-\udfff]")
NAME = "\x1b[31mred\x1b]0;title\x07 \u202egpj\u2066\x9b2J\r\t\u2028"


def test_no_name_reaches_the_terminal_unescaped(capsys):
    names = [f"photos/{NAME}\n.png", "photos/\udcff.png"]
    for name in names:
        os.rename(f"photos/000{names.index(name)}.png", name)
    Path("labels.json").write_text(json.dumps([f"{NAME}\n{index}" for index in range(4)]))
    Path(f"photos/{NAME}broken.png").touch()
    arguments = ["--output-dir", "out", "--labels", "labels.json", *OWN]
    assert main(["--image-path", "photos", "--verbose", *arguments]) == 1
    text = capsys.readouterr()
    assert main(["--image-path", names[0], "--target-index", "1", *arguments]) == 0
    more = capsys.readouterr()
    for printed in (*text, *more):
        assert not OBEYED.search(printed)
        assert r"\x1b[31mred\x1b]0;title\x07 \u202egpj\u2066\x9b2J" in printed or printed == more.err
    assert len(text.out.splitlines()) == 4
    assert main(["--image-path", "photos", "--json", *arguments]) == 1
    out, _ = capsys.readouterr()
    assert sorted(images_in(out)) == sorted([*names, "photos/0002.png"])
    proof = ["--image-path", names[0], "--target-layer", "features.1", "--labels", "labels.json", *OWN]
    assert proof_verify(proof) == 0
    printed = capsys.readouterr().out
    assert not OBEYED.search(printed)
    assert r"\x1b[31mred" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["--image-path", NAME],
        ["--image-path", "photos", "--model", NAME],
        ["--image-path", "photos", *OWN, "--weights", NAME],
        ["--image-path", "photos", *OWN, "--target-layer", NAME],
        ["--image-path", "photos", *OWN, "--target-index", NAME],
        ["--image-path", "photos", *OWN, "--labels", NAME],
        ["--image-path", "photos", "--device", NAME],
        ["--image-path", "photos", "--colormap", NAME],
        ["--image-path", "photos", "--method", NAME],
        ["--image-path", "photos", *OWN, "--output-dir", f"tiny.py/{NAME}"],
        [NAME],
        [f"@{NAME}"],
        ["--image-path", "x" * 100_000],
        ["--image-path", "photos", *OWN, "--target-layer", "x" * 100_000],
        ["--colour", "x" * 100_000],
    ],
)
def test_an_error_is_one_line_of_a_few_hundred_characters(arguments, capsys):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("xgrad-cam: error: ")
    assert not OBEYED.search(err)
    assert len(err) < 700


def test_an_error_of_a_model_is_shown_escaped(capsys):
    Path("raising.py").write_text("def build():\n    raise ValueError('\\x1b[31m' + 9999 * 'no ' + 'yes')\n")
    assert main(["--image-path", "photos", "--model", "raising.py:build"]) == 2
    err = capsys.readouterr().err
    assert not OBEYED.search(err)
    assert err.count("\n") == 1
    assert "cannot make raising.py:build: ValueError: \\x1b[31mno no" in err
    assert "raising.py, line 2)" in err
    assert len(err) < 700
