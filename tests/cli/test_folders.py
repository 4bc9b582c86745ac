"""What a run may write, in a folder where other files lie."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tests.cli.support import OWN, ROOT, load_own, tree
from tests.support import EXAMPLES, noise
from xgradcam.cli.proof_verify import main as proof_verify
from xgradcam.cli.xgrad_cam import main
from xgradcam.errors import CannotWriteError
from xgradcam.runs import figures, sources
from xgradcam.runs.journal import Journal
from xgradcam.runs.ledger import NAME, alone_in

pytestmark = pytest.mark.usefixtures("own_models")

RUN = ["--image-path", "photos", "--output-dir", "out", *OWN]
ONE = ["--image-path", "photos/0000.png", *OWN]
JOURNAL = Path("out/xgrad-cam.jsonl")


@pytest.fixture(autouse=True)
def photographs(own_folder):
    noise("photos", 3)


def refused(arguments, said, capsys, command=main):
    """Run what must be refused: nothing changes."""
    capsys.readouterr()
    before = tree(".")
    assert command(list(map(str, arguments))) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith(("xgrad-cam: error: ", "proof-verify: error: "))
    assert err.count("\n") == 1
    assert tree(".") == before


@pytest.mark.parametrize(
    "name", ["0001_1_cam.jpg", "0001_1_maps.npz", "0001_photograph.jpg", "0001_maps.js", "index.html"]
)
def test_a_file_that_no_run_has_made_is_not_written_over(name, capsys):
    Path("out").mkdir()
    shutil.copy(EXAMPLES / "cat.jpg", Path("out", name))
    arguments = [*RUN, "--target-index", "1", "--html", "--save-maps"]
    refused(arguments, f"out/{name} is there already", capsys)
    refused([*arguments, "--resume"], f"out/{name} is there already", capsys)


def test_results_of_earlier_runs_are_written_anew_whichever_runs_there_were(capsys):
    assert main([*RUN, "--target-index", "1"]) == 0
    first = tree("out")
    assert main([*RUN, "--target-index", "1"]) == 0
    assert tree("out") == first
    assert main([*RUN, "--target-index", "2"]) == 0
    assert main([*RUN, "--target-index", "1"]) == 0
    assert {
        name: content for name, content in tree("out").items() if "_2_" not in name and name != NAME
    } == first
    assert main([*RUN, "--target-index", "1", "2"]) == 0
    assert not Path("out", NAME).exists()
    JOURNAL.unlink()
    assert main([*RUN, "--target-index", "1"]) == 0
    assert {name: content for name, content in tree("out").items() if "_2_" not in name} == first


def test_what_a_stopped_run_wrote_is_written_anew(monkeypatch):
    add = Journal.add

    def stopped(self, source, *rest):
        if source.path.endswith("1.png"):
            raise KeyboardInterrupt
        add(self, source, *rest)

    for more in ([], ["--resume"]):
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", stopped)
            assert main([*RUN, "--target-index", "1"]) == 130
        assert Path("out/0001_1_cam.jpg").exists()
        assert main([*RUN, "--target-index", "1", *more]) == 0
        assert len(tree("out")) == 7


@pytest.mark.parametrize("make", [shutil.copy, os.link, os.symlink])
def test_no_file_that_is_read_is_written_over(make, capsys):
    torch.save(load_own().state_dict(), "w.pth")
    Path("labels.txt").write_text("a\nb\nc\nd\n")
    Path("settings").write_text("--quiet\n")
    for original, option in (("w.pth", "--weights={}"), ("labels.txt", "--labels={}"), ("settings", "@{}")):
        make(Path(original).resolve(), "cam.jpg")
        refused([*ONE, option.format("cam.jpg")], "cam.jpg would be written over a file that", capsys)
        os.rename("cam.jpg", "photos/0000_1_X_cam.jpg")
        arguments = ["--image-path", "photos/0000.png", "photos/0001.png", "--target-index", "1", *OWN]
        arguments += ["--output-dir", "photos", option.format("photos/0000_1_X_cam.jpg")]
        refused(arguments, "0000_1_X_cam.jpg would be written over a file that", capsys)
        os.unlink("photos/0000_1_X_cam.jpg")


def test_names_of_the_originals_are_written_anew_and_others_only_over_their_like(capsys):
    options = [*ONE, "--panel", "--save-maps", "--method", "xgrad-cam", "layer-cam", "--guided"]
    for name in ("X_cam.jpg", "cam.jpg"):
        Path(name).write_text("old")
    for name in ("panel.jpg", "maps.npz", "layer-cam.jpg", "gb.jpg", "X_cam_gb.jpg"):
        Path(name).write_text("precious")
        refused(options, f"{name} is there already", capsys)
        Path(name).unlink()
    assert main(options) == main(options) == 0
    assert Path("cam.jpg").read_text() == "old"


def test_a_plot_is_not_written_over_the_photograph_or_what_is_no_plot(capsys):
    arguments = ["--image-path", "photos/0000.png", *OWN, "--target-layer", "features.0"]
    os.symlink("0000.png", "photos/link.png")
    for name in ("photos/0000.png", "photos/link.png", "photos/../photos/0000.png"):
        refused(
            [*arguments, "--plot", name], "would be written over a file that is read", capsys, proof_verify
        )
    refused([*arguments, "--plot", "photos/0001.png"], "is there already, and no plot", capsys, proof_verify)
    for name in ("split.png", "split.svg", "split.pdf"):
        figure = Figure()
        figure.suptitle("xgradcam proof-verify, drawn by Matplotlib")
        figure.savefig(name)
        refused([*arguments, "--plot", name], f"{name} is there already, and no plot", capsys, proof_verify)
        Path(name).unlink()
        assert proof_verify([*arguments, "--plot", name]) == proof_verify([*arguments, "--plot", name]) == 0


def test_a_plot_on_a_full_disk_is_one_line_with_advice(monkeypatch, capsys):
    def full(contents):
        raise CannotWriteError(f"cannot write {next(iter(contents))}: No space left on device")

    monkeypatch.setattr("xgradcam.files.write_files", full)
    arguments = [*ONE, "--target-layer", "features.0", "--plot", "split.png"]
    assert proof_verify(arguments) == 2
    assert capsys.readouterr().err == (
        "proof-verify: error: cannot write split.png: No space left on device: make room there, or choose "
        "another name for --plot\n"
    )


def test_a_second_run_in_a_folder_is_refused(capsys):
    Path("out").mkdir()
    with alone_in(Path("out"), print):
        refused(RUN, "another run is writing into out: wait for it", capsys)
    assert main(RUN) == 0


def test_layers_of_one_name_are_refused_before_the_run(capsys):
    code = (
        Path("tiny.py")
        .read_text()
        .replace(
            "nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()", "nn.Sequential(self.fused, nn.ReLU()"
        )
    )
    Path("fusing.py").write_text(
        code.replace("self.features =", "self.fused = nn.Conv2d(3, 8, 3, padding=1)\n        self.features =")
    )
    model = ["--model", "fusing.py:Tiny", "--input-size", "32", "--output-dir", "out"]
    layers = ["--target-layer", "fused", "features.1"]
    refused(["--image-path", "photos", *model, *layers], "layer 'fused' and of the fused map", capsys)
    assert main(["--image-path", "photos", *model, *layers[:2]]) == 0


def test_a_pattern_that_leaves_its_folder_writes_into_the_output_folder(monkeypatch):
    Path("work/a1").mkdir(parents=True)
    monkeypatch.chdir("work")
    arguments = ["--image-path", "a*/../../photos/*.png", "--target-index", "1", "--output-dir", "out"]
    assert main([*arguments, "--model", "../tiny.py:Tiny", "--input-size", "32"]) == 0
    assert {name for name in tree("..") if name.endswith("cam.jpg")} == {
        f"work/out/000{index}_1_{stem}.jpg" for index in range(3) for stem in ("cam", "X_cam")
    }


def test_temporary_files_of_a_killed_run_are_removed_and_nobody_elses():
    parts = ["out/.xgradcam-0123456789abcdef-1.part"]
    others = ["out/.0123456789abcdef.part", "out/a.part", "photos/.xgradcam-0123456789abcdef-1.part"]
    Path("out").mkdir()
    for name in parts + others:
        Path(name).touch()
    assert main([*RUN, "--resume"]) == 0
    assert not any(map(os.path.exists, parts))
    assert all(map(os.path.exists, others))


def lines():
    return JOURNAL.read_bytes().splitlines(keepends=True)


BAD = {
    "binary": (b"\x00\xff\xfe", "cannot read out/xgrad-cam.jsonl: its first line holds no settings; move"),
    "no JSON": (b"photographs of my cat\n", "its first line holds no settings; move it away"),
    "a list": (b"[1, 2]\n", "its first line holds no settings; move it away"),
    "another version's": (b'{"version": 7}\n', "it had other settings for"),
    "nested": (b"[" * 100_000 + b"\n", "its first line holds no settings"),
    "of wrong types": (b'{"photographs": 3}\n', "it had other settings for"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_journal_is_neither_resumed_nor_written_over(kind, capsys):
    content, said = BAD[kind]
    Path("out").mkdir()
    JOURNAL.write_bytes(content)
    refused([*RUN, "--resume"], said, capsys)
    refused(RUN, "out/xgrad-cam.jsonl is no record of a run: move it away", capsys)
    assert JOURNAL.read_bytes() == content


DAMAGED = {
    "cut": lambda line: line[: len(line) // 2] + b"\n",
    "of another": lambda _line: b'{"image": "x", "records": 3}\n',
    "a number": lambda _line: b"3\n",
    "deep": lambda _line: b"[" * 100_000 + b"\n",
    "not finite": lambda line: line.replace(b'"score": ', b'"score": NaN, "was": '),
    "without a class": lambda line: line.replace(b'"class_index": 1', b'"class_index": "one"'),
    "long": lambda line: line.replace(b'"notes": ', b'"notes": 3, "was": "' + b"x" * 10**6 + b'", "were": '),
    "of integers": lambda line: line.replace(b'"files": {', b'"files": {"a": 3, '),
    "empty": lambda _line: b"{}\n",
    "not UTF-8": lambda line: line.replace(b"photos", b"phot\xffs"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_photograph_whose_line_is_damaged_is_explained_anew(kind, capsys):
    arguments = [*RUN, "--target-index", "1", "--html", "--json"]
    assert main(arguments) == 0
    whole = tree("out")
    settings, first, *rest = lines()
    JOURNAL.write_bytes(b"".join([settings, DAMAGED[kind](first), *rest]))
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["image"][-5] for line in out.splitlines()] == ["1", "2", "0"]
    assert "1 photograph explained, 0 failed, 2 complete before" in err
    assert "Traceback" not in err
    after = tree("out")
    assert sorted(lines()) == sorted([settings, first, *rest])
    assert {name: after[name] for name in after if name != JOURNAL.name} == {
        name: whole[name] for name in whole if name != JOURNAL.name
    }


@pytest.mark.parametrize("first", [b"\xff{}\n", b'{"model": "ti\n', b"3\n"])
def test_a_record_without_its_settings_is_refused_with_advice_that_helps(first, capsys):
    arguments = [*RUN, "--target-index", "1"]
    assert main(arguments) == 0
    whole = tree("out")
    for moved in (False, True):
        JOURNAL.write_bytes(b"".join([first, *lines()[1:]]))
        refused([*arguments, "--resume"], "its first line holds no settings; start anew without", capsys)
        if moved:
            JOURNAL.rename("record")
        assert main(arguments) == 0
        assert tree("out") == whole


def test_earlier_results_of_this_version_and_the_last_are_replaced_where_the_record_is_ours(capsys):
    def without_mark(path):
        content = path.read_bytes()
        start = content.index(b"\xff\xfe")
        path.write_bytes(content[:start] + content[start + 29 :])

    both = [*RUN, "--target-index", "0", "1"]
    assert main(both) == 0
    whole = tree("out")
    assert main([*RUN, "--target-index", "1"]) == 0
    Path("out/.xgrad-cam.names").unlink()
    assert main(both) == 0
    assert tree("out") == whole
    assert main([*RUN, "--target-index", "1"]) == 0
    Path("out/.xgrad-cam.names").unlink()
    cv2.imwrite("out/0000_0_cam.jpg", np.zeros((9, 9, 3), np.uint8))
    refused(both, "out/0000_0_cam.jpg is there already, and not by xgrad-cam", capsys)
    Path("out/0000_0_cam.jpg").unlink()
    for path in Path("out").glob("*.jpg"):
        without_mark(path)
    assert main(both) == 0
    assert tree("out") == whole


def test_resume_deletes_nothing_that_the_run_cannot_have_made(capsys):
    assert main([*RUN, "--target-index", "top1"]) == 0
    mine = ["notes.txt", "0000_1_notes.jpg", "0001.jpg", "cat_1_cam.jpg", "0000_9_panel.jpg", "xgrad-cam.md"]
    for name in mine:
        Path("out", name).write_text("precious")
    settings, first, *rest = lines()
    line = json.loads(first)
    for stem in ("0000", "", "cat", "../out/cat"):
        stale = {**line, "stem": stem, "records": [{"files": {str(i): name for i, name in enumerate(mine)}}]}
        JOURNAL.write_bytes(b"".join([settings, json.dumps(stale).encode() + b"\n", first, *rest]))
        assert main([*RUN, "--target-index", "top1", "--resume"]) == 0
        assert all(Path("out", name).read_text() == "precious" for name in mine)


def tight(message, most):
    """A linear layer's forward that fails for more than so many photographs."""
    forward = torch.nn.Linear.forward

    def limited(self, inputs):
        if len(inputs) > most:
            raise RuntimeError(message)
        return forward(self, inputs)

    return limited


