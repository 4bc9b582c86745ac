"""Lists of models, layers, methods and colours, and the completion of a shell."""

import contextlib
import os
import pty
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.cli.support import ROOT
from xgradcam.cli import completion, evaluate, proof_verify, xgrad_cam
from xgradcam.pictures.paint import COLORMAPS

MAINS = [xgrad_cam.main, proof_verify.main, evaluate.main]


def run(*arguments, program="xgradcam", **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options}
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", program, *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("main", MAINS)
def test_every_command_lists_models_one_a_line(main, capsys):
    assert main(["--list-models", "resnet1?"]) == 0
    out, err = capsys.readouterr()
    names = [line.split()[0] for line in out.splitlines()]
    assert {"resnet18", "timm/resnet18"} <= set(names)
    assert len(names) == len(set(names))
    assert out.splitlines()[names.index("resnet18")].split(maxsplit=1)[1] == "torchvision, classification"
    prog = err.partition(":")[0]
    assert err.startswith(f"{prog}: {len(names)} models, ")
    assert err.count("\n") == 1


def test_all_models_come_with_how_others_are_named(capsys):
    assert xgrad_cam.main(["--list-models"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split(maxsplit=1)[1] == "bundled, classification, weights here"
    assert "xgrad-cam: also hf:OWNER/NAME and hf:FOLDER of transformers" in err


def test_a_filter_that_matches_nothing_is_an_error(capsys):
    assert xgrad_cam.main(["--list-models", "resnet5o"]) == 2
    assert "did you mean 'resnet50'" in capsys.readouterr().err


def test_models_and_colours_are_listed_without_torch():
    for option in ("--list-models", "--list-colormaps"):
        done = run(option)
        assert done.returncode == 0
        imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        assert "argparse" in imported
        assert not imported & {"torch", "torchvision", "timm", "transformers"}


def test_colour_maps_are_names_alone_where_no_terminal_shows_them(capsys):
    assert xgrad_cam.main(["--list-colormaps"]) == 0
    assert capsys.readouterr().out.splitlines() == list(COLORMAPS)


def on_terminal(arguments, **options):
    """The output of the command on a terminal."""
    above, below = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **options}
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=below, stderr=below, env=environment
    ) as process:
        os.close(below)
        output = b""
        with contextlib.suppress(OSError):
            while block := os.read(above, 65536):
                output += block
        os.close(above)
        process.wait()
    return output.decode()


def test_a_terminal_shows_the_colour_maps_in_colour():
    listing = ["-m", "xgradcam", "--list-colormaps"]
    lines = on_terminal(listing, NO_COLOR="").splitlines()
    assert [line.split()[0] for line in lines] == list(COLORMAPS)
    jet = next(line for line in lines if line.startswith("jet "))
    first, last = (cv2.applyColorMap(np.uint8([[level]]), cv2.COLORMAP_JET)[0, 0, ::-1] for level in (0, 248))
    for colour in (first, last):
        assert "\x1b[48;2;{};{};{}m ".format(*colour) in jet
    assert jet.endswith("\x1b[0m")
    assert "\x1b" not in on_terminal(listing, NO_COLOR="1")


@pytest.fixture
def completed(tmp_path, monkeypatch, capsys):
    """A function from the words of a command line to what bash offers for the last one."""
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    with pytest.raises(SystemExit, match=r"^0$"):
        xgrad_cam.main(["--print-completion", "bash"])
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    folder = tmp_path / "work"
    (folder / "photos").mkdir(parents=True)
    for name in ("cat.jpg", "cup.png", "two words.jpg"):
        (folder / name).touch()
    asking = (
        'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); '
        "$(complete -p xgrad-cam | sed 's/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' \"${COMPREPLY[@]}\""
    )

    def ask(*words):
        done = subprocess.run(
            ["bash", "--norc", "-c", asking, str(script), "xgrad-cam", *words],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.splitlines()

    return ask


def test_bash_completes_options_choices_and_files(completed):
    for words, offered in (
        (["--tar"], ["--target-index", "--target", "--target-layer"]),
        (["c"], ["cat.jpg", "cup.png"]),
        (["cat.jpg", "cu"], ["cup.png"]),
        (["--image-path", "c"], ["cat.jpg", "cup.png"]),
        (["--image-path", "cat.jpg", "two"], ["two words.jpg"]),
        (["cat.jpg", "--method", "complete-c"], ["complete-cam"]),
        (["cat.jpg", "--method", "grad-cam", "xgrad"], ["xgrad-cam"]),
        (["--colormap", "vir"], ["viridis"]),
        (["--precision", "b"], ["bf16"]),
        (["--model", "alex"], ["alexnet"]),
        (["--output-dir", ""], ["photos"]),
        (["--weights", "cu"], ["cup.png"]),
        (["--device", "cu"], ["cuda"]),
    ):
        assert sorted(completed(*words)) == sorted(offered), words


@pytest.mark.parametrize("main", MAINS[:2])
@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_has_a_script(main, shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--print-completion", shell])
    out, err = capsys.readouterr()
    assert "target-index" in out
    assert "print-completion" in out
    assert err == ""


def test_without_shtab_a_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit, match=r"^2$"):
        xgrad_cam.main(["--print-completion", "bash"])
    err = capsys.readouterr().err
    assert "the completion of bash needs shtab: pip install 'xgradcam[completion]'" in err
    assert err.count("\n") == 1


def test_a_shtab_that_does_not_know_the_shell_is_named(monkeypatch, capsys):
    shtab = pytest.importorskip("shtab")
    monkeypatch.setattr(shtab, "SUPPORTED_SHELLS", ["bash"])
    with pytest.raises(SystemExit, match=r"^2$"):
        xgrad_cam.main(["--print-completion", "fish"])
    assert "pip install --upgrade shtab" in capsys.readouterr().err


def test_completing_does_not_change_later_parsing():
    """A value that is no choice of the completion is still taken."""
    pytest.importorskip("shtab")
    with contextlib.redirect_stdout(None), pytest.raises(SystemExit):
        xgrad_cam.main(["--print-completion", "zsh"])
    assert xgrad_cam.xgrad_cam_parser().parse_args(["--model", "own.py:Net"]).model == "own.py:Net"


def test_the_evaluation_cannot_be_completed_by_a_name(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        evaluate.main(["--print-completion", "bash"])
    assert "no option --print-completion" in capsys.readouterr().err
