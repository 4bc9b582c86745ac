"""Photographs as they come: odd names and places, deep values, and what is passed over."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.support import OWN, tree
from tests.support import EXAMPLES, noise
from xgradcam.cli.evaluate import main as evaluate
from xgradcam.cli.proof_verify import main as proof_verify
from xgradcam.cli.xgrad_cam import main
from xgradcam.pictures.photograph import read_image
from xgradcam.runs import pipeline

pytestmark = pytest.mark.usefixtures("own_models")
WANTED = ["--target-index", "1", "--output-dir", "out", *OWN]
RANGE = "16-bit values that fill no more than 12 bits are read as 0 (black) to 65535 (white), which is dark"


def deep(*names):
    grey = np.asarray(Image.open(EXAMPLES / "cat.jpg").convert("L").resize((40, 40)))
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(grey.astype(np.uint16) << 4).save(name)


def test_what_is_passed_over_is_in_the_last_line(capsys):
    noise("photos", 2)
    for name in ("a.heic", "b.heic", "note.txt"):
        Path("photos", name).touch()
    assert main(["--image-path", "photos", *WANTED]) == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "xgrad-cam: 2 photographs explained, 0 failed; in out; skipped: 2 HEIC, 1 text"
    Path("photos/0001.png").unlink()
    assert main(["--image-path", "photos", *WANTED]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "xgrad-cam: skipped: 2 HEIC, 1 text"
    assert main(["--image-path", "photos", "--quiet", *WANTED]) == 0
    assert capsys.readouterr().err == ""


def test_an_assumed_range_is_told_once_and_the_range_asked_for_is_taken(capsys):
    deep("photos/a.png", "photos/b.png")
    noise("photos/others", 1)
    assert main(["--image-path", "photos", "--json", *WANTED]) == 0
    printed = capsys.readouterr()
    assert printed.err.count(RANGE) == 1
    assert f"xgrad-cam: note: 2 of 3 explanations: {RANGE}" in printed.err
    records = [json.loads(line) for line in printed.out.splitlines()]
    assert [any(note.startswith(RANGE) for note in record["notes"]) for record in records] == [
        True,
        True,
        False,
    ]
    assert main(["--image-path", "photos/a.png", *WANTED]) == 0
    assert f"xgrad-cam: note: {RANGE}" in capsys.readouterr().err
    Image.fromarray(read_image("photos/a.png", (0, 4095))).save("eight.png")
    for name, options in (("photos/a.png", ["--range", "0", "4095"]), ("eight.png", [])):
        assert main(["--image-path", name, *options, *WANTED, "--output-dir", f"out-{Path(name).stem}"]) == 0
        assert RANGE not in capsys.readouterr().err
    assert Path("out-a/X_cam.jpg").read_bytes() == Path("out-eight/X_cam.jpg").read_bytes()


def test_a_resumed_run_has_the_same_range(capsys):
    deep("photos/a.png", "photos/b.png")
    arguments = ["--image-path", "photos", *WANTED]
    assert main([*arguments, "--range", "0", "4095"]) == 0
    settings = json.loads(Path("out/xgrad-cam.jsonl").read_text().splitlines()[0])
    assert settings["value_range"] == [0, 4095]
    assert main([*arguments, "--range", "0", "4095", "--resume"]) == 0
    assert main([*arguments, "--resume"]) == 2
    assert "it had other settings for value_range" in capsys.readouterr().err


def test_a_wrong_range_is_refused(capsys):
    deep("photos/a.png")
    assert main(["--image-path", "photos/a.png", "--range", "9", "1", *WANTED]) == 2
    assert "the range is 9 to 1: give the value of black" in capsys.readouterr().err


def test_the_other_commands_know_the_range(capsys):
    deep("photos/a.png", "photos/b.png")
    proof = ["--image-path", "photos/a.png", "--target-index", "1", *OWN]
    scores = []
    for options in ([], ["--range", "0", "4095"]):
        proof_verify([*proof, *options, "--json"])
        printed = capsys.readouterr()
        assert (RANGE in printed.err) == (not options)
        scores.append(json.loads(printed.out))
    assert scores[0] != scores[1]
    measured = [
        "photos",
        *OWN,
        "--method",
        "grad-cam",
        "--randomise",
        "0",
        "--steps",
        "2",
        "--output-dir",
        "e",
    ]
    assert evaluate(measured) == 0
    assert f"note: 2 of 2 photographs: {RANGE}" in capsys.readouterr().err
    before = Path("e/evaluation.jsonl").read_text().splitlines()
    assert evaluate([*measured, "--range", "0", "4095"]) == 0
    assert RANGE not in capsys.readouterr().err
    after = Path("e/evaluation.jsonl").read_text().splitlines()
    assert json.loads(after[0])["value_range"] == [0, 4095]
    assert before[1:] != after[1:]


ODD_NAMES = [
    "..jpg", "...png", "-x.png", "a\nb.png", "tab\there.png", os.fsdecode(b"\xff\xfe.png"),
    "m" * 244 + ".png", "猫" * 83 + ".png", "é" * 125 + ".png", "quote'\".png", "a;b&c#d?.png", " .png",
    "%41.png", "CON.png", "@2x.png",
]  # fmt: skip


@pytest.mark.parametrize(
    "several", [["--target-index", "1", "2"], ["--target-layer", "features.0", "features.1"]]
)
def test_no_name_ends_a_run(several, capsys):
    noise("photos", 2)
    for index, name in enumerate(ODD_NAMES):
        Image.new("RGB", (40, 40), (10 * index, 99, 200)).save(f"photos/{name}", "PNG")
    paths = [f"photos/{name}" for name in ODD_NAMES]
    arguments = ["--image-path", *paths, "photos", "--panel", "--save-maps", "--html", *WANTED, *several]
    assert main(arguments) == 0
    assert f"{len(ODD_NAMES) + 2} photographs explained, 0 failed" in capsys.readouterr().err
    pictures = [name for name in tree("out") if name.endswith("_X_cam.jpg")]
    assert len(pictures) == len(set(pictures)) == (2 if "1" in several else 3) * (len(ODD_NAMES) + 2)
    assert all(len(os.fsencode(Path(name).name)) <= 255 for name in tree("out"))
    assert main([*arguments, "--resume"]) == 0
    assert f"{len(ODD_NAMES) + 2} complete before" in capsys.readouterr().err


def test_a_name_that_a_long_layer_makes_too_long_fails_alone(capsys):
    Path("long.py").write_text(
        "from torch import nn\n\n\ndef net():\n    block = nn.Sequential()\n"
        f"    block.add_module('{'l' * 120}', nn.Conv2d(3, 4, 3))\n    block.add_module('r', nn.ReLU())\n"
        "    return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))\n"
    )
    noise("photos", 2)
    name = "m" * 200
    Image.new("RGB", (40, 40), "red").save(f"photos/{name}.png")
    layers = [f"0.{'l' * 120}", "0.r"]
    options = [
        "--model",
        "long.py:net",
        "--input-size",
        "16",
        "--target-layer",
        *layers,
        "--output-dir",
        "out",
    ]
    assert main(["--image-path", "photos", "--target-index", "1", *options]) == 1
    printed = capsys.readouterr().err
    assert "File name too long" in printed
    assert "2 photographs explained, 1 failed" in printed
    assert len([made for made in tree("out") if made.endswith("X_cam.jpg")]) == 6


def failed_alone(capsys, lost, count=3):
    """Asserts that one photograph of the run failed with one line, and the others are done."""
    printed = capsys.readouterr().err
    errors = [line for line in printed.splitlines() if "error" in line]
    assert len(errors) == 1, printed
    assert lost in errors[0]
    assert f"{count - 1} photographs explained, 1 failed" in printed.splitlines()[-1]
    assert len([name for name in tree("out") if name.endswith("_X_cam.jpg")]) == count - 1


def test_a_folder_in_the_place_of_a_result_fails_its_photograph(capsys):
    noise("photos", 3)
    Path("out/0001_1_cam.jpg").mkdir(parents=True)
    assert main(["--image-path", "photos", *WANTED]) == 1
    failed_alone(capsys, "out/0001_1_cam.jpg")
    Path("out/0001_1_cam.jpg").rmdir()
    assert main(["--image-path", "photos", "--resume", *WANTED]) == 0


def test_a_file_in_the_place_of_a_folder_fails_its_photographs(capsys):
    noise("photos", 2)
    Path("photos/below").mkdir()
    shutil.copy("photos/0000.png", "photos/below/x.png")
    Path("out").mkdir()
    Path("out/below").write_text("in the way")
    assert main(["--image-path", "photos", *WANTED]) == 1
    failed_alone(capsys, "out/below")


def test_a_folder_that_may_not_be_written_to_fails_its_photographs(capsys, monkeypatch):
    noise("photos", 2)
    Path("photos/below").mkdir()
    shutil.copy("photos/0000.png", "photos/below/x.png")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "below" not in str(path) and access(path, mode))
    assert main(["--image-path", "photos", *WANTED]) == 1
    failed_alone(capsys, "out/below")


@pytest.mark.parametrize("becomes", ["nothing", "a folder", "a pipe", "text", "empty"])
def test_a_photograph_that_changes_before_it_is_read_fails_alone(becomes, capsys, monkeypatch):
    noise("photos", 3)
    state_of = pipeline.state_of
    changed = Path("photos/0001.png")

    def change(path):
        if path == str(changed) and changed.is_file() and changed.stat().st_size > 100:
            changed.unlink()
            if becomes == "a folder":
                changed.mkdir()
            elif becomes == "a pipe":
                os.mkfifo(changed)
            elif becomes != "nothing":
                changed.write_text("" if becomes == "empty" else "no picture")
        return state_of(path)

    monkeypatch.setattr(pipeline, "state_of", change)
    assert main(["--image-path", "photos", *WANTED]) == 1
    failed_alone(capsys, "photos/0001.png")


def test_a_picture_too_large_for_its_file_fails_alone(capsys):
    noise("photos", 2)
    Image.new("RGB", (65_600, 2)).save("photos/wide.png")
    assert main(["--image-path", "photos", "--full-resolution", *WANTED]) == 1
    failed_alone(capsys, "a picture of 65600 x 2 pixels does not fit into a JPEG file")


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1)])
def test_lines_of_pixels_are_explained_or_refused_in_a_line(shape, capsys):
    Image.new("RGB", shape).save("line.png")
    assert main(["--image-path", "line.png", *WANTED]) == 0
    for option in ("--crop", "--full-resolution", "--panel"):
        assert main(["--image-path", "line.png", option, *WANTED]) in (0, 2)
        assert "Traceback" not in capsys.readouterr().err
