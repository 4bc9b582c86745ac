"""`python -m xgradcam.evaluation` as a user runs it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import xgradcam
from tests.cli.support import ROOT
from tests.support import EXAMPLES, OF_ACTIVATION
from xgradcam.cli.evaluate import WRITTEN, main
from xgradcam.errors import CannotWriteError
from xgradcam.runs.sources import state_of

RUN = [
    "photos", "--model", "pooled.py:Pooled", "--input-size", "32", "--steps", "4", "--removed", "0.5",
    "--target-layer", "features.0", "features.1", "--boxes", "boxes.json", "--randomise", "1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def photographs(own_models):
    for name in ("2", "other"):
        Path("photos", name).mkdir(parents=True)
    shutil.copy(EXAMPLES / "cat.jpg", "photos/2/cat.jpg")
    shutil.copy(EXAMPLES / "coffee.jpg", "photos/other/coffee.jpg")
    boxes = {
        "images": [{"id": 1, "file_name": "cat.jpg"}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 200, 100]}],
    }
    Path("boxes.json").write_text(json.dumps(boxes))


@pytest.fixture(autouse=True)
def unrendered(monkeypatch):
    """Figures are laid out and not drawn, which takes most of the time of a small evaluation."""
    rendering = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda _figure, file, **_options: file.write(b"a picture"))
    return rendering


@pytest.fixture
def rendered(unrendered, monkeypatch):
    """Figures are drawn."""
    monkeypatch.setattr(Figure, "savefig", unrendered)


def in_process_of_its_own(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def rows(path="evaluation/evaluation.csv"):
    with Path(path).open(encoding="utf-8") as file:
        return {(row["layer"], row["method"], row["measure"]): row for row in csv.DictReader(file)}


def test_the_command_writes_a_table_that_is_the_same_again_and_resumes(rendered, capsys):
    assert main(RUN) == 0
    table = capsys.readouterr().out
    assert "**features.0**" in table
    assert "| xgrad-cam |" in table
    assert Path("evaluation/evaluation.md").read_text(encoding="utf-8") == table
    assert Path("evaluation/evaluation.png").stat().st_size > 10_000
    first = rows()
    assert {method for _, method, _ in first} == set(OF_ACTIVATION)
    assert ("features.0", "cam", "drop") not in first  # a rectifier follows that layer
    assert first["features.1", "cam", "drop"]["photographs"] == "2"
    assert first["features.1", "xgrad-cam", "pointing"]["photographs"] == "1"
    assert first["features.1", "xgrad-cam", "randomised"]["photographs"] == "1"

    log = Path("evaluation/evaluation.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    assert json.loads(lines[0]) == {
        "model": "pooled.py:Pooled", "weights": "default", "num_classes": None, "output": None,
        "input_size": [32], "mean": None, "std": None, "crop": False, "steps": 4, "removed": [0.5],
        "randomise": 1, "seed": 0,
        "files": [state_of(name) for name in ("pooled.py", "default", "None")],
    }  # fmt: skip
    log.write_text("".join(lines[:20]) + lines[20][:30])
    assert main([*RUN, "--resume"]) == 0
    again = rows()
    assert again.keys() == first.keys()
    for key, row in first.items():
        if key[2] != "seconds":
            assert again[key] == row
    kept = log.read_text().splitlines(keepends=True)
    assert kept[:20] == lines[:20]
    assert len(kept) == len(lines)


def test_a_run_with_other_settings_is_not_resumed(capsys):
    torch.save(xgradcam.load_classifier("pooled.py:Pooled", size=32).module.state_dict(), "own.pth")
    arguments = [*RUN, "--weights", "own.pth", "--method", "grad-cam", "--limit", "1", "--randomise", "0"]
    assert main(arguments) == 0
    before = Path("evaluation/evaluation.jsonl").read_text()
    others = [
        ["--seed", "4"],
        ["--mean", "0", "0", "0"],
        ["--std", "1", "1", "1"],
        ["--steps", "5"],
        ["--removed", "0.25"],
        ["--randomise", "1"],
        ["--weights", "none"],
    ]
    for other in others:
        assert main([*arguments, "--resume", *other]) == 2
        told = capsys.readouterr().err
        assert re.search(rf"other settings \(({other[0][2:]}|weights, files)\): leave out --resume, or", told)
    for changed in ("pooled.py", "own.pth"):
        state = os.stat(changed)
        os.utime(changed, ns=(1, 1))
        assert main([*arguments, "--resume"]) == 2
        assert "other settings (files): leave out --resume" in capsys.readouterr().err
        os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert Path("evaluation/evaluation.jsonl").read_text() == before
    assert main([*arguments, "--resume"]) == 0
    assert Path("evaluation/evaluation.jsonl").read_text() == before


def test_the_class_of_each_folder_is_printed_and_recorded(capsys):
    Path("labels.txt").write_text("ant\nbig dog\ncat\ncup\n")
    for name in ("big_dog", "dog", "cat"):
        Path("photos", name).mkdir()
        shutil.copy(EXAMPLES / "cat.jpg", f"photos/{name}/cat.jpg")
    arguments = [*RUN, "--labels", "labels.txt", "--method", "grad-cam", "--randomise", "0"]
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert [line for line in told.err.splitlines() if ": photos/" in line] == [
        "python -m xgradcam.evaluation: photos/2: class 2 (cat), 1 photograph",
        "python -m xgradcam.evaluation: photos/big_dog: class 1 (big dog), 1 photograph",
        "python -m xgradcam.evaluation: photos/cat: class 2 (cat), 1 photograph",
        "python -m xgradcam.evaluation: photos/dog: the class of the highest score, 1 photograph",
        "python -m xgradcam.evaluation: photos/other: the class of the highest score, 1 photograph",
    ]
    assert "| photos/big_dog | class 1 (big dog) | 1 |" in told.out.splitlines()
    lines = map(json.loads, Path("evaluation/evaluation.jsonl").read_text().splitlines()[1:])
    named = {line["photo"]: (line["class_index"], line["class_name"]) for line in lines}
    assert named["photos/big_dog/cat.jpg"] == (1, "big dog")
    assert named["photos/2/cat.jpg"] == named["photos/cat/cat.jpg"] == (2, "cat")


def test_a_folder_of_several_classes_is_refused_before_any_work(capsys):
    Path("labels.txt").write_text("crane\ncrane\ncat\ncup\n")
    Path("photos", "crane").mkdir()
    shutil.copy(EXAMPLES / "cat.jpg", "photos/crane/cat.jpg")
    assert main([*RUN, "--labels", "labels.txt"]) == 2
    assert (
        "the folder 'crane' may be class 0 (crane), 1 (crane): call it by the index"
        in capsys.readouterr().err
    )
    assert not Path("evaluation").exists()


def test_many_folders_are_printed_in_a_few_lines(capsys):
    for index in range(20):
        Path("many", f"x{index:02}").mkdir(parents=True)
        shutil.copy(EXAMPLES / "cat.jpg", f"many/x{index:02}/cat.jpg")
    assert (
        main(["many", *RUN[1:], "--method", "grad-cam", "--randomise", "0", "--target-layer", "features.1"])
        == 0
    )
    told = capsys.readouterr()
    assert sum(": many/x" in line for line in told.err.splitlines()) == 12
    assert "and 8 more folders: evaluation.md will list them all" in told.err
    assert sum(line.startswith("| many/x") for line in told.out.splitlines()) == 20


def test_layers_by_a_pattern(capsys):
    run = [one for one in RUN if one not in ("--target-layer", "features.0", "features.1")]
    arguments = [*run, "--method", "grad-cam", "--limit", "1", "--randomise", "0"]
    assert main([*arguments, "--target-layer", "features.*"]) == 0
    assert {layer for layer, _, _ in rows()} == {"features.0", "features.1"}
    assert main([*arguments, "--target-layer", "features.[1-9]"]) == 0
    assert {layer for layer, _, _ in rows()} == {"features.1"}
    assert main([*arguments, "--target-layer", "feature.*"]) == 2
    assert "no layer of pooled.py:Pooled with feature maps matches 'feature.*'" in capsys.readouterr().err


def test_boxes_are_counted(capsys):
    arguments = [*RUN, "--method", "grad-cam", "--randomise", "0"]
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert "python -m xgradcam.evaluation: 1 of 2 photographs have boxes in boxes.json\n" in told
    assert "python -m xgradcam.evaluation: boxes: 1 of 2 photographs have boxes of their class\n" in told
    Path("boxes.json").write_text('{"images": [{"id": 1, "file_name": "a/cat.jpg"}], "annotations": []}')
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert (
        "0 of 2 photographs have boxes in boxes.json: it has those of a/cat.jpg, and not of photos/2/cat"
        in told
    )
    assert "1 with annotations of its name in other folders only, such as photos/2/cat.jpg" in told
    assert ("features.1", "grad-cam", "energy") not in rows()


@pytest.mark.parametrize(
    "command", [["-m", "xgradcam.evaluation"], [str(ROOT / "scripts" / "evaluate.py")]], ids=["-m", "script"]
)
def test_the_module_and_the_script_are_this_command(command):
    options = ["--method", "grad-cam", "--limit", "1", "--randomise", "0", "--output-dir", "out"]
    done = in_process_of_its_own(*command, *RUN, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == Path("out/evaluation.md").read_text(encoding="utf-8")
    made = {path.name for path in Path("out").iterdir()}
    (told,) = re.findall("wrote (.*), in out", done.stderr)
    assert set(told.split(", ")) == made
    assert {f"evaluation.{end}" for end in ("md", "csv", "png", "jsonl")} <= made <= set(WRITTEN)
    assert {"evaluation-table.tex", "evaluation-table.csv", "evaluation-pixels.pdf"} <= made
    assert rows("out/evaluation.csv")["features.1", "grad-cam", "drop"]["photographs"] == "1"
    unknown = in_process_of_its_own(*command, "--what")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("python -m xgradcam.evaluation: error: no option --what")


def test_mosaics_and_methods_that_are_left_out(capsys):
    for target in (0, 1, 3):
        Path("photos", str(target)).mkdir()
        shutil.copy(EXAMPLES / "coffee.jpg", f"photos/{target}/{target}.jpg")
    arguments = [*RUN, "--method", "grad-cam", "xgrad-cam", "score-cam", "--without", "score-cam"]
    assert main([*arguments, "--randomise", "0", "--mosaics", "5"]) == 0
    found = rows()
    assert {method for _, method, _ in found} == {"grad-cam", "xgrad-cam"}
    for layer in ("features.0", "features.1"):
        seen = int(found[layer, "grad-cam", "focus"]["photographs"])
        assert float(found[layer, "grad-cam", "unfocused"]["mean"]) == pytest.approx(1 - seen / 5)
        assert float(found[layer, "grad-cam", "drop"]["photographs"]) == 5
    assert "focus: means over 5 mosaics" in Path("evaluation/evaluation.md").read_text(encoding="utf-8")
    assert main([*arguments[:-1], "grad-cam", "xgrad-cam", "score-cam"]) == 2
    assert "no method is left to measure: take one out of --without" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['', '--help']; "
        "runpy.run_module('xgradcam.evaluation', run_name='__main__')"
    )
    done = in_process_of_its_own("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m xgradcam.evaluation ")
    assert "--randomise N" in done.stdout


def test_without_scipy_the_extra_is_named_in_a_line():
    code = (
        "import runpy, sys; sys.modules['scipy'] = None; sys.argv = ['', 'photos']; "
        "runpy.run_module('xgradcam.evaluation', run_name='__main__')"
    )
    done = in_process_of_its_own("-c", code)
    assert done.returncode == 2
    expected = "the evaluation needs scipy: pip install 'xgradcam[evaluation]'"
    assert done.stderr == f"python -m xgradcam.evaluation: error: {expected}\n"
    assert done.stdout == ""


def test_a_photograph_that_cannot_be_read_is_skipped_and_named(capsys):
    Path("photos", "2", "bad.jpg").write_bytes(b"no image")
    assert main([*RUN, "--method", "grad-cam"]) == 1
    told = "python -m xgradcam.evaluation: skipped: not an image: photos/2/bad.jpg"
    assert told in capsys.readouterr().err
    assert rows()["features.1", "grad-cam", "drop"]["photographs"] == "2"
    assert main(["photos/2/bad.jpg", "--model", "pooled.py:Pooled", "--input-size", "32"]) == 2
    assert "none of the photographs can be read" in capsys.readouterr().err


def test_the_bundled_model_is_the_default_and_knows_its_crop():
    arguments = ["photos", "--steps", "4", "--removed", "0.5", "--randomise", "0", "--method", "grad-cam"]
    assert main(arguments) == 0
    stretched = rows()
    assert {layer for layer, _, _ in stretched} == {"bn2"}
    assert main([*arguments, "--crop"]) == 0
    drop = ("bn2", "grad-cam", "insertion")
    assert rows()[drop]["mean"] != stretched[drop]["mean"]


def test_list_layers_shows_them_and_ends(capsys):
    assert main(["--model", "pooled.py:Pooled", "--input-size", "32", "--list-layers"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any(line.startswith("features.1 ") and line.endswith("<- default") for line in shown)
    assert not Path("evaluation").exists()


FEW = [*RUN, "--method", "grad-cam", "--limit", "1", "--randomise", "0"]


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize("name", ["evaluation.md", "evaluation.png", "evaluation-axioms.pdf"])
def test_a_file_that_no_evaluation_has_written_is_refused(name, resume, capsys):
    Path("evaluation").mkdir()
    path = Path("evaluation", name)
    path.write_text("precious")
    assert main([*FEW, *resume]) == 2
    told = capsys.readouterr()
    assert f"error: {path} is there already, and no log of an evaluation is beside it" in told.err
    assert told.err.endswith(": move it, or choose another --output-dir\n")
    assert told.out == ""
    assert path.read_text() == "precious"
    assert os.listdir("evaluation") == [name]


@pytest.mark.parametrize(
    "content", ['{"model": "mine", "seed": 0}\n{"kind": "map"}\n', "precious", "", "\xff"]
)
def test_what_is_no_log_of_an_evaluation_is_refused(content, capsys):
    Path("evaluation").mkdir()
    path = Path("evaluation/evaluation.jsonl")
    path.write_text(content)
    assert main(FEW) == 2
    assert f"error: {path} is there already, and is no log of an evaluation" in capsys.readouterr().err
    assert path.read_text() == content


def test_a_log_without_its_settings_is_begun_anew_and_a_folder_of_a_files_name_refused(capsys):
    assert main(FEW) == 0
    path = Path("evaluation/evaluation.jsonl")
    whole = path.read_bytes()
    path.write_bytes(b"\xff" + whole)
    assert main([*FEW, "--resume"]) == 2
    assert "has no settings to compare: leave out --resume" in capsys.readouterr().err
    assert main(FEW) == 0
    assert path.read_bytes().splitlines()[0] == whole.splitlines()[0]
    Path("evaluation/evaluation.csv").unlink()
    Path("evaluation/evaluation.csv").mkdir()
    capsys.readouterr()
    assert main(FEW) == 2
    told = capsys.readouterr()
    assert "cannot write evaluation/evaluation.csv: a folder has that name" in told.err
    assert told.out == ""


def test_a_full_disk_is_one_line_with_advice(monkeypatch, capsys):
    def full(contents):
        raise CannotWriteError(f"cannot write {next(iter(contents))}: No space left on device")

    for place in ("log", "report"):
        with monkeypatch.context() as patch:
            patch.setattr(f"xgradcam.evaluation.{place}.write_files", full)
            assert main(FEW) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.endswith("No space left on device: make room there; --resume goes on later")


def test_a_negative_limit_is_refused(capsys):
    assert main(["photos", "--model", "pooled.py:Pooled", "--limit", "-1"]) == 2
    assert "the limit is -1: take at least 1 photograph" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no photographs: name a folder, or --installed"),
        (["none"], "no such"),
        (["photos", "--method", "gradcam"], "no method 'gradcam'"),
        (["photos", "--removed", "2"], "removed has 2.0: shares lie between 0 and 1"),
        (["photos", "--steps", "0"], "steps is 0: a curve has at least 1"),
        (["photos", "--without", "gradcam"], "no method 'gradcam'"),
        (["photos", "--mosaics", "-1"], "mosaics is -1: give a number of mosaics, 0 for none"),
        (
            ["photos", "--mosaics", "1"],
            "a mosaic has photographs of 4 known classes, and here are 1: name more",
        ),
        (["photos", "--randomise", "-1"], "randomise is -1: give a number of photographs, 0 for none"),
        (["photos", "--boxes", "none.json"], "cannot read none.json"),
        (["photos", "--target-layer", "block"], "no layer 'block'"),
        (["photos", "--model", "pooled.py:Pooled", "--crop"], "has no known resize before a centre crop"),
        (["photos", "--model", "pooled.py:raising"], "no 'raising' in pooled.py; it has: Pooled"),
        (["photos", "--device", "toaster"], "no device 'toaster'"),
        (["photos", "--mean", "120", "1", "1"], "mean has a value outside of 0 to 1"),
        (
            ["photos", "--method", "cam", "--target-layer", "blocks.6.0.bn2", "--randomise", "0"],
            "none of these methods applies at blocks.6.0.bn2: cam",
        ),
    ],
)
def test_an_error_is_one_line_that_names_it(capsys, arguments, message):
    assert main([*arguments, "--limit", "1"]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.startswith("python -m xgradcam.evaluation: ")
    assert told.out == ""