MEMORY = ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", "std::bad_alloc")


@pytest.mark.parametrize("message", [*MEMORY, "could not create a primitive"])
def test_too_little_memory_halves_the_batch_also_on_the_processor(message, monkeypatch, capsys):
    assert main([*RUN, "--target-index", "1", "--save-maps"]) == 0
    monkeypatch.setattr(torch.nn.Linear, "forward", tight(message, 1))
    parts = ["parts" if value == "out" else value for value in RUN]
    assert main([*parts, "--target-index", "1", "--save-maps"]) == 0
    for name in [name for name in tree("out") if name.endswith(".npz")]:
        with np.load(f"out/{name}") as whole, np.load(f"parts/{name}") as part:
            for key in whole:
                np.testing.assert_allclose(part[key], whole[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("place", ["forward", "gradient", "drawing", "reading"])
def test_a_photograph_for_which_the_memory_is_too_small_does_not_stop_the_others(place, monkeypatch, capsys):
    count = []

    def failing(function, at):
        def limited(*arguments, **options):
            count.append(1)
            if len(count) == at:
                raise MemoryError("Unable to allocate 9 EiB")
            return function(*arguments, **options)

        return limited

    if place == "forward":
        monkeypatch.setattr(torch.nn.Linear, "forward", failing(torch.nn.Linear.forward, 5))
    elif place == "gradient":
        monkeypatch.setattr(torch.autograd, "grad", failing(torch.autograd.grad, 2))
    elif place == "drawing":
        monkeypatch.setattr("xgradcam.runs.figures.draw", failing(figures.draw, 3))
    else:
        monkeypatch.setattr(
            "xgradcam.runs.sources.read_file",
            failing(sources.read_file, 2),
        )
    assert main([*RUN, "--target-index", "1", "--batch-size", "1"]) == 1
    err = capsys.readouterr().err
    assert "2 photographs explained, 1 failed" in err
    assert err.count("not enough memory") == 1
    assert "Traceback" not in err


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
import xgradcam.cli.xgrad_cam as command
from xgradcam.runs import pipeline
explain = pipeline.explain_photographs
def limited(*arguments):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return explain(*arguments)
pipeline.explain_photographs = limited
sys.exit(command.main(sys.argv[2:]))
"""
WIDE = """
import torch
from torch import nn
class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 1000, 3, padding=1)
        self.head = nn.Linear(1000, 4)
    def forward(self, images):
        print(len(images), flush=True)
        return self.head(self.features(images).mean(dim=(2, 3)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the size of the process is read from /proc")
@pytest.mark.parametrize(("megabytes", "code"), [(450, 0), (80, 1)])
def test_a_process_of_little_memory_ends_its_run(megabytes, code):
    Path("wide.py").write_text(WIDE)
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(megabytes * 10**6), "--image-path", "photos", "--model",
         "wide.py:Wide", "--input-size", "128", "--target-index", "1", "--batch-size", "3", "--output-dir",
         "out"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stderr.count("not enough memory for one photograph") == (3 if code else 0)
    sizes = [int(line) for line in run.stdout.splitlines() if line.isdigit()]
    assert 3 in sizes
    assert 1 in sizes[sizes.index(3) :]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_too_little_memory_to_load_a_library_is_one_line():
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (600_000_000,) * 2); "
    code += "from xgradcam.cli.xgrad_cam import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run(
        [sys.executable, "-c", code, *RUN], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.startswith("xgrad-cam: error: not enough memory (")
    assert "failed to map segment" in run.stderr
    assert run.stderr.endswith("raise the limit (ulimit -v)\n")
    assert run.stderr.count("\n") == 1


def test_too_little_memory_for_an_input_is_said_and_no_fault_of_the_model(monkeypatch, capsys):
    monkeypatch.setattr(torch.nn.Linear, "forward", tight(MEMORY[0], 0))
    assert main(ONE) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"xgrad-cam: error: not enough memory ({MEMORY[0]}): take a smaller model or --input"
    )
    assert said.count("\n") == 1
